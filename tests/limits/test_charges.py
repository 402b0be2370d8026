"""Charges: what each metric counts, and windows that are rebuilt from what is stored."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opuslive.limits.accounts import Account, AccountKind, Reservation, reserve
from opuslive.limits.buckets import BUCKETS
from opuslive.limits.charges import Charge, replay, replay_sum
from opuslive.limits.grammar import Metric, parse_limits
from opuslive.limits.windows import RollingWindow, open_window
from opuslive.times import DAY_MS, HOUR_MS
from opuslive.usage import TokenCounts
from tests.support.clock import NOW

LIMITS = parse_limits(
    [
        "1M requests/1m",
        "1M requests/60h",
        "1M requests/day",
        "1B tokens/90s",
        "1B tokens/5h",
        "1B tokens/7d",
        "1B input_tokens/30d",
        "1B tokens/day",
        "1B output_tokens/week",
        "1M usd/month",
        "1B tokens/total",
        "100 concurrent",
    ]
)


def test_what_each_metric_counts() -> None:
    charge = Charge(input_tokens=70, output_tokens=5, usd=300)
    assert {metric: charge.amount(metric) for metric in Metric} == {
        Metric.REQUESTS: 1,
        Metric.TOKENS: 75,
        Metric.INPUT_TOKENS: 70,
        Metric.OUTPUT_TOKENS: 5,
        Metric.USD: 300,
        Metric.CONCURRENT: 1,
    }


def test_a_metric_that_no_charge_knows_does_not_count_as_dollars() -> None:
    with pytest.raises(AssertionError):
        Charge(usd=300).amount(cast("Metric", "images"))


@pytest.mark.parametrize(
    ("weight", "input_tokens"),
    [("0.0", 1 + 8 + 16), ("1.0", 1 + 4 + 8 + 16), ("0.1", 1 + 8 + 16 + 1), ("0.75", 28)],
)
def test_cached_tokens_count_by_their_weight_and_written_ones_in_full(
    weight: str, input_tokens: int
) -> None:
    tokens = TokenCounts(input=1, output=2, cache_read=4, cache_write_5m=8, cache_write_1h=16)
    charge = Charge.of_tokens(tokens, cache_read_weight=Fraction(weight), usd=7)
    assert charge == Charge(input_tokens, output_tokens=2, usd=7)


@given(cache_read=st.integers(0, 2**40), tenths=st.integers(0, 10))
def test_a_fraction_of_a_token_is_rounded_up_exactly(cache_read: int, tenths: int) -> None:
    weight = Fraction(str(tenths / 10))
    charge = Charge.of_tokens(TokenCounts(cache_read=cache_read), cache_read_weight=weight)
    assert 0 <= charge.input_tokens - cache_read * weight < 1


# --- what was used comes back --------------------------------------------------------------------


@dataclass(frozen=True)
class Past:
    """A request that is on record."""

    time: int
    end: int
    charge: Charge


@st.composite
def pasts(draw: st.DrawFn) -> tuple[list[Past], int]:
    """Requests of some weeks, more of them of late, and the moment of the restart."""
    ago = st.one_of(
        st.integers(0, 2 * 60_000),
        st.integers(0, 12 * HOUR_MS),
        st.integers(0, 10 * 24 * HOUR_MS),
        st.integers(0, 40 * 24 * HOUR_MS),
    )
    tokens = st.integers(0, 1000)
    past = []
    for back in draw(st.lists(ago, max_size=40)):
        time = NOW - back
        end = min(NOW, time + draw(st.integers(0, 10 * 60_000)))
        past.append(Past(time, end, Charge(draw(tokens), draw(tokens), draw(tokens))))
    return past, NOW + draw(st.integers(0, 2 * 60_000))


def lived(past: list[Past], now: int) -> Account:
    """An account that these requests went through."""
    account = Account(AccountKind.KEY, LIMITS, min((p.time for p in past), default=now))
    steps = sorted(
        [(p.time, 0, n) for n, p in enumerate(past)] + [(p.end, 1, n) for n, p in enumerate(past)]
    )
    running: dict[int, Reservation] = {}
    for moment, ending, number in steps:
        if ending:
            running.pop(number).settle(past[number].charge, moment)
        else:
            reservation = reserve([account], Charge(10, 10, 10), moment, capped=True)
            assert isinstance(reservation, Reservation)
            assert reservation.time == moment
            running[number] = reservation
    account.statuses(now)
    return account


@given(pasts())
def test_records_rebuild_every_window_as_it_was(history: tuple[list[Past], int]) -> None:
    past, now = history
    before = lived(past, now)
    after = Account(AccountKind.KEY, LIMITS, now)
    for request in past:
        replay(after.windows, request.charge, time=request.time, end=request.end)
    assert after.statuses(now) == before.statuses(now)


@given(pasts())
def test_hours_rebuild_long_windows_to_the_bucket_and_on_the_safe_side(
    history: tuple[list[Past], int],
) -> None:
    past, now = history
    before = lived(past, now)
    after = Account(AccountKind.KEY, LIMITS, now)
    hours: dict[int, Counter[str]] = {}
    for request in past:
        # As storage sums: requests in the hour of their time, the rest in that of their end.
        hours.setdefault(request.time // HOUR_MS, Counter())["requests"] += 1
        ended = hours.setdefault(request.end // HOUR_MS, Counter())
        ended["input_tokens"] += request.charge.input_tokens
        ended["output_tokens"] += request.charge.output_tokens
        ended["usd"] += request.charge.usd
    rebuilt = [window for window in after.windows if window.grain != "record"]
    for hour, sums in hours.items():
        charge = Charge(
            sums["input_tokens"], sums["output_tokens"], sums["usd"], requests=sums["requests"]
        )
        replay_sum(rebuilt, charge, hour * HOUR_MS, HOUR_MS)

    for window, original in zip(after.windows, before.windows, strict=True):
        if window.grain == "record":
            continue
        if not isinstance(window, RollingWindow):
            assert window.used == original.used
            continue
        bucket = window.seconds * 1000 // BUCKETS
        metric = window.limit.metric
        with_one_more_bucket = sum(
            request.charge.amount(metric)
            for request in past
            if (request.time if metric is Metric.REQUESTS else request.end)
            >= window.counts_since - bucket
        )
        assert original.used <= window.used <= with_one_more_bucket
        # And what frees late does so by a bucket at most.
        early, late = original.status(now).resets_at, window.status(now).resets_at
        if early is not None:
            assert late is not None
            assert early <= late <= early + bucket + 1


@pytest.mark.parametrize("hour", range(NOW // HOUR_MS - 6, NOW // HOUR_MS))
def test_an_hour_counts_as_of_its_last_ms(hour: int) -> None:
    (limit,) = parse_limits(["9 tokens/7d"])
    by_hour, by_record = open_window(limit, NOW), open_window(limit, NOW)
    replay_sum([by_hour], Charge(5), hour * HOUR_MS, HOUR_MS)
    by_record.count(5, (hour + 1) * HOUR_MS - 1)
    assert by_hour.status(NOW) == by_record.status(NOW)


def test_a_day_is_not_the_next_one_and_the_current_one_counts() -> None:
    (limit,) = parse_limits(["9 tokens/day"])
    midnight = NOW - NOW % DAY_MS
    window = open_window(limit, midnight + 1)
    replay_sum([window], Charge(5), midnight - DAY_MS, DAY_MS)
    assert window.used == 0
    replay_sum([window], Charge(3), midnight, DAY_MS)
    assert window.used == 3
