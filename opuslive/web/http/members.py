"""JSON objects that requests bring, read in memory: up to a size, within a time."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

import msgspec
from aiohttp import web

from opuslive.errors import Code, OpusLiveError, UsageError
from opuslive.quantities import did_you_mean, shown
from opuslive.web.answers import let_body_come

#: Seconds that a request's body may take.
BODY_SECONDS = 30.0


async def read_members(
    request: web.Request, known: Collection[str], *, required: bool, max_bytes: int
) -> dict[str, Any]:
    """The members of the JSON object in the body, of those that are ``known``.

    Unless required, none for an empty body. Raises OpusLiveError: body_too_large, body_timeout,
    invalid_request.
    """
    too_large = OpusLiveError(
        Code.BODY_TOO_LARGE, f"The request's body may have {max_bytes:,} bytes at most."
    )
    if (request.content_length or 0) > max_bytes:
        raise too_large
    let_body_come(request)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while chunk := await request.content.readany():
                body += chunk
                if len(body) > max_bytes:
                    raise too_large
    except TimeoutError:
        raise OpusLiveError(
            Code.BODY_TIMEOUT, "The request's body did not arrive in time."
        ) from None
    except web.RequestPayloadError:
        raise UsageError("The request's body is not well-formed HTTP.") from None
    try:
        members = msgspec.json.decode(body) if body or required else {}
    except (msgspec.DecodeError, RecursionError):
        raise UsageError("The request's body is not JSON.") from None
    if not isinstance(members, dict):
        raise UsageError("The request's body has to be a JSON object.")
    for name in members:
        if name not in known:
            # The name is the client's: it is quoted, bounded and printable.
            raise UsageError(f"There is no member {shown(name)}; {did_you_mean(name, known)}")
    return members
