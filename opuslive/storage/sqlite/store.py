"""The store in one SQLite file.

Each connection lives in a thread of its own, and each operation is one plain function that
runs there in one hop: thread hops cost more than statements do. Operations that write run
in the writer's thread one at a time, so each sees what the ones before it did.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from opuslive.keys import GroupChange, Key
from opuslive.storage.protocol import (
    Cursor,
    DatabaseDamaged,
    KeyUsage,
    OpenRecord,
    StorageUnavailable,
    SumsBy,
)
from opuslive.storage.sqlite import erasure, queries, rows
from opuslive.storage.sqlite.database import Database
from opuslive.storage.sqlite.writer import Writer
from opuslive.usage import ModelSum, UsageRecord

_T = TypeVar("_T")


class SQLiteStorage:
    """Implements ``opuslive.storage.Storage``, which says what the methods do."""

    def __init__(self, database: Database, writing: ThreadPoolExecutor, *, retry_delay: float):
        self._database = database
        self._retry_delay = retry_delay
        self._writing = writing
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="opuslive-reader")
        self._writer = Writer(
            database.writer, writing, check=database.check, retry_delay=retry_delay
        )
        self._erasures: set[asyncio.Task[int]] = set()
        self._closing = asyncio.Event()
        self._closed: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, path: Path, *, retry_delay: float) -> SQLiteStorage:
        """See ``open_storage``."""
        writing = ThreadPoolExecutor(1, thread_name_prefix="opuslive-writer")
        opening = writing.submit(Database.open, path)
        try:
            database = await asyncio.shield(asyncio.wrap_future(opening))
        except BaseException:
            opening.add_done_callback(_close_opened)  # if it was cancelled: it opens nevertheless
            writing.shutdown(wait=False)
            raise
        return cls(database, writing, retry_delay=retry_delay)

    @property
    def checksum_key(self) -> bytes:
        return self._database.checksum_key

    @property
    def healthy(self) -> bool:
        return self._writer.healthy

    # --- keys

    async def keys(self) -> Sequence[Key]:
        return await self._read(queries.keys)

    async def add_key(self, key: Key) -> None:
        await self._writer.transaction(partial(rows.insert_key, key=key))

    async def update_key(self, key: Key, *, at: int) -> None:
        await self._writer.transaction(partial(rows.update_key, key=key, at=at))

    async def group_changes(self) -> Mapping[str, Sequence[GroupChange]]:
        return await self._read(queries.group_changes)

    async def delete_key(self, key_id: str) -> int:
        # The task lives on if the caller is cancelled: half an erasure is none.
        task = asyncio.get_running_loop().create_task(self._delete_key(key_id))
        self._erasures.add(task)
        task.add_done_callback(self._erasures.discard)
        return await asyncio.shield(task)

    async def _delete_key(self, key_id: str) -> int:
        key = await self._writer.transaction(partial(erasure.mark, key_id=key_id))
        try:
            return await self._erase(key)
        except DatabaseDamaged:
            erasure.give_up(key)
            raise

    async def _erase(self, key: int) -> int:
        erased, last = 0, False
        while not last:
            count, last = await self._persist(partial(erasure.delete_batch, key=key))
            erased += count
        offset: int | None = 0
        while offset is not None:
            offset = await self._persist_alone(
                partial(erasure.scrub, database=self._database.descriptor, offset=offset)
            )
        await self._persist(partial(erasure.forget, key=key))
        return erased

    async def _persist(self, step: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run a step of an erasure in a transaction; see ``_repeat``."""
        return await self._repeat(lambda: self._writer.transaction(step))

    async def _persist_alone(self, step: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run a step with the reader at rest, so that it can truncate the write-ahead log."""
        return await self._repeat(lambda: self._writer.call(step, holding=self._reading))

    async def _repeat(self, step: Callable[[], Awaitable[_T]]) -> _T:
        """Run a step until it succeeds; after a failure, when the disk is well, ever more seldom.

        Raises DatabaseDamaged, and StorageUnavailable when the store is closed.
        """
        failures = 0
        while not self._closing.is_set():
            try:
                return await step()
            except DatabaseDamaged:
                raise
            except StorageUnavailable:
                failures += 1
                await self._writer.recovered()
                await self._pause(erasure.pause(failures, self._retry_delay))
            except erasure.CheckpointBusyError:  # a reader that is not ours
                await self._pause(self._retry_delay)
        raise StorageUnavailable

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._closing.wait(), seconds)
        except TimeoutError:
            return

    # --- usage

    def add_record(
        self, record: UsageRecord, opened: OpenRecord | None = None
    ) -> asyncio.Future[None]:
        return self._writer.add(record, opened)

    def keep_open(self, record: UsageRecord, opened: OpenRecord | None = None) -> OpenRecord:
        return self._writer.keep_open(record, opened)

    async def close_open_records(self, closed: Callable[[UsageRecord], UsageRecord]) -> int:
        found = await self._read(queries.open_records)
        for opened, record in found:
            self._writer.add(closed(record), opened)
        await self._writer.flush()
        return len(found)

    async def key_usage(self, key_id: str) -> KeyUsage:
        return await self._read(partial(queries.key_usage, key_id=key_id))

    async def all_key_usage(self) -> Mapping[str, KeyUsage]:
        return await self._read(queries.all_key_usage)

    async def sums(
        self, key_id: str | None, *, since: int, until: int, by: SumsBy
    ) -> Sequence[ModelSum]:
        query = partial(queries.sums, key_id=key_id, since=since, until=until, by=by)
        return await self._read(query)

    async def tokens_by_key(self, *, since: int, until: int) -> Mapping[str, int]:
        return await self._read(partial(queries.tokens_by_key, since=since, until=until))

    async def flush(self) -> None:
        await self._writer.flush()

    async def records(
        self, key_id: str, *, after: Cursor | None = None, limit: int = 1000
    ) -> tuple[Sequence[UsageRecord], Cursor | None]:
        query = partial(queries.records, key_id=key_id, after=after, limit=limit)
        return await self._read(query)

    async def latest_records(self, key_id: str, *, limit: int) -> Sequence[UsageRecord]:
        return await self._read(partial(queries.latest_records, key_id=key_id, limit=limit))

    async def _read(self, query: Callable[[sqlite3.Connection], _T]) -> _T:
        if self._closing.is_set():
            raise StorageUnavailable
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._reading, self._snapshot, query)
        except sqlite3.Error as error:
            raise StorageUnavailable from error

    def _snapshot(self, query: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run all statements of a query on the same state of the database."""
        reader = self._database.reader
        reader.execute("BEGIN")
        try:
            return query(reader)
        finally:
            reader.execute("ROLLBACK")

    async def close(self) -> None:
        if self._closed is None:
            self._closed = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closed)

    async def _close(self) -> None:
        self._closing.set()
        await self._writer.close()
        await asyncio.gather(*self._erasures, return_exceptions=True)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._reading.shutdown)
        await loop.run_in_executor(self._writing, self._database.close)
        self._writing.shutdown(wait=False)


def _close_opened(opening: Future[Database]) -> None:
    if opening.exception() is None:
        opening.result().close()
