"""What holders may know of their key: everything that is held about it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from typing import cast, get_args

import msgspec
from aiohttp import web

from opuslive.bootstrap import Gateway
from opuslive.errors import Code, OpusLiveError
from opuslive.keys import Key
from opuslive.quantities import parse_since
from opuslive.storage import SeriesBy
from opuslive.usage import (
    EXPORT_COLUMNS,
    HOUR_MS,
    SeriesPoint,
    UsageRecord,
    UsageSum,
    export_row,
    iso_seconds,
)
from opuslive.web.answers import json_answer, request_id_headers
from opuslive.web.representations import key_with_usage
from opuslive.web.security import credentials_of

#: Records in a page of an export: what one request holds in memory of it.
EXPORT_PAGE = 1000


class UsageHandlers:
    """``GET /v1/usage`` and ``GET /v1/usage/export``; they also answer for a key that is
    disabled, expired or exhausted."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def usage(self, request: web.Request) -> web.StreamResponse:
        key = await self._key(request)
        storage = self._gateway.storage
        now = self._gateway.clock.steady_ms()
        since = parse_since(request.query.get("since", "7d"), now) // HOUR_MS * HOUR_MS
        by = _choice(request, "by", "day", get_args(SeriesBy))
        points = await storage.series(key.id, since=since, until=now + 1, by=cast(SeriesBy, by))
        return json_answer(
            request,
            {
                "key": key_with_usage(key, await storage.key_usage(key.id), now),
                "limits": [
                    standing.as_dict() for standing in self._gateway.admission.standings(key.id)
                ],
                "since": iso_seconds(since),
                "until": iso_seconds(now),
                "by": by,
                "totals": sum_of(points),
                "series": [point_members(point, by) for point in points],
            },
        )

    async def export(self, request: web.Request) -> web.StreamResponse:
        key = await self._key(request)
        return await self.send_export(
            request, key, _choice(request, "format", "csv", tuple(EXPORT_FORMATS))
        )

    async def send_export(self, request: web.Request, key: Key, form: str) -> web.StreamResponse:
        """Stream every record of the key in one of ``EXPORT_FORMATS``."""
        content_type, head, lines = EXPORT_FORMATS[form]
        response = web.StreamResponse(
            headers={
                "content-type": content_type,
                "cache-control": "no-store",
                "content-disposition": f'attachment; filename="opuslive-usage.{form}"',
                **request_id_headers(request),
            }
        )
        # A page before the head: an error must not cut an answer that has begun.
        records, cursor = await self._gateway.storage.records(key.id, limit=EXPORT_PAGE)
        await response.prepare(request)
        await response.write(head)
        while records:
            await response.write(lines(records))
            if cursor is None:
                break
            records, cursor = await self._gateway.storage.records(
                key.id, after=cursor, limit=EXPORT_PAGE
            )
        return response

    async def _key(self, request: web.Request) -> Key:
        return await self._gateway.authenticator.prove(credentials_of(request))


def sum_of(points: Sequence[SeriesPoint]) -> dict[str, int]:
    """The points of a series added up, under the members of one."""
    totals: dict[str, int] = {}
    for point in points or (SeriesPoint(None, UsageSum()),):
        for name, value in point.sum.as_dict().items():
            totals[name] = totals.get(name, 0) + value
    return totals


def point_members(point: SeriesPoint, by: str) -> dict[str, object]:
    """A point of a series: which day, hour or model, and its sum."""
    bucket = point.bucket
    if by == "day" and isinstance(bucket, int):
        shown: str | None = iso_seconds(bucket)[:10]
    elif isinstance(bucket, int):
        shown = iso_seconds(bucket)
    else:
        shown = bucket
    return {by: shown, **point.sum.as_dict()}


def _choice(request: web.Request, name: str, default: str, choices: Sequence[str]) -> str:
    value = request.query.get(name, default)
    if value not in choices:
        raise OpusLiveError(Code.INVALID_REQUEST, f"'{name}' is one of: {', '.join(choices)}.")
    return value


def _csv_lines(records: Sequence[UsageRecord]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, EXPORT_COLUMNS, lineterminator="\r\n")
    writer.writerows(export_row(record) for record in records)
    return text.getvalue().encode()


def _json_lines(records: Sequence[UsageRecord]) -> bytes:
    return b"".join(msgspec.json.encode(export_row(record)) + b"\n" for record in records)


#: Of each format its content type, what it begins with, and how records are written.
EXPORT_FORMATS: dict[str, tuple[str, bytes, Callable[[Sequence[UsageRecord]], bytes]]] = {
    "csv": ("text/csv; charset=utf-8", (",".join(EXPORT_COLUMNS) + "\r\n").encode(), _csv_lines),
    "jsonl": ("application/jsonl", b"", _json_lines),
}
