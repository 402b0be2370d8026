"""Moving the date when the machine's wall clock was set: ``times`` says when and why."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from opuslive.times import Clock, Dated, StepDetector, iso_seconds

log = logging.getLogger(__name__)

#: Seconds between two looks at the wall clock.
LOOK_SECONDS = 0.5


class Timer(Protocol):
    """What a function is called by in time."""

    def cancel(self) -> None:
        """Don't call it."""


class Timekeeper:
    """Looks at the wall clock, and moves the date and all that is ``dated`` if that was set.

    ``call_later`` calls a function after so many seconds.
    """

    def __init__(
        self,
        clock: Clock,
        dated: Sequence[Dated],
        call_later: Callable[[float, Callable[[], object]], Timer],
    ) -> None:
        self._clock = clock
        self._dated = dated
        self._call_later = call_later
        self._detector = StepDetector()
        self._timer: Timer | None = None

    def start(self) -> None:
        """Look every now and then, until ``stop``."""
        self._timer = self._call_later(LOOK_SECONDS, self._look)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self.start()
        clock = self._clock
        delta = self._detector.look(clock.wall_is_ahead, clock.elapsed_ms())
        if not delta:
            return
        before = clock.steady_ms()
        # One step: nothing else runs between the first move and the last.
        for each in self._dated:
            each.shift(delta)
        clock.move(delta)
        log.warning(
            "The machine's clock was set, from %s to %s: records and limits go by the new date "
            "from here on, and records that were written before keep the old one.",
            iso_seconds(before),
            iso_seconds(before + delta),
        )
