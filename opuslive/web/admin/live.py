"""What the overview says of this moment: with the page, and alone for the script that refreshes it.

All of it is in memory, so it may be asked for every few seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web

from opuslive.administration.activity import Activity, ActivityReader, KeyActivity
from opuslive.administration.refused import RefusedKeys, UsedUpLimit, count_refused
from opuslive.gateway.admission.admission import Admission
from opuslive.gateway.holder import Holders
from opuslive.times import Clock
from opuslive.web.pages import words
from opuslive.web.pages.addresses import group_address
from opuslive.web.pages.templating import Templates

PATH = "/admin/live"
#: The keys that are named as the busiest ones, and the used-up limits that are named.
BUSIEST = 5
NAMED_LIMITS = 5


@dataclass(frozen=True, slots=True)
class Live:
    """How it is right now. ``busiest`` are keys that used most within the last minute, ``limits``
    the first limits that are used up, each in words and with the address of the page of whose it
    is, if that has one; ``more_limits`` are not named."""

    now: int
    activity: Activity
    busiest: Sequence[KeyActivity]
    refused: RefusedKeys
    limits: Sequence[tuple[UsedUpLimit, str, str | None]]
    more_limits: int


class LivePart:
    """``GET /admin/live``: the part of the overview that is about this moment."""

    def __init__(
        self,
        activity: ActivityReader,
        holders: Holders,
        admission: Admission,
        clock: Clock,
        templates: Templates,
    ) -> None:
        self._activity = activity
        self._holders = holders
        self._admission = admission
        self._clock = clock
        self._templates = templates

    def routes(self) -> list[web.RouteDef]:
        return [web.get(PATH, self.part)]

    async def part(self, request: web.Request) -> web.StreamResponse:
        return self._templates.render_admin(request, "admin_live_part.html", live=self.read())

    def read(self) -> Live:
        activity = self._activity.read()
        refused = count_refused(
            self._holders,
            self._admission.own_limits,
            self._admission.shared_limits(),
            self._clock.wall_ms(),
        )
        return Live(
            now=self._clock.steady_ms(),
            activity=activity,
            busiest=activity.keys[:BUSIEST],
            refused=refused,
            limits=[
                (used_up, words.meaning(used_up.limit.status.limit), _address(used_up))
                for used_up in refused.limits[:NAMED_LIMITS]
            ],
            more_limits=max(0, len(refused.limits) - NAMED_LIMITS),
        )


def _address(used_up: UsedUpLimit) -> str | None:
    if used_up.key is not None:
        return f"/admin/keys/{used_up.key.id}"
    group = used_up.limit.group
    return None if group is None else group_address(group)
