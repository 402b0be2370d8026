"""Windows rebuilt from what is stored: at the start, and for a limit that is new.

Windows that are short are rebuilt from records. Longer ones, whose buckets are as long as an
hour or longer, take the sums of hours, and those that all free at once take the sums of days:
so what this costs depends on what windows hold and not on how much the gateway was used.

A limit that is new counts what runs by itself, and gets from here what ended before the moment
at which it began to. Which of the two a record belongs to, its end says. Sums of tokens are of
the hour in which requests ended, and so say it, too: those of the hour in which the limit began
are not asked. Sums of requests are of the hour in which they began: one that began in an
earlier hour may have ended since, and be in the sum already. So the requests that have are
looked up in the records, and taken out of the sums.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from opuslive.limits.charges import Charge, replay, replay_sum
from opuslive.limits.grammar import Metric
from opuslive.limits.windows import GRAINS, Window
from opuslive.storage import Storage
from opuslive.times import DAY_MS, HOUR_MS
from opuslive.usage import ModelSum, TokenCounts, UsageRecord

#: A request counts at its end, and is stored by its beginning: records are read from this
#: long, in ms, before a window begins. No upstream keeps a request open for a day.
LONGEST_REQUEST_MS = DAY_MS
PAGE = 5_000
#: Later than any record, in ms since the epoch.
ALL_TIME = 2**48
#: How many requests of each hour or day, by the ms it began at, and of each model within.
Late = Counter[tuple[int, str | None]]


@dataclass(frozen=True, slots=True)
class History:
    """What is stored of the past, as charges.

    ``charge`` tells that of a request from its model, tokens and time (ms since the epoch),
    ``charge_of_sum`` that of the sum of an hour or a day from it and the time that began.
    """

    storage: Storage
    charge: Callable[[str | None, TokenCounts, int], Charge]
    charge_of_sum: Callable[[ModelSum, int], Charge]

    async def replay(
        self, windows: Mapping[str, Sequence[Window]], now: int, *, before: int | None = None
    ) -> None:
        """Count in each key's windows what its requests used that ended before ``before``.

        That is in ms since the epoch: requests that ended later were counted as they did.
        Without it, all that is stored. A window may stand under several keys, whose usage
        it then sums. Of levels that this brings a window to nobody is told: that was done when
        it happened. ``now`` is in ms since the epoch. Raises StorageUnavailable.
        """
        await self.storage.flush()
        for key_id, all_windows in windows.items():
            counting = [window for window in all_windows if window.counts_since is not None]
            by_grain = {
                grain: [window for window in counting if window.grain == grain] for grain in GRAINS
            }
            if by_grain["record"]:
                since = _earliest(by_grain["record"])
                await self._replay_records(key_id, by_grain["record"], since, before)
            if by_grain["hour"]:
                await self._replay_sums(key_id, by_grain["hour"], "hour", HOUR_MS, before)
            if by_grain["day"]:
                await self._replay_sums(key_id, by_grain["day"], "day", DAY_MS, before)
        for all_windows in windows.values():
            for window in all_windows:
                window.silence(now)

    async def _replay_records(
        self, key_id: str, windows: Sequence[Window], since: int, before: int | None
    ) -> None:
        async for record in self._ended(key_id, since, before):
            charge = self.charge(record.model, record.tokens, record.time)
            if record.time < since:
                charge = replace(charge, requests=0)
            replay(windows, charge, time=record.time, end=record.end_time)

    async def _replay_sums(
        self,
        key_id: str,
        windows: Sequence[Window],
        by: Literal["hour", "day"],
        length: int,
        before: int | None,
    ) -> None:
        since = _earliest(windows)
        # The hour in which it is now has sums of what ended since: of it, the records.
        until = ALL_TIME if before is None else before // HOUR_MS * HOUR_MS
        read = partial(self.storage.sums, key_id, since=since, until=until, by=by)
        late: Late = Counter()
        if before is not None and any(each.limit.metric is Metric.REQUESTS for each in windows):
            sums, late = await self._at_one_moment(
                read, partial(self._late, key_id, until, before, length)
            )
        else:
            sums = await read()
        for each in sums:
            assert isinstance(each.bucket, int)
            charge = self.charge_of_sum(each, each.bucket)
            ended_late = min(charge.requests, late[each.bucket, each.model])
            late[each.bucket, each.model] -= ended_late
            charge = replace(charge, requests=charge.requests - ended_late)
            replay_sum(windows, charge, each.bucket, length)
        if before is not None:
            await self._replay_records(key_id, windows, until, before)

    async def _at_one_moment(
        self,
        read_sums: Callable[[], Awaitable[Sequence[ModelSum]]],
        read_late: Callable[[], Awaitable[Late]],
    ) -> tuple[Sequence[ModelSum], Late]:
        """Both as they stood at one moment: read until nothing has ended while they were."""
        late = await read_late()
        while True:
            sums, known = await read_sums(), late
            late = await read_late()
            if late == known:
                return sums, late

    async def _late(self, key_id: str, until: int, before: int, length: int) -> Late:
        """The requests that began before ``until`` and ended from ``before`` on."""
        records = self._ended(key_id, before, None)
        began = [(r.time // length * length, r.model) async for r in records if r.time < until]
        return Counter(began)

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
