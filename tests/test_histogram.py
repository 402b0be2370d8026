"""Counts by bounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from opuslive.histogram import Histogram

BOUNDS = (0.1, 1.0, 10.0)


def test_a_bound_belongs_to_what_is_below_it() -> None:
    histogram = Histogram(BOUNDS)
    for value in (0.0, 0.1, 0.11, 1.0, 10.0, 10.01):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1, 1]


@given(st.lists(st.integers(0, 20)))
def test_every_value_counts_once_and_in_the_sum(values: list[int]) -> None:
    histogram = Histogram(BOUNDS)
    for value in values:
        histogram.observe(value)
    assert (histogram.count, histogram.sum) == (len(values), sum(values))
    for position, bound in enumerate(BOUNDS):
        at_most = sum(value <= bound for value in values)
        assert sum(histogram.counts[: position + 1]) == at_most


def test_a_copy_stays_as_it_was() -> None:
    histogram = Histogram(BOUNDS)
    histogram.observe(0.5)
    copy = histogram.copy()
    histogram.observe(0.5)
    assert (copy.count, copy.sum, histogram.count) == (1, 0.5, 2)
