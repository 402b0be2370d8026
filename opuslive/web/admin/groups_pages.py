"""The administration's pages about groups: all of them, and one with its limits and its keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from aiohttp import web

from opuslive.administration.groups import Group, Groups
from opuslive.administration.keys import Administration
from opuslive.gateway.admission.admission import Admission
from opuslive.times import Clock
from opuslive.web.admin.actions import NOTICES
from opuslive.web.admin.key_table import COLUMNS, Choice, address_of, kinds_of, make_table
from opuslive.web.pages.addresses import GROUPS
from opuslive.web.pages.report import Gauge, gauge
from opuslive.web.pages.templating import Templates

_DONE = ("changed_many", "disabled_many", "enabled_many")


@dataclass(frozen=True, slots=True)
class GroupRow:
    """A group in the table. ``fullest`` is the gauge of its fullest limit; None without any."""

    group: Group
    expiring: int
    fullest: Gauge | None


class AdminGroups:
    """``/admin/groups``."""

    def __init__(
        self,
        groups: Groups,
        administration: Administration,
        admission: Admission,
        clock: Clock,
        templates: Templates,
    ) -> None:
        self._groups = groups
        self._administration = administration
        self._admission = admission
        self._clock = clock
        self._templates = templates

    def routes(self) -> list[web.RouteDef]:
        return [web.get(GROUPS, self.groups), web.get(GROUPS + "/{name:[^/]+}", self.group)]

    async def groups(self, request: web.Request) -> web.StreamResponse:
        """All groups; or the one that the query names, which can't stand in a path."""
        if "name" in request.query:
            return await self._group(request, request.query["name"])
        return self._templates.render_admin(
            request, "admin_groups.html", rows=self._rows(), now=self._clock.steady_ms()
        )

    async def group(self, request: web.Request) -> web.StreamResponse:
        return await self._group(request, request.match_info["name"])

    async def _group(self, request: web.Request, name: str) -> web.StreamResponse:
        group = self._groups.find(name)
        now, wall_ms = self._clock.steady_ms(), self._clock.wall_ms()
        table = make_table(
            group.keys,
            await self._administration.all_usage(),
            self._admission.statuses,
            self._admission.shared_limits(),
            Choice.of_query(request.query),
            now=now,
            wall_ms=wall_ms,
        )
        columns = [column for column in COLUMNS if column.name != "group"]
        done = request.query.get("done", "")
        return self._templates.render_admin(
            request,
            "admin_group.html",
            group=group,
            gauges=[gauge(status, now) for status in group.limits],
            table=table,
            columns=columns,
            kinds=kinds_of(columns),
            address=address_of(table.choice, {"name": name} if "name" in request.query else {}),
            known=self._groups.known,
            expiring=group.expiring(wall_ms),
            now=now,
            notice=NOTICES[done] if done in _DONE else None,
        )

    def _rows(self) -> Sequence[GroupRow]:
        now, wall_ms = self._clock.steady_ms(), self._clock.wall_ms()
        rows = []
        for group in self._groups.all():
            fullest = max(group.limits, key=attrgetter("fullness"), default=None)
            shown = None if fullest is None else gauge(fullest, now)
            rows.append(GroupRow(group, group.expiring(wall_ms), shown))
        return rows
