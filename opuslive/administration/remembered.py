"""Sums of all keys, of which those of days long past are remembered.

With a thousand keys a month has a hundred thousand sums: adding them up takes a quarter of a
second, and a page that refreshes itself asks for them again and again. What was used some hours ago
does not change any more, so a span is put together of pieces: its whole days, the hours before the
first of them, and the rest. All but the rest is remembered for a while.

Two things would change an old piece. A key that is deleted takes its usage along: then everything
is forgotten. A request that runs for hours is counted in the hour of its beginning: that is seen
when the piece is read anew.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol, TypeVar, cast

from opuslive.gateway.holder import Holders
from opuslive.latencies import Latencies
from opuslive.storage import Storage, SumsBy
from opuslive.times import DAY_MS, HOUR_MS, MINUTE_MS, Clock, end_of_day
from opuslive.usage import ModelSum, TokenCounts, UsageSum

#: Pieces that are remembered, each a few rows: four years of days, once for all that is asked for.
MAX_PIECES = 3_000
#: Rows of the largest piece that is remembered.
MAX_ROWS = 2_000
#: Days of the longest span that is put together of days; a longer one is read at once.
MAX_DAYS = 400
#: What ended so long ago is old, in ms: few requests run for longer.
OLD_MS = 3 * HOUR_MS
#: For how long a piece is remembered, in ms: one that ended within a day, and one before.
KEPT_YOUNG_MS, KEPT_MS = 5 * MINUTE_MS, HOUR_MS

T = TypeVar("T")
Kind = Literal["day", "hour", "model", "group", "key", "latencies", "tokens"]


class Sums(Protocol):
    """Reads sums: see ``Storage``."""

    async def sums(
        self, key_id: str | None, *, since: int, until: int, by: SumsBy
    ) -> Sequence[ModelSum]: ...

    async def latencies(
        self, key_id: str | None, *, since: int, until: int
    ) -> Mapping[str | None, Latencies]: ...

    async def tokens_by_key(self, *, since: int, until: int) -> Mapping[str, int]: ...


@dataclass(frozen=True, slots=True)
class _Piece:
    """What was read, and when, by a clock that never goes back (ms)."""

    value: object
    read_at: int


class RememberedSums:
    """Sums, as ``Storage`` has them. Of one key they are read each time: those are few."""

    def __init__(self, storage: Storage, holders: Holders, clock: Clock) -> None:
        self._storage = storage
        self._holders = holders
        self._clock = clock
        self._pieces: OrderedDict[tuple[Kind, int, int], _Piece] = OrderedDict()
        self._keys: frozenset[str] = frozenset()
        #: How often everything was forgotten.
        self._forgotten = 0

    async def sums(
        self, key_id: str | None, *, since: int, until: int, by: SumsBy
    ) -> Sequence[ModelSum]:
        """See ``Storage.sums``; but a bucket of a model or group may come more than once."""
        if key_id is not None or by == "key":
            return await self._storage.sums(key_id, since=since, until=until, by=by)

        async def read(first: int, end: int) -> Sequence[ModelSum]:
            return await self._storage.sums(None, since=first, until=end, by=by)

        found: list[ModelSum] = []
        old, fresh = self._parts(since, until, by)
        for first, end in old:
            found += await self._remembered(by, first, end, read)
        if fresh is not None:
            found += await (read(*fresh) if by == "hour" else self._fresh(*fresh, read))
        return found

    async def latencies(
        self, key_id: str | None, *, since: int, until: int
    ) -> Mapping[str | None, Latencies]:
        """See ``Storage.latencies``."""
        if key_id is not None:
            return await self._storage.latencies(key_id, since=since, until=until)

        async def read(first: int, end: int) -> Mapping[str | None, Latencies]:
            return await self._storage.latencies(None, since=first, until=end)

        old, fresh = self._parts(since, until, "latencies")
        parts = [await self._remembered("latencies", *piece, read) for piece in old]
        if fresh is not None:
            parts.append(await read(*fresh))
        found: dict[str | None, Latencies] = {}
        for part in parts:
            for model, latencies in part.items():
                found[model] = found[model] + latencies if model in found else latencies
        return found

    async def tokens_by_key(self, *, since: int, until: int) -> Mapping[str, int]:
        """See ``Storage.tokens_by_key``: whole days."""

        async def read(first: int, end: int) -> Mapping[str, int]:
            return await self._storage.tokens_by_key(since=first, until=end)

        self._forget_deleted()
        since, cut = since // DAY_MS * DAY_MS, self._old() // DAY_MS * DAY_MS
        if not since < cut < until:
            return await read(since, until)
        found = Counter(await self._remembered("tokens", since, cut, read))
        found.update(await read(cut, until))
        return found

    def _forget_deleted(self) -> None:
        """Forget everything if there are other keys than when it was read."""
        keys = frozenset(holder.key.id for holder in self._holders)
        if keys != self._keys:
            self._pieces.clear()
            self._keys = keys
            self._forgotten += 1

    def _old(self) -> int:
        """What was before this moment is old; it is a whole hour, in ms since the epoch."""
        return (self._clock.steady_ms() - OLD_MS) // HOUR_MS * HOUR_MS

    def _parts(
        self, since: int, until: int, kind: Kind
    ) -> tuple[Sequence[tuple[int, int]], tuple[int, int] | None]:
        """The old pieces of a span, each from when to when, and the rest of it."""
        self._forget_deleted()
        since, until = since // HOUR_MS * HOUR_MS, -(-until // HOUR_MS) * HOUR_MS
        cut = self._old()
        if until <= cut:
            cut = until
        elif kind != "hour":
            # A day that is not over has a sum, too: no hours of it have to be added up.
            cut = cut // DAY_MS * DAY_MS
        if cut <= since:
            return (), (since, until) if since < until else None
        rest = (cut, until) if cut < until else None
        # Who was in which group is found out for each piece anew.
        if kind == "group" or cut - since > MAX_DAYS * DAY_MS:
            return ((since, cut),), rest
        bounds = [since, *range((since // DAY_MS + 1) * DAY_MS, cut, DAY_MS), cut]
        return tuple(pairwise(bounds)), rest

    async def _fresh(
        self,
        since: int,
        until: int,
        read: Callable[[int, int], Awaitable[Sequence[ModelSum]]],
    ) -> Sequence[ModelSum]:
        """Of the present day, which has a sum of its own, the hours after ``until`` are taken off:
        they are few, and the hours before it many."""
        end = end_of_day(self._clock.steady_ms())
        if not end - DAY_MS < until < end:
            return await read(since, until)
        whole, after = await read(since, end), await read(until, end)
        off = {(row.bucket, row.model, row.tier): row.sum for row in after}
        return [
            row
            if taken is None
            else ModelSum(row.bucket, row.model, row.tier, _less(row.sum, taken))
            for row in whole
            for taken in (off.get((row.bucket, row.model, row.tier)),)
        ]

    async def _remembered(
        self, kind: Kind, first: int, end: int, read: Callable[[int, int], Awaitable[T]]
    ) -> T:
        """What is read of an old piece; ``read`` is asked where it is not remembered."""
        now, name = self._clock.elapsed_ms(), (kind, first, end)
        piece = self._pieces.get(name)
        kept = KEPT_MS if end <= self._old() - DAY_MS else KEPT_YOUNG_MS
        if piece is not None and now - piece.read_at < kept:
            self._pieces.move_to_end(name)
            return cast(T, piece.value)
        forgotten = self._forgotten
        value = await read(first, end)
        self._forget_deleted()
        # A key that was deleted while this was read may be in it.
        if self._forgotten == forgotten and len(cast(Sequence[object], value)) <= MAX_ROWS:
            self._pieces[name] = _Piece(value, now)
            if len(self._pieces) > MAX_PIECES:
                self._pieces.popitem(last=False)
        return value


def _less(whole: UsageSum, part: UsageSum) -> UsageSum:
    kinds = (
        getattr(whole.tokens, name) - getattr(part.tokens, name)
        for name in TokenCounts.__struct_fields__
    )
    return UsageSum(
        whole.requests - part.requests,
        whole.refusals - part.refusals,
        TokenCounts(*kinds),
        whole.client_errors - part.client_errors,
        whole.upstream_errors - part.upstream_errors,
        whole.cut - part.cut,
    )
