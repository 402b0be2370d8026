"""Accounts never let more pass than their limits: pace, spans, and wrong estimates."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from opuslive.limits.accounts import Account, AccountKind, Reservation, reserve
from opuslive.limits.charges import Charge
from opuslive.limits.grammar import Limit, Metric, parse_limits
from tests.support.accounts import running as requests_running
from tests.support.clock import NOW

SECOND = 1000
MINUTE = 60 * SECOND


# --- requests at a pace --------------------------------------------------------------------------


def admitted(limits: Sequence[Limit], moments: Sequence[int]) -> list[int]:
    """Which of the requests at these moments are let in; each lasts 100 ms."""
    key = Account(AccountKind.KEY, limits, NOW)
    inside = []
    for moment in moments:
        result = reserve([key], Charge(10), moment, capped=True)
        if isinstance(result, Reservation):
            result.settle(Charge(10), moment + 100)
            inside.append(moment)
    return inside


def evenly(a_minute: int, start: int, minutes: int) -> list[int]:
    return [start + round(i * MINUTE / a_minute) for i in range(a_minute * minutes)]


def most_in_a_span(moments: Sequence[int], span: int) -> int:
    """The most that lie within any span of this length, both its ends included."""
    return max(
        (sum(first <= moment <= first + span for moment in moments) for first in moments),
        default=0,
    )


phases = st.integers(0, MINUTE)


@given(phases)
def test_58_a_minute_are_never_refused_at_60(phase: int) -> None:
    moments = evenly(58, NOW + phase, minutes=5)
    # The second limit has a window of its own: it takes nothing from the first.
    assert admitted(parse_limits(["60 requests/1m", "99k tokens/1m"]), moments) == moments


@given(phases)
def test_61_a_minute_are_always_refused_at_60(phase: int) -> None:
    moments = evenly(61, NOW + phase, minutes=1)
    assert len(admitted(parse_limits(["60 requests/1m", "1M tokens/1h"]), moments)) == 60


@given(phases, st.sampled_from([60, 61, 90, 600]))
def test_no_minute_holds_more_than_60_of_60_requests_a_minute(phase: int, a_minute: int) -> None:
    moments = evenly(a_minute, NOW + phase, minutes=3)
    inside = admitted(parse_limits(["60 requests/1m"]), moments)
    assert most_in_a_span(inside, MINUTE) == 60
    assert len(inside) >= 3 * 60 * 60 // 61


@given(
    length=st.integers(1, 120),
    amount=st.integers(1, 20),
    gaps=st.lists(st.integers(0, 4000), max_size=200),
)
def test_no_span_as_long_as_the_window_holds_more_than_the_limit(
    length: int, amount: int, gaps: list[int]
) -> None:
    limit = Limit(Metric.REQUESTS, amount, length)
    inside = admitted([limit], list(accumulate(gaps, initial=NOW)))
    assert most_in_a_span(inside, length * SECOND) <= amount


# --- tokens, which are estimated -----------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """``gap`` ms after the one before it; it lasts ``duration`` ms."""

    gap: int
    duration: int
    estimate: int
    actual: int


@dataclass(frozen=True)
class Outcome:
    """What was used at the end of a request, and by how much those that ran at the latest
    admission before it could exceed what they had reserved."""

    end: int
    used: int
    error: int


def requests(*, exact: bool) -> st.SearchStrategy[list[Request]]:
    estimates = st.integers(1, 60)
    return st.lists(
        estimates.flatmap(
            lambda estimate: st.builds(
                Request,
                gap=st.integers(0, 20 * SECOND),
                duration=st.integers(0, 3 * MINUTE),
                estimate=st.just(estimate),
                actual=st.integers(0, estimate if exact else 3 * estimate),
            )
        ),
        max_size=60,
    )


def outcomes(limit: Limit, planned: Sequence[Request], *, capped: bool) -> list[Outcome]:
    """Let the requests run in the order of time, and see what is used when they end."""
    key = Account(AccountKind.KEY, [limit], NOW)
    running: list[tuple[int, int, Request, Reservation]] = []
    ended = []
    error = 0

    def end_until(moment: int) -> None:
        while running and running[0][0] <= moment:
            end, _, request, reservation = heapq.heappop(running)
            reservation.settle(Charge(request.actual), end)
            ended.append(Outcome(end, request.actual, error))

    now = NOW
    for number, request in enumerate(planned):
        now += request.gap
        end_until(now)
        result = reserve([key], Charge(request.estimate), now, capped=capped)
        if isinstance(result, Reservation):
            heapq.heappush(running, (now + request.duration, number, request, result))
            error = sum(max(0, r.actual - min(r.estimate, limit.amount)) for _, _, r, _ in running)
    end_until(now + 3 * MINUTE)
    (limit_status,) = key.statuses(now)
    assert (limit_status.reserved, requests_running(key, now)) == (0, 0)
    return ended


def used_in_span(ended: Sequence[Outcome], last: int, span: int) -> int:
    """What was used until the end of one request, and in the span before it."""
    until = ended[last].end
    return sum(outcome.used for outcome in ended[: last + 1] if until - outcome.end <= span)


limits = st.builds(
    Limit, st.just(Metric.TOKENS), st.integers(30, 200), st.sampled_from([1, 7, 60, 100])
)


@given(limits, requests(exact=True))
def test_with_exact_estimates_no_span_ever_holds_more_than_the_limit(
    limit: Limit, planned: list[Request]
) -> None:
    assert isinstance(limit.window, int)
    ended = outcomes(limit, planned, capped=False)
    for last in range(len(ended)):
        assert used_in_span(ended, last, limit.window * SECOND) <= limit.amount


@given(limits, requests(exact=False))
def test_a_span_exceeds_the_limit_by_the_error_of_what_ran_at_most(
    limit: Limit, planned: list[Request]
) -> None:
    assert isinstance(limit.window, int)
    ended = outcomes(limit, planned, capped=True)
    for last, outcome in enumerate(ended):
        used = used_in_span(ended, last, limit.window * SECOND)
        assert used <= limit.amount + outcome.error
