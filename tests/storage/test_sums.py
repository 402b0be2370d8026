"""Sums are written with the records, hour by hour; they always equal the sum of the records."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

from hypothesis import given, settings
from hypothesis import strategies as st

from opuslive.latencies import LATENCY_BOUNDS_MS, Latencies
from opuslive.storage import KeyUsage, Storage, SumsBy, open_storage
from opuslive.times import DAY_MS, HOUR_MS
from opuslive.usage import (
    ModelSum,
    TokenCounts,
    UsagePart,
    UsageRecord,
    UsageSum,
    outcome_of,
)
from tests.support.clock import NOW
from tests.support.keys import a_key

#: Bucket, model and tier.
Place = tuple[int | str | None, str | None, int]

_counts = st.integers(0, 10**9)
_tokens = st.builds(TokenCounts, _counts, _counts, _counts, _counts, _counts)
_models = st.sampled_from(["claude-opus-4-8", "gpt-5", None])
_records = st.builds(
    UsageRecord,
    key_id=st.sampled_from([a_key(1).id, a_key(2).id]),
    time=st.integers(NOW - 2 * DAY_MS, NOW),
    model=_models,
    status=st.sampled_from([200, 204, 302, 400, 404, 429, 499, 500, 502]),
    latency_ms=st.none()
    | st.integers(0, 3 * HOUR_MS)
    | st.sampled_from([each + more for each in LATENCY_BOUNDS_MS for more in (0, 1)]),
    tokens=_tokens,
    tier=st.integers(0, 1),
    parts=st.lists(
        st.builds(UsagePart, model=_models, tokens=_tokens, tier=st.integers(0, 1)), max_size=2
    ).map(tuple),
)


#: When a key's group became which one, oldest first; by key.
_changes = st.lists(
    st.tuples(st.integers(NOW - 2 * DAY_MS, NOW), st.sampled_from(["friends", "others", None])),
    max_size=4,
    unique_by=lambda change: change[0],
).map(sorted)
Changes = dict[str, list[tuple[int, str | None]]]


@settings(max_examples=40)
@given(st.lists(st.lists(_records, max_size=20), max_size=4), _changes)
def test_sums_equal_the_sum_of_the_records(
    batches: list[list[UsageRecord]], changes: list[tuple[int, str | None]]
) -> None:
    asyncio.run(_check(batches, {a_key(1).id: changes, a_key(2).id: []}))


async def _check(batches: list[list[UsageRecord]], changes: Changes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = await open_storage(f"sqlite://{Path(folder) / 'opuslive.db'}")
        for number in (1, 2):
            await store.add_key(a_key(number))
            for at, group in changes[a_key(number).id]:
                await store.update_key(a_key(number, group=group), at=at)
        for batch in batches:
            await asyncio.gather(*(store.add_record(record) for record in batch))
        records = [record for batch in batches for record in batch]
        by_key = defaultdict(list)
        for record in records:
            by_key[record.key_id].append(record)
        assert await store.all_key_usage() == {
            key_id: KeyUsage(
                max(r.time for r in ones), _sum(ones, [part for r in ones for part in r.by_model])
            )
            for key_id, ones in by_key.items()
        }
        for by in get_args(SumsBy):
            for key_id, some in [(None, records), *by_key.items()]:
                for since, until in [(0, 2 * NOW), (NOW - DAY_MS, NOW), (NOW - HOUR_MS, NOW)]:
                    found = await store.sums(key_id, since=since, until=until, by=by)
                    assert len({_place(each) for each in found}) == len(found)
                    first, end = since // HOUR_MS, -(-until // HOUR_MS)
                    expected = _expected(some, by, first, end, changes)
                    assert {_place(each): each.sum for each in found} == expected
        for key_id, some in [(None, records), *by_key.items()]:
            await _check_latencies(store, key_id, some)
        await _check_trouble(store, records)
        await store.close()


async def _check_latencies(store: Storage, key_id: str | None, records: list[UsageRecord]) -> None:
    for since, until in [(0, 2 * NOW), (NOW - DAY_MS, NOW)]:
        expected: dict[str | None, list[int]] = {}
        for record in records:
            if _outcome(record) == "served" and since // HOUR_MS <= record.time // HOUR_MS < -(
                -until // HOUR_MS
            ):
                counts = expected.setdefault(record.model, [0] * (len(LATENCY_BOUNDS_MS) + 1))
                counts[sum((record.latency_ms or 0) > bound for bound in LATENCY_BOUNDS_MS)] += 1
        found = await store.latencies(key_id, since=since, until=until)
        assert {model: list(each.counts) for model, each in found.items()} == expected
        whole = Latencies.total(found.values())
        assert sum(whole.counts) == sum(map(sum, expected.values()))


async def _check_trouble(store: Storage, records: list[UsageRecord]) -> None:
    trouble = [record for record in records if _outcome(record) != "served"]
    found = await store.latest_trouble(limit=10)
    assert [each.time for each in found] == sorted((r.time for r in trouble), reverse=True)[:10]
    assert {_outcome(each) for each in found} <= {
        "client_error",
        "upstream_error",
        "cut",
        "refused",
    }
    everything = await store.latest_trouble(limit=1_000)
    assert sorted(map(_facts, everything)) == sorted(map(_facts, trouble))


def _facts(record: UsageRecord) -> tuple[str, int, str, int | None, int]:
    latency = -1 if record.latency_ms is None else record.latency_ms
    return record.key_id, record.time, record.model or "", record.status, latency


def _outcome(record: UsageRecord) -> str:
    assert record.status is not None
    return outcome_of(record.status, record.latency_ms)


def _group(changes: list[tuple[int, str | None]], hour: int) -> str | None:
    """The group at the end of an hour."""
    groups = [group for at, group in changes if at // HOUR_MS <= hour]
    return groups[-1] if groups else None


def _place(each: ModelSum) -> Place:
    return each.bucket, each.model, each.tier


def _expected(
    records: list[UsageRecord], by: SumsBy, first: int, end: int, changes: Changes
) -> dict[Place, UsageSum]:
    def place(record: UsageRecord, time: int, part: UsagePart) -> Place:
        bucket = {
            "hour": time // HOUR_MS * HOUR_MS,
            "day": time // DAY_MS * DAY_MS,
            "model": part.model,
            "key": record.key_id,
            "group": _group(changes[record.key_id], time // HOUR_MS),
        }[by]
        return bucket, part.model, part.tier

    started, ended = defaultdict(list), defaultdict(list)
    for record in records:
        if first <= record.time // HOUR_MS < end:
            started[place(record, record.time, record.by_model[0])].append(record)
        if first <= record.end_time // HOUR_MS < end:
            for part in record.by_model:
                ended[place(record, record.end_time, part)].append(part)
    sums = {at: _sum(started[at], ended[at]) for at in {*started, *ended}}
    return {at: total for at, total in sums.items() if total != UsageSum()}


def _sum(started: list[UsageRecord], ended: Iterable[UsagePart]) -> UsageSum:
    kinds = [
        (t.input, t.output, t.cache_read, t.cache_write_5m, t.cache_write_1h)
        for t in (part.tokens for part in ended)
    ]
    outcomes = Counter(map(_outcome, started))
    columns = zip((0,) * 5, *kinds, strict=True)
    return UsageSum(
        len(started) - outcomes["refused"],
        outcomes["refused"],
        TokenCounts(*(sum(column) for column in columns)),
        outcomes["client_error"],
        outcomes["upstream_error"],
        outcomes["cut"],
    )
