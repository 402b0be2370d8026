"""The geometry of charts."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opuslive.web.pages.charts import (
    GAUGE,
    HEIGHT,
    LEAST,
    LEFT,
    WIDTH,
    ChartColumn,
    column_chart,
    gauge_bar,
    round_ticks,
    shares,
)

AMOUNTS = st.integers(0, 10**15)


@pytest.mark.parametrize(
    ("most", "ticks"),
    [
        (0, (0, 1)),
        (1, (0, 1)),
        (3, (0, 1, 2, 3)),
        (4, (0, 1, 2, 3, 4)),
        (5, (0, 2, 4, 6)),
        (9, (0, 5, 10)),
        (37, (0, 10, 20, 30, 40)),
        (1_000_001, (0, 500_000, 1_000_000, 1_500_000)),
    ],
)
def test_ticks_of_an_axis_are_round(most: int, ticks: tuple[int, ...]) -> None:
    assert round_ticks(most) == ticks


@given(AMOUNTS)
def test_ticks_reach_the_largest_in_few_steps(most: int) -> None:
    ticks = round_ticks(most)
    assert 2 <= len(ticks) <= 5
    assert ticks[-2] < max(most, 1) <= ticks[-1]
    assert len({after - before for before, after in itertools.pairwise(ticks)}) == 1


@given(st.lists(st.tuples(AMOUNTS, AMOUNTS, AMOUNTS), min_size=1, max_size=60))
def test_columns_stand_on_the_base_line_side_by_side(parts: list[tuple[int, ...]]) -> None:
    chart = column_chart([ChartColumn(str(part), part) for part in parts], str)
    assert len(chart.bars) == len(parts)
    right = LEFT
    for bar, numbers in zip(chart.bars, parts, strict=True):
        assert [box.part for box in bar.boxes] == [i for i, n in enumerate(numbers) if n]
        base = chart.base
        for box in bar.boxes:
            assert box.y + box.height == pytest.approx(base, abs=0.02)
            assert box.height >= LEAST
            assert right <= box.x
            assert box.x + box.width <= WIDTH
            base = box.y
        # What is too small to be seen is drawn a little larger than it is.
        assert base >= -3 * LEAST
        right = max([right, *(box.x + box.width for box in bar.boxes)])


def test_heights_of_columns_are_in_proportion() -> None:
    chart = column_chart([ChartColumn("a", (10,)), ChartColumn("b", (40,), "B")], str)
    small, large = (bar.boxes[0].height for bar in chart.bars)
    assert large == pytest.approx(4 * small, abs=0.05)
    assert [mark.text for mark in chart.across] == ["0", "10", "20", "30", "40"]
    assert chart.across[0].at == chart.base < HEIGHT
    assert chart.across[-1].at == chart.bars[1].boxes[0].y
    assert [mark.text for mark in chart.along] == ["B"]
    assert LEFT < chart.along[0].at < WIDTH


def test_a_chart_of_nothing_is_empty() -> None:
    assert column_chart([], str).bars == ()
    assert column_chart([ChartColumn("none", (0, 0))], str).bars[0].boxes == ()


def test_gauge_bars_are_in_proportion_and_end_at_their_whole() -> None:
    assert gauge_bar(25, 50, 100) == gauge_bar(1, 2, 4)
    assert gauge_bar(25, 50, 100).reserved == 50.0
    # Limits can be overshot, and lowered below what is used.
    assert (gauge_bar(300, 10, 100).used, gauge_bar(300, 10, 100).reserved) == (GAUGE, 0.0)
    assert gauge_bar(90, 30, 100).reserved == pytest.approx(10)


def test_shares_are_relative_to_the_largest() -> None:
    assert shares([50, 100, 0]) == (50.0, 100.0, 0.0)
    assert shares([0, 0]) == (0.0, 0.0)
    assert shares([]) == ()
