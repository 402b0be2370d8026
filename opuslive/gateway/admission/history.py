"""Windows rebuilt from what is stored: at the start, for a limit that is new, for a deleted key.

Short windows are rebuilt from records. Longer ones, whose buckets are as long as an hour or
longer, take the sums of hours, and those that free all at once take the sums of days: so a
rebuild costs what the windows hold, however long the gateway has been used.

Two things make a rebuild more than a read.

*A limit that is new* counts the requests that run now when they end. ``replay`` adds the requests
that had ended before the limit began to count. The end of a record says on which side of that
moment it is. Sums of tokens belong to the hour in which requests ended, so all hours before the
present one are on the right side, and records stand in for the present hour. Sums of requests
belong to the hour in which requests began: a request that began in an earlier hour may have ended
since, and be in the sum already. Such requests are looked up in the records, and taken out of the
sums.

*A key that changed its group* counts in each group with the requests that were let in while the key
was in that group. A sum does not say when its requests were let in, but no request lasts longer
than a day: so sums are taken of the hours that begin a day after the key came and end before it
left, and records stand in for the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Literal

from opuslive.limits.charges import Charge, replay, replay_sum
from opuslive.limits.windows import GRAINS, Window
from opuslive.storage import Storage
from opuslive.times import DAY_MS, HOUR_MS
from opuslive.usage import ModelSum, ModelTokens, UsageRecord

#: A request counts at its end, and is stored by its beginning: records are read from this
#: long, in ms, before a window begins. No upstream keeps a request open for a day.
LONGEST_REQUEST_MS = DAY_MS
PAGE = 5_000
#: From the first moment to after the last one, ms since the epoch.
Span = tuple[int, int]
ALL_TIME: Span = (0, 2**48)
#: Begin of an hour or a day (ms since the epoch), and model → how many requests.
Late = Counter[tuple[int, str | None]]

_LENGTHS: Mapping[Literal["hour", "day"], int] = MappingProxyType({"hour": HOUR_MS, "day": DAY_MS})


@dataclass(frozen=True, slots=True)
class History:
    """What is stored of the past, as charges.

    ``charge`` makes the charge of a request from what each model used and the request's time (ms
    since the epoch). ``charge_of_sum`` makes the charge of an hour or a day from its sum and its
    beginning.
    Methods raise StorageUnavailable.
    """

    storage: Storage
    charge: Callable[[Sequence[ModelTokens], int], Charge]
    charge_of_sum: Callable[[ModelSum, int], Charge]

    async def flush(self) -> None:
        """Wait until all that ended so far is stored, so that ``replay`` finds it."""
        await self.storage.flush()

    async def replay(
        self,
        key_id: str,
        windows: Sequence[Window],
        now: int,
        *,
        admitted: Span = ALL_TIME,
        before: int | None = None,
        exact: bool = False,
    ) -> None:
        """Count in the windows the usage of the key's requests that were let in within a span.

        With ``before`` only requests that ended before that moment count: the windows counted
        later ones when these ended. With ``exact`` each request counts in its own bucket; the sums
        of hours would count it at the end of its hour. A window sums the keys and the spans that
        are replayed into it. Times are in ms since the epoch.
        """
        for grain in GRAINS:
            chosen = [
                window
                for window in windows
                if window.counts_since is not None and window.grain == grain
            ]
            if not chosen:
                continue
            if grain == "record" or (grain == "hour" and exact):
                await self._replay_records(key_id, chosen, admitted, before)
            elif admitted == ALL_TIME:
                await self._replay_sums(key_id, chosen, grain, before)
            elif before is None:
                await self._replay_span(key_id, chosen, grain, admitted)
            else:
                await self._replay_records(key_id, chosen, admitted, before)

    async def _replay_records(
        self,
        key_id: str,
        windows: Sequence[Window],
        admitted: Span,
        before: int | None,
        since: int = 0,
    ) -> None:
        since = max(since, _earliest(windows))
        async for record in self._ended(key_id, since, before):
            if admitted[0] <= record.time < admitted[1]:
                charge = self.charge(record.by_model, record.time)
                if record.time < since:
                    charge = replace(charge, requests=0)
                replay(windows, charge, time=record.time, end=record.end_time)

    async def _replay_sums(
        self,
        key_id: str,
        windows: Sequence[Window],
        by: Literal["hour", "day"],
        before: int | None,
    ) -> None:
        length = _LENGTHS[by]
        since = _earliest(windows)
        # The present hour has sums of what ended since: records stand in for them.
        until = ALL_TIME[1] if before is None else before // HOUR_MS * HOUR_MS
        read = partial(self.storage.sums, key_id, since=since, until=until, by=by)
        late: Late = Counter()
        if before is not None and any(each.limit.metric.counts_at_admission for each in windows):
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
            await self._replay_records(key_id, windows, ALL_TIME, before, until)

    async def _replay_span(
        self,
        key_id: str,
        windows: Sequence[Window],
        by: Literal["hour", "day"],
        admitted: Span,
    ) -> None:
        length = _LENGTHS[by]
        begin, end = admitted
        earliest = _earliest(windows)
        # From first to last, all requests that began or ended were let in within this span.
        first = -(-(begin + LONGEST_REQUEST_MS) // length) * length if begin else 0
        last = max(first, end // length * length)
        if max(first, earliest) < last:
            for each in await self.storage.sums(
                key_id, since=max(first, earliest), until=last, by=by
            ):
                assert isinstance(each.bucket, int)
                charge = self.charge_of_sum(each, each.bucket)
                replay_sum(windows, charge, each.bucket, length)
        edges = (begin, min(first, end)), (max(begin, first, last - LONGEST_REQUEST_MS), end)
        for edge in edges:
            async for record in self._of_span(key_id, edge, earliest):
                charge = self.charge(record.by_model, record.time)
                if not first <= record.time < last:
                    replay(windows, Charge(requests=1), time=record.time, end=record.time)
                if not first <= record.end_time < last:
                    charge = replace(charge, requests=0)
                    replay(windows, charge, time=record.time, end=record.end_time)

    async def _at_one_moment(
        self,
        read_sums: Callable[[], Awaitable[Sequence[ModelSum]]],
        read_late: Callable[[], Awaitable[Late]],
    ) -> tuple[Sequence[ModelSum], Late]:
        """The sums and the late requests as they stood at one moment: both are read again until no
        request ends between the two reads."""
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
        start = max(0, since - LONGEST_REQUEST_MS)
        async for record in self._sent(key_id, start):
            ended = record.end_time
            if ended >= since and (before is None or ended < before):
                yield record

    async def _of_span(
        self, key_id: str, admitted: Span, earliest: int
    ) -> AsyncIterator[UsageRecord]:
        """The requests that were sent, let in within the span, and may count since ``earliest``."""
        start = max(admitted[0], earliest - LONGEST_REQUEST_MS)
        if start >= admitted[1]:
            return
        async for record in self._sent(key_id, start):
            if record.time >= admitted[1]:
                return
            yield record

    async def _sent(self, key_id: str, start: int) -> AsyncIterator[UsageRecord]:
        """The requests that were sent upstream and ended, let in from ``start`` on, in order."""
        cursor: tuple[int, int] | None = (max(0, start), -1)
        while cursor is not None:
            records, cursor = await self.storage.records(key_id, after=cursor, limit=PAGE)
            for record in records:
                if record.latency_ms is not None and record.status is not None:
                    yield record


def _earliest(windows: Sequence[Window]) -> int:
    return min(window.counts_since or 0 for window in windows)
