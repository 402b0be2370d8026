"""How parts of a whole, changes and latencies are written."""

from __future__ import annotations

import pytest

from opuslive.web.pages.proportions import change, share


@pytest.mark.parametrize(
    ("part", "whole", "written"),
    [
        (0, 0, "–"),
        (0, 9, "0 %"),
        (9, 9, "100 %"),
        (1, 3, "33.3 %"),
        (99_999, 100_000, "99.9 %"),
        (1, 100_000, "< 0.1 %"),
        (1, 2, "50.0 %"),
    ],
)
def test_a_share_never_rounds_to_all_or_nothing(part: int, whole: int, written: str) -> None:
    assert share(part, whole) == written


@pytest.mark.parametrize(
    ("number", "before", "written"),
    [
        (112, 100, "12 % more than the day before"),
        (88, 100, "12 % less than the day before"),
        (0, 100, "100 % less than the day before"),
        (1001, 1000, "< 1 % more than the day before"),
        (999, 1000, "< 1 % less than the day before"),
        (999, 100, "899 % more than the day before"),
        (1000, 100, "10 times that of the day before"),
        (5, 5, "as in the day before"),
        (5, 0, "none in the day before"),
        (0, 0, "none in the day before either"),
    ],
)
def test_a_change_is_told_as_people_say_it(number: int, before: int, written: str) -> None:
    assert change(number, before, "the day before") == written
