"""Windows: how much of one limit is used, and when that frees.

Theory of operation. A window counts whole units (requests, tokens, micro-dollars) for one
limit. What it holds is of two kinds::

    used      what requests that ended did use; it ages, and in time counts no more
    reserved  what requests that run may use; it never ages, however long they run

and there is room for ``needed`` more as long as ``used + reserved + needed`` is at most the
limit's amount. Whoever lets a request in (``accounts``) adds to ``reserved`` and takes away
from it again; a window only counts and forgets.

*A rolling window* is a row of 61 buckets, each 1/60 of it long (``buckets``). So whatever was used
counts for at least the whole window and for at most 1/60 of it longer: it errs on the safe side,
and no span as long as the window ever holds more than the limit. The price is that a client which
goes exactly as fast as its limit is refused now and then; one that stays below 60/61 of it never
is.

*A calendar window* is one number and the bounds of the current day, week (from Monday) or
month, in UTC; beside it a row of buckets that tells how old what was used is, should the date be
moved. *A lifetime window* is one number that never frees. *A window of concurrent
requests* uses nothing, it only reserves.

Time. Every ``now`` is ms since the epoch, of one clock for all windows and records: **the
wall clock as it stood when the process began, plus what a steady clock has measured since**
(on Linux ``CLOCK_BOOTTIME``, which goes on while the machine sleeps). Then a wall clock that
jumps, either way, doesn't touch any window: neither does a jump ahead free what is used, nor
does the way back leave windows waiting in the future. And since records bear the times of the
same clock, a window that is rebuilt from them is what it was. Should the clock go backward
all the same, a window stays at the latest time that it was told.

When the wall clock was set and stays so, the date is moved after it (``times``), and with it every
window (``shift``), in one step. What passed between two moments is what the steady clock measured,
before and after; the move changes how moments are *called*:

========== ======================================================================================
window     after the date moved
========== ======================================================================================
rolling    holds the same, each bucket as old as it was: all frees after as many ms as it would have
calendar   has the bounds of the day, week or month that it is now. Are those the same as before,
           it holds the same. Else it holds what was used since they began: if it is 9 o'clock
           now, that is what was used in the 9 hours before, whatever the date was then. The date
           moved back to a day that was over brings back what was used in it
lifetime   holds the same
========== ======================================================================================

A request that runs keeps what it holds, and its admission moves, too. (Records that were written
before keep their old date, and a window that is rebuilt goes by those.)

What is counted with a time before the current one goes where it belongs, so it frees when it
should; what bears a time in the future (of records that were made while the wall clock was
ahead) counts as of now.
"""

from __future__ import annotations

import abc
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final, Literal, get_args

import msgspec

from opuslive.limits.buckets import BUCKETS, Buckets
from opuslive.limits.grammar import Limit, Period
from opuslive.limits.levels import Thresholds
from opuslive.times import DAY_MS, HOUR_MS, iso_seconds


class LimitStatus(msgspec.Struct, frozen=True, gc=False):
    """How one limit stands at one moment.

    Amounts are in the limit's own units (micro-dollars of a ``usd`` limit). ``window_seconds``
    is the length of the window, of the current month for one; ``None`` for ``total`` and
    ``concurrent``. ``frees_at`` is when anything more frees, ``resets_at`` when all that is
    used now has freed: ms since the epoch, ``None`` if nothing is used or never.
    """

    limit: Limit
    window_seconds: int | None
    used: int
    reserved: int
    remaining: int
    frees_at: int | None
    resets_at: int | None

    @property
    def fullness(self) -> float:
        """Which part of the limit is used or reserved: 1 and more where nothing is left."""
        return (self.used + self.reserved) / self.limit.amount

    def as_dict(self) -> dict[str, str | int | float | None]:
        """The members under which the interfaces show it: dollars, and a time in UTC."""
        shown = self.limit.metric.as_number
        return self.limit.as_dict() | {
            "window_seconds": self.window_seconds,
            "used": shown(self.used),
            "reserved": shown(self.reserved),
            "remaining": shown(self.remaining),
            # Rounded up: at the moment that is shown, it is free.
            "frees_at": None if self.frees_at is None else iso_seconds(self.frees_at + 999),
        }


#: Later than any moment, in ms since the epoch.
NEVER: Final = 2**63

#: What windows are rebuilt out of: records, sums of hours, sums of days.
Grain = Literal["record", "hour", "day"]
GRAINS: tuple[Grain, ...] = get_args(Grain)


