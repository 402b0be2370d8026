"""Windows and accounts when the date is moved.

What belongs to it: a move of any size, ahead and back; to the same day, another, and a day that was
over; windows of every kind, with what was used under the old date and under the new; requests that
run across the move, also several moves; limits that are being prepared; thresholds that were told.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opuslive.limits.accounts import Account, AccountKind, Reservation, reserve, shift
from opuslive.limits.buckets import BUCKETS
from opuslive.limits.charges import Charge
from opuslive.limits.grammar import parse_limit, parse_limits
from opuslive.limits.windows import Window, open_window
from opuslive.times import DAY_MS, HOUR_MS
from tests.support.clock import NOW, at

MINUTE = 60_000

deltas = st.one_of(
    st.sampled_from([1, -1, 2_001, DAY_MS, -DAY_MS, 3 * DAY_MS, -3 * DAY_MS, 365 * DAY_MS]),
    st.integers(-400 * DAY_MS, 20_000 * DAY_MS),
)
rolling = st.sampled_from(["1s", "7s", "1m", "5h", "7d", "30d"])
#: ms before the move, and how much.
histories = st.lists(st.tuples(st.floats(0, 1.2), st.integers(1, 100)), max_size=30)


def used_in(text: str, history: list[tuple[float, int]]) -> Window:
    """A window as of ``NOW``, of so many parts of its length before that."""
    limit = parse_limit(f"1000 tokens/{text}")
    assert isinstance(limit.window, int)
    opened = open_window(limit, NOW)
    for part, amount in history:
        opened.count(amount, NOW - round(part * limit.window * 1000))
    return opened


def relative(window: Window, now: int) -> tuple[object, ...]:
    """How a window stands: its moments as ms from now."""
    status = window.status(now)
    fits = [window.frees_at(needed, now) for needed in (1, 100, 500, 1000)]
    moments = [status.frees_at, status.resets_at, *fits]
    return (
        status.used,
        status.remaining,
        *(None if moment is None else moment - now for moment in moments),
    )


@given(rolling, histories, st.lists(deltas, min_size=1, max_size=3), st.floats(0, 1.2))
def test_a_rolling_window_does_not_notice(
    text: str, history: list[tuple[float, int]], moves: list[int], later: float
) -> None:
    """Neither at once nor later: no ms more or less until something frees."""
    moved, other = used_in(text, history), used_in(text, history)
    total = 0
    for delta in moves:
        moved.shift(delta, NOW + total)
        total += delta
        assert relative(moved, NOW + total) == relative(other, NOW)
    assert moved.seconds is not None
    after = round(later * moved.seconds * 1000)
    for window, now in ((moved, NOW + total + after), (other, NOW + after)):
        window.advance(now)
        window.count(7, now)
        window.count(5, now - after // 2)
    assert relative(moved, NOW + total + after) == relative(other, NOW + after)


@given(st.sampled_from(["day", "week", "month"]), deltas)
def test_a_calendar_window_ends_when_the_period_ends_that_it_is_now(text: str, delta: int) -> None:
    moved = open_window(parse_limit(f"1000 tokens/{text}"), NOW)
    moved.count(7, NOW)
    moved.shift(delta, NOW)
    new = open_window(parse_limit(f"1000 tokens/{text}"), NOW + delta)
    new.count(7, NOW + delta)
    assert relative(moved, NOW + delta) == relative(new, NOW + delta)
    assert moved.seconds == new.seconds


@given(
    st.sampled_from(["day", "week", "month"]),
    st.lists(st.tuples(st.integers(0, 60 * DAY_MS), st.integers(1, 100)), max_size=30),
    deltas,
)
def test_a_calendar_window_holds_what_was_used_since_its_period_began(
    text: str, history: list[tuple[int, int]], delta: int
) -> None:
    """To a sixtieth of the period, on the safe side; in the same period it holds the same."""
    opened = open_window(parse_limit(f"1000 tokens/{text}"), NOW - 60 * DAY_MS)
    for age, amount in sorted(history, reverse=True):
        opened.advance(NOW - age)
        opened.count(amount, NOW - age)
    opened.advance(NOW)
    before, begin = opened.used, opened.counts_since
    opened.shift(delta, NOW)
    assert opened.counts_since is not None
    assert begin is not None
    if opened.counts_since == begin:
        assert opened.used == before
        return
    lasted = NOW + delta - opened.counts_since
    bucket = 31 * DAY_MS // BUCKETS
    at_least = sum(amount for age, amount in history if age <= lasted)
    at_most = sum(amount for age, amount in history if age <= lasted + bucket)
    if opened.counts_since > begin:
        at_least = min(at_least, before)
        at_most = min(at_most, before)
    else:
        at_most = max(at_most, before)
    assert at_least <= opened.used <= at_most


@given(st.sampled_from(["day", "week", "month"]), st.lists(deltas, max_size=5))
def test_a_date_that_moves_and_moves_back_frees_nothing(text: str, moves: list[int]) -> None:
    """Also if the day turned meanwhile."""
    opened = open_window(parse_limit(f"1000 tokens/{text}"), NOW)
    opened.count(100, NOW)
    now = NOW
    for delta in moves:
        opened.shift(delta, now)
        now += delta + MINUTE
        opened.advance(now)
    opened.shift(NOW + MINUTE - now, now)
    assert opened.status(NOW + MINUTE).used == 100


class TestDays:
    def day(self, *events: tuple[str, int]) -> Window:
        opened = open_window(parse_limit("1000 tokens/day"), at(events[0][0]))
        for when, amount in events:
            opened.advance(at(when))
            opened.count(amount, at(when))
        return opened

    def test_what_was_used_a_minute_ago_under_a_date_of_last_week_was_used_today(self) -> None:
        day = self.day(("2026-11-20T08:00", 30))
        day.shift(7 * DAY_MS, at("2026-11-20T08:01"))
        status = day.status(at("2026-11-27T08:01"))
        assert (status.used, status.resets_at) == (30, at("2026-11-28T00:00"))

    def test_what_was_used_longer_ago_than_today_is_old_was_used_yesterday(self) -> None:
        """Half old time, half new: 23:50 was 0:20."""
        day = self.day(("2026-11-20T09:00", 30), ("2026-11-20T23:40", 5))
        day.shift(30 * MINUTE, at("2026-11-20T23:50"))
        status = day.status(at("2026-11-21T00:20"))
        assert (status.used, status.resets_at) == (5, at("2026-11-22T00:00"))

    def test_a_day_that_was_over_too_early_goes_on(self) -> None:
        """The clock was an hour ahead."""
        day = self.day(("2026-11-20T09:00", 30), ("2026-11-21T00:20", 5))
        assert day.status(at("2026-11-21T00:30")).used == 5
        day.shift(-HOUR_MS, at("2026-11-21T00:30"))
        status = day.status(at("2026-11-20T23:30"))
        assert (status.used, status.resets_at) == (35, at("2026-11-21T00:00"))

    def test_on_the_same_day_nothing_changes_but_when_it_ends(self) -> None:
        day = self.day(("2026-11-20T09:00", 30))
        day.shift(3 * HOUR_MS, at("2026-11-20T10:00"))
        status = day.status(at("2026-11-20T13:00"))
        assert (status.used, status.resets_at) == (30, at("2026-11-21T00:00"))

    def test_the_first_of_a_month_is_not_full_of_the_month_before(self) -> None:
        limit = parse_limit("1000 tokens/month")
        month = open_window(limit, at("2026-11-01T00:00"))
        for day in range(1, 31):
            month.count(30, at(f"2026-11-{day:02}T12:00"))
        month.shift(MINUTE, at("2026-11-30T23:59:30"))
        status = month.status(at("2026-12-01T00:00:30"))
        assert (status.used, status.window_seconds) == (0, 31 * 86_400)

    def test_something_from_the_future_does_not_hide_the_rest(self) -> None:
        day = self.day(("2026-11-20T09:00", 30))
        day.count(5, at("2030-01-01T00:00"))
        day.shift(3 * DAY_MS, at("2026-11-20T10:00"))
        assert day.status(at("2026-11-23T10:00")).used == 35


@pytest.mark.parametrize("text", ["9 tokens/total", "9 concurrent"])
@given(delta=deltas)
def test_a_window_without_time_holds_the_same(text: str, delta: int) -> None:
    opened = open_window(parse_limit(text), NOW)
    opened.count(5, NOW)
    opened.reserved = 2
    before = opened.status(NOW)
    opened.shift(delta, NOW)
    assert opened.status(NOW + delta) == before


@pytest.mark.parametrize("text", ["10 tokens/1m", "10 tokens/day", "10 tokens/month"])
@pytest.mark.parametrize("delta", [3 * DAY_MS, -3 * DAY_MS])
def test_a_threshold_that_was_told_stays_told(text: str, delta: int) -> None:
    opened = open_window(parse_limit(text), NOW)
    opened.count(10, NOW)
    assert opened.crossed(NOW) == 100
    opened.shift(delta, NOW)
    now = NOW + delta
    opened.count(-10, now)
    opened.thresholds.fell(0)
    opened.count(10, now)
    assert opened.crossed(now) is None
    later = now + 62 * DAY_MS
    opened.advance(later)
    opened.count(10, later)
    assert opened.crossed(later) == 100


@given(st.lists(st.tuples(st.integers(0, 3_600_000), st.integers(1, 50)), max_size=20), deltas)
def test_a_part_that_is_read_by_the_new_date_is_taken_out_of_a_window_that_moved(
    history: list[tuple[int, int]], delta: int
) -> None:
    """The bounds of their buckets differ; what others used stays."""
    limit = parse_limit("10k tokens/1h")
    shared = open_window(limit, NOW)
    shared.shift(delta, NOW)
    now = NOW + delta + HOUR_MS
    part = open_window(limit, now)
    shared.advance(now)
    counted = 0
    for age, amount in history:
        shared.count(amount, now - age)
        part.count(amount, now - age)
        counted += amount
    shared.count(77, now)
    assert part.used == counted
    shared.take_out(part, now)
    assert shared.used == 77
    shared.put_back(part, now)
    assert shared.used == 77 + counted


class TestAccounts:
    def accounts(self, *limits: str) -> tuple[Account, Account]:
        return (
            Account(AccountKind.KEY, parse_limits(limits), NOW),
            Account(AccountKind.GATEWAY, parse_limits(["50 tokens/1h"]), NOW),
        )

    def let_in(self, accounts: tuple[Account, ...], now: int) -> Reservation:
        admitted = reserve(accounts, Charge(output_tokens=10), now, capped=False)
        assert isinstance(admitted, Reservation)
        return admitted

    @pytest.mark.parametrize("delta", [3 * DAY_MS, -3 * DAY_MS, HOUR_MS, -2_001])
    def test_a_request_that_runs_holds_the_same_and_moves_once(self, delta: int) -> None:
        accounts = self.accounts("100 tokens/1h", "3 requests/1h", "20 tokens/day", "2 concurrent")
        running = self.let_in(accounts, NOW)
        shift(accounts, delta, NOW + 1_000)
        assert running.time == NOW + delta
        now = NOW + 1_000 + delta
        key = accounts[0].statuses(now)
        assert [status.reserved for status in key] == [10, 0, 10, 1]
        assert [status.used for status in key] == [0, 1, 0, 0]
        running.settle(Charge(output_tokens=7), now + 500)
        key = accounts[0].statuses(now + 500)
        assert [(status.used, status.reserved) for status in key] == [
            (7, 0),
            (1, 0),
            (7, 0),
            (0, 0),
        ]
        assert accounts[0].latest == now + 500

    @pytest.mark.parametrize("delta", [3 * DAY_MS, -3 * DAY_MS])
    def test_a_request_that_is_not_sent_is_taken_back_where_it_counted(self, delta: int) -> None:
        accounts = self.accounts("3 requests/1m", "3 requests/day")
        running = self.let_in(accounts, NOW)
        shift(accounts, delta, NOW + 30_000)
        running.settle(None, NOW + 30_000 + delta)
        statuses = accounts[0].statuses(NOW + 30_000 + delta)
        assert [status.used for status in statuses] == [0, 0]

    @pytest.mark.parametrize("delta", [3 * DAY_MS, -3 * DAY_MS])
    def test_a_limit_that_is_being_prepared_moves_along(self, delta: int) -> None:
        accounts = self.accounts("100 tokens/1h")
        self.let_in(accounts, NOW)
        (prepared,) = accounts[0].prepare(parse_limits(["5 requests/1m"]), NOW)
        shift(accounts, delta, NOW)
        accounts[0].change_limits(parse_limits(["5 requests/1m"]), NOW + delta)
        assert accounts[0].windows == [prepared]
        assert relative(prepared, NOW + delta)[0] == 1
        assert prepared.status(NOW + delta + 62_000).used == 0

    def test_after_a_move_back_time_goes_on(self) -> None:
        """It does not wait until the old date is reached."""
        accounts = self.accounts("1 requests/1m")
        self.let_in(accounts, NOW).settle(Charge(), NOW)
        shift(accounts, -3 * DAY_MS, NOW)
        self.let_in(accounts, NOW - 3 * DAY_MS + 62_000)
