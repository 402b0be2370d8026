"""Accounts: what limits bind, and how a request is let in and settled.

Theory of operation. Each key has an account, each group of keys has one, and the gateway has one.
An account has a window for each of its limits. A request is charged to up to three accounts, in
two steps, each of them one synchronous call::

    1  reserve(accounts, estimate, now)   →  Reservation, or LimitExceeded
       reservation.grow(used)                as often as more was used than is held
    2  reservation.settle(actual, end)    →  the thresholds that usage crossed

``reserve`` looks at every window of every account. If the estimate fits into all of them, it is
reserved in all of them; else nothing changes, and LimitExceeded names the limit in the way. Nothing
can happen between the look and the reservation, so a thousand requests at once can't all see the
same room. ``settle`` replaces what was reserved by the actual usage (``charges`` says when that
counts). The first call settles and further calls change nothing, so every exit of a request may
call it. A request that was never sent settles with None: it counts nowhere, and crosses nothing.

An estimate may be larger than a whole limit:

========== ============================================== ===================================
mode       what is reserved                               when the request is let in
========== ============================================== ===================================
capped     the whole limit: the request has the window    nothing in the window is used or
           to itself                                      reserved
not capped nothing (``LimitExceeded.never_fits``);         never
           ``largest_that_fits`` finds one that could be
========== ============================================== ===================================

An estimate of 0 needs no room, and passes a limit that is used up: an estimator says 0 only where
a request can't use anything.

A request that runs may use more than it reserved. What it has used by now it holds from then on
(``grow``), be there room or not: then nothing more is let in.

*No key squats in a limit that others share.* What the running requests of one key hold reserved of
it is at most a quarter of what is not used (``PARTS``), and as much more as the key's last requests
really used: whoever uses what it reserves may reserve more. One request may always hold more.

``now`` is the clock that ``windows`` describes. An account goes by the latest time that it was
told, and a reservation's ``time`` is that time: the request's record must bear it. When the date is
moved, ``shift`` moves all accounts and the requests that run.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from opuslive.limits.charges import Charge
from opuslive.limits.grammar import Limit, Metric
from opuslive.limits.windows import LimitStatus, Window, open_window

#: Of so many parts of what is left of a shared limit one key may hold one reserved.
PARTS = 4
#: What a key used is told by about so many of its last requests.
_LAST_REQUESTS = 64


class AccountKind(enum.Enum):
    """Whose limits an account holds."""

    KEY = "key"
    GROUP = "group"
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True)
class LimitExceeded:
    """The limit that refuses a request. If several do, the one that refuses it for longest.

    ``used``, ``reserved`` and ``needed`` (by the request) are in the limit's units.
    ``only_reserved`` says that the request would fit if nothing were reserved, ``never_fits``
    that the request needs more than the whole limit.

    ``frees_at`` (ms since the epoch) is the moment at which the request fits if nothing else is
    used meanwhile and every reservation stays. If the reservations leave no such moment, it is
    the moment at which the request would fit without them. It is ``None`` if only the end
    of reservations makes room (``only_reserved``), or nothing ever does.

    ``first`` is the first account, in the order in which they were given, that has no room; the
    key's own where it holds as much of another one as it may.
    """

    kind: AccountKind
    limit: Limit
    used: int
    reserved: int
    needed: int
    frees_at: int | None
    only_reserved: bool
    never_fits: bool
    first: Account

    def until_others_end(self, key: Account) -> LimitExceeded:
        """The same limit, in which only the end of the key's other requests makes room."""
        return replace(self, frees_at=None, only_reserved=True, never_fits=False, first=key)

    @property
    def severity(self) -> tuple[int, int]:
        """Higher is in the way for longer."""
        if self.never_fits:
            return 3, 0
        if self.only_reserved:
            return 0, self.frees_at or 0
        return (2, 0) if self.frees_at is None else (1, self.frees_at)


@dataclass(frozen=True, slots=True)
class ThresholdCrossing:
    """Usage crossed a threshold (``level``, in percent) of one of the account's limits."""

    account: Account
    level: int
    limit_status: LimitStatus


