"""Totals are added up in turns of the event loop, between which others are served."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from opuslive.administration.figures import ROWS_IN_A_TURN, read_totals, total
from opuslive.pricing.prices import PriceOverride, Prices
from opuslive.storage import SumsBy, open_storage
from opuslive.times import DAY_MS, HOUR_MS
from opuslive.usage import TokenCounts
from tests.support.clock import NOW
from tests.support.keys import a_key, a_record

MODELS = [f"model-{number}" for number in range(100)]
HOURS = 3 * ROWS_IN_A_TURN // len(MODELS) + 1


class Turn:
    """The number of turns that the event loop has taken."""

    def __init__(self) -> None:
        self.number = 0
        self._count()

    def _count(self) -> None:
        self.number += 1
        self._handle = asyncio.get_running_loop().call_soon(self._count)

    def stop(self) -> None:
        self._handle.cancel()


class Watched(Prices):
    """Prices that note in which turn each sum was priced."""

    def __init__(self, turn: Turn) -> None:
        super().__init__({})
        self._turn = turn
        self.priced: Counter[int] = Counter()

    def exact_cost_of_sum(
        self, model: str | None, tokens: TokenCounts, tier: int, at_ms: int
    ) -> int | None:
        self.priced[self._turn.number] += 1
        return super().exact_cost_of_sum(model, tokens, tier, at_ms)


@pytest.mark.parametrize(("by", "buckets"), [("hour", HOURS), ("model", len(MODELS))])
async def test_a_turn_adds_up_no_more_than_a_bounded_number_of_sums(
    tmp_path: Path, by: SumsBy, buckets: int
) -> None:
    storage = await open_storage(f"sqlite://{tmp_path}/opuslive.db")
    await storage.add_key(a_key())
    for hour in range(HOURS):
        for model in MODELS:
            storage.add_record(a_record(time=NOW - hour * HOUR_MS, model=model))
    await storage.flush()
    turn = Turn()
    prices = Watched(turn)
    totals = await read_totals(
        storage, prices, a_key().id, since=NOW - HOURS * HOUR_MS, until=NOW + 1, by=by
    )
    turn.stop()
    await storage.close()
    assert len(totals) == buckets
    assert sum(each.sum.requests for each in totals.values()) == HOURS * len(MODELS)
    assert max(prices.priced.values()) <= ROWS_IN_A_TURN


@pytest.mark.parametrize("by", ["hour", "day", "model", "key", "group"])
async def test_what_was_used_costs_the_same_however_it_is_grouped(
    tmp_path: Path, by: SumsBy
) -> None:
    """A token costs a part of a micro-dollar, and stands in a row of its own in most groupings."""
    storage = await open_storage(f"sqlite://{tmp_path}/opuslive.db")
    for number in range(3):
        await storage.add_key(a_key(number))
        for hour in range(3):
            moment = NOW - hour * HOUR_MS
            record = a_record(number, time=moment, model="m", tokens=TokenCounts(input=1))
            storage.add_record(record)
    await storage.flush()
    prices = Prices({"m": PriceOverride(0.1, 0.1, 0.1, 0.1, 0.1)})
    since = NOW - 3 * DAY_MS
    used = await read_totals(storage, prices, None, since=since, until=NOW + DAY_MS, by=by)
    await storage.close()
    assert total(used.values()).cost == 1
