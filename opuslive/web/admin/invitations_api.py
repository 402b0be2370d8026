"""The part of the administration API that is about invitations."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiohttp import web

from opuslive.administration.invitations import Invitations, Invited
from opuslive.administration.keys import Administration, KeyChanges, flag_member
from opuslive.keys import Key
from opuslive.web.admin.openapi import AdminRoute
from opuslive.web.shapes import key_with_link, key_with_secret


class InvitationHandlers:
    """New keys, and the links by which their holders make the secrets. ``described`` makes the
    members that are shown of a key, ``warnings`` what is worth a look."""

    def __init__(
        self,
        administration: Administration,
        invitations: Invitations,
        described: Callable[[Key], Awaitable[dict[str, object]]],
        warnings: Callable[[Key], Sequence[str]],
    ) -> None:
        self._administration = administration
        self._invitations = invitations
        self._described = described
        self._warnings = warnings

    async def create_key(self, request: web.Request, members: dict[str, Any]) -> object:
        changes = KeyChanges.from_members(members, self._administration.now_ms())
        if flag_member(members, "invite"):
            return self._with_link(await self._invitations.create(changes))
        key, credential = await self._administration.create(changes)
        return key_with_secret(key, credential) | {"warnings": self._warnings(key)}

    async def invite(self, request: web.Request) -> object:
        return self._with_link(await self._invitations.invite(request.match_info["id"]))

    async def revoke(self, request: web.Request) -> object:
        return await self._described(await self._invitations.revoke(request.match_info["id"]))

    def _with_link(self, invited: Invited) -> object:
        return key_with_link(invited) | {"warnings": self._warnings(invited.key)}


ROUTES = (
    AdminRoute(
        "createKey",
        "POST",
        "/keys",
        InvitationHandlers.create_key,
        "Make a key. Its secret, or the link of its invitation, is in this answer and never again.",
        "MadeKey",
        status=201,
        body="NewKey",
    ),
    AdminRoute(
        "inviteHolder",
        "POST",
        "/keys/{id}/invitation",
        InvitationHandlers.invite,
        "Make a link by which the key's holder makes its next secret. A link from before is void.",
        "KeyWithLink",
    ),
    AdminRoute(
        "revokeInvitation",
        "DELETE",
        "/keys/{id}/invitation",
        InvitationHandlers.revoke,
        "Call the link back. The secret that the key has, if any, goes on working.",
        "KeyWithUsage",
    ),
)
