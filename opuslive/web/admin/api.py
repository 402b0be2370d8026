"""The administration API: JSON in, JSON out, errors as ``application/problem+json``.

Whoever may call it has been let in before: on the Unix socket by its file mode, over HTTP by
``gate``. A route is a row of ``ROUTES``: what is served and what ``openapi`` describes follow
from it. What a route takes and answers is in ``schemas``.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

from aiohttp import web

from opuslive.administration.activity import ActivityReader
from opuslive.administration.groups import Groups
from opuslive.administration.invitations import Invitations
from opuslive.administration.keys import Administration, KeyChanges, text_member
from opuslive.administration.records import RecordReader, members_of
from opuslive.administration.report_kinds import BY_KEY, REPORTS, ReportBy
from opuslive.administration.reports import latest_trouble, read_report
from opuslive.administration.states import (
    KeyStanding,
    expires_soon,
    shared_standing,
    standing_of,
)
from opuslive.administration.status import StatusReader
from opuslive.config.in_force import ConfigInForce
from opuslive.diagnostics import checkup, findings
from opuslive.diagnostics.checkup import Subject
from opuslive.errors import Code, OpusLiveError, UsageError
from opuslive.gateway.admission.admission import Admission, SharedLimits
from opuslive.gateway.alerts.alerts import trial_message
from opuslive.gateway.alerts.channels import Channels
from opuslive.keys import Key
from opuslive.pricing.prices import Prices
from opuslive.quantities import parse_duration
from opuslive.reloading import Reload
from opuslive.spans import parse_span
from opuslive.storage import KeyUsage, Storage
from opuslive.times import Clock
from opuslive.web.admin import groups_api, invitations_api, many_api
from opuslive.web.admin.groups_api import GroupHandlers
from opuslive.web.admin.invitations_api import InvitationHandlers
from opuslive.web.admin.many_api import ManyHandlers
from opuslive.web.admin.openapi import ROOT, AdminRoute, document
from opuslive.web.admin.records import send_records
from opuslive.web.admin.schemas import (
    CURSOR,
    DEFAULT_PAGE,
    MAX_PAGE,
    SCHEMAS,
)
from opuslive.web.answers import Handler, json_answer
from opuslive.web.exports import EXPORT_FORMATS
from opuslive.web.http.listening import base_url
from opuslive.web.http.members import read_members
from opuslive.web.model_names import ModelNames
from opuslive.web.parameters import check_parameters, choice, compares, series_span
from opuslive.web.shapes import (
    activity_members,
    deletion_members,
    held_limit_members,
    key_members,
    key_with_secret,
    key_with_usage,
    reloaded_members,
    report_members,
    standing_members,
    status_members,
    tried_members,
    trouble_members,
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
        channels: Channels,
        groups: Groups,
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
        self._channels = channels
        self._groups = groups
        self._group_handlers = GroupHandlers(groups, clock)
        self._many = ManyHandlers(administration, self._all_described, self._with_secret)
        self._invitations = InvitationHandlers(
            administration, invitations, self._described, self._warnings
        )

    def routes(self) -> Sequence[web.RouteDef]:
        """The rows of ``ROUTES`` with their handlers."""
        return [
            web.RouteDef(
                route.method,
                ROOT + route.pattern,
                _handler(route, route.handler.__get__(handlers)),
                {"allow_head": False} if route.method == "GET" else {},
            )
            for handlers, routes in (
                (self, _OWN_ROUTES),
                (self._group_handlers, groups_api.ROUTES),
                (self._many, many_api.ROUTES),
                (self._invitations, invitations_api.ROUTES),
            )
            for route in routes
        ]

    async def list_keys(self, request: web.Request) -> object:
        """``after`` is the ``next`` of the page before; ``group`` has its keys alone listed."""
        query = request.query
        limit = _limit(query)
        keys = self._administration.all_keys()
        if "group" in query:
            keys = [key for key in keys if key.group == query["group"]]
        if "after" in query:
            cursor = re.fullmatch(CURSOR, query["after"])
            if cursor is None:
                raise UsageError("'after' is the 'next' of the page before.")
            last = int(cursor[1]), cursor[2]
            keys = [key for key in keys if (key.created_at, key.id) > last]
        page = keys[:limit]
        items = await self._all_described(page)
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
        return self._with_secret(key, credential)

    async def delete_key(self, request: web.Request) -> object:
        return deletion_members(await self._administration.delete(request.match_info["id"]))

    async def key_models(self, request: web.Request) -> object:
        key = self._administration.find(request.match_info["id"])
        return self._models.by_dialect(key.models)

    async def usage(self, request: web.Request) -> object:
        """The usage of all keys, unless one is named."""
        query = request.query
        now = self._clock.steady_ms()
        by = cast(ReportBy, choice(query, "by", "day", REPORTS))
        span = series_span(query, by, now)
        reference = query.get("key")
        key = None if reference is None else self._administration.find(reference)
        report = await read_report(
            self._storage,
            self._prices,
            None if key is None else key.id,
            span,
            by,
            compared=compares(query),
        )
        names = {each.id: each.name for each in self._administration.all_keys()}
        shared = self._admission.shared_limits()
        limits = shared_standing(shared) if key is None else self._standing(key, shared).limits
        return {
            "key": None if key is None else key_members(key),
            "limits": [held_limit_members(limit) for limit in limits],
            "warnings": [
                warning
                for group in (report.series if by == "group" else ())
                if isinstance(group, str) and (warning := self._groups.warning(group)) is not None
            ],
            **report_members(report, now=now, names=names if by == BY_KEY else None),
        }

    async def trouble(self, request: web.Request) -> object:
        limit = _limit(request.query)
        names = {each.id: each.name for each in self._administration.all_keys()}
        found = await latest_trouble(self._storage, names, limit=limit)
        return {"items": [trouble_members(each) for each in found]}

    async def records(self, request: web.Request) -> web.StreamResponse:
        """Streamed: see ``send_records``."""
        query, now = request.query, self._clock.steady_ms()
        file_format = choice(query, "format", "csv", tuple(EXPORT_FORMATS))
        span = None
        if "since" in query or "until" in query:
            span = parse_span(query.get("since", "1970-01-01"), query.get("until"), now)
        keys: Sequence[Key] = self._administration.all_keys()
        if "group" in query:
            if "keys" in query:
                raise UsageError("Give 'keys' or 'group', not both.")
            keys = members_of(keys, query["group"])
        elif "keys" in query:
            # Named twice, its records are there once.
            found = map(self._administration.find, query.getall("keys"))
            keys = list({key.id: key for key in found}.values())
        return await send_records(request, RecordReader(self._storage, keys, span), file_format)

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

    async def test_alerts(self, request: web.Request) -> object:
        tried = await self._channels.try_all(trial_message(self._clock.steady_ms()))
        return {"channels": [tried_members(each) for each in tried]}

    async def openapi(self, request: web.Request) -> object:
        return document(ROUTES)

    async def _described(self, key: Key) -> dict[str, object]:
        usage = await self._administration.usage_of(key)
        return self._members(key, usage, self._admission.shared_limits())

    async def _all_described(self, keys: Sequence[Key]) -> Sequence[dict[str, object]]:
        usage = await self._administration.all_usage()
        shared = self._admission.shared_limits()
        return [self._members(key, usage.get(key.id, KeyUsage()), shared) for key in keys]

    def _members(self, key: Key, usage: KeyUsage, shared: SharedLimits) -> dict[str, object]:
        standing = self._standing(key, shared)
        return {
            **key_with_usage(key, usage, standing.state),
            **standing_members(standing),
            "expires_soon": expires_soon(key, self._clock.wall_ms()),
            "warnings": self._warnings(key),
        }

    def _with_secret(self, key: Key, credential: str) -> dict[str, object]:
        return key_with_secret(key, credential) | {"warnings": self._warnings(key)}

    def _warnings(self, key: Key) -> Sequence[str]:
        warning = self._groups.warning(key.group)
        return [] if warning is None else [warning]

    def _standing(self, key: Key, shared: SharedLimits) -> KeyStanding:
        return standing_of(key, self._admission.statuses(key.id), shared, self._clock.wall_ms())

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
        query=("limit", "after", "group"),
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
        query=("since", "until", "by", "key", "compare"),
    ),
    AdminRoute(
        "exportRecords",
        "GET",
        "/records",
        AdminHandlers.records,
        "Every usage record of all keys, some, or those of a group, as a file.",
        "Records",
        query=("keys", "group", "since", "until", "format"),
        several=("keys",),
        content_types=("text/csv", "application/jsonl"),
    ),
    AdminRoute(
        "listTrouble",
        "GET",
        "/trouble",
        AdminHandlers.trouble,
        "The last requests of all keys that were not served, newest first.",
        "TroublePage",
        query=("limit",),
    ),
    AdminRoute(
        "reload",
        "POST",
        "/reload",
        AdminHandlers.reload,
        "Read the configuration and the certificate anew, without a restart.",
        "Reloaded",
    ),
    AdminRoute(
        "testAlerts",
        "POST",
        "/alerts/test",
        AdminHandlers.test_alerts,
        "Send a test through every channel of alerts, once, and tell what each answered.",
        "TestedChannels",
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
ROUTES = (*_OWN_ROUTES, *groups_api.ROUTES, *many_api.ROUTES, *invitations_api.ROUTES)


def _limit(query: Mapping[str, str]) -> int:
    """How many items are asked for. Raises UsageError."""
    text = query.get("limit", str(DEFAULT_PAGE))
    if not text.isdecimal() or not 1 <= int(text[:9]) <= MAX_PAGE:
        raise UsageError(f"'limit' is a number from 1 to {MAX_PAGE}.")
    return int(text)


def _handler(route: AdminRoute, method: Callable[..., Awaitable[object]]) -> Handler:
    """The handler of one route, whose parameters and body are checked before ``method`` runs."""

    async def handle(request: web.Request) -> web.StreamResponse:
        check_parameters(request, route.query, route.several)
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
        if isinstance(value, web.StreamResponse):
            return value
        return json_answer(request, value, status=route.status)

    return handle
