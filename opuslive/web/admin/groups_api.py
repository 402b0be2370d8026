"""The part of the administration API that is about groups."""

from __future__ import annotations

from aiohttp import web

from opuslive.administration.groups import Group, Groups
from opuslive.limits.accounts import AccountKind
from opuslive.times import Clock
from opuslive.web.admin.openapi import AdminRoute


class GroupHandlers:
    """``/admin/api/groups``."""

    def __init__(self, groups: Groups, clock: Clock) -> None:
        self._groups = groups
        self._clock = clock

    async def list_groups(self, request: web.Request) -> object:
        """All groups, or the one that is named: some names can't stand in a path."""
        name = request.query.get("name")
        groups = self._groups.all() if name is None else [self._groups.find(name)]
        return {"items": [self._members(group) for group in groups], "next": None}

    async def show_group(self, request: web.Request) -> object:
        return self._members(self._groups.find(request.match_info["name"]))

    def _members(self, group: Group) -> dict[str, object]:
        whose: dict[str, object] = {"scope": AccountKind.GROUP.value, "group": group.name}
        return {
            "name": group.name,
            "known": group.warning is None,
            "keys": len(group.keys),
            "expiring_soon": group.expiring(self._clock.wall_ms()),
            "limits": [whose | status.as_dict() for status in group.limits],
            "warnings": [] if group.warning is None else [group.warning],
        }


ROUTES = (
    AdminRoute(
        "listGroups",
        "GET",
        "/groups",
        GroupHandlers.list_groups,
        "All groups, by name: those that [limits.groups] has, and those that keys are in.",
        "GroupPage",
        query=("name",),
    ),
    AdminRoute(
        "showGroup",
        "GET",
        "/groups/{name}",
        GroupHandlers.show_group,
        "One group and how its limits stand. (Its keys: GET /keys?group=NAME.)",
        "Group",
    ),
)
