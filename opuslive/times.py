"""Units of time, how moments are written, and the clocks. Nothing here reads a clock.

Moments are in ms since the Unix epoch everywhere.

Theory of the clocks. The machine has two: its wall clock, which knows the date but may be set at
any moment, and one that measures how much time passes, and is never set. Three are made of them::

    wall_ms      the wall clock                                   when a key expires
    elapsed_ms   the wall clock at the start + what passed since  throttles: it never goes back
    steady_ms    elapsed_ms + what the date was moved by          windows, records, all else

A fourth one, ``passed_ns``, measures what takes less than a ms; it knows no date.

``steady_ms`` goes on evenly while the wall clock is corrected by a little. When the wall clock is
*set* (a machine wakes, a board hears from a time server), the date is moved after it, and the log
says so. ``StepDetector`` decides when: the wall clock has to be off by more than ``TOLERANCE_MS``,
by the same amount in ``LOOKS`` looks one after the other, so that a clock which jumps back and
forth moves nothing; and the date is moved once a minute at most. Until then the old date holds.

Whatever keeps a moment of ``steady_ms`` has to move it along, in the same synchronous step
(``Dated``): so how long ago something was is the same before and after, and only its date is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final, Protocol

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

#: The wall clock may be off by so many ms: leap seconds, and corrections that are no setting.
TOLERANCE_MS: Final = 2_000
#: How often in a row the wall clock has to be off by the same.
LOOKS: Final = 3
#: ms from one move of the date to the next, at least.
PAUSE_MS: Final = MINUTE_MS


class Dated(Protocol):
    """Keeps moments of ``Clock.steady_ms``."""

    def shift(self, delta: int) -> None:
        """The date is about to be moved by ``delta`` ms: move every moment that is kept."""


class Clock:
    """The clocks, in ms since the epoch.

    ``wall_ms`` is the machine's wall clock; ``elapsed_ms`` is the wall clock as it stood at the
    start, plus what the machine has measured since. ``passed_ns`` measures what passes,
    in ns from any moment on; it is ``elapsed_ms`` where no finer one is given.
    """

    def __init__(
        self,
        wall_ms: Callable[[], int],
        elapsed_ms: Callable[[], int],
        passed_ns: Callable[[], int] | None = None,
    ) -> None:
        self.wall_ms = wall_ms
        self.elapsed_ms = elapsed_ms
        self.passed_ns = passed_ns or (lambda: elapsed_ms() * 1_000_000)
        self._moved = 0
        self._started = elapsed_ms()

    def steady_ms(self) -> int:
        """What windows go by and records bear."""
        return self.elapsed_ms() + self._moved

    @property
    def started_at(self) -> int:
        """When the clock was made, by the date of now."""
        return self._started + self._moved

    @property
    def wall_is_ahead(self) -> int:
        """By how many ms the wall clock is ahead of the date; negative if it is behind."""
        return self.wall_ms() - self.steady_ms()

    def move(self, delta: int) -> None:
        """Move the date. Whoever keeps moments of it has to have been told."""
        self._moved += delta


class StepDetector:
    """Tells when the wall clock was set, from looks at it."""

    def __init__(self) -> None:
        self._ahead = 0
        self._looks = 0
        self._pause_until: int | None = None

    def look(self, ahead: int, elapsed: int) -> int:
        """By how many ms to move the date now; mostly 0.

        ``ahead`` is by how many ms the wall clock is ahead of the date, ``elapsed`` the time by
        ``Clock.elapsed_ms``.
        """
        if abs(ahead) <= TOLERANCE_MS:
            self._looks = 0
            return 0
        if self._looks == 0 or abs(ahead - self._ahead) > TOLERANCE_MS:
            self._ahead = ahead
            self._looks = 0
        self._looks += 1
        if self._looks < LOOKS or (self._pause_until is not None and elapsed < self._pause_until):
            return 0
        self._looks = 0
        self._pause_until = elapsed + PAUSE_MS
        return ahead


@dataclass(frozen=True, slots=True)
class CalendarUnit:
    """A stretch of the calendar, UTC: when the one begins and ends that a time is in, and where
    the same place is in the one before. All in ms since the epoch."""

    start: Callable[[int], int]
    end: Callable[[int], int]

    def earlier(self, ms: int) -> int:
        """The moment that is as far into the stretch before; the end of that one at most.

        The end of a stretch becomes the end of the one before."""
        start = self.start(ms - 1)
        before = self.start(start - 1)
        return min(start, before + ms - start)


def _start_of_day(ms: int) -> int:
    return ms // DAY_MS * DAY_MS


def _start_of_week(ms: int) -> int:
    # The epoch was a Thursday.
    return (ms // DAY_MS + 3) // 7 * 7 * DAY_MS - 3 * DAY_MS


def _start_of_month(ms: int) -> int:
    day = datetime.fromtimestamp(ms // 1000, UTC)
    return _start_of_day(ms) - (day.day - 1) * DAY_MS


#: How a stretch of the calendar is written, when it is the present one → the stretch.
CALENDAR: Mapping[str, CalendarUnit] = MappingProxyType(
    {
        "today": CalendarUnit(_start_of_day, lambda ms: _start_of_day(ms) + DAY_MS),
        "week": CalendarUnit(_start_of_week, lambda ms: _start_of_week(ms) + 7 * DAY_MS),
        "month": CalendarUnit(
            _start_of_month, lambda ms: _start_of_month(_start_of_month(ms) + 31 * DAY_MS)
        ),
    }
)


def end_of_day(ms: int) -> int:
    """When the day (UTC) ends that a time is in; both in ms since the epoch."""
    return (ms // DAY_MS + 1) * DAY_MS


def iso_ms(ms: int) -> str:
    """Milliseconds since the epoch as ISO 8601 UTC: ``2026-11-23T15:04:05.123Z``."""
    return f"{_seconds(ms)}.{ms % 1000:03d}Z"


def iso_seconds(ms: int) -> str:
    """Milliseconds since the epoch as ISO 8601 UTC to the second: ``2026-11-23T15:04:05Z``."""
    return f"{_seconds(ms)}Z"


def _seconds(ms: int) -> str:
    # isoformat takes a quarter of strftime's time (1.6 of 6.7 µs), and every answer tells a moment
    # or two. What it says of the zone is cut off.
    return datetime.fromtimestamp(ms // 1000, UTC).isoformat()[:-6]
