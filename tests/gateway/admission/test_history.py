"""Windows that are rebuilt from what is stored are what they were before."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st

from opuslive.limits.buckets import BUCKETS
from opuslive.limits.windows import LimitStatus
from opuslive.storage import open_storage
from opuslive.times import DAY_MS, HOUR_MS
from opuslive.usage import ModelTokens, TokenCounts, UsageRecord
from tests.support.limiting import MODEL, Limiting, settings

#: Rebuilt from records.
SHORT = ["90M requests/1m", "90M tokens/1h", "90M output_tokens/5h", "90M input_tokens/59h"]
#: Rebuilt from the sums of hours.
LONG = ["90M requests/7d", "90M tokens/60h", "90M tokens/30d", "90M requests/day", "90M tokens/day"]
LONG += [
    "90M input_tokens/week",
    "90M output_tokens/month",
    "90M requests/total",
    "90M tokens/total",
]
MONEY = ["10000 usd/1h", "10000 usd/month", "10000 usd/total"]
#: Without a price; above a threshold of its context at another one; the same in a snapshot.
MODELS = [MODEL, "claude-sonnet-4-5-20250929", "claude-opus-4-5", "claude-sonnet-4-5"]

#: See ``_uses``.
Use = tuple[int, int, str, int, int, int, list[ModelTokens]]

_uses = st.lists(
    st.tuples(
        st.integers(0, 3 * HOUR_MS),  # until it comes
        st.integers(0, 2 * HOUR_MS),  # until it ends
        st.sampled_from(MODELS),
        st.sampled_from([0, 1, 1_000, 150_000]),
        st.integers(0, 300),
        st.integers(0, 90_000),
        st.lists(
            st.builds(
                ModelTokens,
                st.sampled_from([*MODELS, None]),
                st.builds(TokenCounts, *[st.sampled_from([0, 1, 333, 210_000])] * 3),
            ),
            max_size=2,
        ),
    ),
    max_size=30,
)


async def used_before_and_after(uses: list[Use], limits: list[str], later: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        storage = await open_storage(f"sqlite://{Path(folder) / 'opuslive.db'}")
        limiting = Limiting(
            storage,
            settings(
                cache_read_weight=0.1,
                max_wait=0,
                gateway=["9M requests/30d", "90000 usd/total"],
                groups={"friends": ["900M tokens/total", "900M tokens/59h"]},
            ),
        )
        keys = [await limiting.key(*limits, group=group) for group in ("friends", "friends", None)]
        for number, (before, latency, model, input_, output, cached, parts) in enumerate(uses):
            limiting.now += before
            counts = TokenCounts(input=input_, output=output, cache_read=cached)
            key = keys[number % 3]
            await limiting.use(key, counts, latency=latency, model=model, parts=parts)
        refusal = UsageRecord(keys[0].id, limiting.now, MODEL, 429, None)
        await storage.add_record(refusal)
        limiting.now += later
        before_ = [status for key in keys for status in limiting.admission.statuses(key.id)]
        shared = shared_limits(limiting)
        await limiting.restart()
        after = [status for key in keys for status in limiting.admission.statuses(key.id)]
        for old, new in zip([*before_, *shared], [*after, *shared_limits(limiting)], strict=True):
            assert new.limit == old.limit
            assert new.reserved == 0
            # Of sums of hours what costs, or comes from a cache, is rounded once an hour; and
            # they free late by less than a bucket.
            slack = sum(1 + len(use[-1]) for use in uses)
            if isinstance(old.limit.window, int) and old.limit.window >= BUCKETS * 3600:
                assert new.used >= old.used - slack
            elif str(old.limit) in SHORT:
                assert new == old
            else:
                assert old.used - slack <= new.used <= old.used, new.limit
        await storage.close()


def shared_limits(limiting: Limiting) -> list[LimitStatus]:
    admission = limiting.admission
    accounts = [*admission._shared]
    return [status for account in accounts for status in account.statuses(limiting.now)]


@how(max_examples=40)
@given(_uses, st.integers(0, DAY_MS))
def test_a_restart_changes_no_limit_status(uses: list[Use], later: int) -> None:
    asyncio.run(used_before_and_after(uses, [*SHORT, *LONG, *MONEY], later))
