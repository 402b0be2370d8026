"""Whether the disk keeps up with the records that are to be written.

A disk that fails says so. A disk that is merely slow lets records queue up, and each record has an
answer behind it that waits for its end; every new request adds one more. So the backlog calls the
disk too slow

- when the oldest record has waited for ``max_wait``;
- in a burst, when it has waited for ``burst_wait``, which is shorter. The number of records alone
  says nothing about the disk: a thousand clients may leave in one moment, and their records come
  at once;
- immediately, when more records wait than memory is meant to hold.

The disk has caught up when the oldest record has waited for less than half of ``max_wait`` and the
queue is at half of a burst or below. Records of requests that still run do not count: no answer
waits for them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from opuslive.storage.protocol import Unwritten

_log = logging.getLogger(__name__)


class Backlog:
    """The moments at which the waiting records were queued, oldest first."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        max_wait: float,
        burst: int,
        burst_wait: float,
        max_waiting: int,
    ) -> None:
        """A record may wait for ``max_wait`` seconds; for ``burst_wait`` seconds while more than
        ``burst`` records wait; and not at all while more than ``max_waiting`` do."""
        self._loop = loop
        self._max_wait = max_wait
        self._burst = burst
        self._burst_wait = burst_wait
        self._max_waiting = max_waiting
        self._arrivals: deque[float] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._suspended = False
        #: Whether the disk is too slow, so that no request should be let in.
        self.behind = False

    def added(self) -> None:
        """One more record waits."""
        self._arrivals.append(self._loop.time())
        if len(self._arrivals) in (1, self._burst + 1, self._max_waiting + 1):
            self._watch()

    def written(self, count: int) -> None:
        """The oldest ``count`` records are on disk."""
        for _ in range(count):
            self._arrivals.popleft()
        if self.behind and self._caught_up():
            self.behind = False
            _log.warning("The disk keeps up with the records again.")
        self._watch()

    def waiting(self) -> Unwritten:
        """How many records wait, and for how long the oldest of them."""
        oldest = self._loop.time() - self._arrivals[0] if self._arrivals else 0.0
        return Unwritten(len(self._arrivals), oldest)

    def suspend(self) -> None:
        """The disk fails. Until ``resume`` the waiting says nothing about its speed."""
        self._suspended = True
        self._watch()

    def resume(self) -> None:
        """The disk works again. Every record that waits counts as queued now."""
        self._suspended = False
        self._arrivals = deque([self._loop.time()] * len(self._arrivals))
        self._watch()

    def _caught_up(self) -> bool:
        if not self._arrivals:
            return True
        waited = self._loop.time() - self._arrivals[0]
        return waited <= self._max_wait / 2 and len(self._arrivals) <= self._burst // 2

    def _watch(self) -> None:
        """Fall behind if the oldest record is overdue; otherwise, when it will be."""
        self._cancel_timer()
        if not self._arrivals or self._suspended or self.behind:
            return
        overdue = self._arrivals[0] + self._allowed_wait()
        if overdue <= self._loop.time():
            self._fall_behind()
        else:
            self._timer = self._loop.call_at(overdue, self._fall_behind)

    def _allowed_wait(self) -> float:
        """How many seconds a record may wait while so many do."""
        if len(self._arrivals) > self._max_waiting:
            return 0.0
        return self._burst_wait if len(self._arrivals) > self._burst else self._max_wait

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
