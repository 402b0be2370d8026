"""Sums of all keys that are remembered: the same as those that are read, and read seldom."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from opuslive.administration.figures import UsageTotals, read_totals
from opuslive.administration.remembered import KEPT_MS, KEPT_YOUNG_MS, RememberedSums
from opuslive.gateway.holder import Holder, Holders
from opuslive.pricing.prices import Prices
from opuslive.storage import Storage, SumsBy, open_storage
from opuslive.times import DAY_MS, HOUR_MS, Clock
from opuslive.usage import ModelSum, TokenCounts, UsageRecord
from tests.support.clock import NOW
from tests.support.keys import a_key

MIDNIGHT = NOW // DAY_MS * DAY_MS
PRICES = Prices({})


class Counted:
    """What is asked of a store, counted."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.asked: list[tuple[int, int]] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._storage, name)

    async def sums(
        self, key_id: str | None, *, since: int, until: int, by: SumsBy
    ) -> Sequence[ModelSum]:
        self.asked.append((since, until))
        return await self._storage.sums(key_id, since=since, until=until, by=by)


class Gateway:
    """A store with two keys that were used each hour, and what is remembered of it."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.counted = Counted(storage)
        self.now = NOW
        self.holders = Holders()
        self.clock = Clock(lambda: self.now, lambda: self.now)
        self.sums = RememberedSums(self.counted, self.holders, self.clock)  # type: ignore[arg-type]

    async def used(self, key_id: str, time: int, model: str = "a model") -> None:
        status = (200, 404, 499, 529)[time // HOUR_MS % 4]
        tokens = TokenCounts(1, 2, 3, 4, 5)
        self.storage.add_record(UsageRecord(key_id, time, model, status, 9, tokens))
        await self.storage.flush()


@pytest_asyncio.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    storage = await open_storage(f"sqlite://{tmp_path}/opuslive.db")
    made = Gateway(storage)
    for number in range(2):
        key = a_key(id=f"key{number}", name=f"key {number}", group="x" if number else None)
        await storage.add_key(key)
        made.holders.add(Holder(key, NOW))
        for hour in range(0, 24 * 5, 3):
            time = NOW - hour * HOUR_MS
            model = f"model {hour % 2}"
            storage.add_record(UsageRecord(key.id, time, model, 200, hour, TokenCounts(hour)))
    await storage.flush()
    yield made
    await storage.close()


def told(totals: Mapping[int | str | None, UsageTotals]) -> Mapping[object, object]:
    """What is shown of them; nothing of those in which nothing was used."""
    return {bucket: each.as_dict() for bucket, each in totals.items() if each.sum.requests}


@pytest.mark.parametrize("by", ["day", "hour", "model", "group", "key"])
@pytest.mark.parametrize(
    ("since", "until"),
    [
        (MIDNIGHT - 4 * DAY_MS, MIDNIGHT + DAY_MS),
        (NOW - 3 * DAY_MS, NOW),
        (NOW - 3 * DAY_MS, NOW - 2 * DAY_MS),
        (MIDNIGHT, MIDNIGHT + 9 * HOUR_MS),
        (MIDNIGHT - DAY_MS, NOW // HOUR_MS * HOUR_MS),
        (NOW - HOUR_MS, NOW),
        (0, NOW),
        (NOW + DAY_MS, NOW + 2 * DAY_MS),
    ],
)
async def test_they_are_those_of_the_store(
    gateway: Gateway, by: SumsBy, since: int, until: int
) -> None:
    for hour in range(20):
        await gateway.used("key0", NOW - hour * HOUR_MS)
    for _ in range(2):
        found, stored = [
            await read_totals(sums, PRICES, None, since=since, until=until, by=by)
            for sums in (gateway.sums, gateway.storage)
        ]
        assert told(found) == told(stored)
    kept, read = [
        await sums.latencies(None, since=since, until=until)
        for sums in (gateway.sums, gateway.storage)
    ]
    assert {model: each.counts for model, each in kept.items()} == {
        model: each.counts for model, each in read.items()
    }
    assert await gateway.sums.tokens_by_key(since=since, until=until) == (
        await gateway.storage.tokens_by_key(since=since, until=until)
    )


async def read(gateway: Gateway) -> int:
    """The tokens of five days, read through what is remembered."""
    rows = await gateway.sums.sums(
        None, since=MIDNIGHT - 4 * DAY_MS, until=MIDNIGHT + DAY_MS, by="day"
    )
    return sum(row.sum.tokens.total for row in rows)


async def test_days_that_are_over_are_read_once_in_an_hour(gateway: Gateway) -> None:
    await read(gateway)
    assert len(gateway.counted.asked) == 5
    await read(gateway)
    assert gateway.counted.asked[5:] == [(MIDNIGHT, MIDNIGHT + DAY_MS)]
    gateway.now += KEPT_YOUNG_MS
    await read(gateway)
    # Yesterday and today.
    assert len(gateway.counted.asked) == 8
    gateway.now += KEPT_MS
    await read(gateway)
    assert len(gateway.counted.asked) == 13


async def test_today_is_told_as_it_is(gateway: Gateway) -> None:
    before = await read(gateway)
    await gateway.used("key0", NOW)
    assert await read(gateway) == before + 15


async def test_a_key_that_is_deleted_is_remembered_no_more(gateway: Gateway) -> None:
    before = await read(gateway)
    holder = gateway.holders.find("key1")
    gateway.holders.remove(holder)
    await gateway.storage.delete_key("key1")
    assert await read(gateway) == before // 2


async def test_a_key_that_is_deleted_while_sums_are_read_is_in_none(gateway: Gateway) -> None:
    class Deleting(Counted):
        async def sums(self, *args: object, **named: object) -> Sequence[ModelSum]:
            rows = await gateway.storage.sums(*args, **named)  # type: ignore[arg-type]
            if gateway.holders.get("key1"):
                gateway.holders.remove(gateway.holders.find("key1"))
                await gateway.storage.delete_key("key1")
            return rows

    store = Deleting(gateway.storage)
    gateway.sums = RememberedSums(store, gateway.holders, gateway.clock)  # type: ignore[arg-type]
    await read(gateway)
    rows = await gateway.storage.sums(
        None, since=MIDNIGHT - 4 * DAY_MS, until=MIDNIGHT + DAY_MS, by="day"
    )
    assert await read(gateway) == sum(row.sum.tokens.total for row in rows)
