"""Free pages go back to the system: beside commits, or by writing everything anew."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from opuslive.errors import OpusLiveError
from opuslive.storage import DatabaseInUse, compact_closed, open_storage
from opuslive.storage.sqlite import compaction
from opuslive.storage.sqlite.store import SQLiteStorage
from tests.support.clock import NOW
from tests.support.keys import a_key, a_record
from tests.support.stores import (
    a_marked_record,
    add_marked_key,
    full_disk,
    query,
    traces,
)

KEYS = 20


@pytest.fixture
async def store(database: Path) -> AsyncIterator[SQLiteStorage]:
    store = await SQLiteStorage.open(database, retry_delay=0)
    yield store
    await store.close()


def unheard(part: float) -> None:
    """Progress that nobody looks at."""


async def fill(store: SQLiteStorage) -> None:
    """Many small commits of all keys, so that pages split and rows move about."""
    chance = random.Random(7)
    for number in range(1, KEYS + 1):
        await add_marked_key(store, number)
    for turn in range(150):
        await asyncio.gather(
            *(
                store.add_record(a_marked_record(number, NOW + turn * 60_000, parted=turn % 3 == 0))
                for number in chance.choices(range(1, KEYS + 1), k=120)
            )
        )


def on_disk(database: Path) -> bytes:
    """All bytes in all files of the database, read by another process."""
    files = sorted(database.parent.iterdir())
    return subprocess.run(["cat", *files], check=True, capture_output=True).stdout


async def records_of(store: SQLiteStorage, number: int) -> object:
    return await store.records(a_key(number).id, limit=10_000)


class TestWhileServing:
    async def test_the_file_shrinks_and_nothing_is_lost(
        self, store: SQLiteStorage, database: Path
    ) -> None:
        await fill(store)
        kept = [await records_of(store, number) for number in range(11, KEYS + 1)]
        for number in range(1, 11):
            await store.delete_key(a_key(number).id)
        told: list[float] = []
        done = await store.maintenance.compact(told.append)
        assert done.after == database.stat().st_size < 0.7 * done.before
        assert told == sorted(told)
        assert told[-1] == 1.0
        assert [await records_of(store, number) for number in range(11, KEYS + 1)] == kept
        assert await store.maintenance.check(quick=False, progress=unheard) == []
        content = on_disk(database)
        assert [t for n in range(1, 11) for t in traces(n) if t in content] == []
        again = await store.maintenance.compact(unheard)
        assert again.before == again.after == done.after

    async def test_a_key_deleted_afterwards_leaves_nothing_where_pages_were_moved(
        self, store: SQLiteStorage, database: Path
    ) -> None:
        await fill(store)
        for number in range(1, 11):
            await store.delete_key(a_key(number).id)
        compacting = asyncio.create_task(store.maintenance.compact(unheard))
        for number in range(11, KEYS + 1):
            await store.delete_key(a_key(number).id)
            content = on_disk(database)
            assert [trace for trace in traces(number) if trace in content] == []
        await compacting
        assert await store.maintenance.check(quick=False, progress=unheard) == []

    async def test_no_page_moves_while_a_key_is_erased(
        self, store: SQLiteStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await fill(store)
        await store.delete_key(a_key(1).id)
        moved: list[bool] = []
        step = compaction.step

        def watched(connection: sqlite3.Connection) -> int:
            erasing = connection.execute("SELECT count(*) FROM keys WHERE erasing").fetchone()
            moved.append(erasing != (0,))
            return step(connection)

        monkeypatch.setattr(compaction, "step", watched)
        monkeypatch.setattr(compaction, "STEP_PAGES", 1)
        await asyncio.gather(
            store.maintenance.compact(unheard),
            *(store.delete_key(a_key(number).id) for number in range(2, 8)),
        )
        assert len(moved) > 10
        assert not any(moved)

    async def test_one_that_an_older_version_made_needs_the_server_stopped(
        self, database: Path
    ) -> None:
        await made_by_an_older_version(database)
        store = await SQLiteStorage.open(database, retry_delay=0)
        with pytest.raises(OpusLiveError, match="stop the server, run 'opuslive database compact'"):
            await store.maintenance.compact(unheard)
        await store.close()


async def test_keys_are_erased_from_what_an_older_version_made(database: Path) -> None:
    await made_by_an_older_version(database)
    content = on_disk(database)
    assert [t for n in range(1, 11) for t in traces(n) if t in content] == []
    assert query(database, "PRAGMA auto_vacuum") == [(0,)]
    assert query(database, "PRAGMA integrity_check") == [("ok",)]


async def made_by_an_older_version(database: Path) -> None:
    """A database whose free pages can't be given back step by step, with some of them."""
    store = await SQLiteStorage.open(database, retry_delay=0)
    await fill(store)
    await store.close()
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA auto_vacuum = NONE")
        connection.execute("VACUUM")
    store = await SQLiteStorage.open(database, retry_delay=0)
    for number in range(1, 11):
        await store.delete_key(a_key(number).id)
    await store.close()


class TestClosed:
    async def test_it_is_written_anew_and_can_be_compacted_step_by_step_from_then_on(
        self, database: Path
    ) -> None:
        await made_by_an_older_version(database)
        before = query(database, "SELECT * FROM usage ORDER BY 1, 2, 3")
        told: list[float] = []
        done = await compact_closed(f"sqlite://{database}", told.append)
        assert done.after == database.stat().st_size < 0.7 * done.before
        assert query(database, "SELECT * FROM usage ORDER BY 1, 2, 3") == before
        assert query(database, "PRAGMA integrity_check") == [("ok",)]
        assert database.stat().st_mode & 0o777 == 0o600
        assert {path.name for path in database.parent.iterdir()} == {
            "opuslive.db",
            "opuslive.db.lock",
        }
        content = on_disk(database)
        assert [t for n in range(1, 11) for t in traces(n) if t in content] == []
        store = await SQLiteStorage.open(database, retry_delay=0)
        await store.delete_key(a_key(11).id)
        assert (await store.maintenance.compact(unheard)).after < done.after
        # Numbers of deleted keys are not given out again.
        await store.add_key(a_key(99))
        await store.close()
        assert query(database, "SELECT max(key) FROM keys") == [(KEYS + 1,)]

    async def test_not_while_somebody_has_it_open(self, database: Path) -> None:
        store = await open_storage(f"sqlite://{database}")
        with pytest.raises(DatabaseInUse):
            await compact_closed(f"sqlite://{database}", unheard)
        await store.add_key(a_key())
        await store.add_record(a_record())
        await store.close()

    async def test_a_full_disk_changes_nothing(self, database: Path) -> None:
        await made_by_an_older_version(database)
        before = query(database, "SELECT count(*) FROM usage")
        with full_disk(), pytest.raises(OpusLiveError):
            await compact_closed(f"sqlite://{database}", unheard)
        assert query(database, "SELECT count(*) FROM usage") == before
        assert not Path(f"{database}.compacting").exists()
