"""What happened within the last minute."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from opuslive.rates import SLOT_MS, SLOTS, MinuteRate

MINUTE = SLOTS * SLOT_MS


@given(st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 10**6)), max_size=50), st.data())
def test_all_of_the_last_55_seconds_counts_and_nothing_from_before_a_minute(
    steps: list[tuple[int, int]], data: st.DataObject
) -> None:
    rate, now, events = MinuteRate(), 10**12, []
    for pause, tokens in steps:
        now += pause
        rate.add(now, tokens)
        events.append((now, tokens))
    now += data.draw(st.integers(0, 2 * MINUTE))
    least = [tokens for at, tokens in events if at > now - MINUTE + SLOT_MS]
    most = [tokens for at, tokens in events if at > now - MINUTE]
    requests, used = rate.per_minute(now)
    assert len(least) <= requests <= len(most)
    assert sum(least) <= used <= sum(most)
