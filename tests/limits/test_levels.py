"""Thresholds: when usage that passes 80 % or 100 % of a limit is told, and when it is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opuslive.limits.accounts import Account, AccountKind, Reservation, ThresholdCrossing, reserve
from opuslive.limits.charges import Charge, replay
from opuslive.limits.grammar import parse_limits
from opuslive.limits.levels import FULL, WARNING, Thresholds
from opuslive.times import DAY_MS, HOUR_MS
from tests.support.clock import NOW

MINUTE = 60_000
MIDNIGHT = NOW // DAY_MS * DAY_MS + DAY_MS


class Used:
    """An account, and what is told as it is used."""

    def __init__(self, *limits: str, now: int = NOW) -> None:
        self.now = now
        self.account = Account(AccountKind.KEY, parse_limits(limits), now, "key00001")

    def admit(self, tokens: int = 0) -> Reservation:
        reservation = reserve([self.account], Charge(tokens), self.now, capped=True)
        assert isinstance(reservation, Reservation)
        return reservation

    def use(self, tokens: int, later: int = 0) -> list[int]:
        """Use so many tokens in one request, so many ms later; return the levels told."""
        self.now += later
        return [crossing.level for crossing in self.settle(self.admit(), tokens)]

    def settle(self, reservation: Reservation, tokens: int | None) -> list[ThresholdCrossing]:
        return list(reservation.settle(None if tokens is None else Charge(tokens), self.now))


def test_each_level_once_on_the_way_up() -> None:
    used = Used("100 tokens/5h")
    assert [used.use(amount) for amount in (79, 1, 10, 9, 1, 50)] == [[], [80], [], [], [100], []]


def test_a_crossing_names_account_level_and_limit_status() -> None:
    used = Used("100 tokens/day")
    (crossing,) = used.settle(used.admit(), 85)
    assert (crossing.account.name, crossing.level) == ("key00001", WARNING)
    assert crossing.limit_status.used == 85
    assert crossing.limit_status.frees_at == MIDNIGHT


def test_who_goes_to_100_in_one_step_is_told_of_that_alone() -> None:
    used = Used("100 tokens/5h")
    assert used.use(130) == [FULL]
    assert used.use(10) == []


@pytest.mark.parametrize(("amount", "warning"), [(1, 1), (2, 2), (3, 3), (9, 8), (11, 9)])
def test_80_percent_of_a_small_limit_is_rounded_up(amount: int, warning: int) -> None:
    used = Used(f"{amount} tokens/5h")
    told = [used.use(1) for _ in range(amount)]
    expected: list[list[int]] = [[] for _ in range(amount)]
    expected[warning - 1] = [WARNING]
    expected[amount - 1] = [FULL]
    assert told == expected


def test_a_reservation_passes_nothing() -> None:
    used = Used("100 tokens/5h", "2 concurrent")
    running = used.admit(100)
    used.account.windows[0].reserved -= 40
    assert used.settle(used.admit(40), 5) == []
    used.account.windows[0].reserved += 40
    assert used.settle(running, 5) == []


def test_concurrent_requests_are_never_told() -> None:
    used = Used("1 concurrent")
    assert used.use(1) == []
    first = used.admit()
    assert used.settle(first, 5) == []


def test_requests_that_were_not_sent_pass_nothing() -> None:
    used = Used("2 requests/1h")
    first, second = used.admit(), used.admit()
    assert used.settle(first, None) == used.settle(second, None) == []
    assert used.use(0) == []
    assert used.use(0) == [FULL]


class TestAgain:
    def test_a_short_limit_that_is_always_full_rings_once_an_hour(self) -> None:
        used = Used("4 requests/1m")
        rang: list[tuple[int, int]] = []
        for minute in range(0, 241, 2):
            rang += [(minute, level) for _ in range(4) for level in used.use(0)]
            used.now += 2 * MINUTE
        assert rang == [(0, 100), (60, 100), (120, 100), (180, 100), (240, 100)]

    def test_only_after_it_fell_below_80_percent(self) -> None:
        used = Used("100 tokens/1h")
        # What frees is used at once: from the first hour on it stays above 90.
        told = [used.use(3, 2 * MINUTE) for _ in range(5 * 30)]
        assert used.account.windows[0].used > 90
        assert [levels for levels in told if levels] == [[80]]

    def test_what_passes_during_the_pause_is_told_after_it_if_it_is_still_so(self) -> None:
        used = Used("100 tokens/1m")
        assert used.use(85) == [80]
        assert used.use(85, 2 * MINUTE) == []
        assert used.use(0, 30_000) == []
        assert used.use(79, HOUR_MS) == []
        assert used.use(1) == [80]

    def test_not_before_the_length_of_a_longer_window(self) -> None:
        used = Used("100 tokens/5h")
        assert used.use(100) == [100]
        window = used.account.windows[0]
        # Taken back: what was used is less, well before the window has passed.
        window.count(-100, NOW)
        window.thresholds.fell(window.used)
        assert used.use(100, 4 * HOUR_MS) == []
        assert used.use(1, 59 * MINUTE) == []
        assert used.use(1, MINUTE) == [100]

    @pytest.mark.parametrize("period", ["day", "week", "month"])
    def test_a_level_is_told_once_a_period_of_the_calendar(self, period: str) -> None:
        used = Used(f"100 tokens/{period}")
        assert used.use(100) == [100]
        assert used.use(100, HOUR_MS) == []
        end = used.account.windows[0].status(used.now).frees_at
        assert end is not None
        assert used.use(85, end - used.now) == [80]
        assert used.use(20, 1) == [100]

    def test_a_level_of_a_lifetime_limit_is_told_once(self) -> None:
        used = Used("100 tokens/total")
        assert used.use(80) == [80]
        assert used.use(20, 1000 * DAY_MS) == [100]
        assert used.use(20, 1000 * DAY_MS) == []


class TestChanges:
    def test_other_limits_leave_it_as_it_is(self) -> None:
        used = Used("100 tokens/5h")
        assert used.use(85) == [80]
        used.account.change_limits(parse_limits(["100 tokens/5h", "9 requests/day"]), NOW)
        assert used.use(1) == []
        assert used.use(14) == [100]

    def test_another_amount_is_another_limit(self) -> None:
        used = Used("100 tokens/day")
        assert used.use(100) == [100]
        used.account.change_limits(parse_limits(["200 tokens/day"]), NOW)
        assert used.use(60) == [80]
        # What was used by then is no news.
        used.account.change_limits(parse_limits(["170 tokens/day"]), NOW)
        assert used.use(1) == []
        assert used.use(9) == [100]

    def test_a_limit_that_was_removed_meanwhile_is_not_told(self) -> None:
        used = Used("100 tokens/day")
        running = used.admit(10)
        used.account.change_limits([], NOW)
        assert used.settle(running, 100) == []

    def test_what_is_replayed_is_not_told(self) -> None:
        used = Used("100 tokens/day", "100 tokens/1m")
        windows = used.account.windows
        replay(windows, Charge(90), time=NOW, end=NOW)
        for window in windows:
            window.silence(NOW)
        assert used.use(1) == []
        assert used.use(9) == [100, 100]
        # Who was told before the restart is not told again right after it.
        again = Used("100 tokens/1m")
        replay(again.account.windows, Charge(100), time=NOW, end=NOW)
        again.account.windows[0].silence(NOW)
        assert again.use(100, 2 * MINUTE) == []
        assert again.use(100, HOUR_MS) == [100]


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 90 * MINUTE)), max_size=60))
def test_two_alerts_of_a_level_are_never_close(steps: list[tuple[int, int]]) -> None:
    used = Used("100 tokens/10m")
    told: dict[int, int] = {}
    for tokens, later in steps:
        for level in used.use(tokens, later):
            assert used.account.windows[0].used * 100 >= 100 * level
            assert used.now - told.get(level, 0) >= HOUR_MS
            told[level] = used.now


def test_the_state_is_small_and_does_not_grow() -> None:
    levels = Thresholds(100)
    for now in range(0, 100 * HOUR_MS, HOUR_MS):
        assert levels.crossed(100, now, now + HOUR_MS) == 100
        levels.fell(0)
    assert all(isinstance(getattr(levels, name), int) for name in Thresholds.__slots__)