class Window(abc.ABC):
    """What is used and reserved of one limit; made by ``open_window``.

    ``used`` is right as of the latest ``advance``. ``reserved`` is kept by whoever reserves.
    ``thresholds`` are those of the limit; whoever counts looks whether one was crossed.
    ``turns_at`` is the first moment at which ``advance`` has anything to do: before it, whoever is
    in a hurry need not call it.
    """

    __slots__ = ("limit", "reserved", "thresholds", "turns_at", "used")

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.turns_at = NEVER
        self.thresholds = Thresholds(limit.amount)
        self.used = 0
        self.reserved = 0

    @abc.abstractmethod
    def advance(self, now: int) -> None:
        """Forget what no longer counts at ``now``. An earlier time than before changes nothing."""

    @abc.abstractmethod
    def count(self, amount: int, at: int) -> None:
        """Add to what was used at ``at``, or take back what was counted there (if negative).

        It changes nothing if ``at`` is so long ago that it no longer counts.
        """

    def shift(self, delta: int, now: int) -> None:
        """Move along with the date, which is moved by ``delta`` ms and was ``now`` before."""
        self.advance(now)

    @property
    @abc.abstractmethod
    def counts_since(self) -> int | None:
        """The first moment that still counts; ``None`` if nothing of the past ever does."""

    @property
    def grain(self) -> Grain:
        """Out of what it can be rebuilt to the bucket: records, or sums of whole hours or days."""
        return "day"

    @property
    def seconds(self) -> int | None:
        """The window's length; ``None`` if it has none."""
        return None

    def take_out(self, part: Window, now: int) -> None:
        """Stop counting the usage that ``part`` holds.

        ``part`` is a window of the same limit that holds a part of this window's usage. Both
        windows advance to ``now`` first, so they may have stood at different moments.
        """
        self.advance(now)
        part.advance(now)
        self.used -= self._subtract(part)
        self.thresholds.fell(self.used)

    def put_back(self, part: Window, now: int) -> None:
        """Count again what ``take_out`` took out."""
        self.advance(now)
        part.advance(now)
        self.used += self._merge(part)

    def frees_at(self, needed: int, now: int, *, reserved: int | None = None) -> int | None:
        """The earliest moment at which ``needed`` more fits if nothing else is used meanwhile.

        It is ``now`` if there is room already, and ``None`` if waiting alone never makes any.
        ``reserved`` is what is taken to be reserved at that moment; by default, what is now.
        """
        self.advance(now)
        held = self.reserved if reserved is None else reserved
        most = self.limit.amount - held - needed
        if self.used <= most:
            return now
        return self._falls_to(most) if most >= 0 else None

    def change_limit(self, limit: Limit, now: int) -> None:
        """Hold what is used against a limit of another amount, the same metric and window.

        Thresholds that usage is above by then are not told.
        """
        if limit != self.limit:
            self.limit = limit
            self.thresholds = Thresholds(limit.amount)
            self.advance(now)
            self.silence(now)

    def silence(self, now: int) -> None:
        """Take the thresholds that usage is above for told: it got there some time ago."""
        self.thresholds.take_over(self.used, self._quiet_until(now))

    def crossed(self, now: int) -> int | None:
        """The threshold that usage crossed and that is to be told, in percent, if there is one."""
        return self.thresholds.crossed(self.used, now, self._quiet_until(now))

    def status(self, now: int) -> LimitStatus:
        """How the limit stands at ``now``."""
        if now >= self.turns_at:
            self.advance(now)
        used = self.used
        frees_at, resets_at = self._falls() if used else (None, None)
        return LimitStatus(
            self.limit,
            self.seconds,
            used,
            self.reserved,
            max(0, self.limit.amount - used - self.reserved),
            frees_at,
            resets_at,
        )

    @abc.abstractmethod
    def _falls_to(self, most: int) -> int | None:
        """The first moment at which ``used`` is at most ``most`` if nothing else is used, in ms
        since the epoch; None for never. ``most`` is at least 0 and less than ``used``."""

    @abc.abstractmethod
    def _quiet_until(self, now: int) -> int | None:
        """When a threshold that is crossed at ``now`` may be told again; ``None`` for never."""

    def _subtract(self, part: Window) -> int:
        """Take out another window's amount; return by how much ``used`` is to fall."""
        return min(self.used, part.used)

    def _merge(self, part: Window) -> int:
        """Add another window's amount; return by how much ``used`` is to rise."""
        return part.used

    def _falls(self) -> tuple[int | None, int | None]:
        """When the first and when the last of what is used counts no more, if anything is used."""
        falls = self._falls_to(0)
        return falls, falls


class RollingWindow(Window):
    """The last so many seconds."""

    __slots__ = ("_buckets",)

    def __init__(self, limit: Limit, seconds: int, now: int) -> None:
        super().__init__(limit)
        self._buckets = Buckets(seconds * 1000, now)
        self.turns_at = self._buckets.turns_at

    def advance(self, now: int) -> None:
        if now < self.turns_at:
            return
        self.used -= self._buckets.advance(now)
        self.turns_at = self._buckets.turns_at
        self.thresholds.fell(self.used)

    def count(self, amount: int, at: int) -> None:
        self.used += self._buckets.add(amount, at)

    def shift(self, delta: int, now: int) -> None:
        self.advance(now)
        self._buckets.shift(delta)
        self.turns_at = self._buckets.turns_at
        self.thresholds.shift(delta)

    @property
    def counts_since(self) -> int:
        return self._buckets.begin

    @property
    def grain(self) -> Grain:
        # A bucket of an hour or more: what is counted at the end of its hour is late by at
        # most one bucket.
        return "hour" if self._buckets.span >= BUCKETS * HOUR_MS else "record"

    @property
    def seconds(self) -> int:
        return self._buckets.span // 1000

    def _falls_to(self, most: int) -> int:
        return self._buckets.falls_by(self.used - most)

    def _subtract(self, part: Window) -> int:
        assert isinstance(part, RollingWindow)
        return self._buckets.subtract(part._buckets)

    def _merge(self, part: Window) -> int:
        assert isinstance(part, RollingWindow)
        return self._buckets.merge(part._buckets)

    def _falls(self) -> tuple[int, int]:
        return self._buckets.falls()

    def _quiet_until(self, now: int) -> int:
        return now + max(self._buckets.span, HOUR_MS)


