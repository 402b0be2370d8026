"""The steps of a series over a range: its hours, days, weeks or months, oldest first."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from opuslive.limits.grammar import Period
from opuslive.limits.windows import period_bounds
from opuslive.times import DAY_MS, HOUR_MS
from opuslive.web.pages import words

StepName = Literal["hour", "day", "week", "month"]
#: The longest range, in days, whose series has steps of this length: up to a hundred columns or so.
_LONGEST: Sequence[tuple[int, StepName]] = ((3, "hour"), (100, "day"), (700, "week"))
#: The number of hours in a series, and every how many of them one has a label.
_EVERY_HOURS = ((6, 1), (12, 3), (24, 6), (49, 12))
#: About so many columns of other series have a label.
_LABELS = 5


@dataclass(frozen=True, slots=True)
class Steps:
    """``starts`` are those of the steps, in ms since the epoch; the last one reaches to the end."""

    name: StepName
    starts: Sequence[int]

    def index(self, at: int) -> int:
        """The step that a moment is in; -1 for one before all of them."""
        return bisect_right(self.starts, at) - 1

    def label(self, index: int) -> str:
        """The whole name of a step."""
        start = self.starts[index]
        if self.name == "hour":
            return f"{words.day(start)}, {words.clock_time(start)}"
        if self.name == "day":
            return words.day(start)
        if self.name == "week":
            return f"week of {words.day(start)}"
        return words.month(start)

    def mark(self, index: int) -> str | None:
        """The label below its column, if it gets one."""
        start, number = self.starts[index], len(self.starts)
        if self.name == "hour":
            every = next((each for most, each in _EVERY_HOURS if number <= most), 24)
            if start // HOUR_MS % every:
                return None
            return words.clock_time(start) if start % DAY_MS else words.short_day(start)
        every = 7 if self.name == "day" and 14 < number <= 35 else -(-number // _LABELS)
        if (number - 1 - index) % every:
            return None
        return words.short_month(start) if self.name == "month" else words.short_day(start)


def steps_of(since: int, until: int) -> Steps:
    """Steps of a length that suits the range, in ms since the epoch. A week or month that the range
    begins in is a shorter step."""
    days = -(-(until - since) // DAY_MS)
    name: StepName = next((name for most, name in _LONGEST if days <= most), "month")
    return Steps(name, _starts(name, since, until))


def days_of(since: int, until: int) -> Steps:
    return Steps("day", _starts("day", since, until))


def hours_of(since: int, until: int) -> Steps:
    return Steps("hour", _starts("hour", since, until))


def _starts(name: StepName, since: int, until: int) -> Sequence[int]:
    if name in ("hour", "day"):
        ms = HOUR_MS if name == "hour" else DAY_MS
        return range(since // ms * ms, until, ms)
    period = Period.WEEK if name == "week" else Period.MONTH
    starts = [since]
    while (following := period_bounds(period, starts[-1])[1]) < until:
        starts.append(following)
    return starts
