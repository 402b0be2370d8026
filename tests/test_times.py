"""The clocks: which settings of the wall clock the date follows, and which it does not.

What belongs to a clock that is set: a machine that wakes or a board without a battery (days ahead,
seconds after the start), one that was ahead and goes back, a second setting soon after the first.
What does not: corrections by little, leap seconds, one look that was late, a clock that jumps back
and forth.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opuslive.times import (
    DAY_MS,
    HOUR_MS,
    LOOKS,
    MINUTE_MS,
    PAUSE_MS,
    TOLERANCE_MS,
    Clock,
    StepDetector,
)


def moves(aheads: Sequence[int], interval: int = 500) -> list[int]:
    """What comes of looks so many ms apart; a move takes its part off what follows it."""
    detector, moved, found = StepDetector(), 0, []
    for index, ahead in enumerate(aheads):
        delta = detector.look(ahead - moved, index * interval)
        moved += delta
        found.append(delta)
    return found


@pytest.mark.parametrize(
    "ahead", [3 * DAY_MS, -3 * DAY_MS, HOUR_MS, -TOLERANCE_MS - 1, 56 * 365 * DAY_MS]
)
def test_a_clock_that_is_set_and_stays_so_is_followed_once(ahead: int) -> None:
    assert moves([0, 0, *[ahead] * 10]) == [0] * (1 + LOOKS) + [ahead] + [0] * (10 - LOOKS)


@pytest.mark.parametrize("ahead", [1, -1, 1_000, -1_000, TOLERANCE_MS, -TOLERANCE_MS])
def test_small_corrections_and_leap_seconds_are_not_followed(ahead: int) -> None:
    assert not any(moves([ahead] * 1_000))


def test_one_late_look_moves_nothing() -> None:
    assert not any(moves([0, 5_000, 5_000, 0] * 100))


@given(st.lists(st.integers(-10 * DAY_MS, 10 * DAY_MS), max_size=100))
def test_a_clock_that_jumps_back_and_forth_is_not_followed(jumps: list[int]) -> None:
    aheads = [ahead for jump in jumps for ahead in (*[jump] * (LOOKS - 1), 0)]
    assert not any(moves(aheads))


@given(st.lists(st.integers(-10 * DAY_MS, 10 * DAY_MS), max_size=400), st.integers(1, 5_000))
def test_the_date_is_moved_once_a_minute_at_most(aheads: list[int], interval: int) -> None:
    times = [
        index * interval
        for index, delta in enumerate(moves([each for each in aheads for _ in range(4)], interval))
        if delta
    ]
    assert all(b - a >= PAUSE_MS for a, b in pairwise(times))


def test_a_second_setting_is_followed_when_the_pause_is_over() -> None:
    found = moves([DAY_MS] * 4 + [DAY_MS + HOUR_MS] * 200)
    assert [delta for delta in found if delta] == [DAY_MS, HOUR_MS]
    assert found.index(HOUR_MS) == found.index(DAY_MS) + PAUSE_MS // 500


def test_the_date_moves_and_what_elapsed_does_not() -> None:
    wall, elapsed = 1_000, 1_000
    clock = Clock(lambda: wall, lambda: elapsed)
    wall, elapsed = 1_500 + DAY_MS, 1_500
    assert (clock.steady_ms(), clock.wall_is_ahead) == (1_500, DAY_MS)
    clock.move(DAY_MS)
    assert (clock.steady_ms(), clock.wall_is_ahead) == (1_500 + DAY_MS, 0)
    assert clock.elapsed_ms() == 1_500
    assert clock.started_at == 1_000 + DAY_MS
    clock.move(-MINUTE_MS)
    assert clock.steady_ms() == 1_500 + DAY_MS - MINUTE_MS
