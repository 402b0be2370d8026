"""The geometry of charts: numbers in, coordinates out. Templates turn them into SVG.

Coordinates are in the units of the chart's own view box, from its top left corner.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDTH = 440.0
HEIGHT = 190.0
#: Room for the labels of the axes.
LEFT, RIGHT, TOP, BOTTOM = 46.0, 4.0, 10.0, 24.0
#: The share of a column's room that stays empty between two columns.
GAP = 0.28
#: The least height of a part that is more than nothing, so that it can be seen.
LEAST = 1.0
#: The length of a gauge.
GAUGE = 100.0


@dataclass(frozen=True, slots=True)
class ChartColumn:
    """The numbers of a column: ``parts`` from the bottom up; ``label`` is for the axis, if any."""

    title: str
    parts: tuple[int, ...]
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle; ``part`` says which part of its column it is."""

    x: float
    y: float
    width: float
    height: float
    part: int


@dataclass(frozen=True, slots=True)
class Bar:
    """A column as it is drawn."""

    title: str
    boxes: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """A label of an axis, and where on it."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Columns over a base line, with lines across at round numbers."""

    bars: tuple[Bar, ...]
    across: tuple[Mark, ...]
    along: tuple[Mark, ...]
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT
    base: float = HEIGHT - BOTTOM


@dataclass(frozen=True, slots=True)
class GaugeBar:
    """How much of a gauge is used, and how much reserved behind that."""

    used: float
    reserved: float


def column_chart(columns: Sequence[ChartColumn], label: Callable[[int], str]) -> Chart:
    """Place the columns; ``label`` writes the numbers of the upright axis."""
    ticks = round_ticks(max((sum(column.parts) for column in columns), default=0))
    top = ticks[-1]
    base, room = HEIGHT - BOTTOM, HEIGHT - BOTTOM - TOP
    step = (WIDTH - LEFT - RIGHT) / max(1, len(columns))
    bars, along = [], []
    for index, column in enumerate(columns):
        left = LEFT + index * step
        bars.append(Bar(column.title, _stack(column.parts, left, step, base, room / top)))
        if column.label is not None:
            along.append(Mark(_round(left + step / 2), column.label))
    across = tuple(Mark(_round(base - tick * room / top), label(tick)) for tick in ticks)
    return Chart(tuple(bars), across, tuple(along))


def round_ticks(most: int) -> tuple[int, ...]:
    """From 0 in equal steps of 1, 2 or 5 times a power of ten to ``most`` or just beyond it."""
    step, factor = 1, 0
    while step * 4 < most:
        factor += 1
        step = (1, 2, 5)[factor % 3] * 10 ** (factor // 3)
    return tuple(range(0, max(most, 1) + step, step)[: -(-max(most, 1) // step) + 1])


def gauge_bar(used: int, reserved: int, whole: int) -> GaugeBar:
    """The lengths of both parts; a full gauge is ``GAUGE`` long."""
    first = min(GAUGE, used * GAUGE / whole)
    return GaugeBar(_round(first), _round(min(GAUGE - first, reserved * GAUGE / whole)))


def shares(numbers: Sequence[int]) -> tuple[float, ...]:
    """The length of each number; the largest is ``GAUGE`` long."""
    most = max(numbers, default=0)
    return tuple(_round(number * GAUGE / most) if most else 0.0 for number in numbers)


def _stack(
    parts: Sequence[int], left: float, step: float, base: float, scale: float
) -> tuple[Box, ...]:
    boxes = []
    x, width = _round(left + step * GAP / 2), _round(step * (1 - GAP))
    for part, number in enumerate(parts):
        if number > 0:
            height = max(LEAST, number * scale)
            base -= height
            boxes.append(Box(x, _round(base), width, _round(height), part))
    return tuple(boxes)


def _round(length: float) -> float:
    """To hundredths: nobody sees more, and pages stay small."""
    return round(length, 2)
