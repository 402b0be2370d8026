"""Whether the disk keeps up with the records that are to be written.

A disk that fails says so. One that is merely slow lets records queue up, and with each of them
an answer that waits for its end: more and more, for as long as new requests are let in. So the
store counts as out of order

- once the oldest record has waited for too long;
- sooner, if many wait: but many alone say nothing of the disk, for a thousand clients may leave
  in one moment, and their records come at once;
- at once, if as many wait as may be held in memory;

and as well again when the wait is down to a half of the longest, and the number to a half of
many. Records of requests that still run are no part of this: no answer waits for them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

_log = logging.getLogger(__name__)


class Backlog:
    """The moments at which the records that wait were queued, in their order."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        max_seconds: float,
        crowd: int,
        crowd_seconds: float,
        max_records: int,
    ) -> None:
        """One may wait for ``max_seconds``, or for ``crowd_seconds`` where more than ``crowd``
        wait; more than ``max_records`` never may."""
        self._loop = loop
        self._max_seconds = max_seconds
        self._crowd = crowd
        self._crowd_seconds = crowd_seconds
        self._max_records = max_records
        self._arrivals: deque[float] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._suspended = False
        #: Whether so much has piled up that nothing should be added that can be helped.
        self.behind = False

    def added(self) -> None:
        """One more record waits."""
        self._arrivals.append(self._loop.time())
        if len(self._arrivals) in (1, self._crowd + 1, self._max_records + 1):
            self._watch()

    def written(self, count: int) -> None:
        """So many of them, the oldest ones, are on disk."""
        for _ in range(count):
            self._arrivals.popleft()
        waited = self._loop.time() - self._arrivals[0] if self._arrivals else 0.0
        if (
            self.behind
            and waited <= self._max_seconds / 2
            and len(self._arrivals) <= self._crowd // 2
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
        """Look whether the oldest record has waited for too long, and when it will have."""
        self._cancel_timer()
        if not self._arrivals or self._suspended or self.behind:
            return
        overdue = self._arrivals[0] + self._patience()
        if overdue <= self._loop.time():
            self._fall_behind()
        else:
            self._timer = self._loop.call_at(overdue, self._fall_behind)

    def _patience(self) -> float:
        if len(self._arrivals) > self._max_records:
            return 0.0
        return self._crowd_seconds if len(self._arrivals) > self._crowd else self._max_seconds

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fall_behind(self) -> None:
        self._cancel_timer()
        self.behind = True
        _log.error(
            "The disk is too slow: %d usage records wait to be written, the oldest for %.1f s; "
            "new requests are refused until it has caught up. Check the disk.",
            len(self._arrivals),
            self._loop.time() - self._arrivals[0],
        )
