"""The administration API: JSON in, JSON out, errors as ``application/problem+json``.

Whoever may call it has been let in before: on the Unix socket by its file mode, over HTTP by
``gate``. A route is a row of ``ROUTES``: what is served and what ``openapi`` describes follow
from it. What a route takes and answers is in ``schemas``.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from aiohttp import web

from opuslive.administration.activity import ActivityReader
from opuslive.administration.figures import read_totals
from opuslive.administration.invitations import Invitations
from opuslive.administration.keys import Administration, KeyChanges, text_member
from opuslive.administration.states import StateName, state_name
from opuslive.administration.status import StatusReader
from opuslive.config.in_force import ConfigInForce
from opuslive.diagnostics import checkup, findings
from opuslive.diagnostics.checkup import Subject
from opuslive.errors import Code, OpusLiveError, UsageError
from opuslive.gateway.admission.admission import Admission, SharedLimits
from opuslive.keys import Key
from opuslive.pricing.prices import Prices
from opuslive.quantities import parse_duration
from opuslive.reloading import Reload
from opuslive.storage import KeyUsage, Storage, SumsBy
from opuslive.times import Clock, end_of_day
from opuslive.web.admin import invitations_api
from opuslive.web.admin.invitations_api import InvitationHandlers
from opuslive.web.admin.openapi import ROOT, AdminRoute, document
from opuslive.web.admin.schemas import (
    BY_KEY,
    CURSOR,
    DEFAULT_PAGE,
    MAX_PAGE,
    REPORTS,
    SCHEMAS,
)
from opuslive.web.answers import Handler, json_answer
from opuslive.web.http.listening import base_url
from opuslive.web.http.members import read_members
from opuslive.web.model_names import ModelNames
from opuslive.web.parameters import check_parameters, choice, series_since
from opuslive.web.shapes import (
    activity_members,
    deletion_members,
    key_members,
    key_with_secret,
    key_with_usage,
    reloaded_members,
    report_members,
    status_members,
)

#: Bytes of a request body: a key with every limit and glob it may have stays far below.
MAX_BODY = 256 * 1024


class AdminHandlers:
    """``/admin/api``. A key is named by its id, its name or its display prefix."""

    def __init__(
        self,
        administration: Administration,
        admission: Admission,
        storage: Storage,
        prices: Prices,
        status: StatusReader,
        clock: Clock,
        activity: ActivityReader,
        installation: Callable[[], Subject | None],
        models: ModelNames,
        reload: Reload,
        in_force: ConfigInForce,
        invitations: Invitations,
    ) -> None:
        self._administration = administration
        self._admission = admission
        self._storage = storage
        self._prices = prices
        self._status = status
        self._clock = clock
        self._activity = activity
        self._installation = installation
        #: A check takes seconds, and asks others: one at a time.
        self._checking = asyncio.Lock()
        self._models = models
        self._reload = reload
        self._in_force = in_force
        self._invitations = InvitationHandlers(administration, invitations, self._described)

    def routes(self) -> Sequence[web.RouteDef]:
        """The rows of ``ROUTES`` with their handlers."""
        return [
            web.RouteDef(
                route.method,
                ROOT + route.path,
                _handler(route, route.handler.__get__(handlers)),
                {"allow_head": False} if route.method == "GET" else {},
            )
            for handlers, routes in (
                (self, _OWN_ROUTES),
                (self._invitations, invitations_api.ROUTES),
            )
            for route in routes
        ]

    async def list_keys(self, request: web.Request) -> object:
        """``after`` is the ``next`` of the page before."""
        query = request.query
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
        shared = self._admission.shared_limits()
        items = [
            key_with_usage(key, usage.get(key.id, KeyUsage()), self._state(key, shared))
            for key in page
        ]
        more = len(keys) > len(page)
        following = f"{page[-1].created_at}-{page[-1].id}" if more else None
        return {"items": items, "next": following}

    async def show_key(self, request: web.Request) -> object:
        return await self._described(self._administration.find(request.match_info["id"]))

    async def update_key(self, request: web.Request, members: dict[str, Any]) -> object:
        key = await self._administration.update(request.match_info["id"], self._changes(members))
        return await self._described(key)

    async def rotate_key(self, request: web.Request, members: dict[str, Any]) -> object:
        grace = parse_duration(text_member(members, "grace") or "0s")
        key, credential = await self._administration.rotate(request.match_info["id"], grace)
        return key_with_secret(key, credential)

    async def delete_key(self, request: web.Request) -> object:
        return deletion_members(await self._administration.delete(request.match_info["id"]))

    async def key_models(self, request: web.Request) -> object:
        key = self._administration.find(request.match_info["id"])
        return self._models.by_dialect(key.models)

    async def usage(self, request: web.Request) -> object:
        """The usage of all keys, unless one is named."""
        query = request.query
        now = self._clock.steady_ms()
        by = choice(query, "by", "day", REPORTS)
        since = series_since(query, by, now)
        reference = query.get("key")
        key = None if reference is None else self._administration.find(reference)
        totals = await read_totals(
            self._storage,
            self._prices,
            None if key is None else key.id,
            since=since,
            until=end_of_day(now),
            by=cast(SumsBy, by),
        )
        names = {each.id: each.name for each in self._administration.all_keys()}
        return {
            "key": None if key is None else key_members(key),
            **report_members(
                totals, since=since, until=now, by=by, names=names if by == BY_KEY else None
            ),
        }

    async def status(self, request: web.Request) -> object:
        status = self._status.read()
        return status_members(status) | {"base_url": base_url(self._in_force.config.server)}

    async def activity(self, request: web.Request) -> object:
        return activity_members(self._activity.read())

    async def check(self, request: web.Request) -> object:
        installation = self._installation()
        if installation is None:
            raise OpusLiveError(Code.NOT_FOUND, "This gateway has no installation to check.")
        async with self._checking:
            return findings.document(await checkup.check(installation))

    async def reload(self, request: web.Request) -> object:
        return reloaded_members(await self._reload())

    async def openapi(self, request: web.Request) -> object:
        return document(ROUTES)

    async def _described(self, key: Key) -> dict[str, object]:
        usage = await self._administration.usage_of(key)
        return key_with_usage(key, usage, self._state(key, self._admission.shared_limits()))

    def _state(self, key: Key, shared: SharedLimits) -> StateName:
        return state_name(key, self._admission.statuses(key.id), shared, self._clock.wall_ms())

    def _changes(self, members: dict[str, Any]) -> KeyChanges:
        return KeyChanges.from_members(members, self._clock.wall_ms())


_OWN_ROUTES = (
    AdminRoute(
        "listKeys",
        "GET",
        "/keys",
        AdminHandlers.list_keys,
        "All keys, oldest first, with what they have used so far.",
        "KeyPage",
        query=("limit", "after"),
    ),
    AdminRoute(
        "showKey",
        "GET",
        "/keys/{id}",
        AdminHandlers.show_key,
        "One key and what it has used.",
        "KeyWithUsage",
    ),
    AdminRoute(
        "updateKey",
        "PATCH",
        "/keys/{id}",
        AdminHandlers.update_key,
        "Change a key. What is not named stays as it is.",
        "KeyWithUsage",
        body="KeyChanges",
    ),
    AdminRoute(
        "deleteKey",
        "DELETE",
        "/keys/{id}",
        AdminHandlers.delete_key,
        "Cut the key's running requests and erase everything held about it.",
        "ErasedKey",
    ),
    AdminRoute(
        "rotateKey",
        "POST",
        "/keys/{id}/rotate",
        AdminHandlers.rotate_key,
        "Give the key a new secret; its id, limits and history stay.",
        "KeyWithSecret",
        body="Rotation",
        body_required=False,
    ),
    AdminRoute(
        "keyModels",
        "GET",
        "/keys/{id}/models",
        AdminHandlers.key_models,
        "The models that the key may use, as far as they are known.",
        "ModelNames",
    ),
    AdminRoute(
        "usage",
        "GET",
        "/usage",
        AdminHandlers.usage,
        "What was used, of all keys or one: totals, and a series.",
        "UsageReport",
        query=("since", "by", "key"),
    ),
    AdminRoute(
        "reload",
        "POST",
        "/reload",
        AdminHandlers.reload,
        "Read the configuration and the certificate anew, without a restart.",
        "Reloaded",
    ),
    AdminRoute("status", "GET", "/status", AdminHandlers.status, "How the server is.", "Status"),
    AdminRoute(
        "activity",
        "GET",
        "/activity",
        AdminHandlers.activity,
        "What goes on right now, and what the last minute used.",
        "Activity",
    ),
    AdminRoute(
        "check",
        "GET",
        "/check",
        AdminHandlers.check,
        "What is wrong with the installation, and how to mend it. It takes some seconds.",
        "Checkup",
    ),
    AdminRoute(
        "openapi",
        "GET",
        "/openapi.json",
        AdminHandlers.openapi,
        "This document.",
        "Document",
    ),
)

#: Every route of the API.
ROUTES = (*_OWN_ROUTES, *invitations_api.ROUTES)


def _handler(route: AdminRoute, method: Callable[..., Awaitable[object]]) -> Handler:
    """The handler of one route, whose parameters and body are checked before ``method`` runs."""

    async def handle(request: web.Request) -> web.StreamResponse:
        check_parameters(request, route.query)
        if route.body is None:
            value = await method(request)
        else:
            members = await read_members(
                request,
                SCHEMAS[route.body]["properties"],
                required=route.body_required,
                max_bytes=MAX_BODY,
            )
            value = await method(request, members)
        return json_answer(request, value, status=route.status)

    return handle
