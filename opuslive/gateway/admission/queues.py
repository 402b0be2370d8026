"""Requests that wait for room: a queue for each key, served from its head.

A request that finds its key's queue not empty joins its end, so that small requests can't starve
a large one in front of them. The queues are looked at again whenever a reservation is settled,
and when the obstacle of a head frees. A request is denied once it has waited for ``max_wait``,
once others have used up the room that it waited for, and at once if ``MAX_WAITING`` requests
wait already. A client that leaves cancels the outcome, and its place in the queue is free.

A request joins the queue in the very step in which it asks for room: nothing that comes later
can get in between.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from functools import partial

from opuslive.gateway.holder import Holder, Waiting
from opuslive.limits.accounts import LimitExceeded, Reservation
from opuslive.limits.charges import Charge

#: Requests of one key that may wait at a time.
MAX_WAITING = 100
#: Seconds that a request waits for a change of its key's group to be stored, at least.
MIN_WAIT_FOR_CHANGE = 1.0

#: Reserves what a request is estimated to use in all of its accounts, or says what is in the way.
Reserve = Callable[[Holder, Charge], Reservation | LimitExceeded]
#: What becomes of a request that waits. Whoever awaits it may cancel it.
Outcome = asyncio.Future[Reservation | LimitExceeded]


class Queues:
    """The queues of all keys. ``max_wait`` is in seconds, ``now_ms`` the clock of windows."""

    def __init__(self, reserve: Reserve, max_wait: float, now_ms: Callable[[], int]) -> None:
        self._reserve = reserve
        self._max_wait = max_wait
        self._now_ms = now_ms
        #: The keys of which a request waits.
        self._holders: dict[Holder, None] = {}
        self._serving_soon = False
        #: Set for when the obstacle of a queue's head frees.
        self._frees: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return sum(len(holder.queue) for holder in self._holders)

    def denies(self, holder: Holder, least: Charge) -> LimitExceeded | None:
        """What is in the way of any request that will use ``least`` or more, if not even waiting
        could help it now."""
        if holder.changing_group:
            return None
        obstacle = self._obstacle(holder, least)
        if obstacle is None or not self._worth_waiting(obstacle):
            return obstacle
        waiting = sum(not one.outcome.done() for one in holder.queue)
        return obstacle if waiting >= MAX_WAITING else None

    def enter(self, holder: Holder, estimate: Charge) -> Reservation | LimitExceeded | Outcome:
        """Let a request in at once, deny it, or queue it; its outcome comes in time then."""
        if holder.queue or holder.changing_group:
            if len(holder.queue) >= MAX_WAITING:
                self._serve_queue(holder)
            if sum(not one.outcome.done() for one in holder.queue) < MAX_WAITING:
                return self._join(holder, estimate)
            return self._obstacle_of(holder, estimate) or self._reserve(holder, estimate)
        outcome = self._reserve(holder, estimate)
        if isinstance(outcome, LimitExceeded) and self._worth_waiting(outcome):
            return self._join(holder, estimate)
        return outcome

    def serve_soon(self) -> None:
        """Look at the queues when this turn of the event loop is over."""
        if self._holders and not self._serving_soon:
            self._serving_soon = True
            asyncio.get_running_loop().call_soon(self._serve)

    def _join(self, holder: Holder, estimate: Charge) -> Outcome:
        loop = asyncio.get_running_loop()
        waiting = Waiting(estimate, loop.create_future())
        holder.queue.append(waiting)
        self._holders[holder] = None
        seconds = self._max_wait
        if holder.changing_group:
            seconds = max(seconds, MIN_WAIT_FOR_CHANGE)
        timer = loop.call_later(seconds, self._give_up, holder, waiting)
        waiting.outcome.add_done_callback(partial(self._leave, holder, waiting, timer))
        # What came before may have left room that nobody has looked for yet.
        self.serve_soon()
        return waiting.outcome

    def _leave(
        self, holder: Holder, waiting: Waiting, timer: asyncio.TimerHandle, outcome: Outcome
    ) -> None:
        """The request was let in or denied, or its client left."""
        timer.cancel()
        holder.queue.remove(waiting)
        if not holder.queue:
            self._holders.pop(holder, None)
        self.serve_soon()

    def _serve(self) -> None:
        """Look at every queue; come back when room frees for one of their heads."""
        self._serving_soon = False
        if self._frees is not None:
            self._frees.cancel()
            self._frees = None
        frees_at = min(map(self._serve_queue, self._holders), default=math.inf)
        if frees_at < math.inf:
            seconds = max(0.001, (frees_at - self._now_ms()) / 1000)
            self._frees = asyncio.get_running_loop().call_later(seconds, self._serve)

    def _serve_queue(self, holder: Holder) -> float:
        """Let in from the head of the queue what has room now, and deny what need wait no longer,
        for others used up its room. Returns when the obstacle of the new head frees."""
        if holder.changing_group:
            return math.inf
        for waiting in holder.queue:
            if waiting.outcome.done():
                continue
            outcome = self._reserve(holder, waiting.estimate)
            if isinstance(outcome, LimitExceeded) and self._worth_waiting(outcome):
                return outcome.frees_at or math.inf
            waiting.outcome.set_result(outcome)
        return math.inf

    def _give_up(self, holder: Holder, waiting: Waiting) -> None:
        """Deny a request that has waited long enough, with what is in the way of it or of those
        ahead."""
        if not waiting.outcome.done():
            obstacle = self._obstacle_of(holder, waiting.estimate)
            waiting.outcome.set_result(obstacle or self._reserve(holder, waiting.estimate))

    def _obstacle_of(self, holder: Holder, estimate: Charge) -> LimitExceeded | None:
        """What is in the way of a request, or else of the one at the head of its queue."""
        obstacle = self._obstacle(holder, estimate)
        ahead = next((one for one in holder.queue if not one.outcome.done()), None)
        if obstacle is None and ahead is not None:
            obstacle = self._obstacle(holder, ahead.estimate)
        return obstacle

    def _obstacle(self, holder: Holder, estimate: Charge) -> LimitExceeded | None:
        """What is in the way of a request that may not even wait."""
        outcome = self._reserve(holder, estimate)
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
