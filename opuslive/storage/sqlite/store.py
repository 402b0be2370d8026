"""The store in one SQLite file.

Each connection lives in a thread of its own. An operation that writes is one plain function, one
that reads is one statement, so that each takes one hop to a thread: hops cost more than statements
do. What is written runs one at a time, so each operation sees what the ones before it did.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from opuslive.keys import GroupChange, Key
from opuslive.latencies import Latencies
from opuslive.storage.maintenance import Maintenance
from opuslive.storage.protocol import (
    CommitFigures,
    Cursor,
    DatabaseDamaged,
    KeptTable,
    KeyUsage,
    OpenRecord,
    StorageUnavailable,
    SumsBy,
    Unwritten,
)
from opuslive.storage.sqlite import erasure, key_rows, queries
from opuslive.storage.sqlite.database import Database
from opuslive.storage.sqlite.jobs import Jobs
from opuslive.storage.sqlite.maintenance import SQLiteMaintenance
from opuslive.storage.sqlite.reader import Reader
from opuslive.storage.sqlite.record_rows import OpenRow
from opuslive.storage.sqlite.tables import KEPT
from opuslive.storage.sqlite.writer import Writer
from opuslive.usage import ModelSum, UsageRecord

_T = TypeVar("_T")


class SQLiteStorage:
    """Implements ``opuslive.storage.Storage``, which says what the methods do."""

    def __init__(
        self,
        path: Path,
        database: Database,
        reader: Reader,
        writing: ThreadPoolExecutor,
        *,
        retry_delay: float,
    ):
        """``writing`` is the thread that the database was opened in."""
        self._database = database
        self._reader = reader
        self._retry_delay = retry_delay
        self._writing = writing
        self._writer = Writer(
            database.writer, writing, check=database.check, retry_delay=retry_delay
        )
        self._jobs = Jobs(path)
        self._maintenance = SQLiteMaintenance(
            path, database.descriptor, self._writer, reader, self._jobs
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
            reader = await Reader.open(path)
        except BaseException:
            writing.submit(_close_opened, opening)  # if it was cancelled: it opens nevertheless
            writing.shutdown(wait=False)
            raise
        return cls(path, database, reader, writing, retry_delay=retry_delay)

    @property
    def checksum_key(self) -> bytes:
        return self._database.checksum_key

    @property
    def kept_tables(self) -> Sequence[KeptTable]:
        return KEPT

    @property
    def healthy(self) -> bool:
        return self._writer.healthy

    @property
    def commits(self) -> CommitFigures:
        return self._writer.commits

    @property
    def unwritten(self) -> Unwritten:
        return self._writer.unwritten

    @property
    def maintenance(self) -> Maintenance:
        return self._maintenance

    # --- keys

    async def keys(self) -> Sequence[Key]:
        return await self._read(queries.keys())

    async def add_key(self, key: Key) -> None:
        await self._writer.transaction(partial(key_rows.insert_key, key=key))

    async def update_key(self, key: Key, *, at: int) -> None:
        await self._writer.transaction(partial(key_rows.update_key, key=key, at=at))

    async def group_changes(self) -> Mapping[str, Sequence[GroupChange]]:
        changes = defaultdict(list)
        for key_id, change in await self._read(queries.group_changes()):
            changes[key_id].append(change)
        return dict(changes)

    async def delete_key(self, key_id: str) -> int:
        # The task lives on if the caller is cancelled: half an erasure is none.
        task = asyncio.get_running_loop().create_task(self._erase(key_id))
        self._erasures.add(task)
        task.add_done_callback(self._erased)
        return await asyncio.shield(task)

    def _erased(self, task: asyncio.Task[int]) -> None:
        self._erasures.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved: if the caller has left, asyncio logs nothing

    async def _erase(self, key_id: str) -> int:
        async with self._jobs.erasing():
            return await self._delete_key(key_id)

    async def _delete_key(self, key_id: str) -> int:
        key = await self._writer.transaction(partial(erasure.mark, key_id=key_id))
        try:
            erased = await self._carry_out(erasure.deletion(key))
            await self._carry_out(erasure.ending([key], self._database.descriptor))
        except DatabaseDamaged:
            erasure.give_up(key)
            raise
        return erased

    async def _carry_out(self, steps: erasure.Steps[_T]) -> _T:
        try:
            step = next(steps)
            while True:
                step = steps.send(await self._persist(step))
        except StopIteration as ended:
            result: _T = ended.value
            return result

    async def _persist(self, step: erasure.Step) -> Any:
        """Run a step until it succeeds; after a failure, when the disk is well, ever more seldom.

        Raises DatabaseDamaged, and StorageUnavailable when the store is closed.
        """
        failures = 0
        while not self._closing.is_set():
            try:
                if step.in_transaction:
                    return await self._writer.transaction(step.run)
                async with self._reader.at_rest():
                    return await self._writer.call(step.run)
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
        return self._writer.add(record, _own(opened))

    def keep_open(self, record: UsageRecord, opened: OpenRecord | None = None) -> OpenRecord:
        return self._writer.keep_open(record, _own(opened))

    async def close_open_records(self, closed: Callable[[UsageRecord], UsageRecord]) -> int:
        found = await self._read(queries.open_records())
        for opened, record in found:
            self._writer.add(closed(record), opened)
        await self._writer.flush()
        return len(found)

    async def key_usage(self, key_id: str) -> KeyUsage:
        found = await self._read(queries.key_usage(key_id))
        return found[0] if found else KeyUsage()

    async def all_key_usage(self) -> Mapping[str, KeyUsage]:
        return dict(await self._read(queries.all_key_usage()))

    async def sums(
        self, key_id: str | None, *, since: int, until: int, by: SumsBy
    ) -> Sequence[ModelSum]:
        return await self._read(queries.sums(key_id, since, until, by))

    async def latencies(
        self, key_id: str | None, *, since: int, until: int
    ) -> Mapping[str | None, Latencies]:
        return dict(await self._read(queries.latencies(key_id, since, until)))

    async def tokens_by_key(self, *, since: int, until: int) -> Mapping[str, int]:
        return dict(await self._read(queries.tokens_by_key(since, until)))

    async def flush(self) -> None:
        await self._writer.flush()

    async def records(
        self, key_id: str, *, after: Cursor | None = None, limit: int = 1000
    ) -> tuple[Sequence[UsageRecord], Cursor | None]:
        return await self._page(key_id, lambda record: record, after, limit)

    async def written_records(
        self,
        key_id: str,
        write: Callable[[UsageRecord], bytes],
        *,
        after: Cursor | None = None,
        until: int | None = None,
        limit: int,
    ) -> tuple[bytes, Cursor | None]:
        written, following = await self._page(key_id, write, after, limit, until)
        return b"".join(written), following

    async def _page(
        self,
        key_id: str,
        made_of: Callable[[UsageRecord], _T],
        after: Cursor | None,
        limit: int,
        until: int | None = None,
    ) -> tuple[Sequence[_T], Cursor | None]:
        # One more: is there a next page?
        found = await self._read(queries.records(key_id, made_of, after, limit + 1, until))
        following = found[limit - 1][0] if len(found) > limit else None
        return [made for _, made in found[:limit]], following

    async def latest_records(self, key_id: str, *, limit: int) -> Sequence[UsageRecord]:
        return await self._read(queries.latest_records(key_id, limit))

    async def latest_trouble(self, *, limit: int) -> Sequence[UsageRecord]:
        return await self._read(queries.latest_trouble(limit))

    async def expiries_seen(self) -> int | None:
        found = await self._read(queries.expiries_seen())
        return found[0] if found else None

    async def keep_expiries_seen(self, at: int) -> None:
        await self._writer.transaction(partial(key_rows.keep_expiries_seen, at=at))

    async def _read(self, query: queries.Query[_T]) -> Sequence[_T]:
        if self._closing.is_set():
            raise StorageUnavailable
        return await self._reader.fetch(query)

    async def close(self) -> None:
        if self._closed is None:
            self._closed = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closed)

    async def _close(self) -> None:
        self._closing.set()
        await self._jobs.close()
        await self._writer.close()
        await asyncio.gather(*self._erasures, return_exceptions=True)
        await self._reader.close()
        await asyncio.get_running_loop().run_in_executor(self._writing, self._database.close)
        self._writing.shutdown(wait=False)


def _own(opened: OpenRecord | None) -> OpenRow | None:
    if opened is None or isinstance(opened, OpenRow):
        return opened
    raise TypeError("An open record belongs to the store that made it.")


def _close_opened(opening: Future[Database]) -> None:
    if opening.exception() is None:
        opening.result().close()
