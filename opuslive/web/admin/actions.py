"""What an administrator does on the pages: each change is a form that is posted.

A change is answered by going back to a page that says what was done, by a fixed code in its
address. A new secret is shown in the answer itself, once: it stands in no address, and nobody
keeps a copy of that answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType

from aiohttp import web

from opuslive.administration.groups import Groups
from opuslive.administration.invitations import Invitations, Invited
from opuslive.administration.keys import MAX_NAME, Administration, KeyChanges
from opuslive.config.in_force import ConfigInForce
from opuslive.errors import Code, OpusLiveError, UsageError
from opuslive.gateway.holder import Holders
from opuslive.keys import Key
from opuslive.quantities import parse_duration
from opuslive.reloading import Reload
from opuslive.web.admin.key_form import (
    FIELDS,
    Typed,
    explain_limits,
    form_fields,
    sentence,
    shown_of,
)
from opuslive.web.admin.posting import read as _read
from opuslive.web.admin.posting import see_other as _see_other
from opuslive.web.answers import json_answer
from opuslive.web.errors import answered, problem_document
from opuslive.web.model_names import ModelNames
from opuslive.web.pages.templating import Templates

#: Code in the address of the next page → what was done.
NOTICES: Mapping[str, str] = MappingProxyType(
    {
        "changed": "The changes hold from the next request on.",
        "disabled": "The key is disabled: new requests are refused, running ones finish.",
        "enabled": "The key is enabled again.",
        "deleted": "The key and all its usage are erased.",
        "raised": "The limit is raised from the next request on; that ends by itself.",
        "lowered": "The key has its own limits again.",
        "changed_many": "The changes hold for all of these keys from the next request on.",
        "disabled_many": "The keys are disabled: new requests are refused, running ones finish.",
        "enabled_many": "The keys are enabled again.",
        "revoked": "The invitation is called back: its link is void.",
    }
)


class AdminActions:
    """Handlers of the forms."""

    def __init__(
        self,
        in_force: ConfigInForce,
        holders: Holders,
        administration: Administration,
        invitations: Invitations,
        models: ModelNames,
        templates: Templates,
        reload: Reload,
        groups: Groups,
    ) -> None:
        self._in_force = in_force
        self._holders = holders
        self._administration = administration
        self._invitations = invitations
        self._models = models
        self._templates = templates
        self._reload = reload
        self._groups = groups

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/admin/keys/new", self.new_form),
            web.post("/admin/keys/new", self.create),
            web.post("/admin/keys/new/invite", self.create_invited),
            web.get("/admin/keys/{id}/change", self.change_form),
            web.post("/admin/keys/{id}/change", self.change),
            web.get("/admin/keys/{id}/rotate", self.rotate_form),
            web.post("/admin/keys/{id}/rotate", self.rotate),
            web.get("/admin/keys/{id}/invite", self.invite_form),
            web.post("/admin/keys/{id}/invite", self.invite),
            web.post("/admin/keys/{id}/invite/revoke", self.revoke),
            web.get("/admin/keys/{id}/delete", self.delete_form),
            web.post("/admin/keys/{id}/delete", self.delete),
            web.post("/admin/keys/{id}/disable", self.disable),
            web.post("/admin/keys/{id}/enable", self.enable),
            web.post("/admin/reload", self.reload),
            # Our script asks for it, and shows no page.
            web.post("/admin/limits", answered(self.limits, problem_document)),
        ]

    # The configuration.

    async def reload(self, request: web.Request) -> web.StreamResponse:
        await _read(request, ())
        try:
            reloaded, error = await self._reload(), None
        except UsageError as problem:
            reloaded, error = None, problem.message
        return self._templates.render_admin(
            request,
            "admin_reload.html",
            status=200 if error is None else 400,
            reloaded=reloaded,
            error=error,
        )

    # New keys.

    async def new_form(self, request: web.Request) -> web.StreamResponse:
        limits = "\n".join(map(str, self._in_force.config.keys.default_limits))
        return self._key_form(request, None, Typed(limits=limits))

    async def create(self, request: web.Request) -> web.StreamResponse:
        return await self._create(request, invited=False)

    async def create_invited(self, request: web.Request) -> web.StreamResponse:
        return await self._create(request, invited=True)

    async def _create(self, request: web.Request, *, invited: bool) -> web.StreamResponse:
        typed = Typed.of_form(await _read(request, FIELDS))
        changes, errors = typed.changes({}, self._administration.now_ms())
        if errors:
            return self._key_form(request, None, typed, errors=errors)
        try:
            if invited:
                return self._link(request, await self._invitations.create(changes), status=201)
            key, credential = await self._administration.create(changes)
        except OpusLiveError as error:
            return self._key_form(request, None, typed, error=error)
        return self._secret(request, key, credential, rotated=False, status=201)

    # Invitations.

    async def invite_form(self, request: web.Request) -> web.StreamResponse:
        return self._invite_form(request)

    async def invite(self, request: web.Request) -> web.StreamResponse:
        key = self._key(request)
        await _read(request, ())
        try:
            return self._link(request, await self._invitations.invite(key.id))
        except UsageError as error:
            return self._invite_form(request, error.message, status=400)

    async def revoke(self, request: web.Request) -> web.StreamResponse:
        key = self._key(request)
        await _read(request, ())
        await self._invitations.revoke(key.id)
        return _see_other(request, f"/admin/keys/{key.id}?done=revoked")

    # Changes.

    async def change_form(self, request: web.Request) -> web.StreamResponse:
        key = self._key(request)
        typed = Typed.of_key(key)
        return self._key_form(request, key, typed, asdict(typed))

    async def change(self, request: web.Request) -> web.StreamResponse:
        key = self._key(request)
        form = await _read(request, FIELDS)
        typed, shown = Typed.of_form(form), shown_of(form)
        changes, errors = typed.changes(shown, self._administration.now_ms())
        if errors:
            return self._key_form(request, key, typed, shown, errors=errors)
        try:
            await self._administration.update(key.id, changes)
        except OpusLiveError as error:
            return self._key_form(request, key, typed, shown, error=error)
        return _see_other(request, f"/admin/keys/{key.id}?done=changed")

    async def disable(self, request: web.Request) -> web.StreamResponse:
        return await self._enable(request, enabled=False)

    async def enable(self, request: web.Request) -> web.StreamResponse:
        return await self._enable(request, enabled=True)

    async def _enable(self, request: web.Request, *, enabled: bool) -> web.StreamResponse:
        key = self._key(request)
        await _read(request, ())
        await self._administration.update(key.id, KeyChanges(enabled=enabled))
        done = "enabled" if enabled else "disabled"
        return _see_other(request, f"/admin/keys/{key.id}?done={done}")

    # New secrets.

    async def rotate_form(self, request: web.Request) -> web.StreamResponse:
        return self._rotate_form(request, self._key(request))

    async def rotate(self, request: web.Request) -> web.StreamResponse:
        key = self._key(request)
        form = await _read(request, ("grace", "replacing"))
        grace = form.get("grace", "").strip()
        try:
            seconds = parse_duration(grace or "0s")
        except UsageError as error:
            return self._rotate_form(request, key, grace, sentence(error.message), status=400)
        if form.get("replacing") != _tag(key):
            return self._rotate_form(request, key, grace, overtaken=True, status=409)
        try:
            rotated, credential = await self._administration.rotate(
                key.id, seconds, replacing=key.secret_hash or b""
            )
        except OpusLiveError as error:
            if error.code is not Code.CONFLICT:
                raise
            return self._rotate_form(
                request, self._key(request), grace, overtaken=True, status=error.code.status
            )
        return self._secret(request, rotated, credential, rotated=True)

    # The end of a key.

    async def delete_form(self, request: web.Request) -> web.StreamResponse:
        return await self._delete_form(request, self._key(request))

    async def delete(self, request: web.Request) -> web.StreamResponse:
        key = self._key(request)
        if (await _read(request, ("name",))).get("name", "").strip() != key.name:
            return await self._delete_form(
                request, key, "This is not the name of the key. Nothing was deleted.", 400
            )
        await self._administration.delete(key.id)
        return _see_other(request, "/admin/keys?done=deleted")

    # While typing.

    async def limits(self, request: web.Request) -> web.StreamResponse:
        """What the limits in the field ``limits`` mean, line by line, as JSON for our script."""
        explained = explain_limits((await _read(request, ("limits",))).get("limits", ""))
        return json_answer(request, {"lines": [line.as_dict() for line in explained]})

    # What is shown.

    def _key_form(
        self,
        request: web.Request,
        key: Key | None,
        typed: Typed,
        shown: Mapping[str, str] | None = None,
        *,
        errors: Mapping[str, str] | None = None,
        error: OpusLiveError | None = None,
    ) -> web.Response:
        """``shown`` is what the form was filled with at first. ``errors`` are field → what is
        wrong with it, ``error`` is what the operation found wrong."""
        status = 400 if errors else 200
        taken = None
        if error is not None:
            status = error.code.status
            conflict = error.code is Code.CONFLICT
            # What is not about the name is about no field in particular.
            errors = {"name" if conflict else "form": sentence(error.message)}
            if conflict:
                name = typed.name.strip()
                all_keys = self._administration.all_keys()
                taken = next((each for each in all_keys if each.name == name), None)
        return self._templates.render_admin(
            request,
            "admin_key_form.html",
            status=status,
            key=key,
            typed=typed,
            shown=shown or {},
            taken=taken,
            rejected=bool(errors),
            errors=dict.fromkeys((*asdict(typed), "form")) | dict(errors or {}),
            explained=explain_limits(typed.limits),
            fields=form_fields(sorted(self._groups.known)),
            warnings={"group": self._groups.warning(typed.group.strip() or None)},
            max_name=MAX_NAME,
        )

    def _rotate_form(
        self,
        request: web.Request,
        key: Key,
        grace: str = "",
        error: str | None = None,
        *,
        overtaken: bool = False,
        status: int = 200,
    ) -> web.Response:
        """``overtaken`` says that the key has another secret than when the form was opened: a
        second rotation would void the old secret, to which the first one promised a grace."""
        until = key.previous_expires_at
        running = until is not None and until > self._administration.now_ms()
        return self._templates.render_admin(
            request,
            "admin_rotate.html",
            status=status,
            key=key,
            tag=_tag(key),
            grace=grace,
            grace_until=until if running else None,
            overtaken=overtaken,
            error=error,
        )

    async def _delete_form(
        self, request: web.Request, key: Key, error: str | None = None, status: int = 200
    ) -> web.Response:
        usage = await self._administration.usage_of(key)
        return self._templates.render_admin(
            request,
            "admin_delete.html",
            status=status,
            key=key,
            usage=usage.sum,
            shared=await self._administration.shared_by(key),
            error=error,
        )

    def _secret(
        self, request: web.Request, key: Key, credential: str, *, rotated: bool, status: int = 200
    ) -> web.Response:
        """The one time that a credential is shown."""
        return self._templates.render_admin(
            request,
            "admin_secret.html",
            status=status,
            key=key,
            credential=credential,
            rotated=rotated,
            warning=self._groups.warning(key.group),
            base=self._templates.base(request),
            models=self._models.first_of(key.models),
        )

    def _link(self, request: web.Request, invited: Invited, *, status: int = 200) -> web.Response:
        """The one time that the link of an invitation is shown."""
        return self._templates.render_admin(
            request, "admin_invited.html", status=status, key=invited.key, link=invited.link
        )

    def _invite_form(
        self, request: web.Request, problem: str | None = None, *, status: int = 200
    ) -> web.Response:
        key = self._key(request)
        invitation = key.invitation if key.invited(self._administration.now_ms()) else None
        return self._templates.render_admin(
            request,
            "admin_invite.html",
            status=status,
            key=key,
            until=None if invitation is None else invitation.expires_at,
            problem=problem,
        )

    def _key(self, request: web.Request) -> Key:
        return key_of(request, self._holders)


def key_of(request: web.Request, holders: Holders) -> Key:
    """The key whose id the address has. Raises OpusLiveError (not_found)."""
    holder = holders.get(request.match_info["id"])
    if holder is None:
        raise OpusLiveError(
            Code.NOT_FOUND, "There is no such key. If there was one, it has been deleted."
        )
    return holder.key


def _tag(key: Key) -> str:
    """A tag of the key's present secret: its next secret has another one."""
    return hashlib.blake2b(key.secret_hash or b"", digest_size=8).hexdigest()
