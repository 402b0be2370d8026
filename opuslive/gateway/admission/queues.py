"""Requests that wait for room: a queue for each key, served from its head.

Small requests can't starve a large one in front of them: a request that finds its key's queue
not empty joins its end. Queues are looked at again whenever a reservation is settled, and when
the obstacle of a head frees. Who has waited for ``max_wait`` is refused, and so is who waits in
vain, because others used up the room meanwhile, and one more than ``MAX_WAITING``; a client
that leaves takes its place in the queue with it.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from opuslive.limits.accounts import Account, LimitExceeded, Reservation
from opuslive.limits.charges import Charge

#: Requests of one key that may wait at a time.
MAX_WAITING = 100

#: Reserves what a request is estimated to use in all of its accounts, or says what is in the way.
Reserve = Callable[[Sequence[Account], Charge], Reservation | LimitExceeded]


@dataclass(slots=True, eq=False)
class _Waiting:
    accounts: Sequence[Account]
    estimate: Charge
    outcome: asyncio.Future[Reservation | LimitExceeded]


class Queues:
    """The queues of all keys. ``max_wait`` is in seconds, ``now_ms`` the clock of windows."""

    def __init__(self, reserve: Reserve, max_wait: float, now_ms: Callable[[], int]) -> None:
        self._reserve = reserve
        self._max_wait = max_wait
        self._now_ms = now_ms
        self._queues: dict[str, deque[_Waiting]] = {}
        self._serving_soon = False
        #: Set for when the obstacle of a queue's head frees.
        self._frees: asyncio.TimerHandle | None = None

    def enter(
        self, key_id: str, accounts: Sequence[Account], estimate: Charge
    ) -> Reservation | LimitExceeded | None:
        """Let a request in at once, or refuse it; None if it may ``wait``."""
        queue = self._queues.get(key_id)
        if queue:
            full = len(queue) >= MAX_WAITING
            return self._obstacle_of(queue, accounts, estimate) if full else None
        outcome = self._reserve(accounts, estimate)
        if isinstance(outcome, LimitExceeded) and self._worth_waiting(outcome):
            return None
        return outcome

    async def wait(
        self, key_id: str, accounts: Sequence[Account], estimate: Charge
    ) -> Reservation | LimitExceeded:
        """Queue up; return the reservation, or what is in the way after ``max_wait``."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(accounts, estimate, loop.create_future())
        queue = self._queues.setdefault(key_id, deque())
        queue.append(waiting)
        timer = loop.call_later(self._max_wait, self._give_up, queue, waiting)
        self.serve_soon()
        try:
            return await waiting.outcome
        except asyncio.CancelledError:
            outcome = waiting.outcome
            reservation = None if outcome.cancelled() else outcome.result()
            if isinstance(reservation, Reservation):
                # Let in, and gone before it could hear of it.
                reservation.settle(None, self._now_ms())
            raise
        finally:
            timer.cancel()
            if waiting in queue:
                queue.remove(waiting)
            if not queue and self._queues.get(key_id) is queue:
                del self._queues[key_id]
            self.serve_soon()

    def serve_soon(self) -> None:
        """Look at the queues when this turn of the event loop is over."""
        if self._queues and not self._serving_soon:
            self._serving_soon = True
            asyncio.get_running_loop().call_soon(self._serve)

    def _serve(self) -> None:
        """Let in from the head of each queue what has room now, and refuse what need wait no
        longer, for others used up its room; come back when more frees."""
        self._serving_soon = False
        if self._frees is not None:
            self._frees.cancel()
            self._frees = None
        frees_at = math.inf
        for queue in self._queues.values():
            for waiting in queue:
                if waiting.outcome.done():
                    continue
                outcome = self._reserve(waiting.accounts, waiting.estimate)
                if isinstance(outcome, LimitExceeded) and self._worth_waiting(outcome):
                    frees_at = min(frees_at, outcome.frees_at or math.inf)
                    break
                waiting.outcome.set_result(outcome)
        if frees_at < math.inf:
            seconds = max(0.001, (frees_at - self._now_ms()) / 1000)
            self._frees = asyncio.get_running_loop().call_later(seconds, self._serve)

    def _give_up(self, queue: deque[_Waiting], waiting: _Waiting) -> None:
        """Refuse who has waited long enough, with what is in the way of it or of those ahead."""
        if waiting.outcome.done():
            return
        obstacle = self._obstacle_of(queue, waiting.accounts, waiting.estimate)
        waiting.outcome.set_result(obstacle or self._reserve(waiting.accounts, waiting.estimate))

    def _obstacle_of(
        self, queue: Iterable[_Waiting], accounts: Sequence[Account], estimate: Charge
    ) -> LimitExceeded | None:
        """What is in the way of a request, or else of who is at the head of its queue."""
        ahead = next((one for one in queue if not one.outcome.done()), None)
        obstacle = self._obstacle(accounts, estimate)
        if obstacle is None and ahead is not None:
            obstacle = self._obstacle(ahead.accounts, ahead.estimate)
        return obstacle

    def _obstacle(self, accounts: Sequence[Account], estimate: Charge) -> LimitExceeded | None:
        """What is in the way of a request that may not even wait."""
        outcome = self._reserve(accounts, estimate)
        if isinstance(outcome, LimitExceeded):
            return outcome
        outcome.settle(None, outcome.time)
        return None

    def _worth_waiting(self, exceeded: LimitExceeded) -> bool:
        if exceeded.never_fits or self._max_wait <= 0:
            return False
        if exceeded.only_reserved:
            return True
        soon = self._now_ms() + self._max_wait * 1000
        return exceeded.frees_at is not None and exceeded.frees_at <= soon
