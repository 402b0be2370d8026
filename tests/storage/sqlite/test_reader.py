"""What is read leaves the writer and the erasure alone, whatever becomes of its callers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from opuslive.errors import OpusLiveError
from opuslive.storage import StorageUnavailable
from opuslive.storage.sqlite.queries import Query
from opuslive.storage.sqlite.reader import Reader
from opuslive.storage.sqlite.store import SQLiteStorage
from tests.support.keys import a_key, a_record
from tests.support.stores import traced


@pytest.fixture
async def store(database: Path) -> AsyncIterator[SQLiteStorage]:
    store = await SQLiteStorage.open(database, retry_delay=3_600)
    await store.add_key(a_key())
    await store.add_record(a_record())
    yield store
    await store.close()


class Slow:
    """A query that stays in its read transaction until it may go on."""

    def __init__(self) -> None:
        self.began, self._go_on = threading.Event(), threading.Event()
        self.query = Query("SELECT id FROM keys", (), self._wait)

    def _wait(self, row: object) -> object:
        self.began.set()
        self._go_on.wait()
        return row

    def end(self) -> None:
        self._go_on.set()


@contextlib.contextmanager
def slow() -> Iterator[Slow]:
    query = Slow()
    try:
        yield query
    finally:
        query.end()


async def test_a_reader_that_cannot_be_opened_leaves_no_thread_behind(tmp_path: Path) -> None:
    """One that ended after its event loop would say so with a traceback."""
    for _ in range(50):
        with pytest.raises(OpusLiveError):
            await Reader.open(tmp_path / "missing.db")
        assert "connection_worker" not in str(threading.enumerate())


async def test_a_query_whose_caller_left_holds_the_reader_until_it_has_ended(
    store: SQLiteStorage,
) -> None:
    with slow() as reading:
        caller = asyncio.create_task(store._reader.fetch(reading.query))
        await asyncio.to_thread(reading.began.wait)
        caller.cancel()
        await asyncio.wait([caller])
        assert caller.cancelled()
        rest = asyncio.create_task(rested(store._reader))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not rest.done()
    await rest
    assert [key.id for key in await store.keys()] == [a_key().id]


async def rested(reader: Reader) -> None:
    async with reader.at_rest():
        pass


async def test_a_caller_that_leaves_while_it_waits_reads_nothing(store: SQLiteStorage) -> None:
    ran: list[object] = []
    with slow() as reading:
        first = asyncio.create_task(store._reader.fetch(reading.query))
        await asyncio.to_thread(reading.began.wait)
        second = asyncio.create_task(
            store._reader.fetch(Query("SELECT id FROM keys", (), ran.append))
        )
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([second])
    await first
    assert len(await store.keys()) == 1
    assert ran == []


async def test_a_failure_that_nobody_waits_for_is_not_complained_about(
    store: SQLiteStorage,
) -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, c: complaints.append(c))
    failing = asyncio.create_task(store._reader.fetch(Query("SELECT 1 FROM no", (), len)))
    await asyncio.sleep(0)  # it has begun
    failing.cancel()
    await asyncio.wait([failing])
    assert failing.cancelled()
    assert len(await store.keys()) == 1
    del failing
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []


async def test_an_erasure_truncates_the_log_only_when_nothing_is_read(
    store: SQLiteStorage,
) -> None:
    with slow() as reading, traced(store._database.writer) as statements:
        caller = asyncio.create_task(store._reader.fetch(reading.query))
        await asyncio.to_thread(reading.began.wait)
        caller.cancel()
        deletion = asyncio.create_task(store.delete_key(a_key().id))
        async with asyncio.timeout(20):
            while not [each for each in statements if each.startswith("DELETE FROM totals")]:
                await asyncio.sleep(0)
        for _ in range(3):  # each a commit of its own, before which a checkpoint would have come
            await store.add_record(a_record())
        assert not [each for each in statements if "wal_checkpoint" in each]
        assert not deletion.done()
        reading.end()
        assert await deletion == 1
        assert [each for each in statements if "wal_checkpoint" in each]


async def test_a_query_is_one_statement(store: SQLiteStorage) -> None:
    statements: list[str] = []
    await store._reader._connection.set_trace_callback(statements.append)
    for read in (
        store.keys(),
        store.group_changes(),
        store.key_usage(a_key().id),
        store.all_key_usage(),
        store.sums(None, since=0, until=2**45, by="day"),
        store.tokens_by_key(since=0, until=2**45),
        store.records(a_key().id),
        store.latest_records(a_key().id, limit=5),
    ):
        statements.clear()
        await read
        assert len(statements) == 1, statements


async def test_the_reader_can_write_nothing(store: SQLiteStorage) -> None:
    with pytest.raises(StorageUnavailable):
        await store._reader.fetch(Query("DELETE FROM usage", (), lambda row: row))
    assert len((await store.records(a_key().id))[0]) == 1


async def test_what_waits_is_read_when_the_store_is_closed(store: SQLiteStorage) -> None:
    with slow() as reading:
        first = asyncio.create_task(store._reader.fetch(reading.query))
        await asyncio.to_thread(reading.began.wait)
        second = asyncio.create_task(store.keys())
        await asyncio.sleep(0)
        closing = asyncio.create_task(store.close())
        await asyncio.sleep(0)
    await first
    assert [key.id for key in await second] == [a_key().id]
    await closing
    with pytest.raises(StorageUnavailable):
        await store._reader.fetch(reading.query)
