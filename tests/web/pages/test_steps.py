"""The steps of a series: hours, days, weeks or months of a range."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from opuslive.times import DAY_MS, HOUR_MS
from opuslive.web.pages.steps import StepName, steps_of


def ms(*parts: int) -> int:
    year, month, day, hour, minute = (*parts, 0, 0)[:5]
    return int(datetime(year, month, day, hour, minute, tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("since", "until", "name", "number"),
    [
        (ms(2026, 11, 23), ms(2026, 11, 23, 15, 4), "hour", 16),
        (ms(2026, 11, 20, 5), ms(2026, 11, 23, 5), "hour", 72),
        (ms(2026, 11, 1), ms(2026, 11, 23, 15, 4), "day", 23),
        (ms(2026, 10, 24, 15), ms(2026, 11, 23, 15, 4), "day", 31),
        (ms(2026, 1, 1), ms(2026, 7, 1), "week", 27),
        (ms(2020, 2, 3), ms(2026, 2, 3), "month", 73),
        (0, ms(2026, 2, 3), "month", 674),
    ],
)
def test_a_range_has_steps_that_suit_its_length(
    since: int, until: int, name: StepName, number: int
) -> None:
    steps = steps_of(since, until)
    assert (steps.name, len(steps.starts)) == (name, number)
    assert steps.starts[0] <= since < until
    assert steps.index(since) == 0
    assert steps.index(until - 1) == number - 1


def test_what_is_outside_is_in_no_step_or_in_the_last() -> None:
    steps = steps_of(ms(2026, 11, 1), ms(2026, 11, 23))
    assert steps.index(ms(2026, 11, 1) - 1) == -1
    assert steps.index(ms(2026, 11, 23)) == 21


@pytest.mark.parametrize(
    ("since", "until", "first", "last"),
    [
        (ms(2026, 11, 23), ms(2026, 11, 23, 2), "23 Nov 2026, 00:00", "23 Nov 2026, 01:00"),
        (ms(2026, 11, 1), ms(2026, 11, 24), "1 Nov 2026", "23 Nov 2026"),
        (ms(2026, 1, 1), ms(2026, 7, 1), "week of 1 Jan 2026", "week of 29 Jun 2026"),
        (ms(2020, 2, 3), ms(2026, 2, 3), "February 2020", "February 2026"),
    ],
)
def test_each_step_has_a_name(since: int, until: int, first: str, last: str) -> None:
    steps = steps_of(since, until)
    assert steps.label(0) == first
    assert steps.label(len(steps.starts) - 1) == last


@pytest.mark.parametrize("hours", [3, 15, 30, 72, 24 * 5, 24 * 30, 24 * 99, 24 * 300, 24 * 4000])
def test_few_steps_are_labelled_and_the_last_day_is(hours: int) -> None:
    until = ms(2026, 11, 23, 12)
    steps = steps_of(until - hours * HOUR_MS, until)
    marks = [steps.mark(index) for index in range(len(steps.starts))]
    assert 1 <= sum(mark is not None for mark in marks) <= 7
    if steps.name != "hour":
        assert marks[-1] is not None


def test_days_are_found_at_their_beginning_and_end() -> None:
    steps = steps_of(ms(2026, 11, 1), ms(2026, 11, 24))
    for index, start in enumerate(steps.starts):
        assert steps.index(start) == steps.index(start + DAY_MS - 1) == index
