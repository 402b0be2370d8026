"""The connection that reads, for pages, exports and whatever else people look at.

It is aiosqlite's, which runs statements in a thread of its own. A query is one statement: one hop
to that thread, and one read transaction. A statement goes on when its caller is cancelled, so a
task of the query's own holds the lock until the statement has ended. Whoever holds the lock knows
that nothing is being read.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from opuslive.storage.protocol import DatabaseDamaged, StorageUnavailable
from opuslive.storage.sqlite.database import PRAGMAS, connection_arguments, explained
from opuslive.storage.sqlite.faults import is_damage
from opuslive.storage.sqlite.queries import Query

T = TypeVar("T")


class Reader:
    """Runs queries, one after the other."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection
        self._lock = asyncio.Lock()
        self._closed = False

    @classmethod
    async def open(cls, path: Path) -> Reader:
        """Open it, to a database that the writer has open. Raises OpusLiveError."""
        with explained(path):
            # Read-only in the operating system's eyes, too: what it can't write it can't
            # checkpoint, not even if it should be the last connection that is closed.
            connection = aiosqlite.connect(**connection_arguments(path, mode="ro"))
            try:
                await connection
            except BaseException:
                # Its thread is told to end, and then tells the event loop, which has to be there.
                await asyncio.to_thread(connection._thread.join)
                raise
            try:
                await connection.executescript(
                    f"{PRAGMAS} PRAGMA query_only = ON; PRAGMA wal_autocheckpoint = 0;"
                )
            except BaseException:
                await asyncio.shield(connection.close())
                raise
        return cls(connection)

    async def fetch(self, query: Query[T]) -> Sequence[T]:
        """What the query finds. Raises StorageUnavailable, or DatabaseDamaged if that is why."""
        await self._lock.acquire()
        running = asyncio.get_running_loop().create_task(self._run(query))
        running.add_done_callback(self._ended)
        try:
            return await asyncio.shield(running)
        except sqlite3.Error as error:
            raise (DatabaseDamaged if is_damage(error) else StorageUnavailable) from error

    async def _run(self, query: Query[T]) -> Sequence[T]:
        if self._closed:
            raise StorageUnavailable
        made_of = query.made_of

        def row_factory(_: sqlite3.Cursor, row: Sequence[Any]) -> T:
            return made_of(row)

        # Whatever is made of the rows is made in the thread, not in the event loop's.
        self._connection.row_factory = row_factory  # type: ignore[assignment]  # typed for rows
        rows: Any = await self._connection.execute_fetchall(query.statement, query.parameters)
        made: list[T] = rows
        return made

    def _ended(self, running: asyncio.Task[Any]) -> None:
        self._lock.release()
        if not running.cancelled():
            running.exception()  # retrieved: if the caller has left, asyncio logs nothing

    @contextlib.asynccontextmanager
    async def at_rest(self) -> AsyncIterator[None]:
        """Nothing is read inside, and nothing has the write-ahead log in use."""
        async with self._lock:
            yield

    async def close(self) -> None:
        """Let what waits be read, then close the connection."""
        async with self._lock:
            self._closed = True
            await self._connection.close()
