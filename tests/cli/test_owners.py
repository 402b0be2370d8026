"""Commands where another user could change what they read, keep or speak to.

Of that kind: the configuration, found or named, to read and to write; the file with a credential;
the folder of the database, its lock file and the files beside it; the control socket, beside the
database or in $XDG_RUNTIME_DIR; the folder for temporary files. Each is refused in one sentence
with the remedy, and nothing is changed. (tests/test_ownership.py has whom that refuses.)
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from opuslive.config.files import control_path
from tests.support.server import Outcome
from tests.support.workplace import SERVED, UPSTREAM, MakeWorkplace, Workplace

pytestmark = [
    SERVED,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away"),
]

NOBODY = 65534
PASSWORD = "correct horse battery"
COMMANDS = [["keys", "list"], ["serve", "--port", "0"], ["admin", "password", "--password-stdin"]]


def plant(work: Workplace, path: Path) -> Path:
    """Put a configuration there that another user has written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    work.config_file.rename(path)
    os.chown(path, NOBODY, NOBODY)
    return path


def refused(outcome: Outcome, path: Path) -> None:
    complaint = outcome.complaint
    assert str(path) in complaint
    assert "is not used, since" in complaint
    assert "; run 'ch" in complaint


class TestConfiguration:
    @pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
    @pytest.mark.parametrize(
        ("place", "named", "environ"),
        [
            ("home/config.toml", (), {}),
            ("xdg/opuslive/config.toml", (), {}),
            ("elsewhere.toml", (), {"OPUSLIVE_CONFIG": "../elsewhere.toml"}),
            ("elsewhere.toml", ("--config", "../elsewhere.toml"), {}),
        ],
        ids=["in the working folder", "where XDG says", "by its variable", "named"],
    )
    def test_of_another_user_is_refused_and_stays(
        self,
        workplace: Workplace,
        command: list[str],
        place: str,
        named: tuple[str, ...],
        environ: dict[str, str],
    ) -> None:
        planted = plant(workplace, workplace.folder / place)
        before = planted.read_bytes()
        outcome = workplace.run_bare(*named, *command, input_=PASSWORD, **environ)
        refused(outcome, Path(planted.name))
        assert "belongs to another user" in outcome.complaint
        assert "--config" in outcome.complaint
        assert planted.read_bytes() == before

    @pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
    def test_that_others_may_write_is_refused(
        self, workplace: Workplace, command: list[str]
    ) -> None:
        workplace.config_file.chmod(0o666)
        refused(workplace.run(*command, input_=PASSWORD), workplace.config_file)

    def test_is_not_made_where_others_could_change_it(self, workplace: Workplace) -> None:
        workplace.home.chmod(0o777)
        done = workplace.run_bare("admin", "password", "--password-stdin", input_=PASSWORD)
        refused(done, workplace.home / "config.toml")
        assert list(workplace.home.iterdir()) == []

    def test_is_not_made_where_a_link_of_another_user_leads(self, workplace: Workplace) -> None:
        link, target = workplace.home / "config.toml", workplace.folder / "target.toml"
        link.symlink_to(target)
        os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
        done = workplace.run_bare("admin", "password", "--password-stdin", input_=PASSWORD)
        refused(done, link)
        assert not target.exists()

    def test_that_a_service_reads_by_its_group_stays_that_of_the_group(
        self, workplace: Workplace
    ) -> None:
        os.chown(workplace.config_file, 0, NOBODY)
        workplace.config_file.chmod(0o640)
        done = workplace.run("admin", "password", "--password-stdin", input_=PASSWORD)
        assert done.status == 0
        status = workplace.config_file.stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, NOBODY, 0o640)


class TestCredential:
    def test_of_another_user_is_refused(self, make_workplace: MakeWorkplace) -> None:
        source = {"name": "p", "base_url": UPSTREAM, "api_key_file": "provider.key"}
        work = make_workplace(UPSTREAM, upstreams=[source])
        file = work.folder / "provider.key"
        file.write_text("sk-of-the-provider")
        file.chmod(0o600)
        os.chown(file, NOBODY, NOBODY)
        outcome = work.run("serve", "--port", "0")
        refused(outcome, file)
        assert "api_key_file" in outcome.complaint
        assert "sk-of" not in outcome.complaint


def a_link_for_the_lock(database: Path) -> Path:
    victim = database.parent.parent / "victim"
    victim.touch(0o644)
    Path(f"{database}.lock").symlink_to(victim)
    return victim


def of_nobody(suffix: str) -> Callable[[Path], Path]:
    def lay(database: Path) -> Path:
        file = Path(f"{database}{suffix}")
        file.touch()
        file.chmod(0o644)
        os.chown(file, NOBODY, NOBODY)
        return file

    return lay


