"""Windows: what counts when, compared with the list of all that was ever used."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opuslive.limits.buckets import BUCKETS, COUNTED
from opuslive.limits.grammar import Limit, Metric, Period, parse_limit
from opuslive.limits.windows import (
    LimitStatus,
    RollingWindow,
    Window,
    open_window,
    period_bounds,
)
from opuslive.times import DAY_MS, HOUR_MS
from tests.support.clock import MONDAY, at

MINUTE = 60_000

#: What was used, and when.
Events = list[tuple[int, int]]

seconds = st.one_of(
    st.sampled_from([1, 60, 18_000, 7 * 86_400, 366 * 86_400]), st.integers(1, 1_000_000)
)


def window(text: str, now: int = MONDAY) -> Window:
    return open_window(parse_limit(text), now)


def rolling(length: int, now: int = MONDAY) -> RollingWindow:
    opened = open_window(Limit(Metric.TOKENS, 1000, length), now)
    assert isinstance(opened, RollingWindow)
    return opened


def bucket_of(moment: int, length: int) -> int:
    return Fraction(moment * BUCKETS, length * 1000).__floor__()


def oracle(events: Events, length: int, now: int) -> int:
    """The sum over the current bucket and the 60 before it."""
    oldest = bucket_of(now, length) - BUCKETS
    return sum(amount for moment, amount in events if bucket_of(moment, length) >= oldest)


# --- rolling ----------------------------------------------------------------------------------


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, Events, int]:
    """A window's length, what was used, and when it is looked at, around one window later."""
    length = draw(seconds)
    step = st.integers(0, length * 1000 // 10)
    steps = draw(st.lists(st.tuples(step, st.integers(0, 400)), max_size=40))
    events, now = [], MONDAY
    for gap, amount in steps:
        now += gap
        events.append((now, amount))
    return length, events, now + draw(st.integers(0, length * 1100))


@given(histories())
def test_the_sum_is_of_61_buckets(history: tuple[int, Events, int]) -> None:
    length, events, now = history
    opened = rolling(length)
    for index, (moment, amount) in enumerate(events, 1):
        opened.advance(moment)
        opened.count(amount, moment)
        assert opened.used == oracle(events[:index], length, moment)
    opened.advance(now)
    assert opened.used == oracle(events, length, now)
    span = length * 1000
    at_least = sum(amount for moment, amount in events if moment >= now - span)
    at_most = sum(amount for moment, amount in events if moment > now - span - span / BUCKETS)
    assert at_least <= opened.used <= at_most


@given(histories(), st.permutations(range(40)))
def test_what_is_counted_late_falls_into_its_own_bucket(
    history: tuple[int, Events, int], order: list[int]
) -> None:
    length, events, now = history
    opened = rolling(length, now)
    for index in order:
        for moment, amount in events[index : index + 1]:
            opened.count(amount, moment)
    assert opened.used == oracle(events, length, now)
    since = opened.counts_since
    assert opened.used == sum(amount for moment, amount in events if moment >= since)
    for moment, amount in events:
        opened.count(-amount, moment)
    assert opened.used == 0


@given(histories(), st.integers(1, 1100))
def test_the_moment_at_which_something_fits_is_exact(
    history: tuple[int, Events, int], needed: int
) -> None:
    length, events, now = history
    opened = rolling(length, now)
    for moment, amount in events:
        opened.count(amount, moment)
    frees_at = opened.frees_at(needed, now)
    if needed > 1000:
        assert frees_at is None
        return
    assert frees_at is not None
    assert now <= frees_at <= now + length * 1000 * COUNTED / BUCKETS + 1
    assert oracle(events, length, frees_at) + needed <= 1000
    if frees_at > now:
        assert oracle(events, length, frees_at - 1) + needed > 1000


@given(histories())
def test_a_limit_status_agrees_with_the_moments_at_which_something_fits(
    history: tuple[int, Events, int],
) -> None:
    length, events, now = history
    opened = rolling(length)
    for moment, amount in events:
        opened.advance(moment)
        opened.count(amount, moment)
    limit_status = opened.status(now)
    if limit_status.used == 0:
        assert (limit_status.frees_at, limit_status.resets_at) == (None, None)
    else:
        assert limit_status.frees_at == opened.frees_at(1000 - limit_status.used + 1, now)
        assert limit_status.resets_at == opened.frees_at(1000, now)


def test_what_is_reserved_stays_until_it_is_taken_away() -> None:
    opened = window("100 tokens/1m")
    opened.reserved = 60
    opened.count(40, MONDAY)
    assert opened.frees_at(1, MONDAY) == opened.frees_at(40, MONDAY) == at("2026-09-21T14:14:21")
    assert opened.frees_at(41, MONDAY) is None
    assert opened.frees_at(41, MONDAY, reserved=0) == MONDAY
    assert opened.frees_at(61, MONDAY, reserved=0) == at("2026-09-21T14:14:21")
    opened.advance(MONDAY + DAY_MS)
    assert (opened.used, opened.reserved) == (0, 60)


@pytest.mark.parametrize("text", ["9 tokens/1m", "9 tokens/day", "9 tokens/month"])
def test_time_never_moves_backward(text: str) -> None:
    opened = window(text)
    opened.advance(MONDAY + 40 * DAY_MS)
    opened.count(5, MONDAY + 40 * DAY_MS)
    before = opened.status(MONDAY + 40 * DAY_MS)
    assert opened.status(MONDAY) == before
    opened.count(4, MONDAY)
    assert opened.used == 5


@pytest.mark.parametrize("text", ["9 tokens/1m", "9 tokens/day", "9 tokens/total"])
def test_a_record_from_the_future_counts_as_of_now(text: str) -> None:
    opened = window(text)
    opened.count(5, MONDAY + 1000 * DAY_MS)
    limit_status = opened.status(MONDAY)
    assert limit_status.used == 5
    assert limit_status.frees_at is None or limit_status.frees_at <= MONDAY + DAY_MS


def test_a_count_beyond_any_limit_fills_the_window_and_leaves_it_again() -> None:
    opened = rolling(60)
    for _ in range(5):
        opened.count(2**62, MONDAY)
    assert opened.frees_at(1, MONDAY) == at("2026-09-21T14:14:21")
    opened.advance(MONDAY + 2 * MINUTE)
    assert opened.used == 0


def test_a_window_is_small() -> None:
    opened = rolling(60)
    for second in range(120):
        opened.advance(MONDAY + second * 1000)
        opened.count(10**12, MONDAY + second * 1000)
    parts: list[object] = [opened, opened._buckets, opened._buckets._row]
    assert sum(map(sys.getsizeof, parts)) < 750


# --- calendar, lifetime, concurrent ------------------------------------------------------------


@pytest.mark.parametrize(
    ("period", "moment", "begin", "end"),
    [
        (Period.DAY, "2026-09-21T00:00:00", "2026-09-21", "2026-09-22"),
        (Period.DAY, "2026-12-31T23:59:59.999", "2026-12-31", "2027-01-01"),
        (Period.WEEK, "2026-09-21T00:00:00", "2026-09-21", "2026-09-28"),
        (Period.WEEK, "2026-09-20T23:59:59.999", "2026-09-14", "2026-09-21"),
        (Period.WEEK, "2027-01-01T12:00:00", "2026-12-28", "2027-01-04"),
        (Period.MONTH, "2028-02-29T23:59:59.999", "2028-02-01", "2028-03-01"),
        (Period.MONTH, "2026-12-15T00:00:00", "2026-12-01", "2027-01-01"),
        (Period.MONTH, "1970-01-01T00:00:00", "1970-01-01", "1970-02-01"),
    ],
)
def test_calendar_units_begin_and_end_as_the_calendar_says(
    period: Period, moment: str, begin: str, end: str
) -> None:
    assert period_bounds(period, at(moment)) == (at(begin), at(end))


@given(
    st.datetimes(datetime(1970, 1, 5), datetime(9000, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    st.sampled_from([Period.DAY, Period.WEEK, Period.MONTH]),
)
def test_bounds_agree_with_the_calendar(moment: datetime, period: Period) -> None:
    begin, end = period_bounds(period, int(moment.timestamp() * 1000))
    first = datetime.fromtimestamp(begin / 1000, UTC)
    after = datetime.fromtimestamp(end / 1000, UTC)
    day = timedelta(days=1)

    def unit(time: datetime) -> object:
        if period is Period.DAY:
            return time.date()
        return time.isocalendar()[:2] if period is Period.WEEK else (time.year, time.month)

    assert first <= moment < after
    assert unit(first) == unit(moment) == unit(after - day)
    assert unit(first - day) != unit(first) != unit(after)
    assert begin % DAY_MS == end % DAY_MS == 0


def test_all_time_has_no_bounds() -> None:
    with pytest.raises(ValueError, match="no bounds"):
        period_bounds(Period.TOTAL, MONDAY)


def test_a_calendar_window_starts_anew_with_its_unit() -> None:
    opened = window("10 tokens/day")
    midnight = at("2026-09-22")
    opened.count(8, MONDAY)
    opened.advance(midnight - 1)
    assert opened.status(MONDAY) == LimitStatus(opened.limit, 86_400, 8, 0, 2, midnight, midnight)
    assert opened.frees_at(3, MONDAY) == midnight
    assert opened.frees_at(11, MONDAY) is None
    opened.advance(midnight)
    assert opened.used == 0
    # What ended the day before, or is taken back of it, is that day's.
    opened.count(5, midnight - 1)
    opened.count(-1, midnight - 1)
    assert opened.used == 0
    assert opened.counts_since == midnight


def test_a_lifetime_never_frees() -> None:
    opened = window("10 tokens/total")
    opened.count(8, MONDAY - 1000 * DAY_MS)
    opened.advance(MONDAY + 1000 * DAY_MS)
    assert opened.status(MONDAY) == LimitStatus(opened.limit, None, 8, 0, 2, None, None)
    assert opened.frees_at(2, MONDAY) == MONDAY
    assert opened.frees_at(3, MONDAY) is None
    assert opened.counts_since == 0


def test_of_concurrent_requests_only_what_runs_counts() -> None:
    opened = window("8 concurrent")
    opened.count(5, MONDAY)
    opened.reserved = 8
    opened.advance(MONDAY + DAY_MS)
    assert opened.status(MONDAY) == LimitStatus(opened.limit, None, 0, 8, 0, None, None)
    assert opened.frees_at(1, MONDAY) is None
    assert opened.counts_since is None


# --- the rest ---------------------------------------------------------------------------------


def test_a_limit_status_as_the_interfaces_show_it() -> None:
    opened = window("0.5 usd/1h")
    opened.count(200_000, MONDAY)
    opened.reserved = 400_000
    assert opened.status(MONDAY).as_dict() == {
        "limit": "0.5 usd/1h",
        "metric": "usd",
        "window": "1h",
        "window_seconds": 3600,
        "max": 0.5,
        "raised_from": None,
        "raised_until": None,
        "used": 0.2,
        "reserved": 0.4,
        "remaining": 0.0,
        "frees_at": "2026-09-21T15:14:00Z",
    }


def test_a_limit_status_names_no_moment_at_which_it_is_not_free_yet() -> None:
    opened = window("10 tokens/7s")
    opened.count(1, MONDAY)
    limit_status = opened.status(MONDAY)
    assert limit_status.frees_at == MONDAY + 7017
    assert limit_status.as_dict()["frees_at"] == "2026-09-21T14:13:28Z"


def test_a_limit_status_tells_the_first_and_the_last_moment_of_freeing() -> None:
    opened = window("10 tokens/1m")
    assert (opened.status(MONDAY).frees_at, opened.status(MONDAY).resets_at) == (None, None)
    opened.count(2, MONDAY)
    opened.advance(MONDAY + 7000)
    opened.count(3, MONDAY + 7000)
    limit_status = opened.status(MONDAY + 8000)
    assert limit_status.frees_at == at("2026-09-21T14:14:21")
    assert limit_status.resets_at == at("2026-09-21T14:14:28")
    assert limit_status.remaining == 5


@pytest.mark.parametrize(
    ("text", "grain"),
    [
        ("1 tokens/1m", "record"),
        ("1 tokens/3599m", "record"),
        ("1 tokens/60h", "hour"),
        ("1 tokens/90d", "hour"),
        ("1 tokens/day", "day"),
        ("1 tokens/month", "day"),
        ("1 tokens/total", "day"),
    ],
)
def test_the_grain_of_a_window_is_what_it_is_rebuilt_from(text: str, grain: str) -> None:
    assert window(text).grain == grain


def test_a_bucket_of_a_window_that_hours_suffice_for_is_no_shorter_than_an_hour() -> None:
    assert rolling(60 * 3600).seconds * 1000 // BUCKETS == HOUR_MS
