"""Going back to a backup: checked before anything changes, at once or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from opuslive.errors import OpusLiveError
from opuslive.storage import (
    DatabaseInUse,
    Restoration,
    open_backup,
    open_storage,
    prepare_restoration,
)
from tests.support.clock import NOW
from tests.support.keys import a_key, a_record
from tests.support.stores import full_disk, query

LATEST = len(
    [
        f
        for f in resources.files("opuslive.storage.sqlite.migrations").iterdir()
        if f.name.endswith(".sql")
    ]
)


def unheard(part: float) -> None:
    """Progress that nobody looks at."""


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    folder = tmp_path / "backups"
    folder.mkdir(0o700)
    return folder / "backup.db"


async def fill(database: Path, backup: Path) -> None:
    """A database with keys 1 and 2, a backup of it, and what happened since."""
    store = await open_storage(f"sqlite://{database}")
    for number in (1, 2):
        await store.add_key(a_key(number))
        await store.add_record(a_record(number))
    await store.maintenance.back_up(backup, replace=False, progress=unheard)
    await store.delete_key(a_key(1).id)
    await store.update_key(replace(a_key(2), enabled=False), at=NOW)
    await store.add_key(a_key(3))
    await store.add_record(a_record(3, time=NOW + 5))
    await store.close()


@contextlib.asynccontextmanager
async def prepared(database: Path, backup: Path) -> AsyncIterator[Restoration]:
    with contextlib.closing(open_backup(backup)) as opened:
        restoration = await prepare_restoration(f"sqlite://{database}", opened, unheard)
        with contextlib.closing(restoration):
            yield restoration


async def restore(database: Path, backup: Path, name: str = "kept") -> Path | None:
    async with prepared(database, backup) as restoration:
        return restoration.carry_out(name)


def ids(database: Path) -> set[str]:
    return {key_id for (key_id,) in query(database, "SELECT id FROM keys")}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def test_the_backup_takes_the_place_and_the_database_is_kept(
    database: Path, backup: Path
) -> None:
    await fill(database, backup)
    before = backup.read_bytes()
    kept = await restore(database, backup)
    assert kept == Path(f"{database}.kept")
    assert ids(database) == {a_key(1).id, a_key(2).id}
    assert ids(kept) == {a_key(2).id, a_key(3).id}
    assert backup.read_bytes() == before
    assert {path.stat().st_mode & 0o777 for path in database.parent.iterdir()} == {0o600}
    assert names(database.parent) == {"opuslive.db", "opuslive.db.kept", "opuslive.db.lock"}
    store = await open_storage(f"sqlite://{database}")
    assert [key.enabled for key in await store.keys()] == [True, True]
    assert len((await store.records(a_key(1).id))[0]) == 1
    await store.close()
    # And back again.
    await restore(database, kept, "kept-too")
    assert ids(database) == {a_key(2).id, a_key(3).id}


async def test_two_restorations_within_a_second_keep_both_databases(
    database: Path, backup: Path
) -> None:
    await fill(database, backup)
    assert await restore(database, backup) == Path(f"{database}.kept")
    second = await restore(database, backup)
    assert second == Path(f"{database}.kept-2")
    assert ids(second) == {a_key(1).id, a_key(2).id}


async def test_what_will_be_another_is_told(database: Path, backup: Path) -> None:
    await fill(database, backup)
    async with prepared(database, backup) as restoration:
        assert set(restoration.backup.keys) == {a_key(1).id, a_key(2).id}
        assert restoration.backup.newest == NOW
        assert restoration.present is not None
        assert restoration.present.keys == {a_key(n).id: a_key(n).name for n in (2, 3)}
        assert restoration.present.newest == NOW + 5
        assert restoration.changed == 1


async def test_nothing_changes_until_it_is_carried_out(database: Path, backup: Path) -> None:
    await fill(database, backup)
    before = database.read_bytes()
    async with prepared(database, backup):
        with pytest.raises(DatabaseInUse):
            await open_storage(f"sqlite://{database}")
    assert database.read_bytes() == before
    assert names(database.parent) == {"opuslive.db", "opuslive.db.lock"}


async def test_where_there_is_no_database_yet(database: Path, backup: Path) -> None:
    elsewhere = database.with_name("elsewhere") / "opuslive.db"
    await fill(elsewhere, backup)
    async with prepared(database, backup) as restoration:
        assert restoration.present is None
    assert not database.exists()
    assert await restore(database, backup) is None
    assert ids(database) == {a_key(1).id, a_key(2).id}


@pytest.mark.parametrize("content", [b"", b"\xd7" * 70_000, b"SQLite format 3\0" + b"\xd7" * 9000])
async def test_a_database_that_cannot_be_read_is_replaced_and_kept(
    database: Path, backup: Path, content: bytes
) -> None:
    await fill(database, backup)
    database.write_bytes(content)
    kept = await restore(database, backup)
    assert ids(database) == {a_key(1).id, a_key(2).id}
    assert (kept is None) == (not content)
    assert kept is None or kept.read_bytes() == content


def killed(database: Path) -> None:
    """Leave a write-ahead log with a key 7 in it, as a server that was killed does."""
    path = database.with_name("killed")
    for suffix in ("", "-wal"):
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{suffix}").unlink()
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("UPDATE keys SET id = 'key00007' WHERE id = 'key00003'")
        for suffix in ("", "-wal"):
            shutil.copy(f"{database}{suffix}", f"{path}{suffix}")
    for suffix in ("", "-wal"):
        Path(f"{path}{suffix}").rename(f"{database}{suffix}")


async def test_the_log_of_a_server_that_was_killed_goes_with_the_old_database(
    database: Path, backup: Path
) -> None:
    await fill(database, backup)
    killed(database)
    kept = await restore(database, backup)
    assert kept is not None
    assert ids(database) == {a_key(1).id, a_key(2).id}
    assert "key00007" in ids(kept)


async def test_the_log_of_a_database_that_cannot_be_read_is_kept_with_it(
    database: Path, backup: Path
) -> None:
    await fill(database, backup)
    killed(database)
    log = Path(f"{database}-wal").read_bytes()
    database.write_bytes(b"\xd7" * 9000)
    kept = await restore(database, backup)
    assert Path(f"{kept}-wal").read_bytes() == log
    assert ids(database) == {a_key(1).id, a_key(2).id}


async def test_a_copy_of_the_files_of_a_server_that_was_killed_is_a_backup_too(
    database: Path, backup: Path, tmp_path: Path
) -> None:
    await fill(database, backup)
    killed(database)
    aside = tmp_path / "aside"
    aside.mkdir(0o700)
    for suffix in ("", "-wal"):
        Path(f"{database}{suffix}").rename(aside / f"x.db{suffix}")
    await restore(database, aside / "x.db")
    assert "key00007" in ids(database)


@contextlib.contextmanager
def older(backup: Path, version: int) -> Iterator[None]:
    """A database of an older version, with a key in it."""
    folder = resources.files("opuslive.storage.sqlite.migrations")
    scripts = sorted(file.name for file in folder.iterdir() if file.name.endswith(".sql"))
    with contextlib.closing(sqlite3.connect(backup, isolation_level=None)) as connection:
        for number, script in enumerate(scripts[:version], 1):
            connection.executescript((folder / script).read_text())
            connection.execute(f"PRAGMA user_version = {number}")
        connection.execute(
            "INSERT INTO keys (id, name, prefix, created_at, secret_hash, enabled, models, limits) "
            "VALUES ('key00001', 'old', 'p', 1, x'00', 1, '[]', '[]')"
        )
        connection.execute("INSERT INTO usage VALUES (1, 5, 0, 'm', 200, 7, 1, 2, 3, 4, 5)")
        # From version 5 on, outcomes and latencies: it was served within 250 ms.
        outcomes = ", 0, 0, 0" * (version > 4)
        latencies = f", 1{', 0' * 12}" * (version > 4)
        sums = f"1, 0, 1, 2, 3, 4, 5{outcomes}"
        connection.execute(f"INSERT INTO hourly VALUES (1, 0, 'm', 0, {sums}{latencies})")
        if version > 1:
            connection.execute(f"INSERT INTO daily VALUES (1, 0, 'm', 0, {sums}{latencies})")
        connection.execute(f"INSERT INTO totals VALUES (1, 5, {sums})")
    yield


@pytest.mark.parametrize("version", range(1, LATEST + 1))
async def test_a_backup_of_an_older_version_is_brought_to_this_one(
    database: Path, backup: Path, version: int
) -> None:
    with older(backup, version):
        before = backup.read_bytes()
        await restore(database, backup)
    assert backup.read_bytes() == before
    store = await open_storage(f"sqlite://{database}")
    assert [key.name for key in await store.keys()] == ["old"]
    assert await store.maintenance.check(quick=False, progress=unheard) == []
    await store.close()


class TestRefusals:
    async def refused(self, database: Path, backup: Path, match: str) -> None:
        before = database.read_bytes()
        with pytest.raises(OpusLiveError, match=match):
            await restore(database, backup)
        assert database.read_bytes() == before
        assert names(database.parent) == {"opuslive.db", "opuslive.db.lock"}

    async def test_of_a_newer_version(self, database: Path, backup: Path) -> None:
        await fill(database, backup)
        query(backup, f"PRAGMA user_version = {LATEST + 1}")
        await self.refused(database, backup, "schema version .* upgrade OpusLive")

    async def test_that_is_damaged(self, database: Path, backup: Path) -> None:
        await fill(database, backup)
        whole = backup.read_bytes()
        for damaged in (
            whole[: len(whole) // 2],
            whole[:4096] + b"\xd7" * 8192 + whole[12_288:],
            whole[:100] + b"\xd7" * 300 + whole[400:],
        ):
            backup.write_bytes(damaged)
            await self.refused(database, backup, "is damaged")

    async def test_of_something_else(self, database: Path, backup: Path) -> None:
        await fill(database, backup)
        for content in (b"", b"text", b"\xd7" * 9000):
            backup.write_bytes(content)
            await self.refused(database, backup, "is not a backup of OpusLive")
        backup.unlink()
        query(backup, "CREATE TABLE others (x)")
        await self.refused(database, backup, "another program")

    async def test_the_database_itself(self, database: Path, backup: Path) -> None:
        await fill(database, backup)
        await self.refused(database, database, "is the database itself")

    async def test_that_others_could_change(self, database: Path, backup: Path) -> None:
        await fill(database, backup)
        backup.chmod(0o666)
        await self.refused(database, backup, "may be written by other users")

    async def test_a_folder_or_a_pipe(self, database: Path, backup: Path) -> None:
        await fill(database, backup)
        await self.refused(database, backup.parent, "is not a file")
        backup.unlink()
        os.mkfifo(backup)
        await self.refused(database, backup, "is not a file")

    async def test_while_somebody_has_the_database(self, database: Path, backup: Path) -> None:
        await fill(database, backup)
        store = await open_storage(f"sqlite://{database}")
        with pytest.raises(DatabaseInUse):
            await restore(database, backup)
        await store.add_record(a_record(2))
        await store.close()

    async def test_a_full_disk(self, database: Path, backup: Path) -> None:
        await fill(database, backup)
        with full_disk():
            await self.refused(database, backup, "can't be used|damaged")
        await restore(database, backup)

    async def test_who_is_cancelled_leaves_nothing(self, database: Path, backup: Path) -> None:
        await fill(database, backup)
        preparing = asyncio.create_task(restore(database, backup))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        preparing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await preparing
        assert not Path(f"{database}.restoring").exists()
        await restore(database, backup, "kept-too")
