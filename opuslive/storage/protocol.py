"""What a store of keys and usage does, whatever engine keeps it, and how it fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from opuslive.errors import Code, OpusLiveError
from opuslive.histogram import Histogram
from opuslive.keys import GroupChange, Key
from opuslive.latencies import Latencies
from opuslive.storage.maintenance import Maintenance
from opuslive.usage import ModelSum, UsageRecord, UsageSum

SumsBy = Literal["day", "hour", "model", "key", "group"]


class DatabaseInUse(OpusLiveError):
    """Another process holds the lock of this database: its server, or a command."""

    def __init__(self, path: str) -> None:
        super().__init__(
            Code.CONFLICT,
            f"The database {path} is in use by another OpusLive process; stop that one first, "
            "or give this one a database of its own in [storage] url.",
        )


class StorageUnavailable(OpusLiveError):
    """The disk did not do its part. A record that was to be written is kept and tried again."""

    def __init__(self) -> None:
        super().__init__(
            Code.OVERLOADED,
            "The gateway can't reach its records at the moment; try again shortly.",
            retry_after=5,
        )


class DatabaseDamaged(StorageUnavailable):
    """The part of the database that a change needs is damaged: waiting does not help."""

    def __init__(self) -> None:
        OpusLiveError.__init__(
            self,
            Code.INTERNAL,
            "The database is damaged, so this can't be done; restore a backup with 'opuslive "
            "database restore FILE'.",
        )


@dataclass(frozen=True, slots=True)
class KeyUsage:
    """All usage of a key so far. ``last_used_at`` is in ms since the epoch, ``None`` if never."""

    last_used_at: int | None = None
    sum: UsageSum = field(default_factory=UsageSum)


class OpenRecord:
    """Stands for the record of a request that runs. Only the store that made it looks inside."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class KeptColumn:
    """A column of a table, and what a holder is told that it holds."""

    name: str
    holds: str


@dataclass(frozen=True, slots=True)
class KeptTable:
    """A table with something about a key, and what a holder is told that its rows are."""

    name: str
    holds: str
    columns: Sequence[KeptColumn]


#: Bounds of how many records a commit has, and of how many seconds it takes.
_COMMIT_RECORDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
_COMMIT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


@dataclass(slots=True)
class CommitFigures:
    """The group commits of records since the store was opened.

    ``records`` is how many each had, ``seconds`` how long it took, from the moment in which it was
    due until its records were on disk. ``failures`` is how many failed; they are in neither.
    """

    records: Histogram = field(default_factory=lambda: Histogram(_COMMIT_RECORDS))
    seconds: Histogram = field(default_factory=lambda: Histogram(_COMMIT_SECONDS))
    failures: int = 0

    def copy(self) -> CommitFigures:
        """The same as it is now."""
        return CommitFigures(self.records.copy(), self.seconds.copy(), self.failures)


@dataclass(frozen=True, slots=True)
class Unwritten:
    """Records that wait to be on disk: how many, and for how many seconds the oldest does."""

    records: int
    seconds: float


#: Where a page of records ended, ``(time, seq)``: pass it back to get the next one. ``seq``
#: starts at 0, so ``(time, -1)`` starts a page with the first record of that ms.
Cursor = tuple[int, int]


