"""Until when a body may take, with the time that a test says it is."""

from __future__ import annotations

from opuslive.web.http.deadlines import Pace

KB = 1024
RATE = 64 * KB
GRACE = 30.0


def test_a_body_at_the_least_rate_never_runs_out_of_time() -> None:
    pace = Pace(GRACE, RATE, 0.0)
    for second in range(1, 3_600):
        assert second < pace.deadline
        pace.arrived(RATE, float(second))


def test_a_body_at_the_least_rate_may_come_in_gusts() -> None:
    """An uplink that others use, too: nothing for 20 s, then all of it."""
    pace = Pace(GRACE, RATE, 0.0)
    for second in range(20, 3_600, 20):
        assert second < pace.deadline
        pace.arrived(20 * RATE, float(second))


def test_a_body_that_stops_is_cut_soon_however_much_of_it_is_there() -> None:
    """Neither what came nor how fast it came buys a body time to do nothing."""
    for size in (0, 1, 64 * KB, 32 * 1024 * KB - 1):
        pace = Pace(GRACE, RATE, 0.0)
        assert pace.arrived(size, 1.0) <= 1.0 + GRACE


def test_a_body_that_trickles_in_is_cut_soon() -> None:
    pace = Pace(GRACE, RATE, 0.0)
    second = 0.0
    while second < pace.deadline:
        second += 1.0
        pace.arrived(KB, second)
    assert second < GRACE + 2.0


def test_a_pause_is_paid_for_once() -> None:
    pace = Pace(GRACE, RATE, 0.0)
    assert pace.arrived(RATE, 29.0) == 31.0
    assert pace.arrived(10 * RATE, 30.5) == 41.0
    assert pace.arrived(100 * RATE, 40.0) == 40.0 + GRACE
