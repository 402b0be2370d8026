"""The pages on which an administrator raises a limit of a key for a while, and takes that back."""

from __future__ import annotations

from aiohttp import web

from opuslive.administration.keys import Administration, KeyChanges
from opuslive.errors import OpusLiveError
from opuslive.gateway.holder import Holders
from opuslive.keys import Key
from opuslive.web.admin.actions import key_of
from opuslive.web.admin.key_form import sentence
from opuslive.web.admin.posting import read, see_other
from opuslive.web.pages.templating import Templates
from opuslive.web.shapes import raised_limits

_FIELDS = ("limit", "until")


class AdminRaises:
    """Handlers of ``/admin/keys/{id}/raise``."""

    def __init__(
        self, holders: Holders, administration: Administration, templates: Templates
    ) -> None:
        self._holders = holders
        self._administration = administration
        self._templates = templates

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/admin/keys/{id}/raise", self.form),
            web.post("/admin/keys/{id}/raise", self.raise_limit),
            web.post("/admin/keys/{id}/lower", self.lower),
        ]

    async def form(self, request: web.Request) -> web.StreamResponse:
        key = key_of(request, self._holders)
        return self._form(request, key, key.limits[0] if key.limits else "", "1d")

    async def raise_limit(self, request: web.Request) -> web.StreamResponse:
        key = key_of(request, self._holders)
        typed = await read(request, _FIELDS)
        limit, until = (typed.get(name, "").strip() for name in _FIELDS)
        members = {"raise": {"limit": limit or None, "until": until or None}}
        try:
            changes = KeyChanges.from_members(members, self._administration.now_ms())
            await self._administration.update(key.id, changes)
        except OpusLiveError as error:
            return self._form(request, key, limit, until, error)
        return see_other(request, f"/admin/keys/{key.id}?done=raised")

    async def lower(self, request: web.Request) -> web.StreamResponse:
        key = key_of(request, self._holders)
        await read(request, ())
        await self._administration.update(key.id, KeyChanges(set_raise=True))
        return see_other(request, f"/admin/keys/{key.id}?done=lowered")

    def _form(
        self,
        request: web.Request,
        key: Key,
        limit: str,
        until: str,
        error: OpusLiveError | None = None,
    ) -> web.Response:
        return self._templates.render_admin(
            request,
            "admin_raise.html",
            status=200 if error is None else error.code.status,
            key=key,
            limit=limit,
            until=until,
            raised=raised_limits(key),
            error=None if error is None else sentence(error.message),
        )