class Storage(Protocol):
    """A store of keys and usage. One process at a time has it open.

    Every method may raise StorageUnavailable, and does so once the store is closed.
    """

    @property
    def checksum_key(self) -> bytes:
        """The secret, made with the database, that keys' checksums are keyed with."""

    @property
    def kept_tables(self) -> Sequence[KeptTable]:
        """Every table with something about a key, and every column of it."""

    @property
    def maintenance(self) -> Maintenance:
        """Backups and the like."""

    @property
    def healthy(self) -> bool:
        """False from a commit that failed until one that succeeds, and while more records wait,
        or for longer, than a disk that keeps up would let them: requests are refused meanwhile.

        Nothing else has to be written for it to become true again: the store tries by itself,
        about once a second.
        """

    @property
    def commits(self) -> CommitFigures:
        """What the group commits of records were like; it goes on counting."""

    @property
    def unwritten(self) -> Unwritten:
        """The records that wait for a commit, without those of requests that still run. When a
        disk that failed works again, all of them count as queued in that moment."""

    async def keys(self) -> Sequence[Key]:
        """Every key, oldest first; none that is being deleted."""

    async def add_key(self, key: Key) -> None:
        """Write a new key, and that it has been in its group from the first moment on.

        Raises OpusLiveError: conflict if its id or name is taken, invalid_request if it holds
        what no database can (half a surrogate pair, a time beyond 64 bits).
        """

    async def update_key(self, key: Key, *, at: int) -> None:
        """Write all fields of the key with this id.

        If the key has another group than before, a ``GroupChange`` since ``at`` (ms since the
        epoch) is written. If the clock went back to before the last change, the new change
        replaces that one and keeps its ``since``.
        Raises OpusLiveError as ``add_key`` does, and not_found if there is no such key.
        """

    async def group_changes(self) -> Mapping[str, Sequence[GroupChange]]:
        """Key id → the changes of the key's group, oldest first; the last one is the group that
        the key has. Keys that never were in a group are left out."""

    async def delete_key(self, key_id: str) -> int:
        """Erase the key, all its usage and its changes of group; return how many records it had.

        When it returns, no byte of them is left in the database or its write-ahead log.
        Done in steps, between which records of other keys are committed. Once begun it is
        carried through: cancelling changes nothing, a step that fails is repeated when the
        disk is well again, ever more seldom, and a deletion that a crash or ``close`` cut short
        is completed when the store is next opened. Records of the key that arrive during or
        after it are dropped. Raises OpusLiveError (not_found), and DatabaseDamaged when it had
        to be given up: the key is gone and some of its usage is left, which the log says.
        """

    def add_record(
        self, record: UsageRecord, opened: OpenRecord | None = None
    ) -> asyncio.Future[None]:
        """Queue a record for the next group commit; the future is done when it is on disk.

        Its exception is StorageUnavailable when a commit failed before that. The record is
        kept nevertheless and written as soon as the disk takes it: it is never lost while the
        process lives, and never written twice. Cancelling the future changes nothing. A
        record of a key that does not exist is dropped, and its future done all the same. One
        that the database does not take for any other reason than the disk is logged and dropped:
        its future has StorageUnavailable, and ``healthy`` stays as it is.
        Counts beyond 2**40 are kept as 2**40, those below 0 as 0.

        With ``opened`` it takes the place of what was kept while the request ran, also if the
        record's time was another then, because the date was moved since.
        """

    def keep_open(self, record: UsageRecord, opened: OpenRecord | None = None) -> OpenRecord:
        """Queue what is known so far of a request that runs; its ``status`` is None.

        ``opened`` is what an earlier call for this request returned. Nobody waits for it to be
        on disk; while one call's is not, further ones for the same request do nothing.
        """

    async def close_open_records(self, closed: Callable[[UsageRecord], UsageRecord]) -> int:
        """Complete the records of requests that ran when an earlier process was killed.

        To be called before the first ``keep_open``. ``closed`` makes the final record, with a
        status, out of an open one. Returns how many there were.
        """

    async def key_usage(self, key_id: str) -> KeyUsage:
        """All usage of one key (zeros if there is none)."""

    async def all_key_usage(self) -> Mapping[str, KeyUsage]:
        """All usage of each key that has any, by key id."""

    async def sums(
        self, key_id: str | None, *, since: int, until: int, by: SumsBy
    ) -> Sequence[ModelSum]:
        """Usage of one key or of all by day, hour, model, key or group, and by model and tier
        within.

        ``since`` and ``until`` are ms since the epoch, widened to whole hours; days are those
        of UTC. The group is the one that the key was in at that time; the hour in which it changed
        belongs to the group that it was in at the end of it. What it costs depends on the days
        and the hours at both ends that there are in between, not on how many requests. Buckets
        without usage are left out; days and hours ascend. Requests that still run are in no sum.
        """

    async def latencies(
        self, key_id: str | None, *, since: int, until: int
    ) -> Mapping[str | None, Latencies]:
        """How long the requests took that were served, of one key or of all, by model.

        ``since`` and ``until`` are as in ``sums``. Each request is in the hour of its beginning.
        """

    async def tokens_by_key(self, *, since: int, until: int) -> Mapping[str, int]:
        """Tokens of every kind that each key used, by its id, of keys that sent or were refused
        anything: for a ranking of many keys, at a fraction of what ``sums`` costs.

        ``since`` and ``until`` are ms since the epoch, widened to whole days.
        """

    async def flush(self) -> None:
        """Wait until the records that are queued now are on disk. Raises StorageUnavailable."""

    async def records(
        self, key_id: str, *, after: Cursor | None = None, limit: int = 1000
    ) -> tuple[Sequence[UsageRecord], Cursor | None]:
        """A page of a key's records, oldest first, and where the next one starts.

        Requests that run for long are among them, with the status None and what was known of
        them when it was last kept. The cursor is ``None`` on the last page.
        """

    async def written_records(
        self,
        key_id: str,
        write: Callable[[UsageRecord], bytes],
        *,
        after: Cursor | None = None,
        until: int | None = None,
        limit: int,
    ) -> tuple[bytes, Cursor | None]:
        """A page of a key's records as ``records`` has it, each as ``write`` writes it; only of
        those before ``until`` (ms since the epoch), if that is given.

        ``write`` runs away from the event loop, one call at a time.
        """

    async def latest_records(self, key_id: str, *, limit: int) -> Sequence[UsageRecord]:
        """A key's last records by their time, newest first; as in ``records``, requests that
        run are among them, with the status None."""

    async def latest_trouble(self, *, limit: int) -> Sequence[UsageRecord]:
        """The last records of all keys whose requests were not served, newest first; none of those
        that still run. It costs what it returns, however many records there are."""

    async def expiries_seen(self) -> int | None:
        """When the expiries of keys were looked at last, in ms since the epoch; None if never."""

    async def keep_expiries_seen(self, at: int) -> None:
        """Keep that they were looked at."""

    async def close(self) -> None:
        """Write what is queued, truncate the write-ahead log, let go of the lock.

        May be called more than once. What the disk does not take even now is lost, and logged.
        """
