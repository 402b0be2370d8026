"""Thresholds: when what is used of a limit is worth an alert.

Theory of operation. There are two levels, 80 % and 100 % of a limit's amount. One is *passed*
when what is used reaches it, and *quiet* from then on, until both of these hold:

* usage fell below 80 % in between;
* a pause is over that began when it was passed. Its length is the window's affair: an hour at
  least for one that rolls, so that ``60 requests/1m`` does not ring every minute; the rest of
  the day, week or month; for ever if nothing of the window frees.

Reaching 100 % stands for both levels: who goes there in one step is told of that alone. What is
passed while the pause lasts is told when it is over, if it is still so.

Whoever counts usage makes one comparison, of what is used with ``rings_at``; all else happens
only when something passed. What is used is told by the caller, and what is reserved is none of
it, so a reservation never passes a level.

100 % means that all is used, not that requests are refused. One that needs more than is left is
refused below that, and at 99.9 % that may be every one. It depends on the size of the request, so
that a client could have a exceeded whenever it likes; the levels are what usage alone decides.
"""

from __future__ import annotations

from typing import Final

#: In percent of the limit, ascending.
WARNING: Final = 80
FULL: Final = 100
#: More than is ever used.
_NEVER: Final = 2**63


class Thresholds:
    """The levels of one limit, and which of them usage has passed.

    ``rings_at`` is what has to be used for ``passed`` to be worth asking. Times are in ms since
    the epoch, amounts in units of the limit.
    """

    __slots__ = ("_full", "_full_until", "_warning", "_warning_until", "rings_at")

    def __init__(self, amount: int) -> None:
        self._warning = -(-amount * WARNING // FULL)
        self._full = amount
        #: Until when a level is quiet, though usage fell below it.
        self._warning_until = self._full_until = 0
        self.rings_at = self._warning

    def passed(self, used: int, now: int, quiet_until: int | None) -> int | None:
        """The level that was passed and is to be told, in percent; None if there is none.

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
        """What is used by now is told already: pass the level silently."""
        self.rings_at = self._warning
        self._warning_until = self._full_until = 0
        self.passed(used, 0, quiet_until)

    def fell(self, used: int) -> None:
        """Usage fell, to this."""
        if used < self._warning:
            self.rings_at = self._warning
