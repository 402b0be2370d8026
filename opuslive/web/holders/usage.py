"""What holders may know of their key: everything that is held about it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import cast

from aiohttp import web

from opuslive.administration.reports import ReportBy, UsageReport, read_report
from opuslive.administration.states import standing_of
from opuslive.dialects.anthropic.standing import usage_document
from opuslive.gateway.admission.admission import Admission
from opuslive.gateway.admission.bulkheads import Bulkhead
from opuslive.gateway.authenticator import Authenticator
from opuslive.gateway.holder import Holder
from opuslive.keys import Key
from opuslive.pricing.prices import Prices
from opuslive.storage import Cursor, Storage
from opuslive.times import Clock
from opuslive.usage import EXPORT_COLUMNS, export_rows
from opuslive.web.answers import json_answer
from opuslive.web.exports import EXPORT_FORMATS, ExportFormat, export_headers
from opuslive.web.http.checks import credentials_of
from opuslive.web.parameters import check_parameters, choice, compares, series_span
from opuslive.web.shapes import key_with_usage, report_members

#: The buckets that the series may have.
SERIES = ("day", "hour", "model", "status")
#: Records that an export reads at a time, in 2 ms or so: what it holds in memory, and for how long
#: it keeps the store's reader from other keys.
EXPORT_SLICE = 100


class UsageHandlers:
    """``GET /v1/usage`` and ``GET /v1/usage/export``, and what Claude Code asks for instead; they
    also answer for a key that is disabled, expired or exhausted."""

    def __init__(
        self,
        authenticator: Authenticator,
        admission: Admission,
        storage: Storage,
        prices: Prices,
        clock: Clock,
        reading: Bulkhead,
    ) -> None:
        self._authenticator = authenticator
        self._admission = admission
        self._storage = storage
        self._prices = prices
        self._clock = clock
        self._reading = reading

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/usage", self.usage),
            web.get("/v1/usage/export", self.export),
            web.get("/api/oauth/usage", self.bar),
        ]

    async def usage(self, request: web.Request) -> web.StreamResponse:
        holder = await self._holder(request)
        check_parameters(request, ("since", "until", "by", "compare"))
        query, now = request.query, self._clock.steady_ms()
        by = cast(ReportBy, choice(query, "by", "day", SERIES))
        span, compared = series_span(query, by, now), compares(query)
        with self._reading.place(holder) as turn:
            async with turn:
                report = await read_report(
                    self._storage, self._prices, holder.key.id, span, by, compared=compared
                )
                return json_answer(request, await self._described(holder.key, report, now))

    async def _described(self, key: Key, report: UsageReport, now: int) -> Mapping[str, object]:
        key_usage = await self._storage.key_usage(key.id)
        own = self._admission.statuses(key.id)
        shared = self._admission.shared_limits()
        # Which limit of others is used up, its holder may not know.
        state = standing_of(key, own, shared, self._clock.wall_ms()).state
        return {
            "key": key_with_usage(key, key_usage, state),
            "limits": [status.as_dict() for status in own],
            **report_members(report, now=now),
        }

    async def bar(self, request: web.Request) -> web.StreamResponse:
        """What Claude Code's ``/usage`` shows. It is in memory, so nobody has to wait for it."""
        holder = await self._holder(request)
        return json_answer(request, usage_document(self._admission.own_limits(holder)))

    async def export(self, request: web.Request) -> web.StreamResponse:
        holder = await self._holder(request)
        check_parameters(request, ("format",))
        file_format = choice(request.query, "format", "csv", tuple(EXPORT_FORMATS))
        return await self.send_export(request, holder, file_format)

    async def send_export(
        self, request: web.Request, holder: Holder, file_format: str
    ) -> web.StreamResponse:
        """Stream every record of the key in one of ``EXPORT_FORMATS``.

        Each slice of it takes a turn, so that whoever reads it slowly keeps nobody waiting.
        """
        with self._reading.place(holder) as turn:
            return await self._stream(request, holder.key.id, EXPORT_FORMATS[file_format], turn)

    async def _stream(
        self,
        request: web.Request,
        key_id: str,
        export_format: ExportFormat,
        turn: asyncio.Semaphore,
    ) -> web.StreamResponse:
        async def read(after: Cursor | None) -> tuple[bytes, Cursor | None]:
            async with turn:
                return await self._storage.written_records(
                    key_id,
                    lambda record: export_format.write(export_rows(record)),
                    after=after,
                    limit=EXPORT_SLICE,
                )

        response = web.StreamResponse(
            headers=export_headers(request, "opuslive-usage", export_format)
        )
        # A slice before the head: an error must not cut an answer that has begun.
        lines, cursor = await read(None)
        await response.prepare(request)
        if request.method == "HEAD":
            return response  # aiohttp would send the body all the same.
        await response.write(export_format.head(EXPORT_COLUMNS) + lines)
        while cursor is not None:
            lines, cursor = await read(cursor)
            await response.write(lines)
        return response

    async def _holder(self, request: web.Request) -> Holder:
        return await self._authenticator.prove(credentials_of(request))