class Account:
    """The limits of one key, group or gateway, and what is used and reserved of them.

    ``name`` is the id of the key or the name of the group. ``windows`` has one for each limit,
    in their order. In a new account nothing is used: ``charges.replay`` brings back what was.
    """

    __slots__ = ("_latest", "_prepared", "_running", "_shared", "_spent", "kind", "name", "windows")

    def __init__(
        self, kind: AccountKind, limits: Iterable[Limit], now: int, name: str | None = None
    ) -> None:
        self.kind = kind
        self.name = name
        self.windows: Sequence[Window] = [open_window(limit, now) for limit in limits]
        self._prepared: Sequence[Window] = ()
        self._running: set[Reservation] = set()
        #: Window of another account → what the key's running requests hold in it.
        self._shared: dict[Window, int] = {}
        #: What about the last ``_LAST_REQUESTS`` requests used.
        self._spent = Charge()
        self._latest = now

    def prepare(self, limits: Iterable[Limit], now: int) -> Sequence[Window]:
        """Begin to count for limits that ``change_limits`` is going to set.

        Returns windows for those that are new. They count from now on, what runs included,
        but bind nobody yet: there is time to replay what requests used that ended before.
        Only one change of an account may be under way.
        """
        known = {window.limit.kind for window in self.windows}
        self._prepared = [self._open(limit, now) for limit in limits if limit.kind not in known]
        return self._prepared

    def change_limits(self, limits: Iterable[Limit], now: int) -> None:
        """Let these limits bind from now on, and no others.

        One with the same metric and window as before keeps what was used, also if its amount
        is another; so does one that was prepared. Requests that run keep what they reserved.
        """
        now = self._tick(now)
        known = {window.limit.kind: window for window in (*self.windows, *self._prepared)}
        windows = []
        for limit in limits:
            window = known.get(limit.kind) or self._open(limit, now)
            window.change_limit(limit, now)
            windows.append(window)
        self.windows = windows
        self._prepared = ()

    def abandon(self) -> None:
        """Count no more for limits that were prepared, and that are not going to be set."""
        self._prepared = ()

    def take_in(self, key: Account, since: int, until: int) -> None:
        """Charge to this account, too, what runs of a key's and was let in within a span (ms since
        the epoch). ``key`` is the key's own account; this one is new, and holds nothing yet."""
        for reservation in key._running:
            if since <= reservation.time < until:
                reservation._accounts = (*reservation._accounts, self)
                self._running.add(reservation)

    @property
    def running(self) -> int:
        """How many requests run that are charged to the account."""
        return len(self._running)

    @property
    def latest(self) -> int:
        """The latest time that the account was told: no request was let in later."""
        return self._latest

    def statuses(self, now: int) -> Sequence[LimitStatus]:
        """How each limit stands, in their order."""
        now = self._tick(now)
        return [window.status(now) for window in self.windows]

    def _may_hold(self, window: Window, needed: int) -> bool:
        """Whether the key of this account may hold so much more in a window that it shares."""
        metric = window.limit.metric
        if not metric.has_window or metric.counts_at_admission:
            return True
        most = (window.limit.amount - window.used) // PARTS
        if window.reserved + needed <= most or not needed:
            return True  # Whoever holds it.
        held = self._shared.get(window, 0)
        return not held or held + needed <= most + self._spent.amount(metric)

    def _release(self, window: Window, amount: int) -> None:
        left = self._shared[window] - amount
        if left > 0:
            self._shared[window] = left
        else:
            del self._shared[window]

    def _shift(self, delta: int, now: int) -> None:
        now = self._tick(now)
        for window in (*self.windows, *self._prepared):
            window.shift(delta, now)
        self._latest += delta

    def _open(self, limit: Limit, now: int) -> Window:
        """A new window, which holds what runs, too."""
        window = open_window(limit, self._tick(now))
        for reservation in self._running:
            reservation._hold(window, shared=self.kind is not AccountKind.KEY)
        return window

    def _tick(self, now: int) -> int:
        """Take note of the time; return the latest one known."""
        if now > self._latest:
            self._latest = now
        return self._latest


