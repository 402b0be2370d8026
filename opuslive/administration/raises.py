"""Raises of limits: as an administrator writes them, and how they end by themselves.

A raise is over at a moment of the wall clock. While any key has one, a timer looks at that clock
when the first of them is due, and often before, since the clock may be set. Nothing is written when
a raise is over: what is stored says until when it holds, so a start leaves out those that ended
meanwhile, and the next change of the key writes the key without them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from opuslive.errors import UsageError
from opuslive.gateway.holder import Holders
from opuslive.keys import Raise
from opuslive.limits.grammar import parse_limit
from opuslive.quantities import did_you_mean, parse_duration, parse_when, shown

#: Seconds between two looks at the wall clock while a limit is raised.
LOOK_SECONDS = 1.0
_MEMBERS = ("limit", "until", "for")


class Timer(Protocol):
    """What a function is called by in time."""

    def cancel(self) -> None:
        """Don't call it."""


#: Calls a function after so many seconds.
CallLater = Callable[[float, Callable[[], object]], Timer]


def raise_of(value: object, now_ms: int) -> Raise:
    """The raise that the members of a JSON object describe; ``now_ms`` is in ms since the epoch.

    Raises UsageError.
    """
    if not isinstance(value, Mapping):
        raise UsageError("'raise' is an object with 'limit', and 'until' or 'for'.")
    for name, text in value.items():
        if name not in _MEMBERS:
            raise UsageError(
                f"A raise has no member {shown(name)}; {did_you_mean(str(name), _MEMBERS)}"
            )
        if text is not None and not isinstance(text, str):
            raise UsageError(f"'{name}' of a raise is a text.")
    limit, until, span = (value.get(name) for name in _MEMBERS)
    if limit is None:
        raise UsageError("A raise needs 'limit', such as '4M tokens/5h'.")
    if (until is None) == (span is None):
        raise UsageError(
            "A raise ends by itself: say when with 'for', such as '1d', or with 'until', such as "
            "'2026-12-31'."
        )
    if until is None:
        at = now_ms + round(parse_duration(span or "") * 1000)
    else:
        at = parse_when(until, now_ms)
    if at <= now_ms:
        raise UsageError("The raise would be over already; let it end in the future.")
    return Raise(str(parse_limit(limit)), at)


class RaiseTimer:
    """Calls ``end`` when a raise of any key is over."""

    def __init__(
        self,
        holders: Holders,
        wall_ms: Callable[[], int],
        call_later: CallLater,
        end: Callable[[], object],
    ) -> None:
        self._holders = holders
        self._wall_ms = wall_ms
        self._call_later = call_later
        self._end = end
        self._timer: Timer | None = None
        self._started = False
        #: When the first raise is over, in ms since the epoch.
        self._first = 0

    def start(self) -> None:
        self._started = True
        self.set()

    def stop(self) -> None:
        self._started = False
        self._cancel()

    def set(self) -> None:
        """Keys have other raises than before, or are others."""
        self._cancel()
        ends = (each.until for holder in self._holders for each in holder.key.raises)
        first = min(ends, default=None)
        if self._started and first is not None:
            self._first = first
            self._wait()

    def _wait(self) -> None:
        left = (self._first - self._wall_ms()) / 1000
        self._timer = self._call_later(max(0.0, min(left, LOOK_SECONDS)), self._look)

    def _look(self) -> None:
        self._timer = None
        if self._wall_ms() < self._first:
            self._wait()
        else:
            self._end()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
