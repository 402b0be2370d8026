"""The administration API: JSON in, JSON out, errors as ``application/problem+json``.

Whoever may call it has been let in before: on the Unix socket by its file mode, over HTTP by
``admin_auth``. ``openapi`` describes it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec
from aiohttp import web

from opuslive.administration.figures import read_totals, total
from opuslive.administration.keys import KeyChanges, expiry_at
from opuslive.bootstrap import Gateway
from opuslive.errors import Code, OpusLiveError, UsageError
from opuslive.gateway.admission.admission import SharedLimits
from opuslive.keys import Key
from opuslive.quantities import did_you_mean, parse_duration, parse_since
from opuslive.storage import KeyUsage, SumsBy
from opuslive.times import HOUR_MS, end_of_day, iso_seconds
from opuslive.web.admin.openapi import document, version
from opuslive.web.admin.schemas import (
    BY_KEY,
    CURSOR,
    DEFAULT_PAGE,
    MAX_PAGE,
    REPORTS,
    SCHEMAS,
)
from opuslive.web.answers import json_answer, let_body_come
from opuslive.web.holders.usage import series_members
from opuslive.web.pages.states import StateName, state_name
from opuslive.web.shapes import (
    key_members,
    key_with_secret,
    key_with_usage,
    shared_amount,
    upstream_members,
)

#: Bytes of a request body: a key with every limit and glob it may have stays far below.
MAX_BODY = 256 * 1024
#: Seconds that a request's body may take.
BODY_SECONDS = 30.0


class AdminHandlers:
    """``/admin/api``. A key is named by its id, its name or its display prefix."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._administration = gateway.administration

    def routes(self) -> Sequence[web.RouteDef]:
        return [
            web.get("/admin/api/keys", self.list_keys, allow_head=False),
            web.post("/admin/api/keys", self.create_key),
            web.get("/admin/api/keys/{id}", self.show_key, allow_head=False),
            web.patch("/admin/api/keys/{id}", self.update_key),
            web.delete("/admin/api/keys/{id}", self.delete_key),
            web.post("/admin/api/keys/{id}/rotate", self.rotate_key),
            web.get("/admin/api/usage", self.usage, allow_head=False),
            web.get("/admin/api/status", self.status, allow_head=False),
            web.get("/admin/api/openapi.json", self.openapi, allow_head=False),
        ]

    async def list_keys(self, request: web.Request) -> web.StreamResponse:
        """``?limit=&after=``: ``after`` is the ``next`` of the page before."""
        query = _query(request, "limit", "after")
        text = query.get("limit", str(DEFAULT_PAGE))
        if not text.isdecimal() or not 1 <= int(text[:9]) <= MAX_PAGE:
            raise UsageError(f"'limit' is a number from 1 to {MAX_PAGE}.")
        keys = self._administration.all_keys()
        if "after" in query:
            cursor = re.fullmatch(CURSOR, query["after"])
            if cursor is None:
                raise UsageError("'after' is the 'next' of the page before.")
            last = int(cursor[1]), cursor[2]
            keys = [key for key in keys if (key.created_at, key.id) > last]
        page = keys[: int(text)]
        usage = await self._administration.all_usage()
        shared = self._gateway.admission.shared_limits()
        items = [
            key_with_usage(key, usage.get(key.id, KeyUsage()), self._state(key, shared))
            for key in page
        ]
        more = len(keys) > len(page)
        following = f"{page[-1].created_at}-{page[-1].id}" if more else None
        return json_answer(request, {"items": items, "next": following})

    async def create_key(self, request: web.Request) -> web.StreamResponse:
        """Members: ``name``, and optionally ``limits``, ``models``, ``expires``, ``group`` and
        ``enabled``."""
        changes = self._changes(await _members(request, "NewKey"))
        key, credential = await self._administration.create(changes)
        return json_answer(request, key_with_secret(key, credential), status=201)

    async def show_key(self, request: web.Request) -> web.StreamResponse:
        key = self._administration.find(request.match_info["id"])
        return json_answer(request, await self._described(key))

    async def update_key(self, request: web.Request) -> web.StreamResponse:
        """The members of ``create_key``, ``add_limits`` and ``remove_limits``; what is not named
        stays as it is."""
        changes = self._changes(await _members(request, "KeyChanges"))
        key = await self._administration.update(request.match_info["id"], changes)
        return json_answer(request, await self._described(key))

    async def rotate_key(self, request: web.Request) -> web.StreamResponse:
        """Member: ``grace``, a duration for which the old secret goes on working."""
        members = await _members(request, "Rotation", required=False)
        grace = parse_duration(_text(members, "grace") or "0s")
        key, credential = await self._administration.rotate(request.match_info["id"], grace)
        return json_answer(request, key_with_secret(key, credential))

    async def delete_key(self, request: web.Request) -> web.StreamResponse:
        deletion = await self._administration.delete(request.match_info["id"])
        return json_answer(
            request,
            key_members(deletion.key)
            | {
                "erased_records": deletion.erased_records,
                "no_longer_counts": [shared_amount(amount) for amount in deletion.shared],
            },
        )

    async def usage(self, request: web.Request) -> web.StreamResponse:
        """``?since=7d&by=day|hour|model|key&key=``: of all keys, unless one is named."""
        query = _query(request, "since", "by", "key")
        now = self._gateway.clock.steady_ms()
        since = parse_since(query.get("since", "7d"), now) // HOUR_MS * HOUR_MS
        by = query.get("by", "day")
        if by not in REPORTS:
            raise UsageError(f"'by' is one of: {', '.join(REPORTS)}.")
        reference = query.get("key")
        key = None if reference is None else self._administration.find(reference)
        figures = await read_totals(
            self._gateway.storage,
            self._gateway.prices,
            None if key is None else key.id,
            since=since,
            until=end_of_day(now),
            by=cast(SumsBy, by),
        )
        series = series_members(figures, by)
        if by == BY_KEY:
            names = {each.id: each.name for each in self._administration.all_keys()}
            # A key that was deleted meanwhile is left out.
            series = [
                {BY_KEY: point.pop(BY_KEY), "name": name, **point}
                for point in series
                if (name := names.get(str(point[BY_KEY]))) is not None
            ]
        return json_answer(
            request,
            {
                "key": None if key is None else key_members(key),
                "since": iso_seconds(since),
                "until": iso_seconds(now),
                "by": by,
                "totals": total(figures.values()).as_dict(),
                "series": series,
            },
        )

    async def status(self, request: web.Request) -> web.StreamResponse:
        """How the process is: what a page or a monitor shows of it."""
        gateway = self._gateway
        return json_answer(
            request,
            {
                "version": version(),
                "started_at": iso_seconds(gateway.started_at),
                "requests_in_flight": gateway.exchanges.running,
                "unrecorded_refusals": gateway.exchanges.unrecorded_denials,
                "draining": not gateway.exchanges.ready,
                "storage_healthy": gateway.storage.healthy,
                "keys": len(self._administration.all_keys()),
                "upstreams": [
                    upstream_members(upstream, gateway.health.upstreams[upstream.name])
                    for upstream in gateway.router.upstreams
                ],
            },
        )

    async def openapi(self, request: web.Request) -> web.StreamResponse:
        return json_answer(request, document())

    async def _described(self, key: Key) -> dict[str, object]:
        usage = await self._administration.usage_of(key)
        return key_with_usage(key, usage, self._state(key, self._gateway.admission.shared_limits()))

    def _state(self, key: Key, shared: SharedLimits) -> StateName:
        own = self._gateway.admission.statuses(key.id)
        return state_name(key, own, shared, self._administration.now_ms())

    def _changes(self, members: dict[str, Any]) -> KeyChanges:
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
            expires_at=None
            if expires is None
            else expiry_at(expires, self._administration.now_ms()),
            set_group="group" in members,
            group=_text(members, "group"),
        )