class Reservation:
    """A request that runs, and what it holds until it is settled. Made by ``reserve``.

    ``time`` (ms since the epoch) is that of its admission, ``estimate`` what it may use.
    """

    __slots__ = ("_accounts", "_holds", "_settled", "estimate", "time")

    def __init__(
        self,
        accounts: Sequence[Account],
        estimate: Charge,
        time: int,
        holds: list[tuple[Window, int]],
        *,
        shared_from: int,
    ) -> None:
        """In ``holds`` the windows of shared accounts come last, from ``shared_from`` on."""
        self.time = time
        self.estimate = estimate
        self._accounts = accounts
        self._holds = holds
        self._settled = False
        for window, amount in holds:
            if window.limit.metric.counts_at_admission:
                window.count(amount, time)
            else:
                window.reserved += amount
        shared = accounts[0]._shared
        for window, amount in holds[shared_from:]:
            shared[window] = shared.get(window, 0) + amount
        for account in accounts:
            account._latest = time
            account._running.add(self)
            for window in account._prepared:
                self._hold(window, shared=account.kind is not AccountKind.KEY)

    def grow(self, used: Charge) -> None:
        """Hold what the request used by now, wherever that is more than it holds."""
        shared = self._accounts[0]._shared
        for index, (window, held) in enumerate(self._holds):
            metric = window.limit.metric
            amount = used.amount(metric)
            if amount > held and not metric.counts_at_admission:
                window.reserved += amount - held
                self._holds[index] = (window, amount)
                if window in shared:
                    shared[window] += amount - held

    def settle(self, actual: Charge | None, end: int) -> Sequence[ThresholdCrossing]:
        """Replace what is reserved by what was used, at ``end`` (ms since the epoch).

        ``None`` if nothing was sent upstream: then the request counts nowhere. The number of
        ``actual.requests`` doesn't matter, for the request counted when it was admitted.
        The first call settles, and returns the thresholds that usage crossed; further calls
        change nothing.
        """
        if self._settled:
            return ()
        self._settled = True
        own = self._accounts[0]
        if actual is not None:
            own._spent = own._spent.of_the_last(_LAST_REQUESTS, actual)
        end = max(end, self.time)
        for account in self._accounts:
            account._running.remove(self)
            account._tick(end)
        full: list[Window] = []
        for window, held in self._holds:
            metric = window.limit.metric
            if window in own._shared:
                own._release(window, held)
            if end >= window.turns_at:
                window.advance(end)
            if not metric.counts_at_admission:
                window.reserved -= held
                if actual is not None:
                    window.count(actual.amount(metric), end)
            elif actual is None:
                window.count(-held, self.time)
            if window.used >= window.thresholds.rings_at and actual is not None:
                full.append(window)
        self._holds.clear()
        return self._crossings(full, end) if full else ()

    def _crossings(self, full: Sequence[Window], now: int) -> Sequence[ThresholdCrossing]:
        """The thresholds that were crossed in these windows, where they bind."""
        crossings = []
        for account in self._accounts:
            for window in account.windows:
                level = window.crossed(now) if window in full else None
                if level is not None:
                    crossings.append(ThresholdCrossing(account, level, window.status(now)))
        return crossings

    def _hold(self, window: Window, *, shared: bool) -> None:
        """Hold as much in a window that came to bind, or will, after the request was let in."""
        limit = window.limit
        amount = self.estimate.amount(limit.metric)
        window.advance(self.time)
        if limit.metric.counts_at_admission:
            window.count(amount, self.time)
        else:
            amount = min(amount, limit.amount)
            window.reserved += amount
        if shared:
            held = self._accounts[0]._shared
            held[window] = held.get(window, 0) + amount
        self._holds.append((window, amount))


def reserve(
    accounts: Sequence[Account], estimate: Charge, now: int, *, capped: bool
) -> Reservation | LimitExceeded:
    """Reserve the estimate in every window of all these accounts, or change nothing.

    The first account is that of the key, which shares the others with further keys. ``now`` is ms
    since the epoch. ``capped``: an estimate that is larger than a whole limit reserves that limit;
    else it never fits.
    """
    for account in accounts:
        if account._latest > now:
            now = account._latest
    holds: list[tuple[Window, int]] = []
    own = accounts[0]
    shared_from = 0
    for account in accounts:
        shared = account.kind is not AccountKind.KEY
        for window in account.windows:
            if now >= window.turns_at:
                window.advance(now)
            limit = window.limit
            needed = estimate.amount(limit.metric)
            if capped and needed > limit.amount:
                needed = limit.amount
            if needed and window.used + window.reserved + needed > limit.amount:
                return _worst_obstacle(accounts, estimate, now, capped)
            if shared and not own._may_hold(window, needed):
                return _worst_obstacle(accounts, estimate, now, capped)
            holds.append((window, needed))
        if not shared:
            shared_from = len(holds)
    return Reservation(accounts, estimate, now, holds, shared_from=shared_from)


