"""A disk that is slow and does not fail: the writer says so before too much has piled up."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

import pytest

from opuslive.storage import StorageUnavailable
from opuslive.storage.sqlite.writer import BURST, Writer
from tests.support.keys import a_key, a_record
from tests.support.stores import Open
from tests.support.waiting import eventually

HOUR = 3_600.0
#: A writer for which nothing is too long, and who tries nothing again by the clock.
PATIENT = MappingProxyType(
    {"check": lambda: None, "retry_delay": HOUR, "max_wait": HOUR, "burst_wait": HOUR}
)

Make = Callable[..., Writer]


@pytest.fixture
async def make(open_store: Open, database: object) -> AsyncIterator[Make]:
    """Makes writers on a database with a key, which no store has open."""
    store = await open_store()
    await store.add_key(a_key())
    await store.close()
    made: list[Writer] = []
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(
            contextlib.closing(
                sqlite3.connect(str(database), isolation_level=None, check_same_thread=False)
            )
        )
        executor = stack.enter_context(ThreadPoolExecutor(1))

        def make_writer(**limits: Any) -> Writer:
            writer = Writer(connection, executor, **{**PATIENT, **limits})
            made.append(writer)
            return writer

        yield make_writer
        for writer in made:
            await writer.close()


@contextlib.contextmanager
def stalled(writer: Writer) -> Iterator[None]:
    """The disk takes its time over a commit, until the end of the block."""
    go_on = threading.Event()
    commit = asyncio.ensure_future(writer.transaction(lambda _: go_on.wait()))
    try:
        yield
    finally:
        go_on.set()
        commit.add_done_callback(lambda done: done.exception())


def failing(*, times: int) -> Callable[[], None]:
    """Looks at the files before a commit, and finds them gone so often."""
    left = iter(range(times))

    def check() -> None:
        if next(left, None) is not None:
            raise OSError(errno.EIO, "gone")

    return check


def well(writer: Writer) -> bool:
    return writer.healthy  # by a function, for it changes behind the type checker's back


async def test_the_disk_is_too_slow_for_a_burst_that_waits(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    writer = make(burst=3, burst_wait=0)
    with stalled(writer):
        await asyncio.sleep(0)
        waiting = [writer.add(a_record(), None) for _ in range(3)]
        assert well(writer)
        waiting += [writer.add(a_record(), None) for _ in range(3)]
        assert not well(writer)
        assert not any(future.done() for future in waiting)
    await asyncio.gather(*waiting)
    assert well(writer)
    assert caplog.text.count("The disk is too slow: 4 usage records wait") == 1
    assert caplog.text.count("keeps up with the records again") == 1


async def test_a_burst_is_no_fault_of_the_disk(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """As when thousands of clients leave at once."""
    writer = make()
    waiting = [writer.add(a_record(), None) for _ in range(BURST + 1)]
    assert well(writer)
    await asyncio.gather(*waiting)
    assert well(writer)
    assert caplog.text == ""


async def test_a_burst_may_not_wait_for_long(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    writer = make(burst=3, burst_wait=0.01)
    with stalled(writer):
        await asyncio.sleep(0)
        waiting = [writer.add(a_record(), None) for _ in range(3)]
        assert well(writer)
        waiting += [writer.add(a_record(), None) for _ in range(2)]
        await eventually(lambda: not well(writer))
    await asyncio.gather(*waiting)
    assert well(writer)
    assert caplog.text.count("The disk is too slow: 5 usage records wait") == 1


async def test_more_records_than_memory_may_hold_stop_requests_at_once(make: Make) -> None:
    writer = make(burst=3, max_waiting=20)
    with stalled(writer):
        await asyncio.sleep(0)
        waiting = [writer.add(a_record(), None) for _ in range(20)]
        assert well(writer)
        waiting.append(writer.add(a_record(), None))
        assert not well(writer)
    await asyncio.gather(*waiting)
    assert well(writer)


async def test_requests_that_run_keep_nobody_waiting(make: Make) -> None:
    writer = make(max_wait=0.01, burst=1, burst_wait=0, max_waiting=2)
    with stalled(writer):
        await asyncio.sleep(0)
        opened = [writer.keep_open(a_record(status=None), None) for _ in range(9)]
        assert well(writer)
        ended = [writer.add(a_record(), each) for each in opened[:2]]
        assert not well(writer)
    await asyncio.gather(*ended)
    await writer.flush()
    assert well(writer)
    assert not any(each.pending for each in opened)


async def test_a_record_that_waits_for_too_long_stops_requests(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    writer = make(max_wait=0.01)
    with stalled(writer):
        await asyncio.sleep(0)
        first = writer.add(a_record(), None)
        await eventually(lambda: not well(writer))
        second = writer.add(a_record(), None)
        assert not first.done()
    await asyncio.gather(first, second)
    assert well(writer)
    assert caplog.text.count("The disk is too slow") == 1


async def test_requests_go_on_only_when_the_disk_has_caught_up(make: Make) -> None:
    writer = make(burst=6, burst_wait=0)
    with stalled(writer):
        await asyncio.sleep(0)
        first = [writer.add(a_record(), None) for _ in range(2)]
        await asyncio.sleep(0)  # a commit of these two has been handed over
        await asyncio.sleep(0)
        second = [writer.add(a_record(), None) for _ in range(5)]
        assert not well(writer)
    await asyncio.gather(*first)
    assert not well(writer)  # five more wait: fewer than too many, and more than a half
    await asyncio.gather(*second)
    assert well(writer)


async def test_a_disk_that_fails_is_not_called_slow(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    writer = make(max_wait=0, burst=1, burst_wait=0, max_waiting=1)

    def fail(_: sqlite3.Connection) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
        raise error

    with pytest.raises(StorageUnavailable):
        await writer.transaction(fail)
    async with asyncio.timeout(20):
        await asyncio.gather(*(writer.add(a_record(), None) for _ in range(5)))
    assert well(writer)
    assert "too slow" not in caplog.text


async def test_a_flush_waits_for_records_that_nobody_waits_for(make: Make) -> None:
    writer = make()
    with stalled(writer):
        await asyncio.sleep(0)
        first, last = writer.add(a_record(), None), writer.add(a_record(), None)
        last.cancel()
        flushes = [asyncio.create_task(writer.flush()) for _ in range(2)]
        for _ in range(5):
            await asyncio.sleep(0)
        assert not any(flush.done() for flush in flushes)
        flushes.pop().cancel()
    await flushes.pop()
    assert first.done()
    await writer.flush()  # nothing waits any more


async def test_a_flush_fails_with_the_disk_and_not_with_who_leaves(make: Make) -> None:
    writer = make(check=failing(times=2))
    writer.add(a_record(), None).cancel()
    with pytest.raises(StorageUnavailable):
        await writer.flush()
    with pytest.raises(StorageUnavailable):
        await writer.flush()
    await writer.flush()
    assert well(writer)


async def test_what_waits_is_written_when_the_writer_is_closed(make: Make) -> None:
    writer = make(burst=1, burst_wait=0)
    with stalled(writer):
        await asyncio.sleep(0)
        waiting = [writer.add(a_record(), None) for _ in range(5)]
        closing = asyncio.create_task(writer.close())
        await asyncio.sleep(0)
    await closing
    assert not well(writer)
    await asyncio.gather(*waiting)
