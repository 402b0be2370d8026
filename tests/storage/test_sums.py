"""Sums are written with the records, hour by hour; they always equal the sum of the records."""

from __future__ import annotations

import asyncio
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from opuslive.metering import TokenCounts
from opuslive.storage import KeyUsage, SeriesBy, open_storage
from opuslive.usage import DAY_MS, HOUR_MS, SeriesPoint, UsageRecord, UsageSum
from tests.storage.conftest import NOW, a_key

_counts = st.integers(0, 10**9)
_records = st.builds(
    UsageRecord,
    key_id=st.sampled_from([a_key(1).id, a_key(2).id]),
    time=st.integers(NOW - 2 * DAY_MS, NOW),
    model=st.sampled_from(["claude-opus-4-8", "gpt-5", None]),
    status=st.sampled_from([200, 429, 499, 502]),
    latency_ms=st.none() | st.integers(0, 3 * HOUR_MS),
    tokens=st.builds(TokenCounts, _counts, _counts, _counts, _counts, _counts),
)


@settings(max_examples=40, deadline=None)
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
            key_id: KeyUsage(max(r.time for r in ones), _sum(ones, ones))
            for key_id, ones in by_key.items()
        }
        for by in ("hour", "day", "model"):
            for key_id, some in [(None, records), *by_key.items()]:
                points = await store.series(key_id, since=0, until=2 * NOW, by=by)
                found = {point.bucket: point for point in points}
                assert len(found) == len(points)
                assert found == _series(some, by)
        await store.close()


def _series(records: list[UsageRecord], by: SeriesBy) -> dict[int | str | None, SeriesPoint]:
    def bucket(record: UsageRecord, time: int) -> int | str | None:
        width = {"hour": HOUR_MS, "day": DAY_MS, "model": 0}[by]
        return time // width * width if width else record.model

    started, ended = defaultdict(list), defaultdict(list)
    for record in records:
        started[bucket(record, record.time)].append(record)
        ended[bucket(record, record.end_time)].append(record)
    sums = {b: _sum(started[b], ended[b]) for b in {*started, *ended}}
    return {b: SeriesPoint(b, total) for b, total in sums.items() if total != UsageSum()}


def _sum(started: list[UsageRecord], ended: Iterable[UsageRecord]) -> UsageSum:
    kinds = [
        (t.input, t.output, t.cache_read, t.cache_write_5m, t.cache_write_1h)
        for t in (record.tokens for record in ended)
    ]
    refusals = sum(record.latency_ms is None for record in started)
    return UsageSum(
        len(started) - refusals,
        refusals,
        TokenCounts(*(sum(column) for column in zip(*kinds, strict=True))),
    )
