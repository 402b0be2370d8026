"""What holders may know of their key: everything that is held about it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import cast

import msgspec
from aiohttp import web

from opuslive.administration.figures import read_totals
from opuslive.administration.states import state_name
from opuslive.gateway.admission.admission import Admission
from opuslive.gateway.authenticator import Authenticator
from opuslive.keys import Key
from opuslive.pricing.prices import Prices
from opuslive.quantities import parse_since
from opuslive.storage import Storage, SumsBy
from opuslive.times import HOUR_MS, Clock, end_of_day
from opuslive.usage import EXPORT_COLUMNS, UsageRecord, csv_row, export_rows
from opuslive.web.answers import NOSNIFF, json_answer, request_id_headers
from opuslive.web.http.checks import credentials_of
from opuslive.web.parameters import check_parameters, choice
from opuslive.web.shapes import key_with_usage, report_members

#: The buckets that the series may have.
SERIES = ("day", "hour", "model")
#: Records in a page of an export: what one request holds in memory of it.
EXPORT_PAGE = 1000


class UsageHandlers:
    """``GET /v1/usage`` and ``GET /v1/usage/export``; they also answer for a key that is
    disabled, expired or exhausted."""

    def __init__(
        self,
        authenticator: Authenticator,
        admission: Admission,
        storage: Storage,
        prices: Prices,
        clock: Clock,
    ) -> None:
        self._authenticator = authenticator
        self._admission = admission
        self._storage = storage
        self._prices = prices
        self._clock = clock

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/usage", self.usage),
            web.get("/v1/usage/export", self.export),
        ]

    async def usage(self, request: web.Request) -> web.StreamResponse:
        key = await self._key(request)
        check_parameters(request, ("since", "by"))
        now = self._clock.steady_ms()
        since = parse_since(request.query.get("since", "7d"), now) // HOUR_MS * HOUR_MS
        by = choice(request.query, "by", "day", SERIES)
        totals = await read_totals(
            self._storage,
            self._prices,
            key.id,
            since=since,
            until=end_of_day(now),
            by=cast(SumsBy, by),
        )
        key_usage = await self._storage.key_usage(key.id)
        own = self._admission.statuses(key.id)
        state = state_name(key, own, self._admission.shared_limits(), self._clock.wall_ms())
        return json_answer(
            request,
            {
                "key": key_with_usage(key, key_usage, state),
                "limits": [status.as_dict() for status in own],
                **report_members(totals, since=since, until=now, by=by),
            },
        )

    async def export(self, request: web.Request) -> web.StreamResponse:
        key = await self._key(request)
        check_parameters(request, ("format",))
        file_format = choice(request.query, "format", "csv", tuple(EXPORT_FORMATS))
        return await self.send_export(request, key, file_format)

    async def send_export(
        self, request: web.Request, key: Key, file_format: str
    ) -> web.StreamResponse:
        """Stream every record of the key in one of ``EXPORT_FORMATS``."""
        content_type, head, lines = EXPORT_FORMATS[file_format]
        response = web.StreamResponse(
            headers={
                "content-type": content_type,
                "cache-control": "no-store",
                **NOSNIFF,
                "content-disposition": f'attachment; filename="opuslive-usage.{file_format}"',
                **request_id_headers(request),
            }
        )
        # A page before the head: an error must not cut an answer that has begun.
        records, cursor = await self._storage.records(key.id, limit=EXPORT_PAGE)
        await response.prepare(request)
        if request.method == "HEAD":
            return response  # aiohttp would send the body all the same.
        await response.write(head)
        while records:
            await response.write(lines(records))
            if cursor is None:
                break
            records, cursor = await self._storage.records(key.id, after=cursor, limit=EXPORT_PAGE)
        return response

    async def _key(self, request: web.Request) -> Key:
        return (await self._authenticator.prove(credentials_of(request))).key


def _csv_lines(records: Sequence[UsageRecord]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, EXPORT_COLUMNS, lineterminator="\r\n")
    writer.writerows(csv_row(row) for record in records for row in export_rows(record))
    return text.getvalue().encode()


def _json_lines(records: Sequence[UsageRecord]) -> bytes:
    return b"".join(
        msgspec.json.encode(row) + b"\n" for record in records for row in export_rows(record)
    )


#: Name of a format → its content type, what an export begins with, and how records are written.
EXPORT_FORMATS: Mapping[str, tuple[str, bytes, Callable[[Sequence[UsageRecord]], bytes]]] = (
    MappingProxyType(
        {
            "csv": (
                "text/csv; charset=utf-8",
                (",".join(EXPORT_COLUMNS) + "\r\n").encode(),
                _csv_lines,
            ),
            "jsonl": ("application/jsonl", b"", _json_lines),
        }
    )
)
