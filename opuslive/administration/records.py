"""The records of one key, a group or all, for the administrator: read a slice at a time.

A slice is one short statement, so nobody waits for an export: neither what is written nor other
readers. Each record is read as it is when its slice is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from opuslive.errors import Code, OpusLiveError
from opuslive.keys import Key
from opuslive.spans import Span
from opuslive.storage import Cursor, Storage
from opuslive.usage import EXPORT_COLUMNS, UsageRecord, export_rows

#: The columns of an export: whose record it is, then what a holder gets of it.
RECORD_COLUMNS = ("key_id", "key_name", *EXPORT_COLUMNS)
#: Records that are read at a time, in 10 ms or so.
SLICE = 500


def members_of(keys: Iterable[Key], group: str) -> Sequence[Key]:
    """The keys that are in a group now. Raises OpusLiveError (not_found) if there is none."""
    found = [key for key in keys if key.group == group]
    if not found:
        raise OpusLiveError(
            Code.NOT_FOUND, "No key is in this group; 'opuslive groups list' shows them all."
        )
    return found


def record_rows(key: Key, record: UsageRecord) -> Iterable[dict[str, str | int | None]]:
    """A record in rows under ``RECORD_COLUMNS``; see ``usage.export_rows``."""
    return [{"key_id": key.id, "key_name": key.name, **row} for row in export_rows(record)]


@dataclass(frozen=True, slots=True)
class RecordReader:
    """Reads the records of keys, of a span or of all time; those of a key are oldest first."""

    storage: Storage
    keys: Sequence[Key]
    span: Span | None = None

    async def expected(self) -> int:
        """About how many records there are, for a progress bar: sums tell, which have whole hours
        and no requests that still run. Raises StorageUnavailable."""
        ids = {key.id for key in self.keys}
        if self.span is None:
            usage = await self.storage.all_key_usage()
            sums = [each.sum for key_id, each in usage.items() if key_id in ids]
        else:
            rows = await self.storage.sums(
                self.keys[0].id if len(self.keys) == 1 else None,
                since=self.span.since,
                until=self.span.until,
                by="key",
            )
            sums = [row.sum for row in rows if row.bucket in ids]
        return sum(each.requests + each.refusals for each in sums)

    async def written(self, write: Callable[[Key, UsageRecord], bytes]) -> AsyncIterator[bytes]:
        """The records as ``write`` writes them, a slice at a time. Raises StorageUnavailable."""
        for key in self.keys:
            cursor: Cursor | None = (0 if self.span is None else self.span.since, -1)
            while cursor is not None:
                lines, cursor = await self.storage.written_records(
                    key.id,
                    partial(write, key),
                    after=cursor,
                    until=None if self.span is None else self.span.until,
                    limit=SLICE,
                )
                if lines:
                    yield lines
