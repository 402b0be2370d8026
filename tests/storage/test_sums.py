"""Sums are written with the records, hour by hour; they always equal the sum of the records."""

from __future__ import annotations

import asyncio
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

from hypothesis import given, settings
from hypothesis import strategies as st

from opuslive.storage import KeyUsage, SumsBy, open_storage
from opuslive.times import DAY_MS, HOUR_MS
from opuslive.usage import ModelSum, TokenCounts, UsagePart, UsageRecord, UsageSum
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
    status=st.sampled_from([200, 429, 499, 502]),
    latency_ms=st.none() | st.integers(0, 3 * HOUR_MS),
    tokens=_tokens,
    tier=st.integers(0, 1),
    parts=st.lists(
        st.builds(UsagePart, model=_models, tokens=_tokens, tier=st.integers(0, 1)), max_size=2
    ).map(tuple),
)


@settings(max_examples=40)
@given(st.lists(st.lists(_records, max_size=20), max_size=4))
def test_sums_equal_the_sum_of_the_records(batches: list[list[UsageRecord]]) -> None:
    asyncio.run(_check(batches))


async def _check(batches: list[list[UsageRecord]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = await open_storage(f"sqlite://{Path(folder) / 'opuslive.db'}")
        for number in (1, 2):
            await store.add_key(a_key(number))
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
                    expected = _expected(some, by, since // HOUR_MS, -(-until // HOUR_MS))
                    assert {_place(each): each.sum for each in found} == expected
        await store.close()


def _place(each: ModelSum) -> Place:
    return each.bucket, each.model, each.tier


def _expected(
    records: list[UsageRecord], by: SumsBy, first: int, end: int
) -> dict[Place, UsageSum]:
    def place(record: UsageRecord, time: int, part: UsagePart) -> Place:
        bucket = {
            "hour": time // HOUR_MS * HOUR_MS,
            "day": time // DAY_MS * DAY_MS,
            "model": part.model,
            "key": record.key_id,
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
    refusals = sum(record.latency_ms is None for record in started)
    columns = zip((0,) * 5, *kinds, strict=True)
    return UsageSum(
        len(started) - refusals, refusals, TokenCounts(*(sum(column) for column in columns))
    )
