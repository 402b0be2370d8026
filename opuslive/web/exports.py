"""Files of usage records: how they are written, and the head of an answer that is one."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import msgspec
from aiohttp import web

from opuslive.usage import csv_row
from opuslive.web.answers import NOSNIFF, request_id_headers

Row = Mapping[str, str | int | None]


class _Line:
    """What the csv module takes for a file: ``writerow`` returns what its ``write`` returns."""

    def write(self, line: str) -> str:
        return line


def _csv_lines(rows: Iterable[Row]) -> bytes:
    write = csv.writer(_Line(), lineterminator="\r\n").writerow
    lines: list[Any] = [write(csv_row(row).values()) for row in rows]
    return "".join(lines).encode()


def _json_lines(rows: Iterable[Row]) -> bytes:
    return b"".join([msgspec.json.encode(row) + b"\n" for row in rows])


def _csv_head(columns: Sequence[str]) -> bytes:
    return (",".join(columns) + "\r\n").encode()


@dataclass(frozen=True, slots=True)
class ExportFormat:
    """How an export is written: ``head`` makes what it begins with of its columns, ``write`` the
    lines of rows that have these columns in their order."""

    content_type: str
    ending: str
    head: Callable[[Sequence[str]], bytes]
    write: Callable[[Iterable[Row]], bytes]


#: Name of a format → the format.
EXPORT_FORMATS: Mapping[str, ExportFormat] = MappingProxyType(
    {
        "csv": ExportFormat("text/csv; charset=utf-8", "csv", _csv_head, _csv_lines),
        "jsonl": ExportFormat("application/jsonl", "jsonl", lambda columns: b"", _json_lines),
    }
)


def export_headers(
    request: web.Request, name: str, export_format: ExportFormat
) -> Mapping[str, str]:
    """The head of the answer with a file of this name, less its ending."""
    return {
        "content-type": export_format.content_type,
        "cache-control": "no-store",
        **NOSNIFF,
        "content-disposition": f'attachment; filename="{name}.{export_format.ending}"',
        **request_id_headers(request),
    }
