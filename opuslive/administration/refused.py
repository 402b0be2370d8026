"""Which keys are refused now, counted for whoever looks after all of them.

It is asked every few seconds, and of every key: so it looks at the windows first, and asks how a
limit stands only where nothing is left of it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from opuslive.administration.states import HeldLimit, StateName, shared_standing, standing_of
from opuslive.gateway.admission.admission import SharedLimits
from opuslive.gateway.holder import Holder
from opuslive.keys import Key
from opuslive.limits.accounts import AccountKind
from opuslive.limits.windows import LimitStatus


@dataclass(frozen=True, slots=True)
class UsedUpLimit:
    """A limit of which nothing is left, and how many ``keys`` it stops that would be served
    otherwise; ``key`` is the one whose own it is."""

    limit: HeldLimit
    key: Key | None
    keys: int


@dataclass(frozen=True, slots=True)
class RefusedKeys:
    """How many keys are refused, by their state. ``limits`` are behind those that are exhausted:
    first that of all keys, then those of groups, then those of single keys. Keys without a secret
    are not among them: nobody can send anything with one."""

    disabled: int
    expired: int
    exhausted: int
    limits: Sequence[UsedUpLimit]

    @property
    def total(self) -> int:
        return self.disabled + self.expired + self.exhausted


def count_refused(
    holders: Iterable[Holder],
    statuses: Callable[[Holder], Sequence[LimitStatus]],
    shared: SharedLimits,
    wall_ms: int,
) -> RefusedKeys:
    """``statuses`` are those of a key's own limits; ``wall_ms``: see ``states.standing_of``."""
    states: Counter[StateName] = Counter()
    #: Each limit that is used up, and the keys that it stops.
    stopped: defaultdict[tuple[AccountKind, str | None, str], list[tuple[HeldLimit, Key]]]
    stopped = defaultdict(list)
    full = _used_up(shared)
    for holder in holders:
        key = holder.key
        own: Sequence[LimitStatus] = ()
        # Time only gives back, so a window that has room needs no look at the time.
        if any(window.used >= window.limit.amount for window in holder.account.windows):
            own = statuses(holder)
        standing = standing_of(key, own, full, wall_ms)
        states[standing.state] += 1
        for limit in standing.exhausted_by:
            whose = key.id if limit.scope is AccountKind.KEY else limit.group
            stopped[limit.scope, whose, limit.status.limit.text].append((limit, key))
    limits = [
        UsedUpLimit(limit, key if limit.scope is AccountKind.KEY else None, len(keys))
        for keys in stopped.values()
        for limit, key in keys[:1]
    ]
    return RefusedKeys(
        states["disabled"],
        states["expired"],
        states["exhausted"],
        sorted(limits, key=_place),
    )


def _used_up(shared: SharedLimits) -> SharedLimits:
    """Only the limits of which nothing is left: most keys are looked at for these alone."""
    used_up: defaultdict[str | None, list[LimitStatus]] = defaultdict(list)
    for limit in shared_standing(shared):
        if limit.used_up:
            used_up[limit.group].append(limit.status)
    gateway = used_up.pop(None, [])
    return SharedLimits(gateway, {name: each for name, each in used_up.items() if name is not None})


def _place(used_up: UsedUpLimit) -> tuple[int, str, str]:
    order = (AccountKind.GATEWAY, AccountKind.GROUP, AccountKind.KEY)
    name = used_up.limit.group if used_up.key is None else used_up.key.name
    return order.index(used_up.limit.scope), name or "", used_up.limit.status.limit.text