def open_to(mode: int) -> Callable[[Path], Path]:
    def lay(database: Path) -> Path:
        database.parent.chmod(mode)
        return database.parent

    return lay


#: What is wrong with the database's files → what makes it so, and returns what has to stay.
FILES: dict[str, Callable[[Path], Path]] = {
    "a folder that all may write": open_to(0o777),
    "a sticky folder that all may write": open_to(0o1777),
    "a lock file that is a link": a_link_for_the_lock,
    **{f"a file {suffix!r} of another user": of_nobody(suffix) for suffix in ("", ".lock", "-wal")},
}


class TestDatabase:
    @pytest.mark.parametrize("command", COMMANDS[:2], ids=" ".join)
    @pytest.mark.parametrize("how", FILES)
    def test_in_wrong_hands_is_refused_and_stays(
        self, workplace: Workplace, command: list[str], how: str
    ) -> None:
        stays = FILES[how](workplace.database)
        before = stays.stat().st_mode
        names = sorted(workplace.database.parent.iterdir())
        complaint = workplace.run(*command).complaint
        assert str(workplace.database.parent) in complaint
        assert stays.stat().st_mode == before
        assert sorted(workplace.database.parent.iterdir()) == names

    def test_of_a_service_is_opened_by_root_as_the_service(self, workplace: Workplace) -> None:
        """Whoever owns the folder of the database is who root acts as."""
        workplace.folder.chmod(0o755)
        (workplace.folder / "tmp").chmod(0o1777)
        os.chown(workplace.database.parent, NOBODY, NOBODY)
        assert workplace.run("keys", "create", "first").status == 0
        assert {file.stat().st_uid for file in workplace.database.parent.iterdir()} == {NOBODY}

    def test_in_the_folder_of_another_user_is_not_served_by_root(
        self, workplace: Workplace
    ) -> None:
        os.chown(workplace.database.parent, NOBODY, NOBODY)
        refused(workplace.run("serve", "--port", "0"), workplace.database.parent)
        assert list(workplace.database.parent.iterdir()) == []


class TestSocket:
    def test_of_another_user_is_not_spoken_to(self, workplace: Workplace) -> None:
        with workplace.serving():
            path = control_path(f"sqlite://{workplace.database}", {})
            path.unlink()
            with contextlib.closing(socket.socket(socket.AF_UNIX)) as planted:
                planted.bind(str(path))
                planted.listen()
                planted.setblocking(False)
                os.chown(path, NOBODY, NOBODY)
                refused(workplace.run("keys", "list"), path)
                with pytest.raises(BlockingIOError):
                    planted.accept()

    def test_in_a_folder_that_all_may_write_is_not_made(
        self, make_workplace: MakeWorkplace
    ) -> None:
        work = make_workplace()
        long = work.folder / "state" / ("long" * 20) / "opuslive.db"
        text = work.config_file.read_text().replace(str(work.database), str(long))
        work.config_file.write_text(text)
        runtime = work.folder / "run"
        runtime.chmod(0o777)
        done = work.run("serve", "--port", "0")
        refused(done, runtime)
        assert "XDG_RUNTIME_DIR" in done.complaint

    def test_is_not_made_where_all_may_move_temporary_folders(
        self, workplace: Workplace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = workplace.folder / "tmp"
        folder.chmod(0o777)
        monkeypatch.setattr("tempfile.tempdir", str(folder))
        done = workplace.run("keys", "list")
        refused(done, folder)
        assert "TMPDIR" in done.complaint


class TestNaming:
    """Which configuration is in use is told where that was not said by the command itself."""

    def test_a_change_names_the_configuration_that_was_found(self, workplace: Workplace) -> None:
        found = workplace.home / "config.toml"
        workplace.config_file.rename(found)
        for command in (
            ("keys", "create", "one", "--json"),
            ("keys", "disable", "one"),
            ("keys", "rotate", "one"),
            ("keys", "delete", "one", "--yes"),
        ):
            done = workplace.run_bare(*command)
            assert (done.status, done.err) == (0, f"Configuration: {found}\n")
        assert workplace.run_bare("keys", "list").err == ""

    def test_a_failure_names_the_configuration_that_was_found(self, workplace: Workplace) -> None:
        found = workplace.home / "config.toml"
        workplace.config_file.rename(found)
        done = workplace.run_bare("keys", "show", "none")
        assert done.complaint.endswith(f" (Configuration: {found})")
        found.write_text("[sevrer]")
        assert workplace.run_bare("keys", "show", "none").complaint.count("config.toml") <= 2

    def test_a_command_that_names_it_itself_is_not_told(self, workplace: Workplace) -> None:
        assert workplace.run("keys", "create", "one").err == ""
        assert "Configuration:" not in workplace.run("keys", "show", "none").complaint