def tightest_of(limits: Iterable[LimitStatus]) -> dict[Metric, LimitStatus]:
    """The limit of each metric with least remaining.

    If there are several, the one that takes longest until nothing of it is used.
    """
    tightest: dict[Metric, LimitStatus] = {}
    for status in limits:
        metric = status.limit.metric
        other = tightest.get(metric)
        if other is None or _tightness(status) < _tightness(other):
            tightest[metric] = status
    return tightest


def fits_without_reserved(accounts: Iterable[Account], estimate: Charge, *, capped: bool) -> bool:
    """Whether there would be room if nothing were reserved, as of when windows advanced last."""
    for account in accounts:
        for window in account.windows:
            amount = window.limit.amount
            needed = estimate.amount(window.limit.metric)
            if window.used + (min(needed, amount) if capped else needed) > amount:
                return False
    return True


def shift(accounts: Iterable[Account], delta: int, now: int) -> None:
    """Move the accounts and the requests that run along with the date.

    The date is moved by ``delta`` ms, and was ``now`` before. All accounts have to be given at
    once, for they share requests.
    """
    running: set[Reservation] = set()
    for account in accounts:
        account._shift(delta, now)
        running |= account._running
    for reservation in running:
        reservation.time += delta


def largest_that_fits(
    accounts: Iterable[Account], estimate: Callable[[int], Charge], most: int
) -> int:
    """The largest number up to ``most`` whose estimate no whole limit is too small for.

    The number is one that the estimate doesn't fall with, such as ``max_tokens``. 0 means
    that not even 1 fits.
    """
    limits = [window.limit for account in accounts for window in account.windows]

    def too_large(number: int) -> bool:
        charge = estimate(number)
        return any(charge.amount(limit.metric) > limit.amount for limit in limits)

    return bisect_left(range(1, most + 1), True, key=too_large)


def _worst_obstacle(
    accounts: Sequence[Account], estimate: Charge, now: int, capped: bool
) -> LimitExceeded:
    """The worst of the obstacles; of equals, the first."""
    own = accounts[0]
    obstacles: list[LimitExceeded] = []
    for account in accounts:
        for window in account.windows:
            window.advance(now)
            needed = estimate.amount(window.limit.metric)
            if capped:
                needed = min(needed, window.limit.amount)
            full = needed and window.used + window.reserved + needed > window.limit.amount
            # Then the request waits for others of its key, whoever holds the rest.
            shared = account.kind is not AccountKind.KEY
            holds_enough = shared and not own._may_hold(window, needed)
            if not full and not holds_enough:
                continue
            first = obstacles[0].first if obstacles else own if holds_enough else account
            obstacle = _obstacle(account.kind, window, needed, now, first)
            obstacles.append(obstacle if full else replace(obstacle, frees_at=None))
    return max(obstacles, key=lambda obstacle: obstacle.severity)


def _obstacle(
    kind: AccountKind, window: Window, needed: int, now: int, first: Account
) -> LimitExceeded:
    limit = window.limit
    only_reserved = window.used + needed <= limit.amount
    frees_at = window.frees_at(needed, now)
    if frees_at is None and not only_reserved:
        frees_at = window.frees_at(needed, now, reserved=0)
    never_fits = needed > limit.amount
    used, reserved = window.used, window.reserved
    return LimitExceeded(
        kind, limit, used, reserved, needed, frees_at, only_reserved, never_fits, first
    )


def _tightness(limit_status: LimitStatus) -> tuple[int, float]:
    """Lower is tighter."""
    if limit_status.resets_at is not None:
        return limit_status.remaining, -limit_status.resets_at
    # It never frees; or nothing is used, and there is nothing to wait for.
    return limit_status.remaining, float("-inf") if limit_status.used else 0.0
