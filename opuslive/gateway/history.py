"""Windows rebuilt from what is stored: at the start, and for a limit that is new.

Windows that are short are rebuilt from records. Longer ones, whose buckets are as long as an
hour or longer, take the hourly sums, so that what this costs depends on what windows hold and
not on how long the gateway has been in use.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from opuslive.charges import Charge, replay, replay_hour
from opuslive.metering import TokenCounts
from opuslive.storage import Storage
from opuslive.usage import DAY_MS, HOUR_MS, ModelSum, UsageRecord
from opuslive.windows import Window

#: A request counts at its end, and is stored by its beginning: records are read from this
#: long, in ms, before a window begins. No upstream keeps a request open for a day.
LONGEST_REQUEST_MS = DAY_MS
PAGE = 5_000
#: Later than any record, in ms since the epoch.
ALL_TIME = 2**48


@dataclass(frozen=True, slots=True)
class History:
    """What is stored of the past, as charges.

    ``charge`` tells that of a request from its model, tokens and time (ms since the epoch),
    ``charge_of_hour`` that of an hour's sum from it and the time it began.
    """

    storage: Storage
    charge: Callable[[str | None, TokenCounts, int], Charge]
    charge_of_hour: Callable[[ModelSum, int], Charge]

    async def replay(
        self, windows: Mapping[str, Sequence[Window]], *, before: int | None = None
    ) -> None:
        """Count in each key's windows what its requests used that ended before ``before``.

        That is in ms since the epoch: requests that ended later were counted as they did.
        Without it, all that is stored. A window may stand under several keys, whose usage
        it then sums. Raises StorageUnavailable.
        """
        await self.storage.flush()
        for key_id, all_windows in windows.items():
            counting = [window for window in all_windows if window.counts_since is not None]
            by_record = [window for window in counting if not window.hours_suffice]
            by_hour = [window for window in counting if window.hours_suffice]
            if by_record:
                await self._replay_records(key_id, by_record, before)
            if by_hour:
                await self._replay_hours(key_id, by_hour, before)

    async def _replay_records(
        self, key_id: str, windows: Sequence[Window], before: int | None
    ) -> None:
        async for record in self._ended(key_id, _earliest(windows), before):
            charge = self.charge(record.model, record.tokens, record.time)
            replay(windows, charge, time=record.time, end=record.end_time)

    async def _replay_hours(
        self, key_id: str, windows: Sequence[Window], before: int | None
    ) -> None:
        since = _earliest(windows)
        # The hour in which it is now has sums of what ended since: of it, the records.
        began = ALL_TIME if before is None else before // HOUR_MS * HOUR_MS
        for hour in await self.storage.sums(key_id, since=since, until=began, by="hour"):
            assert isinstance(hour.bucket, int)
            charge = self.charge_of_hour(hour, hour.bucket)
            replay_hour(windows, charge, hour.bucket // HOUR_MS)
        if before is None:
            return
        async for record in self._ended(key_id, began, before):
            charge = self.charge(record.model, record.tokens, record.time)
            if record.time < began:
                charge = replace(charge, requests=0)
            replay(windows, charge, time=record.time, end=record.end_time)

    async def _ended(
        self, key_id: str, since: int, before: int | None
    ) -> AsyncIterator[UsageRecord]:
        """The requests that were sent, and ended from ``since`` on, and before ``before``."""
        cursor: tuple[int, int] | None = (max(0, since - LONGEST_REQUEST_MS), -1)
        while cursor is not None:
            records, cursor = await self.storage.records(key_id, after=cursor, limit=PAGE)
            for record in records:
                ended = record.end_time
                if (
                    record.latency_ms is not None
                    and record.status is not None
                    and ended >= since
                    and (before is None or ended < before)
                ):
                    yield record


def _earliest(windows: Sequence[Window]) -> int:
    return min(window.counts_since or 0 for window in windows)
