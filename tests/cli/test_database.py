"""``opuslive database``, with a server and without."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
from pathlib import Path

import pytest

from opuslive.storage.sqlite import backup
from opuslive.storage.sqlite.backup import UNFINISHED
from opuslive.storage.sqlite.jobs import StopSign
from tests.support.clock import NOW
from tests.support.keys import a_key, a_record
from tests.support.stores import query
from tests.support.waiting import PATIENCE
from tests.support.workplace import SERVED, Workplace

pytestmark = SERVED

NOBODY = 65534


@pytest.fixture
def filled(workplace: Workplace) -> Workplace:
    workplace.fill([a_key(1), a_key(2)], [a_record(time=NOW + i) for i in range(3)])
    return workplace


@pytest.fixture
def target(workplace: Workplace) -> Path:
    folder = workplace.folder / "backups"
    folder.mkdir(0o700)
    return folder / "backup.db"


def names(backup: Path) -> list[str]:
    return [name for (name,) in query(backup, "SELECT name FROM keys ORDER BY name")]


class TestBackup:
    def test_it_is_made_where_the_command_runs(self, either_way: Workplace) -> None:
        either_way.create_key("alice")
        done = either_way.run("database", "backup", "backup.db")
        target = either_way.home / "backup.db"
        assert done.status == 0, done
        assert done.out.startswith(f"Backed up the database to {target}: ")
        assert "1 key, no records.\nIt keeps what is deleted later.\n" in done.out
        assert done.err == ""
        assert names(target) == ["alice"]
        assert target.stat().st_mode & 0o777 == 0o600

    def test_json(self, either_way: Workplace, target: Path) -> None:
        made = either_way.json("database", "backup", str(target))
        assert made == {
            "file": str(target),
            "bytes": target.stat().st_size,
            "keys": 0,
            "newest_record": None,
        }

    def test_an_existing_file_needs_force(self, either_way: Workplace, target: Path) -> None:
        target.write_bytes(b"precious")
        complaint = either_way.run("database", "backup", str(target)).complaint
        assert "exists; name another file, or replace it with --force" in complaint
        assert target.read_bytes() == b"precious"
        assert either_way.run("database", "backup", str(target), "--force").status == 0
        assert names(target) == []

    def test_the_database_itself_is_no_place(self, either_way: Workplace) -> None:
        database = str(either_way.database)
        complaint = either_way.run("database", "backup", database, "--force").complaint
        assert "is a file of the database itself" in complaint
        either_way.create_key("alice")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
    def test_root_is_told_which_folder_works(self, workplace: Workplace, target: Path) -> None:
        """The user who has the database writes the file."""
        workplace.folder.chmod(0o755)
        (workplace.folder / "tmp").chmod(0o1777)
        os.chown(workplace.database.parent, NOBODY, NOBODY)
        complaint = workplace.run("database", "backup", str(target)).complaint
        assert f"name a file in {workplace.database.parent}" in complaint
        assert list(target.parent.iterdir()) == []
        inside = workplace.database.parent / "backup.db"
        assert workplace.run("database", "backup", str(inside)).status == 0
        assert (inside.stat().st_uid, inside.stat().st_gid) == (NOBODY, NOBODY)

    def test_a_client_that_leaves_ends_it(
        self, filled: Workplace, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        copy = backup.copy
        stopped = []

        def endless(*arguments: object) -> None:
            copy(*arguments)  # type: ignore[arg-type]
            sign = arguments[1]
            assert isinstance(sign, StopSign)
            sign._stop.wait(PATIENCE)
            stopped.append(sign.is_up)
            sign.check()

        monkeypatch.setattr(backup, "copy", endless)
        with filled.serving():
            with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
                client.connect(f"{filled.database}.sock")
                body = b'{"file": "%s"}' % os.fsencode(target)
                client.sendall(
                    b"POST /admin/api/database/backup HTTP/1.1\r\nHost: x\r\n"
                    b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
                )
                told = b""
                while b"progress" not in told:
                    told += client.recv(65536)
                assert [path.name for path in target.parent.iterdir()] == [target.name + UNFINISHED]
            monkeypatch.setattr(backup, "copy", copy)
            # It waits for the one before, which leaves nothing.
            filled.json("database", "backup", str(target))
        assert stopped == [True]
        assert list(target.parent.iterdir()) == [target]


class TestCheck:
    def test_a_sound_database(self, either_way: Workplace) -> None:
        either_way.create_key("alice")
        assert either_way.run("database", "check").out == "The database is sound.\n"
        assert either_way.json("database", "check", "--quick") == {"ok": True, "findings": []}

    @pytest.mark.parametrize("served", [True, False])
    def test_findings_are_sentences_and_the_status_is_1(
        self, filled: Workplace, served: bool
    ) -> None:
        query(filled.database, "UPDATE totals SET requests = 9")
        with filled.serving() if served else contextlib.nullcontext():
            done = filled.run("database", "check")
            as_json = filled.run("database", "check", "--json")
        finding = "The usage of the key 'name of 1' in all differs from the sums of its hours."
        assert (done.status, done.out) == (1, finding + "\n")
        assert "opuslive database restore FILE" in done.err
        assert as_json.status == 1
        assert as_json.json() == {"ok": False, "findings": [finding]}


class TestCompact:
    def test_it_says_what_the_database_takes(self, either_way: Workplace) -> None:
        either_way.create_key("alice")
        assert either_way.run("database", "compact").out.startswith("The database took ")
        done = either_way.json("database", "compact")
        assert 0 < done["bytes_after"] <= done["bytes_before"]
        assert either_way.run("keys", "show", "alice").status == 0

    def test_one_of_an_older_version_needs_the_server_stopped_once(self, filled: Workplace) -> None:
        with contextlib.closing(sqlite3.connect(filled.database)) as connection:
            connection.execute("PRAGMA auto_vacuum = NONE")
            connection.execute("VACUUM")
        with filled.serving():
            assert "stop the server" in filled.run("database", "compact").complaint
        assert filled.run("database", "compact").status == 0
        with filled.serving():
            assert filled.run("database", "compact").status == 0


class TestRestore:
    def changed(self, work: Workplace, target: Path) -> None:
        """Back up, then delete a key, make another one and change the third."""
        work.json("database", "backup", str(target))
        work.json("keys", "delete", a_key(1).id, "--yes")
        work.create_key("later")
        work.json("keys", "disable", a_key(2).id)

    def test_it_asks_and_says_what_went_back(self, filled: Workplace, target: Path) -> None:
        self.changed(filled, target)
        asked = filled.run("database", "restore", str(target), input_="n\n")
        assert asked.status == 1
        assert asked.out.splitlines() == [
            "The backup has 2 keys; its newest record is of 2026-11-23T15:04:05.125Z.",
            "The database has 2 keys; its newest record is of no time: there is none. "
            "What is newer than the backup goes.",
            "1 key vanishes: later.",
            "1 key comes back: name of 1.",
            "1 key will have again the secret, limits and settings of then.",
        ]
        assert names(filled.database) == ["later", "name of 2"]
        done = filled.run("database", "restore", str(target), input_="y\n")
        assert done.status == 0
        assert "start the server" in done.out
        assert names(filled.database) == ["name of 1", "name of 2"]
        (kept,) = filled.database.parent.glob("opuslive.db.before-restore-*")
        assert str(kept) in done.out
        assert names(kept) == ["later", "name of 2"]

    def test_json(self, filled: Workplace, target: Path) -> None:
        self.changed(filled, target)
        done = filled.json("database", "restore", str(target), "--yes")
        assert Path(done.pop("kept")).exists()
        assert done == {
            "file": str(target),
            "newest_record": {"before": None, "after": "2026-11-23T15:04:05.125Z"},
            "keys": {"vanish": ["later"], "come_back": ["name of 1"], "changed": 1},
        }
        with filled.serving():
            assert len(filled.json("keys", "list")) == 2

    def test_not_while_a_server_runs(self, filled: Workplace, target: Path) -> None:
        self.changed(filled, target)
        with filled.serving():
            complaint = filled.run("database", "restore", str(target), "--yes").complaint
            assert "A server has the database open: stop it" in complaint
            assert len(filled.json("keys", "list")) == 2
        assert names(filled.database) == ["later", "name of 2"]

    def test_a_file_that_is_not_there(self, filled: Workplace) -> None:
        complaint = filled.run("database", "restore", "none.db", "--yes").complaint
        assert "can't be read: No such file" in complaint

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
    def test_root_restores_for_a_service_what_only_root_may_read(
        self, filled: Workplace, target: Path
    ) -> None:
        self.changed(filled, target)
        filled.folder.chmod(0o755)
        for path in (filled.database.parent, *filled.database.parent.iterdir()):
            os.chown(path, NOBODY, NOBODY)
        assert filled.run("database", "restore", str(target), "--yes").status == 0
        assert {path.stat().st_uid for path in filled.database.parent.iterdir()} == {NOBODY}
        assert names(filled.database) == ["name of 1", "name of 2"]


def test_the_help_says_why_not_to_copy_the_file(workplace: Workplace) -> None:
    shown = workplace.run("database", "--help").out
    assert "Don't copy the file of a running server" in shown
    assert "deleted later" in workplace.run("database", "backup", "--help").out
