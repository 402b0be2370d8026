"""The file of usage records that an administrator gets: of all keys, some, or those of a group."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from opuslive.administration.records import RECORD_COLUMNS, RecordReader, record_rows
from opuslive.administration.report_kinds import EXPECTED
from opuslive.keys import Key
from opuslive.usage import UsageRecord
from opuslive.web.exports import EXPORT_FORMATS, export_headers


async def send_records(
    request: web.Request, reader: RecordReader, file_format: str
) -> web.StreamResponse:
    """Stream the records in one of ``EXPORT_FORMATS``, a slice in memory at a time.

    What fails once the answer has begun cuts it off, so that no part passes for the whole. Raises
    StorageUnavailable before that.
    """
    export_format = EXPORT_FORMATS[file_format]

    def write(key: Key, record: UsageRecord) -> bytes:
        return export_format.write(record_rows(key, record))

    headers: Mapping[str, str] = {
        **export_headers(request, "opuslive-records", export_format),
        EXPECTED: str(await reader.expected()),
    }
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    if request.method == "HEAD":
        return response  # aiohttp would send the body all the same.
    try:
        await response.write(export_format.head(RECORD_COLUMNS))
        async for lines in reader.written(write):
            await response.write(lines)
    except ConnectionError:
        pass  # The client has left.
    return response
