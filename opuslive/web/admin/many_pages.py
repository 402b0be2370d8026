"""What an administrator does with several keys at once: those that were ticked, or all of a group.

All of them are changed, or none. What takes no further word (disable, enable) is done at once; the
rest begins with a form that says which keys are meant, and ends as for a single key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from opuslive.administration.choosing import MAX_CHOSEN, Chosen
from opuslive.administration.groups import Groups
from opuslive.administration.keys import Administration, KeyChanges
from opuslive.errors import Code, OpusLiveError, UsageError
from opuslive.gateway.holder import Holders
from opuslive.keys import Key
from opuslive.quantities import parse_duration
from opuslive.web.admin.key_form import lines, sentence
from opuslive.web.admin.posting import read_chosen, see_other
from opuslive.web.pages.addresses import group_address
from opuslive.web.pages.templating import Templates

KEYS = "/admin/keys"
_CHANGES = ("add_limits", "remove_limits", "models", "expires", "to_group", "raise", "until")
_FIELDS = ("key", "group", "sent", "grace", "replacing", *_CHANGES)


@dataclass(frozen=True, slots=True)
class Form:
    """What was posted. ``keys`` are the ids that were ticked; with a ``group`` all of its keys are
    meant. ``sent`` says that the form itself was filled in."""

    keys: Sequence[str]
    group: str | None
    sent: bool
    typed: Mapping[str, str]

    @property
    def chosen(self) -> Chosen:
        return Chosen(self.keys) if self.group is None else Chosen(group=self.group)

    def back(self, done: str) -> str:
        """The page that the keys were chosen on, which says what was done."""
        if self.group is None:
            return f"{KEYS}?done={done}"
        return group_address(self.group, done=done)


class AdminMany:
    """Handlers of the forms below ``/admin/many``."""

    def __init__(
        self,
        holders: Holders,
        administration: Administration,
        groups: Groups,
        templates: Templates,
    ) -> None:
        self._holders = holders
        self._administration = administration
        self._groups = groups
        self._templates = templates

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/admin/many/enable", self.enable),
            web.post("/admin/many/disable", self.disable),
            web.post("/admin/many/change", self.change),
            web.post("/admin/many/rotate", self.rotate),
        ]

    async def enable(self, request: web.Request) -> web.StreamResponse:
        return await self._enable(request, enabled=True)

    async def disable(self, request: web.Request) -> web.StreamResponse:
        return await self._enable(request, enabled=False)

    async def _enable(self, request: web.Request, *, enabled: bool) -> web.StreamResponse:
        form = await _read(request)
        await self._administration.update_many(form.chosen, KeyChanges(enabled=enabled))
        return see_other(request, form.back("enabled_many" if enabled else "disabled_many"))

    async def change(self, request: web.Request) -> web.StreamResponse:
        form = await _read(request)
        keys = self._keys(form)
        if not form.sent:
            return self._change_form(request, form, keys)
        try:
            members = _members(form.typed)
            changes = KeyChanges.from_members(members, self._administration.now_ms())
            await self._administration.update_many(form.chosen, changes)
        except OpusLiveError as error:
            return self._change_form(request, form, keys, error)
        return see_other(request, form.back("changed_many"))

    def _change_form(
        self,
        request: web.Request,
        form: Form,
        keys: Sequence[Key],
        error: OpusLiveError | None = None,
    ) -> web.Response:
        return self._templates.render_admin(
            request,
            "admin_many_change.html",
            status=200 if error is None else error.code.status,
            form=form,
            keys=keys,
            groups=sorted(self._groups.known),
            warning=self._groups.warning(form.typed["to_group"] or None),
            error=None if error is None else sentence(error.message),
        )

    async def rotate(self, request: web.Request) -> web.StreamResponse:
        form = await _read(request)
        keys = self._keys(form)
        if not form.sent:
            return self._rotate_form(request, form, keys)
        try:
            seconds = parse_duration(form.typed["grace"] or "0s")
        except UsageError as error:
            return self._rotate_form(request, form, keys, error=error)
        if form.typed["replacing"] != _tag(keys):
            return self._rotate_form(request, form, keys, overtaken=True)
        try:
            rotated = await self._administration.rotate_many(
                form.chosen, seconds, replacing=[key.secret_hash or b"" for key in keys]
            )
        except OpusLiveError as error:
            if error.code is not Code.CONFLICT:
                raise
            return self._rotate_form(request, form, self._keys(form), overtaken=True)
        return self._templates.render_admin(request, "admin_many_secrets.html", rotated=rotated)

    def _rotate_form(
        self,
        request: web.Request,
        form: Form,
        keys: Sequence[Key],
        *,
        error: UsageError | None = None,
        overtaken: bool = False,
    ) -> web.Response:
        """``overtaken`` says that some of the keys have other secrets than when the form was
        opened, or that other keys are in the group."""
        now = self._administration.now_ms()
        ends = [key.previous_expires_at for key in keys if key.previous_expires_at is not None]
        return self._templates.render_admin(
            request,
            "admin_many_rotate.html",
            status=409 if overtaken else 200 if error is None else 400,
            form=form,
            keys=keys,
            tag=_tag(keys),
            in_grace=sum(end > now for end in ends),
            overtaken=overtaken,
            error=None if error is None else sentence(error.message),
        )

    def _keys(self, form: Form) -> Sequence[Key]:
        return [holder.key for holder in form.chosen.of(self._holders)]


async def _read(request: web.Request) -> Form:
    posted = await read_chosen(request, _FIELDS, most=MAX_CHOSEN + len(_FIELDS))
    last = {name: values[-1] for name, values in posted.items()}
    return Form(
        keys=posted.get("key", ()),
        group=last.get("group") or None,
        sent="sent" in last,
        typed={name: last.get(name, "").strip() for name in (*_CHANGES, "grace", "replacing")},
    )


def _members(typed: Mapping[str, str]) -> dict[str, Any]:
    """The fields that say something, as members of the API. Raises UsageError if none does."""
    members: dict[str, Any] = {
        name: list(lines(typed[name]))
        for name in ("add_limits", "remove_limits", "models")
        if typed[name]
    }
    if typed["expires"]:
        members["expires"] = typed["expires"]
    if typed["to_group"]:
        members["group"] = typed["to_group"]
    if typed["raise"] or typed["until"]:
        members["raise"] = {"limit": typed["raise"] or None, "until": typed["until"] or None}
    if not members:
        raise UsageError("Fill in what is to change; empty fields change nothing.")
    return members


def _tag(keys: Sequence[Key]) -> str:
    """A tag of these keys' present secrets."""
    digest = hashlib.blake2b(digest_size=8)
    for key in keys:
        digest.update(key.secret_hash or b"")
    return digest.hexdigest()
