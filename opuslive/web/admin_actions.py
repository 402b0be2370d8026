"""What an administrator does on the pages: each change is a form that is posted.

A change is answered by going back to a page that says what was done, by a fixed code in its
address. A new secret is shown in the answer itself, once: it stands in no address, and nobody
keeps a copy of that answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType

from aiohttp import web

from opuslive.bootstrap import Gateway
from opuslive.errors import Code, OpusLiveError, UsageError
from opuslive.gateway.administration import KeyChanges
from opuslive.keys import Key
from opuslive.quantities import parse_duration
from opuslive.web.admin_forms import Typed, explain_limits, sentence
from opuslive.web.answers import json_answer, request_id_headers
from opuslive.web.forms import read_form
from opuslive.web.problems import problems
from opuslive.web.templating import Templates

#: Bytes of a form: 50 limits and 50 globs of 100 characters, percent-encoded, have less.
MAX_FORM = 128 * 1024

#: What was done, by the code that the address of the next page has for it.
NOTICES: Mapping[str, str] = MappingProxyType(
    {
        "changed": "The changes hold from the next request on.",
        "disabled": "The key is disabled: new requests are refused, running ones finish.",
        "enabled": "The key is enabled again.",
        "deleted": "The key and all its usage are erased.",
    }
)


class AdminActions:
    """Handlers of the forms."""

    def __init__(self, gateway: Gateway, templates: Templates) -> None:
        self._gateway = gateway
        self._administration = gateway.administration
        self._templates = templates

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/admin/keys/new", self.new_form),
            web.post("/admin/keys/new", self.create),
            web.get("/admin/keys/{id}/change", self.change_form),
            web.post("/admin/keys/{id}/change", self.change),
            web.get("/admin/keys/{id}/rotate", self.rotate_form),
            web.post("/admin/keys/{id}/rotate", self.rotate),
            web.get("/admin/keys/{id}/delete", self.delete_form),
            web.post("/admin/keys/{id}/delete", self.delete),
            web.post("/admin/keys/{id}/disable", self.disable),
            web.post("/admin/keys/{id}/enable", self.enable),
            web.post("/admin/limits", self.limits),
        ]

    def key(self, request: web.Request) -> Key:
        """The key whose id the address has. Raises OpusLiveError (not_found)."""
        for key in self._administration.all_keys():
            if key.id == request.match_info["id"]:
                return key
        raise OpusLiveError(
            Code.NOT_FOUND, "There is no such key. If there was one, it has been deleted."
        )

    # New keys.

    async def new_form(self, request: web.Request) -> web.StreamResponse:
        limits = "\n".join(map(str, self._gateway.config.keys.default_limits))
        return self._key_form(request, None, Typed(limits=limits))

    async def create(self, request: web.Request) -> web.StreamResponse:
        typed = Typed.of_form(await _read(request))
        changes, errors = typed.changes(None, self._administration.now_ms())
        if errors:
            return self._key_form(request, None, typed, errors)
        try:
            key, credential = await self._administration.create(changes)
        except OpusLiveError as error:
            return self._key_form(request, None, typed, _blame(error), error.code.status)
        return self._secret(request, key, credential, rotated=False, status=201)

    # Changes.

    async def change_form(self, request: web.Request) -> web.StreamResponse:
        key = self.key(request)
        return self._key_form(request, key, Typed.of_key(key))

    async def change(self, request: web.Request) -> web.StreamResponse:
        key = self.key(request)
        typed = Typed.of_form(await _read(request))
        changes, errors = typed.changes(key, self._administration.now_ms())
        if errors:
            return self._key_form(request, key, typed, errors)
        try:
            await self._administration.update(key.id, changes)
        except OpusLiveError as error:
            return self._key_form(request, key, typed, _blame(error), error.code.status)
        return _see_other(request, f"/admin/keys/{key.id}?done=changed")

    async def disable(self, request: web.Request) -> web.StreamResponse:
        return await self._enable(request, enabled=False)

    async def enable(self, request: web.Request) -> web.StreamResponse:
        return await self._enable(request, enabled=True)

    async def _enable(self, request: web.Request, *, enabled: bool) -> web.StreamResponse:
        key = self.key(request)
        await _read(request)
        await self._administration.update(key.id, KeyChanges(enabled=enabled))
        done = "enabled" if enabled else "disabled"
        return _see_other(request, f"/admin/keys/{key.id}?done={done}")

    # New secrets.

    async def rotate_form(self, request: web.Request) -> web.StreamResponse:
        return self._templates.render_admin(
            request, "admin_rotate.html", key=self.key(request), grace="", error=None
        )

    async def rotate(self, request: web.Request) -> web.StreamResponse:
        key = self.key(request)
        grace = (await _read(request)).get("grace", "").strip()
        try:
            seconds = parse_duration(grace or "0s")
        except UsageError as error:
            problem = sentence(error.message)
            return self._templates.render_admin(
                request, "admin_rotate.html", status=400, key=key, grace=grace, error=problem
            )
        rotated, credential = await self._administration.rotate(key.id, seconds)
        return self._secret(request, rotated, credential, rotated=True)

    # The end of a key.

    async def delete_form(self, request: web.Request) -> web.StreamResponse:
        return await self._delete_form(request, self.key(request))

    async def delete(self, request: web.Request) -> web.StreamResponse:
        key = self.key(request)
        if (await _read(request)).get("name", "").strip() != key.name:
            return await self._delete_form(
                request, key, "This is not the name of the key. Nothing was deleted.", 400
            )
        await self._administration.delete(key.id)
        return _see_other(request, "/admin/keys?done=deleted")

    # While typing.

    async def limits(self, request: web.Request) -> web.StreamResponse:
        """What the limits in the field ``limits`` mean, line by line, as JSON for our script."""

        async def explained(request: web.Request) -> web.StreamResponse:
            found = explain_limits((await _read(request)).get("limits", ""))
            return json_answer(request, {"lines": [line.as_dict() for line in found]})

        return await problems(request, explained)

    # What is shown.

    def _key_form(
        self,
        request: web.Request,
        key: Key | None,
        typed: Typed,
        errors: Mapping[str, str] | None = None,
        status: int = 400,
    ) -> web.Response:
        return self._templates.render_admin(
            request,
            "admin_key_form.html",
            status=status if errors else 200,
            key=key,
            typed=typed,
            refused=bool(errors),
            errors=dict.fromkeys((*asdict(typed), "form")) | dict(errors or {}),
            explained=explain_limits(typed.limits),
            groups=sorted(
                {*self._gateway.config.limits.groups}
                | {each.group for each in self._administration.all_keys() if each.group}
            ),
        )

    async def _delete_form(
        self, request: web.Request, key: Key, error: str | None = None, status: int = 200
    ) -> web.Response:
        usage = await self._administration.usage_of(key)
        return self._templates.render_admin(
            request, "admin_delete.html", status=status, key=key, usage=usage.sum, error=error
        )

    def _secret(
        self, request: web.Request, key: Key, credential: str, *, rotated: bool, status: int = 200
    ) -> web.Response:
        """The one time that a credential is shown."""
        gateway = self._gateway
        usable = [model.id for model in gateway.catalog.models_for(gateway.router, key.models)]
        model = self._templates.example_model
        return self._templates.render_admin(
            request,
            "admin_secret.html",
            status=status,
            key=key,
            credential=credential,
            rotated=rotated,
            base=self._templates.base(request),
            model=model if model in usable or not usable else usable[0],
            dialects={upstream.dialect for upstream in gateway.config.upstreams},
        )


async def _read(request: web.Request) -> Mapping[str, str]:
    return await read_form(request, max_bytes=MAX_FORM, too_long="That is far too long.")


def _blame(error: OpusLiveError) -> Mapping[str, str]:
    """Beside which field to say what the operation found wrong; none of them is the form's own."""
    return {"name" if error.code is Code.CONFLICT else "form": sentence(error.message)}


def _see_other(request: web.Request, location: str) -> web.Response:
    headers = {"Location": location, "Cache-Control": "no-store", **request_id_headers(request)}
    return web.Response(status=303, headers=headers)
