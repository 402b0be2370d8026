"""Whether the disk keeps up with the records that are to be written.

A disk that fails says so. One that is merely slow lets records queue up, and with each of them
an answer that waits for its end: more and more, for as long as new requests are let in. So the
store counts as out of order once the oldest record has waited for too long, or too many of
them wait, and as well again when both are down to a half.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

_log = logging.getLogger(__name__)


class Backlog:
    """The moments at which the records that wait were queued, in their order."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, max_seconds: float, max_records: int
    ) -> None:
        self._loop = loop
        self._max_seconds = max_seconds
        self._max_records = max_records
        self._arrivals: deque[float] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._suspended = False
        #: Whether so much has piled up that nothing should be added that can be helped.
        self.behind = False

    def added(self) -> None:
        """One more record waits."""
        self._arrivals.append(self._loop.time())
        if self._suspended:
            return
        if len(self._arrivals) > self._max_records:
            self._fall_behind()
        elif len(self._arrivals) == 1:
            self._watch()

    def written(self, count: int) -> None:
        """So many of them, the oldest ones, are on disk."""
        for _ in range(count):
            self._arrivals.popleft()
        waited = self._loop.time() - self._arrivals[0] if self._arrivals else 0.0
        if (
            self.behind
            and waited <= self._max_seconds / 2
            and len(self._arrivals) <= self._max_records // 2
        ):
            self.behind = False
            _log.warning("The disk keeps up with the records again.")
        self._watch()

    def suspend(self) -> None:
        """The disk fails: how long records wait does not tell how fast it is."""
        self._suspended = True
        self._watch()

    def resume(self) -> None:
        """The disk is well again: what waits begins to do so now."""
        self._suspended = False
        self._arrivals = deque([self._loop.time()] * len(self._arrivals))
        self._watch()

    def _watch(self) -> None:
        """Look again when the oldest record will have waited for too long."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._arrivals and not self._suspended and not self.behind:
            overdue = self._arrivals[0] + self._max_seconds
            self._timer = self._loop.call_at(overdue, self._fall_behind)

    def _fall_behind(self) -> None:
        if self.behind:
            return
        self.behind = True
        self._watch()
        _log.error(
            "The disk is too slow: %d usage records wait to be written, the oldest for %.1f s; "
            "new requests are refused until it has caught up. Check the disk.",
            len(self._arrivals),
            self._loop.time() - self._arrivals[0],
        )
