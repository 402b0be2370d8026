"""The database's files are moved, replaced or removed while a store has them open."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from opuslive.errors import OpusLiveError, UsageError
from opuslive.storage import StorageUnavailable, open_storage
from opuslive.storage.sqlite.store import SQLiteStorage
from tests.support.clock import NOW
from tests.support.keys import a_key, a_record
from tests.support.waiting import eventually


@pytest.fixture
async def store(database: Path) -> AsyncIterator[SQLiteStorage]:
    store = await SQLiteStorage.open(database, retry_delay=0)
    await store.add_key(a_key())
    await store.add_record(a_record())
    yield store
    await store.close()


def well(store: SQLiteStorage) -> bool:
    return store.healthy


def records_in(database: Path, folder: Path) -> int:
    """How many records a database file holds by itself, without a write-ahead log."""
    copy = folder / "copy.db"
    shutil.copy(database, copy)
    with contextlib.closing(sqlite3.connect(copy)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM usage").fetchone()
        return int(count)


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", ".lock"])
async def test_a_moved_file_stops_writing_until_it_is_put_back(
    store: SQLiteStorage, database: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = Path(f"{database}{suffix}")
    aside = file.with_name("aside")
    file.rename(aside)
    with pytest.raises(StorageUnavailable):
        await store.add_record(a_record(time=NOW + 1))
    assert not well(store)
    with pytest.raises(StorageUnavailable):
        await store.add_key(a_key(2))
    assert f"{file} was moved, replaced or removed; put it back" in caplog.text
    aside.rename(file)
    await eventually(lambda: well(store))
    await store.add_record(a_record(time=NOW + 2))
    records, _ = await store.records(a_key().id)
    assert [record.time - NOW for record in records] == [0, 1, 2]
    assert [key.id for key in await store.keys()] == [a_key().id]


_OPEN = """
import asyncio, sys
from opuslive.errors import OpusLiveError
from opuslive.storage import DatabaseInUse, open_storage
from tests.support.keys import a_key

async def main():
    try:
        store = await open_storage(f"sqlite://{sys.argv[1]}")
    except DatabaseInUse:
        return "in use"
    await store.add_key(a_key(2))
    await store.close()
    return "opened"

print(asyncio.run(main()))
"""


async def opened_by_another_process(database: Path) -> str:
    command = [sys.executable, "-c", _OPEN, str(database)]
    done = await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    return done.stdout.decode().strip()


async def test_a_lock_file_that_is_removed_lets_no_other_process_in(
    store: SQLiteStorage, database: Path
) -> None:
    Path(f"{database}.lock").unlink()
    assert await opened_by_another_process(database) == "in use"
    assert await opened_by_another_process(database) == "in use"
    with pytest.raises(StorageUnavailable):
        await store.add_record(a_record(time=NOW + 1))
    await store.close()
    assert await opened_by_another_process(database) == "opened"


async def test_a_database_put_in_the_place_of_the_open_one_is_not_written(
    store: SQLiteStorage, database: Path, tmp_path: Path
) -> None:
    """As someone does who restores a backup under a running server."""
    other = tmp_path / "other.db"
    backup = await open_storage(f"sqlite://{other}")
    await backup.add_key(a_key(7))
    await backup.close()
    content = other.read_bytes()
    aside = database.with_name("aside")
    database.rename(aside)
    other.rename(database)
    with pytest.raises(StorageUnavailable):
        await store.add_record(a_record(time=NOW + 1))
    assert database.read_bytes() == content
    # Neither needs the log any more, which would damage the one that it is not of.
    assert Path(f"{database}-wal").stat().st_size == 0
    assert records_in(aside, tmp_path) == 1
    aside.rename(database)
    await eventually(lambda: well(store))
    assert (await store.key_usage(a_key().id)).sum.requests == 2


async def test_closing_leaves_a_database_put_in_the_place_of_the_open_one_alone(
    store: SQLiteStorage, database: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.db"
    backup = await open_storage(f"sqlite://{other}")
    await backup.add_key(a_key(7))
    await backup.close()
    other.rename(database)
    await store.close()
    reopened = await open_storage(f"sqlite://{database}")
    assert [key.id for key in await reopened.keys()] == [a_key(7).id]
    await reopened.close()


async def test_no_confirmed_record_is_lost_with_the_log(
    store: SQLiteStorage, database: Path, tmp_path: Path
) -> None:
    Path(f"{database}-wal").unlink()
    with pytest.raises(StorageUnavailable):
        await store.add_record(a_record(time=NOW + 1))
    assert records_in(database, tmp_path) == 1  # what was confirmed, should the process be killed
    await store.close()
    reopened = await open_storage(f"sqlite://{database}")
    assert len((await reopened.records(a_key().id))[0]) == 1
    await reopened.close()


@pytest.mark.parametrize("left", [None, b""])
async def test_a_log_without_its_database_is_refused_and_kept(
    store: SQLiteStorage, database: Path, left: bytes | None
) -> None:
    log = Path(f"{database}-wal")
    content, whole = log.read_bytes(), database.read_bytes()
    assert content
    await store.close()
    log.write_bytes(content)
    database.unlink()
    if left is not None:
        database.write_bytes(left)
    with pytest.raises(UsageError, match="put that back, or move the log away"):
        await open_storage(f"sqlite://{database}")
    assert log.read_bytes() == content
    database.write_bytes(whole)
    reopened = await open_storage(f"sqlite://{database}")
    assert len((await reopened.records(a_key().id))[0]) == 1
    await reopened.close()


async def test_a_truncated_database_is_refused_with_a_sentence(
    store: SQLiteStorage, database: Path
) -> None:
    await store.close()
    content = database.read_bytes()
    for size in [50, 99, 100, 511, 512, *range(4096, len(content), 4096)]:
        database.write_bytes(content[:size])
        with pytest.raises(OpusLiveError, match="is damaged; restore a backup"):
            await open_storage(f"sqlite://{database}")
        assert database.read_bytes() == content[:size]
