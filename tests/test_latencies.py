"""Quantiles that are told from counts by bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opuslive.histogram import quantile
from opuslive.latencies import LATENCY_BOUNDS_MS, Latencies, format_latency, latency_place


def counted(*values: int) -> Latencies:
    counts = [0] * (len(LATENCY_BOUNDS_MS) + 1)
    for value in values:
        counts[latency_place(value)] += 1
    return Latencies(counts)


def test_without_requests_there_is_no_latency() -> None:
    assert Latencies().as_dict() == {"latency_median_ms": None, "latency_p95_ms": None}


def test_values_lie_evenly_between_two_bounds() -> None:
    assert quantile((10, 20), (0, 4, 0), 0.5) == 15
    assert quantile((10, 20), (2, 2, 0), 0.25) == 5
    assert quantile((10, 20), (0, 0, 3), 0.5) == 20  # all that is known: it is more
    assert quantile((10, 20), (0, 4, 0), 0.0) == 10


@given(st.lists(st.integers(0, 600_000), min_size=1), st.sampled_from([0.5, 0.95]))
def test_a_quantile_lies_between_the_bounds_of_the_true_one(values: list[int], part: float) -> None:
    found = quantile(LATENCY_BOUNDS_MS, counted(*values).counts, part)
    true = sorted(values)[max(0, -int(-part * len(values) // 1) - 1)]
    place = latency_place(true)
    assert found is not None
    assert (0, *LATENCY_BOUNDS_MS)[place] <= found <= LATENCY_BOUNDS_MS[place]


@pytest.mark.parametrize("bound", LATENCY_BOUNDS_MS)
def test_a_bound_belongs_to_what_is_below_it(bound: int) -> None:
    assert latency_place(bound) + 1 == latency_place(bound + 1)


def test_totals_are_those_of_all_parts() -> None:
    parts = [counted(100, 1_000), counted(700_000)]
    assert Latencies.total(parts).counts == counted(100, 1_000, 700_000).counts


@pytest.mark.parametrize(
    ("ms", "written"),
    [
        (0, "0 ms"),
        (999, "999 ms"),
        (1_000, "1.0 s"),
        (59_940, "59.9 s"),
        (125_400, "2 min 5 s"),
        (600_000, "10 min or more"),
    ],
)
def test_a_latency_is_written_in_its_unit(ms: int, written: str) -> None:
    assert format_latency(ms) == written
