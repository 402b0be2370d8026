"""Long jobs: they go on beside everything else, in a thread of their own, and can be interrupted.

Two things are in the way of a job that reads for minutes. SQLite lets nobody empty the write-ahead
log meanwhile, which an erasure has to do; and what such a job copies may hold a key that is being
erased. So an erasure interrupts it, and it begins again when nothing is being erased. A job that
moves pages waits likewise, for it could move what is to be scrubbed to where the scrub has been.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from opuslive.errors import Code, OpusLiveError
from opuslive.storage.protocol import StorageUnavailable
from opuslive.storage.sqlite.database import PRAGMAS, connection_arguments

T = TypeVar("T")

#: How often a job begins, at most.
MAX_ATTEMPTS = 10
#: Instructions of SQLite's machine from one look at the stop sign to the next: some ms.
_INSTRUCTIONS = 50_000
#: Seconds from one call to stop to the next.
_AGAIN = 0.02


class Interrupted(Exception):
    """The job was told to stop."""


class StopSign:
    """Tells a job in another thread to stop, and its connection to leave off."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._connection: sqlite3.Connection | None = None

    @property
    def is_up(self) -> bool:
        return self._stop.is_set()

    def put_up(self) -> None:
        self._stop.set()
        if self._connection is not None:
            with contextlib.suppress(sqlite3.ProgrammingError):  # closed meanwhile
                self._connection.interrupt()

    def check(self) -> None:
        """Raise Interrupted if the job is to stop."""
        if self._stop.is_set():
            raise Interrupted

    @contextlib.contextmanager
    def heeded_by(
        self, connection: sqlite3.Connection, tick: Callable[[], None] = lambda: None
    ) -> Iterator[None]:
        """Statements of the connection end early by the stop sign, and call ``tick`` now and then.

        Raises Interrupted in the place of an sqlite3.Error, once the sign is up. What ``tick``
        raises ends the statement, and is raised.
        """
        failure: Exception | None = None

        def look() -> int:
            nonlocal failure
            try:
                tick()
            except Exception as error:
                failure = error
            return 1 if failure is not None or self._stop.is_set() else 0

        self._connection = connection
        connection.set_progress_handler(look, _INSTRUCTIONS)
        try:
            self.check()
            yield
        except sqlite3.Error:
            if failure is not None:
                raise failure from None
            self.check()
            raise
        finally:
            connection.set_progress_handler(None, 0)
            self._connection = None


async def in_thread(job: Callable[[StopSign], T], sign: StopSign | None = None) -> T:
    """Run the job in a thread of its own; whoever cancels this stops it and waits for its end."""
    sign = sign or StopSign()
    executor = ThreadPoolExecutor(1, thread_name_prefix="opuslive-job")
    running = asyncio.get_running_loop().run_in_executor(executor, job, sign)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await stopped(running, sign)
        raise
    finally:
        executor.shutdown(wait=False)


async def stopped(running: asyncio.Future[T], sign: StopSign) -> None:
    """Stop a job and wait for its end, however it ends."""
    while not running.done():
        # Again: between two statements a connection does not hear it.
        sign.put_up()
        await asyncio.wait([running], timeout=_AGAIN)
    if not running.cancelled():
        running.exception()  # retrieved


class Jobs:
    """The long jobs of one open database, one at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = asyncio.Lock()
        self._erasures = 0
        self._no_erasure = asyncio.Event()
        self._no_erasure.set()
        self._sign: StopSign | None = None
        self._running = asyncio.Lock()  # held while a job does something
        self._closed = False

    @contextlib.asynccontextmanager
    async def erasing(self) -> AsyncIterator[None]:
        """No job does anything inside: the one that ran was interrupted, or its step has ended."""
        self._erasures += 1
        self._no_erasure.clear()
        try:
            await self._interrupt()
            yield
        finally:
            self._erasures -= 1
            if not self._erasures:
                self._no_erasure.set()

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """One job at a time. Raises StorageUnavailable when the store is closed."""
        async with self._turn:
            self._check_open()
            yield

    @contextlib.asynccontextmanager
    async def step(self) -> AsyncIterator[None]:
        """Nothing is being erased inside."""
        await self._begin()
        try:
            yield
        finally:
            self._running.release()

    async def read(self, what: str, job: Callable[[sqlite3.Connection, StopSign], T]) -> T:
        """Run a job with a connection that reads, until an attempt of it is not interrupted.

        ``what`` begins the sentence of the error when that never happens: "The backup". Raises
        what the job raises, OpusLiveError (conflict) and StorageUnavailable.
        """
        for _ in range(MAX_ATTEMPTS):
            sign = StopSign()
            await self._begin()
            self._sign = sign
            try:
                return await in_thread(lambda sign: self._read(job, sign), sign)
            except Interrupted:
                self._check_open()
            finally:
                self._sign = None
                self._running.release()
        raise OpusLiveError(
            Code.CONFLICT,
            f"{what} began {MAX_ATTEMPTS} times, and each time a key was deleted before it was "
            "complete; try again when no keys are being deleted.",
        )

    def _read(self, job: Callable[[sqlite3.Connection, StopSign], T], sign: StopSign) -> T:
        # Not query_only, which would forbid a copy, too: that the file is opened for reading does.
        connection = sqlite3.connect(**connection_arguments(self._path, mode="ro"))
        with contextlib.closing(connection):
            connection.executescript(f"{PRAGMAS} PRAGMA wal_autocheckpoint = 0;")
            return job(connection, sign)

    async def _begin(self) -> None:
        while True:
            await self._no_erasure.wait()
            await self._running.acquire()
            if not self._erasures:
                break
            self._running.release()
        if self._closed:
            self._running.release()
            raise StorageUnavailable

    async def _interrupt(self) -> None:
        while self._running.locked():
            if self._sign is not None:
                self._sign.put_up()
            await asyncio.sleep(_AGAIN)

    def _check_open(self) -> None:
        if self._closed:
            raise StorageUnavailable

    async def close(self) -> None:
        """Stop the job that runs, and let none begin."""
        self._closed = True
        await self._interrupt()
