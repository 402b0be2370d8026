"""How a key stands, in one word: the same for the API, the pages and the holder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from opuslive.gateway.admission.admission import SharedLimits
from opuslive.keys import Key
from opuslive.limits.windows import LimitStatus

#: ``invited`` and ``lapsed`` are keys without a secret: an invitation lets somebody make it, or
#: none does any more.
StateName = Literal["enabled", "disabled", "expired", "exhausted", "invited", "lapsed"]


def state_name(
    key: Key, own: Iterable[LimitStatus], shared: SharedLimits, wall_ms: int
) -> StateName:
    """The first reason for which the key's requests would be refused, or else ``enabled``.

    ``own`` are the statuses of the key's own limits. ``wall_ms`` is the wall clock's time in ms
    since the epoch: the authenticator judges the expiry by that clock, too.
    """
    if not key.enabled:
        return "disabled"
    if key.expired(wall_ms):
        return "expired"
    if key.secret_hash is None:
        return "invited" if key.invited(wall_ms) else "lapsed"
    statuses = [*own, *shared.of_group(key.group), *shared.gateway]
    return "exhausted" if used_up(statuses) else "enabled"


def used_up(statuses: Iterable[LimitStatus]) -> Sequence[LimitStatus]:
    """Those of the limits of which nothing is left."""
    return [status for status in statuses if status.used >= status.limit.amount]
