"""Levels: when usage of a limit is worth an alert.

Theory of operation. A limit has two thresholds, at 80 % and at 100 % of its amount. Usage
*crosses* a threshold when it reaches it. The threshold is *quiet* from then on, until both of
these hold:

1. usage fell below 80 % in between;
2. a pause is over, which began with the crossing. A rolling window pauses for its own length, and
   for an hour at least, so that ``60 requests/1m`` does not ring every minute; a calendar window
   for the rest of its day, week or month; a lifetime window for ever.

Crossing 100 % counts for both thresholds: usage that gets there in one step is told once. A
threshold that usage crosses during the pause is told when the pause is over, if usage is still
above it.

Counting costs one comparison, of what is used with ``rings_at``; the rest of this module runs only
when that was reached. What is reserved is not used, so a reservation crosses nothing.

100 % means that all of the limit is used, not that requests are denied: a large request is denied
before that, and at 99.9 % every request may be. A client chooses how large its requests are, so it
could raise an alert about denials whenever it likes; usage alone decides about thresholds.
"""

from __future__ import annotations

from typing import Final

#: In percent of the limit, ascending.
WARNING: Final = 80
FULL: Final = 100
#: More than is ever used.
_NEVER: Final = 2**63


class Thresholds:
    """The thresholds of one limit, and which of them usage has crossed.

    ``rings_at`` is what has to be used for ``crossed`` to be worth asking. Times are in ms since
    the epoch, amounts in units of the limit.
    """

    __slots__ = ("_full", "_full_until", "_warning_until", "rings_at")

    def __init__(self, amount: int) -> None:
        self._full = amount
        #: Until when a threshold is quiet, though usage fell below it.
        self._warning_until = self._full_until = 0
        self.rings_at = self._warning

    @property
    def _warning(self) -> int:
        """The first threshold. It is not kept: there are windows by the thousand."""
        return -(-self._full * WARNING // FULL)

    def crossed(self, used: int, now: int, quiet_until: int | None) -> int | None:
        """The threshold that was crossed and is to be told, in percent; None if there is none.

        ``quiet_until`` is when the pause that begins now will be over; None for never.
        """
        if used < self.rings_at:
            return None
        until = _NEVER if quiet_until is None else quiet_until
        if used >= self._full and now >= self._full_until:
            self.rings_at = _NEVER
            self._full_until = self._warning_until = until
            return FULL
        if self.rings_at == self._warning and now >= self._warning_until:
            self.rings_at = self._full
            self._warning_until = until
            return WARNING
        return None

    def take_over(self, used: int, quiet_until: int | None) -> None:
        """What is used by now is told already: cross the thresholds silently."""
        self.rings_at = self._warning
        self._warning_until = self._full_until = 0
        self.crossed(used, 0, quiet_until)

    def shift(self, delta: int) -> None:
        """Move the ends of pauses by ``delta`` ms."""
        if self._warning_until not in (0, _NEVER):
            self._warning_until += delta
        if self._full_until not in (0, _NEVER):
            self._full_until += delta

    def fell(self, used: int) -> None:
        """Usage fell, to this."""
        if used < self._warning:
            self.rings_at = self._warning
