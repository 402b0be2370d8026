"""Accounts: a request is let in by all or by none, and settled once."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Sequence

import pytest

from opuslive.limits.accounts import (
    Account,
    AccountKind,
    LimitExceeded,
    Reservation,
    largest_that_fits,
    reserve,
    tightest_of,
)
from opuslive.limits.charges import Charge, replay
from opuslive.limits.grammar import Metric, parse_limits
from opuslive.times import DAY_MS
from tests.support.accounts import running
from tests.support.clock import MONDAY

SECOND = 1000
MINUTE = 60 * SECOND


def account(*limits: str, kind: AccountKind = AccountKind.KEY) -> Account:
    return Account(kind, parse_limits(limits), MONDAY)


def admit(
    accounts: Account | Sequence[Account],
    estimate: Charge | None = None,
    now: int = MONDAY,
    *,
    capped: bool = True,
) -> Reservation:
    if isinstance(accounts, Account):
        accounts = [accounts]
    result = reserve(accounts, estimate or Charge(), now, capped=capped)
    assert isinstance(result, Reservation)
    return result


def refuse(
    accounts: Account | Sequence[Account],
    estimate: Charge | None = None,
    now: int = MONDAY,
    *,
    capped: bool = True,
) -> LimitExceeded:
    if isinstance(accounts, Account):
        accounts = [accounts]
    before = levels(*accounts)
    result = reserve(accounts, estimate or Charge(), now, capped=capped)
    assert isinstance(result, LimitExceeded)
    assert levels(*accounts) == before
    return result


def levels(*accounts: Account) -> list[tuple[int, int]]:
    """Used and reserved, of every limit."""
    return [(w.used, w.reserved) for account in accounts for w in account.windows]


# --- the life of a request -----------------------------------------------------------------------


def test_what_each_limit_holds_while_a_request_runs_and_after() -> None:
    key = account(
        "9 requests/1m", "1k tokens/1m", "1k input_tokens/1m", "1k output_tokens/1m",
        "1 usd/day", "9 concurrent",
    )  # fmt: skip
    reservation = admit(key, Charge(100, 50, 7000))
    assert levels(key) == [(1, 0), (0, 150), (0, 100), (0, 50), (0, 7000), (0, 1)]
    assert running(key, MONDAY) == 1
    reservation.settle(Charge(90, 20, 5000), MONDAY + SECOND)
    after = [(1, 0), (110, 0), (90, 0), (20, 0), (5000, 0), (0, 0)]
    assert levels(key) == after
    assert running(key, MONDAY + SECOND) == 0
    reservation.settle(Charge(90, 20, 5000), MONDAY + 2 * SECOND)
    reservation.settle(None, MONDAY + 3 * SECOND)
    assert levels(key) == after


def test_a_request_that_was_never_sent_counts_nowhere() -> None:
    key = account("2 requests/1m", "2 requests/day", "1k tokens/1m", "2 concurrent")
    admit(key, Charge(1)).settle(Charge(1), MONDAY)
    unsent = admit(key, Charge(100), MONDAY + 30 * SECOND)
    assert refuse(key, Charge(1), MONDAY + 40 * SECOND).limit.metric is Metric.REQUESTS
    unsent.settle(None, MONDAY + 40 * SECOND)
    assert levels(key) == [(1, 0), (1, 0), (1, 0), (0, 0)]


def test_taking_back_a_request_that_has_aged_out_takes_nothing_from_others() -> None:
    key = account("5 requests/1m", "5 requests/day")
    unsent = admit(key)
    admit(key, now=MONDAY + DAY_MS)
    assert levels(key) == [(1, 0), (1, 0)]
    unsent.settle(None, MONDAY + DAY_MS)
    assert levels(key) == [(1, 0), (1, 0)]


def test_a_stream_of_three_minutes_does_not_slip_out_of_a_window_of_one() -> None:
    key = account("1k tokens/1m")
    stream = admit(key, Charge(200, 800))
    assert refuse(key, Charge(1), MONDAY + 2 * MINUTE).only_reserved
    stream.settle(Charge(200, 700), MONDAY + 3 * MINUTE)
    assert levels(key) == [(900, 0)]
    assert refuse(key, Charge(101), MONDAY + 4 * MINUTE).used == 900
    admit(key, Charge(1000), MONDAY + 4 * MINUTE + SECOND)


def test_a_burst_cannot_see_the_same_room() -> None:
    key = account("100k tokens/1h")
    results = [reserve([key], Charge(1000, 1000), MONDAY, capped=False) for _ in range(200)]
    assert sum(isinstance(result, Reservation) for result in results) == 50


def test_a_request_that_used_more_than_it_reserved_is_counted_in_full() -> None:
    key = account("100 tokens/1h")
    admit(key, Charge(50)).settle(Charge(50, 150), MONDAY)
    assert key.statuses(MONDAY)[0].used == 200
    assert key.statuses(MONDAY)[0].remaining == 0


def test_an_account_goes_by_the_latest_time_it_was_told() -> None:
    key = account("1 requests/1m", "9 tokens/1m")
    gateway = account("9 requests/1m", kind=AccountKind.GATEWAY)
    admit(gateway, now=MONDAY + 5 * SECOND).settle(Charge(), MONDAY + 8 * SECOND)
    request = admit([key, gateway])
    assert request.time == MONDAY + 8 * SECOND
    request.settle(Charge(5), MONDAY - DAY_MS)
    assert levels(key) == [(1, 0), (5, 0)]
    assert refuse([key, gateway], now=MONDAY - DAY_MS).frees_at == MONDAY + 69 * SECOND


# --- refusals ------------------------------------------------------------------------------------


def test_all_accounts_let_a_request_in_or_none_changes() -> None:
    key, group = account("10 requests/1m", "1k tokens/1h"), account(kind=AccountKind.GROUP)
    gateway = account("500 tokens/day", kind=AccountKind.GATEWAY)
    request = admit([key, group, gateway], Charge(300))
    refusal = refuse([key, group, gateway], Charge(300))
    midnight = MONDAY - MONDAY % DAY_MS + DAY_MS
    limit = gateway.windows[0].limit
    kind = AccountKind.GATEWAY
    # It waits for its key's other request, which holds more than a share.
    assert refusal == LimitExceeded(kind, limit, 0, 300, 300, None, True, False, key)
    request.settle(Charge(300), MONDAY + SECOND)
    refusal = refuse([key, group, gateway], Charge(300), MONDAY + SECOND)
    assert refusal == LimitExceeded(kind, limit, 300, 0, 300, midnight, False, False, gateway)
    assert levels(key, gateway) == [(1, 0), (300, 0), (300, 0)]


@pytest.mark.parametrize(
    ("limits", "estimate", "worst"),
    [
        (["1 concurrent", "1 requests/1m"], Charge(1), "1 requests/1m"),
        (["1 requests/1m", "1 requests/1h"], Charge(1), "1 requests/1h"),
        (["1 requests/1h", "1 requests/1m"], Charge(1), "1 requests/1h"),
        (["1 requests/total", "1 requests/month"], Charge(1), "1 requests/total"),
        (["1 requests/total", "9 tokens/1m"], Charge(10), "9 tokens/1m"),
        (["1 concurrent", "9 tokens/1m"], Charge(5), "1 concurrent"),
        (["9 tokens/1m", "1 concurrent"], Charge(5), "9 tokens/1m"),
    ],
)
def test_of_several_obstacles_the_worst_is_named(
    limits: list[str], estimate: Charge, worst: str
) -> None:
    key = account(*limits)
    admit(key, Charge(5))
    refusal = refuse(key, estimate, capped=False)
    assert refusal.limit.text == worst
    assert refusal.never_fits is (estimate.input_tokens > 9)


def test_a_concurrency_limit_frees_when_a_request_ends() -> None:
    key = account("2 concurrent")
    first, _ = admit(key), admit(key)
    refusal = refuse(key, now=MONDAY + DAY_MS)
    assert (refusal.only_reserved, refusal.frees_at, refusal.reserved) == (True, None, 2)
    first.settle(Charge(), MONDAY + DAY_MS)
    admit(key, now=MONDAY + DAY_MS)


def test_when_it_frees_if_reservations_are_in_the_way_as_well() -> None:
    key = account("100 tokens/1m")
    admit(key, Charge(50)).settle(Charge(50), MONDAY)
    admit(key, Charge(40))
    # The used ones will have left, with the reserved ones kept.
    assert refuse(key, Charge(60)).frees_at == MONDAY + 61 * SECOND
    # They are in the way of this for good; without them it would fit in a minute.
    refusal = refuse(key, Charge(61))
    assert (refusal.frees_at, refusal.only_reserved) == (MONDAY + 61 * SECOND, False)
    # Only they are in the way of this, but it need not wait for them.
    refusal = refuse(key, Charge(11))
    assert (refusal.frees_at, refusal.only_reserved) == (MONDAY + 61 * SECOND, True)


def test_a_capped_reservation_has_the_window_to_itself() -> None:
    key = account("100 tokens/1m", "1k tokens/1h")
    small = admit(key, Charge(1))
    assert refuse(key, Charge(5000)).only_reserved
    small.settle(None, MONDAY)
    large = admit(key, Charge(5000))
    assert levels(key) == [(0, 100), (0, 1000)]
    large.settle(Charge(400), MONDAY + SECOND)
    assert levels(key) == [(400, 0), (400, 0)]
    refusal = refuse(key, Charge(5000), MONDAY + SECOND)
    assert (refusal.needed, refusal.limit.text) == (1000, "1k tokens/1h")
    assert refusal.frees_at == (MONDAY + SECOND) // MINUTE * MINUTE + 61 * MINUTE


def test_what_can_never_fit_and_the_largest_that_can() -> None:
    key = account("1k tokens/1m", "0.01 usd/day", "50 concurrent")
    gateway = account("600 output_tokens/1h", kind=AccountKind.GATEWAY)

    def estimate(max_tokens: int) -> Charge:
        return Charge(300, max_tokens, 900 + 15 * max_tokens)

    refusal = refuse([key, gateway], estimate(1000), capped=False)
    assert (refusal.never_fits, refusal.frees_at) == (True, None)
    assert largest_that_fits([key, gateway], estimate, 1000) == 600
    assert largest_that_fits([key], estimate, 1000) == (10_000 - 900) // 15
    assert largest_that_fits([key], estimate, 20) == 20
    assert largest_that_fits([account("299 tokens/1m")], estimate, 1000) == 0
    admit([key, gateway], estimate(600), capped=False)


def test_what_is_estimated_as_nothing_passes_a_limit_that_is_used_up() -> None:
    key = account("100 output_tokens/1h", "1 usd/month")
    admit(key, Charge(1, 100, 5)).settle(Charge(1, 140, 2_000_000), MONDAY)
    assert refuse(key, Charge(1, 1)).limit.metric is Metric.OUTPUT_TOKENS
    admit(key, Charge(1, 0))


# --- limits change -------------------------------------------------------------------------------


def test_a_change_keeps_what_was_used_and_what_runs() -> None:
    key = account("9 requests/1m", "100 tokens/1h", "100 tokens/day")
    admit(key, Charge(30)).settle(Charge(30), MONDAY)
    running = admit(key, Charge(60))
    limits = parse_limits(["70 tokens/1h", "1k tokens/month", "50 tokens/1m", "4 concurrent"])
    key.change_limits(limits, MONDAY)
    assert levels(key) == [(30, 60), (0, 60), (0, 50), (0, 1)]
    assert key.statuses(MONDAY)[0].remaining == 0
    running.settle(Charge(20), MONDAY + SECOND)
    assert levels(key) == [(50, 0), (20, 0), (20, 0), (0, 0)]
    key.change_limits((), MONDAY)
    admit(key, Charge(10**9))


def test_a_prepared_limit_counts_and_does_not_bind_until_the_change() -> None:
    key = account("100 tokens/1h")
    running = admit(key, Charge(10))
    limits = parse_limits(["50 tokens/day", "100 tokens/1h"])
    (window,) = key.prepare(limits, MONDAY)
    admit(key, Charge(45)).settle(Charge(45), MONDAY)
    admit(key, Charge(40)).settle(None, MONDAY)
    running.settle(Charge(5), MONDAY)
    replay([window], Charge(7), time=MONDAY - MINUTE, end=MONDAY - SECOND)
    assert levels(key) == [(50, 0)]
    key.change_limits(limits, MONDAY)
    assert levels(key) == [(57, 0), (50, 0)]
    assert key.windows[0] is window
    assert refuse(key, Charge(1)).limit.text == "50 tokens/day"


def test_what_a_prepared_limit_counts_ages_from_when_it_was_used() -> None:
    key = account()
    limits = parse_limits(["2 requests/1m", "100 tokens/1m"])
    key.prepare(limits, MONDAY)
    admit(key, Charge(9), MONDAY + MINUTE).settle(Charge(9), MONDAY + 2 * MINUTE)
    key.change_limits(limits, MONDAY + 2 * MINUTE)
    assert [status.used for status in key.statuses(MONDAY + 2 * MINUTE)] == [1, 9]
    assert [status.used for status in key.statuses(MONDAY + 3 * MINUTE)] == [0, 9]


def test_limits_may_change_to_others_than_were_prepared() -> None:
    key = account("100 tokens/1h")
    first, second = parse_limits(["50 tokens/day", "60 tokens/week"])
    (window,) = key.prepare([first], MONDAY)
    replay([window], Charge(7), time=MONDAY, end=MONDAY)
    key.change_limits([second, first], MONDAY)
    assert levels(key) == [(0, 0), (7, 0)]


# --- how it stands -------------------------------------------------------------------------------


def test_the_tightest_limit_of_each_metric() -> None:
    key = account(
        "10 requests/1m", "8 requests/day", "1k tokens/1m", "1k tokens/1h", "5 input_tokens/total",
        "5 input_tokens/month", "9 output_tokens/1h", "9 output_tokens/total", "3 concurrent",
    )  # fmt: skip
    admit(key, Charge(4)).settle(Charge(4), MONDAY)
    tightest = tightest_of(key.statuses(MONDAY))
    assert {metric: limit_status.limit.text for metric, limit_status in tightest.items()} == {
        Metric.REQUESTS: "8 requests/day",
        Metric.TOKENS: "1k tokens/1h",
        Metric.INPUT_TOKENS: "5 input_tokens/total",
        Metric.OUTPUT_TOKENS: "9 output_tokens/1h",
        Metric.CONCURRENT: "3 concurrent",
    }
    assert tightest[Metric.REQUESTS].remaining == 7


def test_a_thousand_accounts_with_five_limits_are_small() -> None:
    limits = parse_limits(
        ["60 requests/1m", "2M tokens/5h", "20M tokens/7d", "20 usd/month", "8 concurrent"]
    )
    gc.collect()
    tracemalloc.start()
    try:
        accounts = [Account(AccountKind.KEY, limits, MONDAY) for _ in range(100)]
        for key in accounts:
            for step in range(70):
                now = MONDAY + step * 7919 * SECOND
                admit(key, Charge(9000, 900, 9999), now).settle(Charge(8000, 800, 8888), now)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size * 10 < 20e6


class TestShares:
    """What one key's running requests hold of a limit that others share."""

    def setup_method(self) -> None:
        self.group = Account(
            AccountKind.GROUP, parse_limits(["1000 tokens/day"]), MONDAY, "friends"
        )
        self.squatter, self.other = account(), account()

    def ask(self, key: Account, amount: int) -> Reservation | LimitExceeded:
        return reserve((key, self.group), Charge(output_tokens=amount), MONDAY, capped=False)

    def asked(self, key: Account, amount: int) -> Reservation:
        reservation = self.ask(key, amount)
        assert isinstance(reservation, Reservation)
        return reservation

    def held_back(self, key: Account, amount: int) -> LimitExceeded:
        exceeded = self.ask(key, amount)
        assert isinstance(exceeded, LimitExceeded)
        return exceeded

    def test_are_a_quarter_of_what_is_left(self) -> None:
        self.asked(self.squatter, 100)
        self.asked(self.squatter, 150)
        exceeded = self.held_back(self.squatter, 1)
        assert (exceeded.kind, exceeded.only_reserved) == (AccountKind.GROUP, True)
        assert (exceeded.frees_at, exceeded.never_fits) == (None, False)

    def test_fall_with_what_is_left(self) -> None:
        self.asked(self.other, 800).settle(Charge(output_tokens=800), MONDAY)
        self.asked(self.squatter, 25)
        self.asked(self.squatter, 25)
        self.held_back(self.squatter, 1)

    def test_leave_room_for_another_key(self) -> None:
        while isinstance(self.ask(self.squatter, 10), Reservation):
            pass
        self.asked(self.other, 700)

    def test_one_request_may_hold_more(self) -> None:
        self.asked(self.other, 200)
        self.asked(self.squatter, 800)

    def test_whoever_uses_what_it_reserves_may_hold_more(self) -> None:
        self.asked(self.other, 300).settle(Charge(output_tokens=300), MONDAY)
        self.asked(self.other, 100)
        self.asked(self.other, 375)
        self.held_back(self.other, 1)

    def test_a_reservation_that_ends_makes_room_for_the_next(self) -> None:
        first = self.asked(self.squatter, 250)
        self.held_back(self.squatter, 1)
        first.grow(Charge(output_tokens=400))
        first.settle(Charge(), MONDAY)
        self.asked(self.squatter, 250)
        self.held_back(self.squatter, 1)

    def test_are_none_in_limits_of_concurrency_and_of_requests(self) -> None:
        self.group = account("4 concurrent", "4 requests/1m", kind=AccountKind.GROUP)
        for _ in range(4):
            self.asked(self.squatter, 10)
