"""How a key stands: a word for the API, the pages and the holder, and the limits behind it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from opuslive.gateway.admission.admission import SharedLimits
from opuslive.keys import Key
from opuslive.limits.accounts import AccountKind
from opuslive.limits.windows import LimitStatus

StateName = Literal["enabled", "disabled", "expired", "exhausted"]


@dataclass(frozen=True, slots=True)
class HeldLimit:
    """A limit that holds: whose it is, and how it stands. ``group`` is the name of a group whose
    limit it is, else None."""

    scope: AccountKind
    group: str | None
    status: LimitStatus

    @property
    def used_up(self) -> bool:
        """Whether nothing of it is left, whatever requests that run will give back."""
        return self.status.used >= self.status.limit.amount


@dataclass(frozen=True, slots=True)
class KeyStanding:
    """How a key stands. ``state`` is the first reason for which the key's requests would be
    refused, or else ``enabled``. ``limits`` are all that hold for the key: its own first, then
    those of its group and of the gateway. ``exhausted_by`` are those of them that are used up,
    where that is the reason."""

    state: StateName
    limits: Sequence[HeldLimit]
    exhausted_by: Sequence[HeldLimit]


def standing_of(
    key: Key, own: Iterable[LimitStatus], shared: SharedLimits, wall_ms: int
) -> KeyStanding:
    """How the key stands.

    ``own`` are the statuses of the key's own limits. ``wall_ms`` is the wall clock's time in ms
    since the epoch: the authenticator judges the expiry by that clock, too.
    """
    limits = [
        *(HeldLimit(AccountKind.KEY, None, status) for status in own),
        *(HeldLimit(AccountKind.GROUP, key.group, each) for each in shared.of_group(key.group)),
        *(HeldLimit(AccountKind.GATEWAY, None, status) for status in shared.gateway),
    ]
    if not key.enabled:
        return KeyStanding("disabled", limits, ())
    if key.expired(wall_ms):
        return KeyStanding("expired", limits, ())
    used_up = [limit for limit in limits if limit.used_up]
    return KeyStanding("exhausted" if used_up else "enabled", limits, used_up)


def shared_standing(shared: SharedLimits) -> Sequence[HeldLimit]:
    """All limits that keys share: those of the gateway, then those of each group by its name."""
    return [
        *(HeldLimit(AccountKind.GATEWAY, None, status) for status in shared.gateway),
        *(
            HeldLimit(AccountKind.GROUP, group, status)
            for group, statuses in sorted(shared.groups.items())
            for status in statuses
        ),
    ]
