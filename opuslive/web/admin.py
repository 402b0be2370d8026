"""The administration API: JSON in, JSON out, errors as ``application/problem+json``.

Whoever may call it has been let in before: on the Unix socket by its file mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web

from opuslive.errors import OpusLiveError, UsageError
from opuslive.gateway.administration import Administration, KeyChanges
from opuslive.keys import Key
from opuslive.quantities import did_you_mean, parse_duration, parse_when
from opuslive.storage import KeyUsage
from opuslive.web.answers import REQUEST_ID, json_answer
from opuslive.web.representations import key_members, key_with_secret, key_with_usage

#: Bytes of a request body: a key with every limit and glob it may have stays far below.
MAX_BODY = 256 * 1024
MAX_PAGE = 1000
DEFAULT_PAGE = 100


_MEMBERS = (
    "name",
    "enabled",
    "models",
    "limits",
    "add_limits",
    "remove_limits",
    "expires",
    "group",
)


class AdminHandlers:
    """``/admin/api``. A key is named by its id, its name or its display prefix."""

    def __init__(self, administration: Administration) -> None:
        self._administration = administration

    def routes(self) -> Sequence[web.RouteDef]:
        return [
            web.get("/admin/api/keys", self.list_keys, allow_head=False),
            web.post("/admin/api/keys", self.create_key),
            web.get("/admin/api/keys/{key}", self.show_key, allow_head=False),
            web.patch("/admin/api/keys/{key}", self.update_key),
            web.delete("/admin/api/keys/{key}", self.delete_key),
            web.post("/admin/api/keys/{key}/rotate", self.rotate_key),
        ]

    async def list_keys(self, request: web.Request) -> web.StreamResponse:
        """``?limit=&after=``: ``after`` is the ``next`` of the page before."""
        text = request.query.get("limit", str(DEFAULT_PAGE))
        if not text.isdecimal() or not 1 <= int(text[:9]) <= MAX_PAGE:
            raise UsageError(f"'limit' is a number from 1 to {MAX_PAGE}.")
        keys = self._administration.all_keys()
        after = request.query.get("after")
        if after is not None:
            ids = [key.id for key in keys]
            keys = keys[ids.index(after) + 1 :] if after in ids else ()
        page = keys[: int(text)]
        usage, now = await self._administration.all_usage(), self._administration.now_ms()
        items = [key_with_usage(key, usage.get(key.id, KeyUsage()), now) for key in page]
        more = len(keys) > len(page)
        return json_answer(request, {"items": items, "next": page[-1].id if more else None})

    async def create_key(self, request: web.Request) -> web.StreamResponse:
        """Members: ``name``, and optionally ``limits``, ``models``, ``expires``, ``group``."""
        changes = self._changes(await _members(request))
        key, credential = await self._administration.create(changes)
        return json_answer(request, key_with_secret(key, credential), status=201)

    async def show_key(self, request: web.Request) -> web.StreamResponse:
        key = self._administration.find(request.match_info["key"])
        return json_answer(request, await self._described(key))

    async def update_key(self, request: web.Request) -> web.StreamResponse:
        """The members of ``create_key``, ``enabled``, ``add_limits`` and ``remove_limits``; what is
        not named stays as it is."""
        changes = self._changes(await _members(request))
        key = await self._administration.update(request.match_info["key"], changes)
        return json_answer(request, await self._described(key))

    async def rotate_key(self, request: web.Request) -> web.StreamResponse:
        """Member: ``grace``, a duration for which the old secret goes on working."""
        members = await _members(request)
        _refuse_unknown(members, ("grace",))
        grace = parse_duration(_text(members, "grace") or "0s")
        key, credential = await self._administration.rotate(request.match_info["key"], grace)
        return json_answer(request, key_with_secret(key, credential))

    async def delete_key(self, request: web.Request) -> web.StreamResponse:
        key, erased = await self._administration.delete(request.match_info["key"])
        return json_answer(request, key_members(key) | {"erased_records": erased})

    async def _described(self, key: Key) -> dict[str, object]:
        usage = await self._administration.usage_of(key)
        return key_with_usage(key, usage, self._administration.now_ms())

    def _changes(self, members: dict[str, Any]) -> KeyChanges:
        _refuse_unknown(members, _MEMBERS)
        enabled = members.get("enabled")
        if enabled is not None and not isinstance(enabled, bool):
            raise UsageError("'enabled' is true or false.")
        expires = _text(members, "expires")
        return KeyChanges(
            name=_text(members, "name"),
            enabled=enabled,
            models=_texts(members, "models"),
            limits=_texts(members, "limits"),
            add_limits=_texts(members, "add_limits") or (),
            remove_limits=_texts(members, "remove_limits") or (),
            set_expiry="expires" in members,
            expires_at=self._expiry(expires),
            set_group="group" in members,
            group=_text(members, "group"),
        )

    def _expiry(self, text: str | None) -> int | None:
        if text is None:
            return None
        now = self._administration.now_ms()
        at = parse_when(text, now)
        if at <= now:
            raise UsageError("The expiry date has passed already; give one in the future.")
        return at


@web.middleware
async def problems(request: web.Request, handler: Any) -> web.StreamResponse:
    """Answer errors of the administration in the form of RFC 9457."""
    try:
        response: web.StreamResponse = await handler(request)
        return response
    except OpusLiveError as error:
        return _problem(request, error.code.status, error.message)
    except web.HTTPException as error:
        return _problem(request, error.status, HTTPStatus(error.status).description)


def _problem(request: web.Request, status: int, detail: str) -> web.Response:
    return json_answer(
        request,
        {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": detail,
            "request_id": request[REQUEST_ID[0]],
        },
        status=status,
        content_type="application/problem+json",
    )


async def _members(request: web.Request) -> dict[str, Any]:
    """The members of the JSON object in the body; none for an empty body."""
    body = await request.read()
    try:
        members = msgspec.json.decode(body) if body else {}
    except (msgspec.DecodeError, RecursionError):
        raise UsageError("The request's body is not JSON.") from None
    if not isinstance(members, dict):
        raise UsageError("The request's body has to be a JSON object.")
    return members


def _refuse_unknown(members: dict[str, Any], known: Sequence[str]) -> None:
    for name in members:
        if name not in known:
            raise UsageError(f"There is no member of this name; {did_you_mean(name, known)}")


def _text(members: dict[str, Any], name: str) -> str | None:
    value = members.get(name)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"'{name}' is a text.")
    return value


def _texts(members: dict[str, Any], name: str) -> tuple[str, ...] | None:
    value = members.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UsageError(f"'{name}' is a list of texts.")
    return tuple(value)
