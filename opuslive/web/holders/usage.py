"""What holders may know of their key: everything that is held about it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import msgspec
from aiohttp import web

from opuslive.administration.figures import UsageTotals, read_totals, total
from opuslive.bootstrap import Gateway
from opuslive.errors import Code, OpusLiveError
from opuslive.keys import Key
from opuslive.quantities import parse_since
from opuslive.storage import SumsBy
from opuslive.times import HOUR_MS, end_of_day, iso_seconds
from opuslive.usage import EXPORT_COLUMNS, UsageRecord, csv_row, export_row
from opuslive.web.answers import json_answer, request_id_headers
from opuslive.web.http.checks import credentials_of
from opuslive.web.pages.states import state_name
from opuslive.web.shapes import key_with_usage

#: What the series may be of.
SERIES = ("day", "hour", "model")
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
        admission = self._gateway.admission
        now = self._gateway.clock.steady_ms()
        since = parse_since(request.query.get("since", "7d"), now) // HOUR_MS * HOUR_MS
        by = _choice(request, "by", "day", SERIES)
        figures = await read_totals(
            storage,
            self._gateway.prices,
            key.id,
            since=since,
            until=end_of_day(now),
            by=cast(SumsBy, by),
        )
        key_usage = await storage.key_usage(key.id)
        own = admission.statuses(key.id)
        state = state_name(key, own, admission.shared_limits(), now)
        return json_answer(
            request,
            {
                "key": key_with_usage(key, key_usage, state),
                "limits": [status.as_dict() for status in own],
                "since": iso_seconds(since),
                "until": iso_seconds(now),
                "by": by,
                "totals": total(figures.values()).as_dict(),
                "series": series_members(figures, by),
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
        return (await self._gateway.authenticator.prove(credentials_of(request))).key


def series_members(
    figures: Mapping[int | str | None, UsageTotals], by: str
) -> list[dict[str, object]]:
    """The points of a series: which day, hour, model or key, and its figures."""
    return [{by: _bucket(bucket, by), **each.as_dict()} for bucket, each in figures.items()]


def _bucket(bucket: int | str | None, by: str) -> str | None:
    if isinstance(bucket, int):
        return iso_seconds(bucket)[:10] if by == "day" else iso_seconds(bucket)
    return bucket


def _choice(request: web.Request, name: str, default: str, choices: Sequence[str]) -> str:
    value = request.query.get(name, default)
    if value not in choices:
        raise OpusLiveError(Code.INVALID_REQUEST, f"'{name}' is one of: {', '.join(choices)}.")
    return value


def _csv_lines(records: Sequence[UsageRecord]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, EXPORT_COLUMNS, lineterminator="\r\n")
    writer.writerows(csv_row(export_row(record)) for record in records)
    return text.getvalue().encode()


def _json_lines(records: Sequence[UsageRecord]) -> bytes:
    return b"".join(msgspec.json.encode(export_row(record)) + b"\n" for record in records)


#: Of each format its content type, what it begins with, and how records are written.
EXPORT_FORMATS: dict[str, tuple[str, bytes, Callable[[Sequence[UsageRecord]], bytes]]] = {
    "csv": ("text/csv; charset=utf-8", (",".join(EXPORT_COLUMNS) + "\r\n").encode(), _csv_lines),
    "jsonl": ("application/jsonl", b"", _json_lines),
}
