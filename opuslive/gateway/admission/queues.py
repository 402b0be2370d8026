"""Requests that wait for room: a queue for each key, served from its head; and keys take turns.

A request that finds its key's queue not empty joins its end, so that small requests can't starve
a large one in front of them. The queues are looked at again whenever a reservation is settled,
and when the obstacle of a head frees. A request is denied once it has waited for ``max_wait``,
once others have used up the room that it waited for, and at once if ``MAX_WAITING`` requests
wait already. A client that leaves cancels the outcome, and its place in the queue is free.

Turns. Some limits are shared: those of a group, those of the gateway. When room frees in them, the
key goes first that was served out of its queue longest ago, with one request; so between two
services of a key no other key that waits for the same room is served twice.

A head *waits for* the first of its accounts that has no room: its key's own, its group's, the
gateway's. If that is a shared one, the head holds up all that comes after it and needs that
account, also what would find room there: the heads of keys whose turn is later, and requests that
come (they join the queue of their key). So no crowd of small requests, or of newcomers, can starve
a large one. A key that waits for a limit of its own holds up nobody. A key that has held up others
for ``max_wait`` in all, since it was last served, lost its turn: the others go first.

A request joins the queue in the very step in which it asks for room: nothing that comes later
can get in between.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from operator import attrgetter

from opuslive.errors import OpusLiveError
from opuslive.gateway.holder import Holder, Waiting
from opuslive.limits.accounts import Account, AccountKind, LimitExceeded, Reservation
from opuslive.limits.estimates import Demand

#: Requests of one key that may wait at a time.
MAX_WAITING = 100
#: Seconds that a request waits for a change of its key's group to be stored, at least.
MIN_WAIT_FOR_CHANGE = 1.0

#: Reserves what a request is estimated to use in all of its accounts, or says what is in the way.
#: Raises OpusLiveError if the request may not be let in at all.
Reserve = Callable[[Holder, Demand], Reservation | LimitExceeded]
#: What becomes of a request that waits, an OpusLiveError too. Whoever awaits it may cancel it.
Outcome = asyncio.Future[Reservation | LimitExceeded]


@dataclass(slots=True)
class _HoldUp:
    """A key whose head waits for a shared account, since when (ms), and what is in its way."""

    holder: Holder
    since: int
    obstacle: LimitExceeded


class Queues:
    """The queues of all keys.

    ``accounts_of`` tells which accounts a key's requests count in. ``max_wait`` is in seconds; when
    it changes, what waits already has as long as it was given. ``now_ms`` is the clock of windows.
    """

    def __init__(
        self,
        reserve: Reserve,
        accounts_of: Callable[[Holder], Sequence[Account]],
        max_wait: float,
        now_ms: Callable[[], int],
    ) -> None:
        self._reserve = reserve
        self._accounts_of = accounts_of
        self.max_wait = max_wait
        self._now_ms = now_ms
        #: The keys of which a request waits.
        self._holders: dict[Holder, None] = {}
        #: Shared accounts that nobody may take room of before the key that waits for it.
        self._hold_ups: dict[Account, _HoldUp] = {}
        self._turns = count(1)
        self._serving_soon = False
        #: Set for when the obstacle of a queue's head frees.
        self._frees: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return sum(len(holder.queue) for holder in self._holders)

    def hopeless(self, holder: Holder, obstacle: LimitExceeded) -> bool:
        """Whether a request with this in its way may not even wait now."""
        if holder.changing_group:
            return False
        if not self._worth_waiting(obstacle):
            return True
        return sum(not one.outcome.done() for one in holder.queue) >= MAX_WAITING

    def enter(self, holder: Holder, demand: Demand) -> Reservation | LimitExceeded | Outcome:
        """Let a request in at once, deny it, or queue it; its outcome comes in time then."""
        if holder.queue or holder.changing_group:
            if len(holder.queue) >= MAX_WAITING and self._serving_soon:
                self._serve()
            if sum(not one.outcome.done() for one in holder.queue) < MAX_WAITING:
                return self._join(holder, demand)
            return self._obstacle_of(holder, demand) or self._reserve(holder, demand)
        outcome = self._reserve(holder, demand)
        if isinstance(outcome, LimitExceeded):
            if not self._worth_waiting(outcome):
                return outcome
            self._hold_up(holder, outcome)
            return self._join(holder, demand)
        if self._hold_ups and self._ahead(holder) is not None:
            outcome.settle(None, outcome.time)
            return self._join(holder, demand)
        return outcome

    def serve_soon(self) -> None:
        """Look at the queues when this turn of the event loop is over."""
        if self._holders and not self._serving_soon:
            self._serving_soon = True
            asyncio.get_running_loop().call_soon(self._serve)

    def shift(self, delta: int) -> None:
        """Move along with the date, by ``delta`` ms."""
        for hold_up in self._hold_ups.values():
            hold_up.since += delta
        # What waits may have room in a day that it is now.
        self.serve_soon()

    def _join(self, holder: Holder, demand: Demand) -> Outcome:
        loop = asyncio.get_running_loop()
        waiting = Waiting(demand, loop.create_future())
        holder.queue.append(waiting)
        self._holders[holder] = None
        seconds = self.max_wait
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
        if self._holders:
            self.serve_soon()
        else:
            self._end_hold_ups()

    def _serve(self) -> None:
        """Let in what has room, key by key; come back when room frees for one of the heads."""
        self._serving_soon = False
        if self._frees is not None:
            self._frees.cancel()
            self._frees = None
        self._end_hold_ups()
        turns = deque(sorted(self._holders, key=attrgetter("turn")))
        look_at = math.inf
        while turns:
            holder = turns.popleft()
            outcome = self._serve_head(holder)
            if outcome is None:
                continue
            if isinstance(outcome, LimitExceeded) and not self._lost_turn(holder, outcome):
                look_at = min(look_at, self._hold_up(holder, outcome))
                continue
            holder.turn = next(self._turns)
            holder.held_up = 0
            turns.append(holder)
        if look_at < math.inf:
            seconds = max(0.001, (look_at - self._now_ms()) / 1000)
            self._frees = asyncio.get_running_loop().call_later(seconds, self._serve)

    def _serve_head(self, holder: Holder) -> Reservation | LimitExceeded | None:
        """Let in the head of the queue if it has room. Deny what need wait no longer, for others
        used up its room. Returns what the head got or waits for; None if it is not its turn."""
        if holder.changing_group or self._ahead(holder) is not None:
            return None
        for waiting in holder.queue:
            if waiting.outcome.done():
                continue
            try:
                outcome = self._reserve(holder, waiting.demand)
            except OpusLiveError as error:
                waiting.outcome.set_exception(error)
                continue
            if isinstance(outcome, LimitExceeded) and self._worth_waiting(outcome):
                return outcome
            waiting.outcome.set_result(outcome)
            if isinstance(outcome, Reservation):
                return outcome
        return None

    def _give_up(self, holder: Holder, waiting: Waiting) -> None:
        """Deny a request that has waited long enough, with what is in the way of it or of those
        ahead."""
        if self._serving_soon or self._ahead(holder) is not None:
            # Whoever held it up may have given up in this very moment.
            self._serve()
        if waiting.outcome.done():
            return
        try:
            obstacle = self._obstacle_of(holder, waiting.demand)
            waiting.outcome.set_result(obstacle or self._reserve(holder, waiting.demand))
        except OpusLiveError as error:
            waiting.outcome.set_exception(error)

    def _lost_turn(self, holder: Holder, obstacle: LimitExceeded) -> bool:
        """Whether a key that would hold up others has done so for long enough."""
        return _is_shared(obstacle) and holder.held_up >= self.max_wait * 1000

    def _hold_up(self, holder: Holder, obstacle: LimitExceeded) -> float:
        """Let nobody take room before this key, if it waits for an account that is shared.

        Returns when to look at the queues again, in ms since the epoch."""
        look_at = obstacle.frees_at or math.inf
        if not _is_shared(obstacle):
            return look_at
        now = self._now_ms()
        self._hold_ups.setdefault(obstacle.first, _HoldUp(holder, now, obstacle))
        return min(look_at, now + self.max_wait * 1000 - holder.held_up)

    def _end_hold_ups(self) -> None:
        """Hold up nobody, and note for how long each key did."""
        now = self._now_ms()
        for hold_up in self._hold_ups.values():
            hold_up.holder.held_up += max(0, now - hold_up.since)
        self._hold_ups.clear()

    def _ahead(self, holder: Holder) -> LimitExceeded | None:
        """What is in the way of a key that holds this one up, if one does."""
        for account in self._accounts_of(holder):
            hold_up = self._hold_ups.get(account)
            if hold_up is not None:
                return hold_up.obstacle
        return None

    def _obstacle_of(self, holder: Holder, demand: Demand) -> LimitExceeded | None:
        """What is in the way of a request, or else of the one at the head of its queue, or else
        of a key that goes first."""
        obstacle = self._obstacle(holder, demand)
        ahead = next((one for one in holder.queue if not one.outcome.done()), None)
        if obstacle is None and ahead is not None:
            obstacle = self._obstacle(holder, ahead.demand)
        return obstacle or self._ahead(holder)

    def _obstacle(self, holder: Holder, demand: Demand) -> LimitExceeded | None:
        """What is in the way of a request that may not even wait."""
        outcome = self._reserve(holder, demand)
        if isinstance(outcome, LimitExceeded):
            return outcome
        outcome.settle(None, outcome.time)
        return None

    def _worth_waiting(self, exceeded: LimitExceeded) -> bool:
        if exceeded.never_fits or self.max_wait <= 0:
            return False
        if exceeded.only_reserved:
            return True
        soon = self._now_ms() + self.max_wait * 1000
        return exceeded.frees_at is not None and exceeded.frees_at <= soon


def _is_shared(obstacle: LimitExceeded) -> bool:
    """Whether others wait for the same account."""
    return obstacle.first.kind is not AccountKind.KEY
