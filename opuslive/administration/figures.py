"""Totals of usage, as every interface shows them: added up from the stored sums, and priced."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import cast

from opuslive.administration.remembered import Sums
from opuslive.latencies import Latencies
from opuslive.limits.grammar import MICRO_USD
from opuslive.pricing.prices import Prices, in_micro_usd
from opuslive.storage import SumsBy
from opuslive.usage import ModelSum, TokenCounts, UsageSum

#: Sums that are added up in one turn of the event loop, in a ms or so.
ROWS_IN_A_TURN = 500
#: The buckets that have no time of their own.
_TIMELESS = ("model", "key", "group")


@dataclass(frozen=True, slots=True)
class UsageTotals:
    """What was used in all, and what it cost; ``None`` if nobody knows.

    ``exact_cost`` is in units of ``pricing.prices.RATE_SCALE``: were costs rounded before they are
    added up, the same usage would cost more by day than by key. Unless ``complete``, some of its
    tokens have no price, and the cost is that of the others. ``latencies`` are those of the
    requests that were served, where they were asked for.
    """

    sum: UsageSum = field(default_factory=UsageSum)
    exact_cost: int | None = None
    complete: bool = True
    latencies: Latencies | None = None

    @property
    def cost(self) -> int | None:
        """In micro-dollars, rounded up."""
        return None if self.exact_cost is None else in_micro_usd(self.exact_cost)

    @property
    def tokens(self) -> int:
        """Tokens of every kind."""
        return self.sum.tokens.total

    def as_dict(self) -> dict[str, int | float | None]:
        """The members under which the JSON interfaces show it."""
        return {
            **self.sum.as_dict(),
            "usd": None if self.cost is None else self.cost / MICRO_USD,
            **({} if self.latencies is None else self.latencies.as_dict()),
        }


class Accumulator:
    """Totals that are being added up: a month has thousands of hours and models."""

    __slots__ = ("_complete", "_cost", "_numbers")

    def __init__(self) -> None:
        self._numbers = [0] * 10
        self._cost: int | None = None
        self._complete = True

    def add(self, used: UsageSum, cost: int | None, *, complete: bool = True) -> None:
        """``cost`` is exact, as ``cost_of`` has it. A cost is known if that of any part of it is;
        it is complete if that of each part is. What used no tokens costs nothing, whatever its
        price."""
        kinds, numbers = used.tokens, self._numbers
        numbers[0] += used.requests
        numbers[1] += used.refusals
        numbers[2] += kinds.input
        numbers[3] += kinds.output
        numbers[4] += kinds.cache_read
        numbers[5] += kinds.cache_write_5m
        numbers[6] += kinds.cache_write_1h
        numbers[7] += used.client_errors
        numbers[8] += used.upstream_errors
        numbers[9] += used.cut
        if cost is not None:
            self._cost = (self._cost or 0) + cost
            self._complete = self._complete and complete
        elif kinds.total:
            self._complete = False

    def totals(self) -> UsageTotals:
        requests, refusals, *others = self._numbers
        kinds, outcomes = others[:5], others[5:]
        return UsageTotals(
            UsageSum(requests, refusals, TokenCounts(*kinds), *outcomes),
            self._cost,
            self._complete,
        )


async def read_totals(
    storage: Sums, prices: Prices, key_id: str | None, *, since: int, until: int, by: SumsBy
) -> dict[int | str | None, UsageTotals]:
    """The totals of one key or of all keys: bucket → totals; see ``Storage.sums``.

    Days and hours ascend; models, keys and groups begin with who used the most tokens. Those of
    a model have its latencies.
    Raises StorageUnavailable.
    """
    sums: dict[int | str | None, Accumulator] = {}
    timeless = by in _TIMELESS
    # Where a bucket does not tell when its tokens were used, those of each price are asked for.
    changes = prices.changes(since, until) if timeless else ()
    for start, end in pairwise((since, *changes, until)):
        rows = await storage.sums(key_id, since=start, until=end, by=by)
        for number, row in enumerate(rows, 1):
            if number % ROWS_IN_A_TURN == 0:
                await asyncio.sleep(0)
            at = row.bucket if isinstance(row.bucket, int) else start
            sums.setdefault(row.bucket, Accumulator()).add(row.sum, cost_of(prices, row, at))
    found = {bucket: added.totals() for bucket, added in sums.items()}
    if by == "model":
        latencies = await storage.latencies(key_id, since=since, until=until)
        found = {
            model: replace(each, latencies=latencies.get(cast(str | None, model), Latencies()))
            for model, each in found.items()
        }
    if timeless:
        return dict(sorted(found.items(), key=lambda item: -item[1].tokens))
    return found


def cost_of(prices: Prices, row: ModelSum, at: int) -> int | None:
    """What a sum costs at the prices of a time (ms since the epoch); see ``exact_cost``."""
    return prices.exact_cost_of_sum(row.model, row.sum.tokens, row.tier, at)


def total(parts: Iterable[UsageTotals]) -> UsageTotals:
    """All of them together; without latencies."""
    whole = Accumulator()
    for each in parts:
        whole.add(each.sum, each.exact_cost, complete=each.complete)
    return whole.totals()
