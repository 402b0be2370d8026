"""The part of the administration API that changes several keys at once: all of them, or none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiohttp import web

from opuslive.administration.choosing import Chosen
from opuslive.administration.keys import Administration, KeyChanges, text_member
from opuslive.errors import UsageError
from opuslive.keys import Key
from opuslive.quantities import did_you_mean, parse_duration, shown
from opuslive.web.admin.openapi import AdminRoute
from opuslive.web.admin.schemas import SCHEMAS

#: Makes the members that are shown of keys and what they used.
Described = Callable[[Sequence[Key]], Awaitable[Sequence[dict[str, object]]]]


class ManyHandlers:
    """Changes of the keys that ``keys`` names, or of those of a ``group``."""

    def __init__(
        self,
        administration: Administration,
        described: Described,
        with_secret: Callable[[Key, str], dict[str, object]],
    ) -> None:
        self._administration = administration
        self._described = described
        self._with_secret = with_secret

    async def update_keys(self, request: web.Request, members: dict[str, Any]) -> object:
        changes = members.get("changes")
        if not isinstance(changes, dict) or not changes:
            raise UsageError("'changes' is an object with what to change.")
        known = SCHEMAS["KeyChanges"]["properties"]
        for name in changes:
            if name not in known:
                raise UsageError(
                    f"'changes' has no member {shown(name)}; {did_you_mean(name, known)}"
                )
        keys = await self._administration.update_many(
            Chosen.from_members(members),
            KeyChanges.from_members(changes, self._administration.now_ms()),
        )
        return {"items": await self._described(keys)}

    async def rotate_keys(self, request: web.Request, members: dict[str, Any]) -> object:
        grace = parse_duration(text_member(members, "grace") or "0s")
        rotated = await self._administration.rotate_many(Chosen.from_members(members), grace)
        return {"items": [self._with_secret(key, credential) for key, credential in rotated]}


ROUTES = (
    AdminRoute(
        "updateKeys",
        "PATCH",
        "/keys",
        ManyHandlers.update_keys,
        "Change several keys, or all of a group, in one transaction: all of them, or none.",
        "ChangedKeys",
        body="ManyChanges",
    ),
    AdminRoute(
        "rotateKeys",
        "POST",
        "/rotations",
        ManyHandlers.rotate_keys,
        "Give several keys, or all of a group, new secrets: all of them, or none.",
        "RotatedKeys",
        body="ManyRotation",
    ),
)
