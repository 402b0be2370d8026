"""The one thread that writes, and the group commits of records.

A record is on disk after an fsync, which costs as much for one record as for a hundred. So
records queue up while a commit runs, and the next commit takes all of them. A record leaves
the queue only when a commit that holds it has succeeded; a commit that the disk fails changes
nothing but the answers to those who wait, and the same records are tried again. SQLite answers
a COMMIT with an error only if the transaction did not happen, hence exactly once. A record that
can't be written for a reason of its own is dropped, lest it hold up all others: ``batch.py``.

All state here belongs to the event loop; the thread gets its arguments and gives a result.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from opuslive.storage.protocol import DatabaseDamaged, StorageUnavailable
from opuslive.storage.sqlite.backlog import Backlog
from opuslive.storage.sqlite.batch import Written, write_apart, write_whole
from opuslive.storage.sqlite.faults import error_name, is_damage, is_of_the_disk
from opuslive.storage.sqlite.record_rows import OpenRow, storable
from opuslive.times import iso_ms
from opuslive.usage import UsageRecord

_T = TypeVar("_T")

#: Records in one commit, at most; what queued up in a long outage takes several. About 40 ms.
BATCH_RECORDS = 2_000
#: Seconds that a record waits for its commit, at most, before the disk counts as too slow: one
#: that keeps up takes some ms, and about 40 for each batch of a burst.
MAX_WAIT = 5.0
#: More than two batches of records are a crowd, of which none waits for longer than these
#: seconds: enough for another ten batches.
CROWD = 2 * BATCH_RECORDS
CROWD_WAIT = 0.5
#: Records that wait, at most, however short: 40 MB with the futures that stand for them.
MAX_WAITING = 50_000

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Queued:
    """A record for the next commit. ``opened`` stands for its row, if it may have one already."""

    record: UsageRecord
    opened: OpenRow | None
    future: asyncio.Future[None]


class Writer:
    """Runs functions with the connection that writes, one after the other, in their thread."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        executor: Executor,
        *,
        check: Callable[[], None],
        retry_delay: float,
        max_wait: float = MAX_WAIT,
        crowd: int = CROWD,
        crowd_wait: float = CROWD_WAIT,
        max_waiting: int = MAX_WAITING,
    ):
        """``check`` is called before each transaction, outside of it, and raises an OSError if
        nothing may be written now. ``retry_delay``, in seconds, is from a failure to the next
        attempt. ``max_wait`` and ``crowd_wait``, in seconds, ``crowd`` and ``max_waiting``, in
        records, say when the disk is too slow: see ``Backlog``."""
        self._connection = connection
        self._executor = executor
        self._check = check
        self._retry_delay = retry_delay
        self._loop = asyncio.get_running_loop()
        self._queue: list[_Queued] = []
        self._added = 0  # records, ever
        self._flushes: deque[tuple[int, asyncio.Future[None]]] = deque()  # how many they wait for
        self._backlog = Backlog(
            self._loop,
            max_seconds=max_wait,
            crowd=crowd,
            crowd_seconds=crowd_wait,
            max_records=max_waiting,
        )
        self._retry: asyncio.TimerHandle | None = None
        self._healthy = asyncio.Event()
        self._healthy.set()
        self._idle = asyncio.Event()  # no group commit is under way
        self._idle.set()
        self._closed = False

    @property
    def healthy(self) -> bool:
        """False from a write that failed to one that succeeds, and while records pile up."""
        return self._healthy.is_set() and not self._backlog.behind and not self._closed

    async def recovered(self) -> None:
        """Wait until the disk takes writes again, or ``close``."""
        await self._healthy.wait()

    # --- records

    def add(self, record: UsageRecord, opened: OpenRow | None) -> asyncio.Future[None]:
        """Queue a record; see ``Storage.add_record``."""
        future = self._loop.create_future()
        if self._closed:
            _fail(future)
        else:
            self._queue.append(_Queued(storable(record), opened, future))
            self._added += 1
            if record.status is not None:
                self._backlog.added()
            self._wake()
        return future

    def keep_open(self, record: UsageRecord, opened: OpenRow | None) -> OpenRow:
        """See ``Storage.keep_open``."""
        opened = opened or OpenRow()
        if not opened.pending:
            opened.pending = True
            self.add(record, opened)
        return opened

    async def flush(self) -> None:
        """Wait until what is queued now is on disk. Raises StorageUnavailable."""
        if self._closed:
            raise StorageUnavailable
        if self._queue:
            # Not a record's future: who waits for that may cancel it before the record is on disk.
            flushed = self._loop.create_future()
            self._flushes.append((self._added, flushed))
            self._wake()
            await flushed

    def _wake(self) -> None:
        if self._idle.is_set():
            self._idle.clear()
            # Not at once: records of the same turn of the loop share the commit.
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._cancel_retry()
        if self._closed:
            return
        batch = [(queued.record, queued.opened) for queued in self._queue[:BATCH_RECORDS]]
        # With nothing queued this is a retry after something else failed: ask the disk.
        write = partial(self._write, batch) if batch else partial(self._commit, _probe)
        job = self._loop.run_in_executor(self._executor, write)
        job.add_done_callback(partial(self._flushed, len(batch)))

    def _write(self, batch: Sequence[tuple[UsageRecord, OpenRow | None]]) -> Written:
        try:
            return self._commit(partial(write_whole, records=batch))
        except Exception as error:
            if is_of_the_disk(error):
                raise
        return self._commit(partial(write_apart, records=batch))

    def _flushed(self, count: int, job: asyncio.Future[Written]) -> None:
        self._idle.set()
        error = job.exception()
        if error is not None:
            self._failed(error)
            return
        written = job.result()
        for opened, row_key in written.row_keys.items():
            opened.row_key = row_key
        done = self._queue[:count]
        del self._queue[:count]
        self._backlog.written(sum(queued.record.status is not None for queued in done))
        for position, queued in enumerate(done):
            if queued.opened is not None:
                queued.opened.pending = False
            if position in written.dropped:
                _dropped(queued, written.dropped[position])
            elif not queued.future.done():
                queued.future.set_result(None)
        while self._flushes and self._flushes[0][0] <= self._added - len(self._queue):
            _, flushed = self._flushes.popleft()
            if not flushed.done():
                flushed.set_result(None)
        self._succeeded()
        if self._queue:
            self._wake()

    # --- everything else

    async def transaction(self, function: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run the function between BEGIN and COMMIT; cancelling the caller doesn't stop it.

        Raises what the function raises, after a rollback, and StorageUnavailable for an
        sqlite3.Error; DatabaseDamaged if that says so, which is no matter of anything else.
        """
        return await self._run(partial(self._commit, function))

    async def call(self, function: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run the function outside of a transaction; cancelling the caller doesn't stop it.

        Raises as ``transaction`` does, and StorageUnavailable for an OSError too.
        """

        def checked() -> _T:
            self._check()
            return function(self._connection)

        return await self._run(checked)

    async def _run(self, function: Callable[[], _T]) -> _T:
        if self._closed:
            raise StorageUnavailable
        job = self._loop.run_in_executor(self._executor, function)
        job.add_done_callback(self._observe)
        try:
            return await asyncio.shield(job)
        except (sqlite3.Error, OSError) as error:
            raise (DatabaseDamaged if is_damage(error) else StorageUnavailable) from error

    def _observe(self, job: asyncio.Future[_T]) -> None:
        error = job.exception()
        if error is None:
            self._succeeded()
        elif is_of_the_disk(error) and not is_damage(error):
            self._failed(error)
        elif isinstance(error, sqlite3.Error):
            _log.error("A change of the database failed (%s).", error_name(error))

    def _commit(self, function: Callable[[sqlite3.Connection], _T]) -> _T:
        connection = self._connection
        if connection.in_transaction:  # a rollback itself had failed
            connection.execute("ROLLBACK")
        self._check()
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = function(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return result

    # --- health

    def _succeeded(self) -> None:
        if not self._healthy.is_set():
            self._healthy.set()
            self._backlog.resume()
            _log.warning("The database takes writes again.")
            self._cancel_retry()
            if self._queue:
                self._wake()

    def _failed(self, error: BaseException) -> None:
        if self._closed:
            return
        if self._healthy.is_set():
            self._healthy.clear()
            _log.error(
                "The database can't be written (%s); usage is kept in memory and written when "
                "that works again.%s",
                error,
                " Check the disk." if is_of_the_disk(error) else "",
            )
        self._backlog.suspend()
        # All of them, tried or not: the disk does not take them now. They stay queued.
        self._fail_all()
        self._cancel_retry()
        self._retry = self._loop.call_later(self._retry_delay, self._wake)

    def _fail_all(self) -> None:
        """Tell everyone who waits for a record."""
        for queued in self._queue:
            _fail(queued.future)
        for _, flushed in self._flushes:
            _fail(flushed)
        self._flushes.clear()

    def _cancel_retry(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    async def close(self) -> None:
        """Write what is queued, or fail it if the disk does not take it; then take no more."""
        await self._idle.wait()
        while self._queue:
            self._wake()
            await self._idle.wait()
            if not self._healthy.is_set():
                break
        self._closed = True
        self._backlog.suspend()
        self._cancel_retry()
        if self._queue:
            _log.error("%d usage records were lost: the disk took no writes.", len(self._queue))
        self._fail_all()
        self._queue.clear()
        self._healthy.set()  # nobody shall wait for a recovery any more


def _probe(connection: sqlite3.Connection) -> Written:
    connection.execute("UPDATE meta SET value = value + 1 WHERE name = 'probes'")
    return Written()


def _dropped(queued: _Queued, error: Exception) -> None:
    _log.error(
        "A usage record of key %s, of %s, was lost: the database does not take it (%s). This is "
        "a fault of OpusLive; please report this line.",
        queued.record.key_id,
        iso_ms(queued.record.time),
        error_name(error),
    )
    _fail(queued.future)


def _fail(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_exception(StorageUnavailable())
        future.exception()  # whoever does not wait for it need not hear of it
