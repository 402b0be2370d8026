"""What is done to an open database beside its records: see ``opuslive.storage.maintenance``."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from opuslive.storage.maintenance import Backup, Compaction, Progress
from opuslive.storage.protocol import StorageUnavailable
from opuslive.storage.sqlite import backup, compaction, erasure, inspection
from opuslive.storage.sqlite.faults import is_damage
from opuslive.storage.sqlite.jobs import Jobs
from opuslive.storage.sqlite.reader import Reader
from opuslive.storage.sqlite.writer import Writer

#: How often emptying the write-ahead log is tried when somebody else reads, and the seconds
#: between: a commit does it later, if not.
_TRIES, _PAUSE = 5, 0.1


class SQLiteMaintenance:
    """Implements ``opuslive.storage.Maintenance``, which says what the methods do."""

    def __init__(
        self, path: Path, descriptor: int, writer: Writer, reader: Reader, jobs: Jobs
    ) -> None:
        """``descriptor`` is one of the database file."""
        self._path = path
        self._descriptor = descriptor
        self._writer = writer
        self._reader = reader
        self._jobs = jobs

    async def back_up(self, target: Path, *, replace: bool, progress: Progress) -> Backup:
        await asyncio.to_thread(backup.check_target, target, self._path, replace=replace)
        async with self._jobs.turn():
            await self._writer.call(_nothing)  # The file at the path is the one that is open.
            make = partial(
                backup.back_up,
                target=target,
                database=self._path,
                replace=replace,
                progress=progress,
            )
            return await self._jobs.read("The backup", make)

    async def check(self, *, quick: bool, progress: Progress) -> Sequence[str]:
        async with self._jobs.turn():
            await self._writer.call(_nothing)
            look = partial(inspection.inspect, quick=quick, progress=progress)
            try:
                return await self._jobs.read("The check", look)
            except sqlite3.Error as error:
                if is_damage(error):
                    return [f"The file is damaged: {error}."]
                raise StorageUnavailable from error

    async def compact(self, progress: Progress) -> Compaction:
        async with self._jobs.turn():
            await self._writer.call(compaction.check_possible)
            before = os.fstat(self._descriptor).st_size
            free = await self._writer.call(compaction.free_pages)
            left = free
            while left:
                async with self._jobs.step():
                    left = await self._writer.call(compaction.step)
                progress(max(0.0, 1 - left / free))
            await self._empty_log()
            return Compaction(before, os.fstat(self._descriptor).st_size)

    async def _empty_log(self) -> None:
        """The file is cut off when the log is emptied."""
        for _ in range(_TRIES):
            try:
                async with self._reader.at_rest():
                    await self._writer.call(erasure.truncate)
                return
            except erasure.CheckpointBusyError:  # a reader that is not ours
                await asyncio.sleep(_PAUSE)


def _nothing(connection: sqlite3.Connection) -> None:
    """Runs where the writer looks whether its files are at their places."""
