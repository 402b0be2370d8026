"""The one thread that writes, and the group commits of records.

A record is on disk after an fsync, which costs as much for one record as for a hundred. So
records queue up while a commit runs, and the next commit takes all of them. A record leaves the
queue only when a commit with it has succeeded. When the disk fails a commit, everyone who waits is
told, the records stay queued, and the next commit takes them again. SQLite reports an error of
COMMIT only if the transaction did not happen, so each record is written exactly once. A record
that the database itself refuses is dropped, lest it hold up all others: see ``batch.py``.

All state here belongs to the event loop; the thread gets its arguments and gives a result.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from opuslive.storage.protocol import (
    CommitFigures,
    DatabaseDamaged,
    StorageUnavailable,
    Unwritten,
)
from opuslive.storage.sqlite.backlog import Backlog
from opuslive.storage.sqlite.batch import Batch, Written, write_one_by_one, write_together
from opuslive.storage.sqlite.faults import error_name, is_damage, is_disk_failure
from opuslive.storage.sqlite.record_rows import OpenRow, storable
from opuslive.thinning import THINNED
from opuslive.times import iso_ms
from opuslive.usage import UsageRecord

_T = TypeVar("_T")

#: Records in one commit, at most; what queued up in a long outage takes several. About 40 ms.
BATCH_RECORDS = 2_000
#: Seconds that a record may wait for its commit before the disk counts as too slow. A disk that
#: keeps up takes some ms, and about 40 for each batch of a burst.
MAX_WAIT = 5.0
#: More records than two batches are a burst, in which a record may wait for these seconds: enough
#: for another ten batches.
BURST = 2 * BATCH_RECORDS
BURST_WAIT = 0.5
#: Records that may wait, for however short a time: 40 MB with their futures.
MAX_WAITING = 50_000

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Queued:
    """A record for the next commit; with ``opened``, for the row of that open record."""

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
        burst: int = BURST,
        burst_wait: float = BURST_WAIT,
        max_waiting: int = MAX_WAITING,
    ):
        """``check`` is called before each transaction, outside of it; it raises an OSError if
        nothing may be written now. ``retry_delay``, in seconds, is from a failure to the next
        attempt. ``max_wait`` and ``burst_wait``, in seconds, ``burst`` and ``max_waiting``, in
        records, say when the disk is too slow: see ``Backlog``."""
        self._connection = connection
        self._executor = executor
        self._check = check
        self._retry_delay = retry_delay
        self._loop = asyncio.get_running_loop()
        self._queue: list[_Queued] = []
        self._added = 0  # records, ever
        #: Each waits until so many records, counted as ``_added`` is, are on disk.
        self._flushes: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._backlog = Backlog(
            self._loop,
            max_wait=max_wait,
            burst=burst,
            burst_wait=burst_wait,
            max_waiting=max_waiting,
        )
        self._retry: asyncio.TimerHandle | None = None
        self._healthy = asyncio.Event()
        self._healthy.set()
        self._idle = asyncio.Event()  # no group commit is under way
        self._idle.set()
        self._closed = False
        self.commits = CommitFigures()

    @property
    def unwritten(self) -> Unwritten:
        """See ``Storage.unwritten``."""
        return self._backlog.waiting()

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
            # Not a record's future: whoever waits for that may cancel it before the commit.
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
        # With nothing queued this is a retry after another transaction failed: probe the disk.
        write = partial(self._write, batch) if batch else partial(self._commit, _probe)
        self._executor.submit(self._run_flush, write, len(batch), time.perf_counter())

    def _run_flush(self, write: Callable[[], Written], count: int, began: float) -> None:
        """Run in the thread: one callback leads back, where a future would take three."""
        result: Written | BaseException
        try:
            result = write()
        except BaseException as error:
            result = error
        self._loop.call_soon_threadsafe(self._flushed, count, began, result)

    def _write(self, batch: Batch) -> Written:
        try:
            return self._commit(partial(write_together, batch=batch))
        except Exception as error:
            if is_disk_failure(error):
                raise
        return self._commit(partial(write_one_by_one, batch=batch))

    def _flushed(self, count: int, began: float, written: Written | BaseException) -> None:
        self._idle.set()
        if isinstance(written, BaseException):
            self.commits.failures += 1
            self._failed(written)
            return
        if count:
            self.commits.records.observe(count)
            self.commits.seconds.observe(time.perf_counter() - began)
        for opened, row_key in written.row_keys.items():
            opened.row_key = row_key
        done = self._queue[:count]
        del self._queue[:count]
        self._backlog.written(sum(queued.record.status is not None for queued in done))
        for position, queued in enumerate(done):
            if queued.opened is not None:
                queued.opened.pending = False
            if position in written.refused:
                _drop(queued, written.refused[position])
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

        Raises what the function raises, after a rollback; StorageUnavailable in the place of an
        sqlite3.Error, and DatabaseDamaged where a page is damaged, which leaves ``healthy`` as it
        is.
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
        elif is_disk_failure(error) and not is_damage(error):
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
                " Check the disk." if is_disk_failure(error) else "",
            )
        self._backlog.suspend()
        # All queued records, tried or not: the disk takes none now. They stay queued.
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
        self._healthy.set()  # whoever waits for a recovery has nothing to wait for any more


def _probe(connection: sqlite3.Connection) -> Written:
    connection.execute("UPDATE meta SET value = value + 1 WHERE name = 'probes'")
    return Written()


def _drop(queued: _Queued, error: Exception) -> None:
    _log.error(
        "A usage record of key %s, of %s, was lost: the database does not take it (%s). This is "
        "a fault of OpusLive; please report this line.",
        queued.record.key_id,
        iso_ms(queued.record.time),
        error_name(error),
        extra=THINNED,
    )
    _fail(queued.future)


def _fail(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_exception(StorageUnavailable())
        future.exception()  # retrieved: if nobody waits for the future, asyncio logs nothing