def _query(request: web.Request, *names: str) -> Mapping[str, str]:
    """The parameters of the query. A slip in the name of one is an error, not left out."""
    for name in request.query:
        if name not in names:
            raise UsageError(f"There is no parameter of this name; known are {', '.join(names)}.")
        if len(request.query.getall(name)) > 1:
            raise UsageError(f"'{name}' is there twice.")
    return request.query


async def _members(request: web.Request, schema: str, *, required: bool = True) -> dict[str, Any]:
    """The members of the JSON object in the body, of those that the schema has.

    Unless required, none for an empty body. Raises OpusLiveError: body_too_large, body_timeout,
    invalid_request.
    """
    if (request.content_length or 0) > MAX_BODY:
        raise OpusLiveError(
            Code.BODY_TOO_LARGE, f"The request's body may have {MAX_BODY:,} bytes at most."
        )
    let_body_come(request)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await request.read()
    except TimeoutError:
        raise OpusLiveError(
            Code.BODY_TIMEOUT, "The request's body did not arrive in time."
        ) from None
    try:
        members = msgspec.json.decode(body) if body or required else {}
    except (msgspec.DecodeError, RecursionError):
        raise UsageError("The request's body is not JSON.") from None
    if not isinstance(members, dict):
        raise UsageError("The request's body has to be a JSON object.")
    known = SCHEMAS[schema]["properties"]
    for name in members:
        if name not in known:
            raise UsageError(f"There is no member of this name; {did_you_mean(name, known)}")
    return members


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
