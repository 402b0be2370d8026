"""Stretches of time that usage is reported of, and the stretch that each is compared with."""

from __future__ import annotations

from dataclasses import dataclass

from opuslive.errors import UsageError
from opuslive.quantities import parse_since, parse_until
from opuslive.times import CALENDAR, HOUR_MS, CalendarUnit, end_of_day


@dataclass(frozen=True, slots=True)
class Span:
    """From ``since`` to before ``until``, in ms since the epoch. ``unit`` is the present stretch of
    the calendar that it is, so far as that has passed; None for any other span. It ``is_open`` if
    it reaches until now."""

    since: int
    until: int
    unit: CalendarUnit | None = None
    is_open: bool = True

    @property
    def read_until(self) -> int:
        """Until when sums are read. What they have of the hour and the day that ``until`` is in
        is all before it, if it is now; and whole days are read faster than their hours."""
        return end_of_day(self.until) if self.is_open else self.until

    def compared(self) -> tuple[Span, Span] | None:
        """The whole hours of this span, and the span before to compare them with.

        The present day, week and month are compared with the one before up to the same time of it,
        any other span with the one of the same length that ends where it begins. The hour that
        still runs is left out: the sums of an hour ago can't be told up to a minute of it. None
        where no whole hour is left, or the time before lies before the epoch.
        """
        since = self.since // HOUR_MS * HOUR_MS
        until = self.until // HOUR_MS * HOUR_MS
        if until <= since:
            return None
        if self.unit is not None:
            earlier = Span(self.unit.start(since - 1), self.unit.earlier(until), is_open=False)
        else:
            earlier = Span(2 * since - until, since, is_open=False)
        if earlier.since < 0:
            return None
        return Span(since, until, is_open=False), earlier


def parse_span(since: str, until: str | None, now: int) -> Span:
    """The span that two texts name; ``until`` is now where it is not given.

    ``since`` becomes the beginning of its hour, and ``until`` the end of its hour: sums are of
    hours. What lies in the future is left out. Raises UsageError.
    """
    first = parse_since(since, now) // HOUR_MS * HOUR_MS
    if first > now:
        raise UsageError("'since' lies in the future.")
    end = None if until is None else -(-parse_until(until, now) // HOUR_MS) * HOUR_MS
    if end is None or end > now:
        return Span(first, now, CALENDAR.get(since.strip()))
    if end <= first:
        raise UsageError("'until' has to be later than 'since'.")
    return Span(first, end, is_open=False)
