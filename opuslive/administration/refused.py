"""Which keys are refused now, counted for whoever looks after all of them.

It is asked every few seconds, and of every key: so it looks at the windows first, and asks how a
limit stands only where nothing is left of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from opuslive.administration.states import StateName, standing_of
from opuslive.gateway.admission.admission import SharedLimits
from opuslive.gateway.holder import Holder
from opuslive.keys import Key
from opuslive.limits.windows import LimitStatus

Scope = Literal["gateway", "group", "key"]


@dataclass(frozen=True, slots=True)
class UsedUpLimit:
    """A limit of which nothing is left, and how many ``keys`` it stops that would be served
    otherwise. ``group`` is the name of the group whose limit it is, ``key`` the key whose it is."""

    scope: Scope
    group: str | None
    key: Key | None
    status: LimitStatus
    keys: int


@dataclass(frozen=True, slots=True)
class RefusedKeys:
    """How many keys are refused, by their state. ``limits`` are behind those that are exhausted:
    the limits that stop most keys come first."""

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
    groups = {name: _used_up(each) for name, each in shared.groups.items()}
    full = SharedLimits(_used_up(shared.gateway), groups)
    states: Counter[StateName] = Counter()
    members: Counter[str | None] = Counter()
    own_limits: list[UsedUpLimit] = []
    for holder in holders:
        key = holder.key
        own: Sequence[LimitStatus] = ()
        # Time only gives back, so a window that has room needs no look at the time.
        if any(window.used >= window.limit.amount for window in holder.account.windows):
            own = _used_up(statuses(holder))
        state = standing_of(key, own, full, wall_ms).state
        states[state] += 1
        if state == "exhausted":
            members[key.group] += 1
            own_limits += [UsedUpLimit("key", None, key, status, 1) for status in own]
    limits = [
        *(UsedUpLimit("gateway", None, None, each, members.total()) for each in full.gateway),
        *(
            UsedUpLimit("group", name, None, each, members[name])
            for name, statuses_of_group in sorted(groups.items())
            for each in statuses_of_group
            if members[name]
        ),
        *sorted(own_limits, key=_name),
    ]
    return RefusedKeys(states["disabled"], states["expired"], states["exhausted"], limits)


def _used_up(statuses: Iterable[LimitStatus]) -> Sequence[LimitStatus]:
    return [status for status in statuses if status.used >= status.limit.amount]


def _name(limit: UsedUpLimit) -> str:
    return "" if limit.key is None else limit.key.name