class CalendarWindow(Window):
    """The current day, week or month in UTC."""

    __slots__ = ("_ages", "_begin", "_period")

    def __init__(self, limit: Limit, period: Period, now: int) -> None:
        super().__init__(limit)
        self._period = period
        self._begin, self.turns_at = period_bounds(period, now)
        #: How old what was used is, in the period and as long before it; for ``shift``.
        self._ages = Buckets(_LONGEST_MS[period], now)

    def advance(self, now: int) -> None:
        if now >= self.turns_at:
            self._begin, self.turns_at = period_bounds(self._period, now)
            self.used = 0
            self.thresholds.fell(0)

    def count(self, amount: int, at: int) -> None:
        if at >= self._begin:
            self.used += amount
        # Something from the future may be beyond the period, and must not make all the rest old.
        at = min(at, self.turns_at - 1)
        self._ages.advance(at)
        self._ages.add(amount, at)

    def shift(self, delta: int, now: int) -> None:
        self.advance(now)
        self._ages.advance(now)
        self._ages.shift(delta)
        before = self._begin, self.turns_at
        self._begin, self.turns_at = period_bounds(self._period, now + delta)
        if self._begin != before[0]:
            younger = self._ages.since(self._begin)
            ahead = self._begin > before[0]
            self.used = min(self.used, younger) if ahead else max(self.used, younger)
        # Pauses end with the period.
        self.thresholds.shift(self.turns_at - before[1])
        self.thresholds.fell(self.used)

    @property
    def counts_since(self) -> int:
        return self._begin

    @property
    def seconds(self) -> int:
        return (self.turns_at - self._begin) // 1000

    def _falls_to(self, most: int) -> int:
        return self.turns_at

    def _subtract(self, part: Window) -> int:
        assert isinstance(part, CalendarWindow)
        self._ages.subtract(part._ages)
        return super()._subtract(part)

    def _merge(self, part: Window) -> int:
        assert isinstance(part, CalendarWindow)
        self._ages.merge(part._ages)
        return super()._merge(part)

    def _quiet_until(self, now: int) -> int:
        return self.turns_at


class LifetimeWindow(Window):
    """All time: nothing frees."""

    __slots__ = ()

    def advance(self, now: int) -> None:
        pass

    def count(self, amount: int, at: int) -> None:
        self.used += amount

    @property
    def counts_since(self) -> int:
        return 0

    def _falls_to(self, most: int) -> None:
        return None

    def _quiet_until(self, now: int) -> None:
        return None


class ConcurrencyWindow(Window):
    """This moment: what is reserved is all there is."""

    __slots__ = ()

    def advance(self, now: int) -> None:
        pass

    def count(self, amount: int, at: int) -> None:
        pass

    @property
    def counts_since(self) -> None:
        return None

    def _falls_to(self, most: int) -> None:
        return None

    def _quiet_until(self, now: int) -> None:
        return None


#: How long the longest period of its kind is.
_LONGEST_MS = MappingProxyType(
    {Period.DAY: DAY_MS, Period.WEEK: 7 * DAY_MS, Period.MONTH: 31 * DAY_MS}
)


def open_window(limit: Limit, now: int) -> Window:
    """A window for a limit, in which nothing is used yet."""
    match limit.window:
        case None:
            return ConcurrencyWindow(limit)
        case Period.TOTAL:
            return LifetimeWindow(limit)
        case Period() as period:
            return CalendarWindow(limit, period, now)
        case seconds:
            return RollingWindow(limit, seconds, now)


def period_bounds(period: Period, at: int) -> tuple[int, int]:
    """The first moment of the day, week or month (UTC) that ``at`` is in, and of the next one."""
    days = at // DAY_MS
    match period:
        case Period.DAY:
            first, length = days, 1
        case Period.WEEK:
            # The epoch was a Thursday.
            first, length = days - (days + 3) % 7, 7
        case Period.MONTH:
            day = datetime.fromtimestamp(days * DAY_MS // 1000, UTC)
            begin = day.replace(day=1)
            end = begin.replace(year=day.year + day.month // 12, month=day.month % 12 + 1)
            first, length = days - day.day + 1, (end - begin).days
        case Period.TOTAL:
            raise ValueError("all time has no bounds")
    return first * DAY_MS, (first + length) * DAY_MS
