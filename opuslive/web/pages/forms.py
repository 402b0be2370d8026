"""Forms that browsers post: read in memory, up to a size, within a time."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from urllib.parse import parse_qsl

from aiohttp import web

from opuslive.errors import Code, OpusLiveError
from opuslive.web.answers import let_body_come

#: Bytes; a credential has at most 72.
MAX_FORM = 4096
#: Fields that a form may have besides its own; they are left out.
MAX_OTHER_FIELDS = 10
#: Seconds that a form may take to arrive.
FORM_SECONDS = 15.0

_TOO_LONG = "That is far too long for a key; paste the key and nothing else."


async def read_form(
    request: web.Request,
    fields: Collection[str],
    *,
    max_bytes: int = MAX_FORM,
    too_long: str = _TOO_LONG,
) -> Mapping[str, str]:
    """Those of the ``fields`` that the form has. The last one counts where a field is there twice.

    See ``read_lists``.
    """
    found = await read_lists(
        request,
        fields,
        most=len(fields) + MAX_OTHER_FIELDS,
        max_bytes=max_bytes,
        too_long=too_long,
    )
    return {name: values[-1] for name, values in found.items()}


async def read_lists(
    request: web.Request, fields: Collection[str], *, most: int, max_bytes: int, too_long: str
) -> Mapping[str, Sequence[str]]:
    """All values of those of the ``fields`` that the form has, which has ``most`` values in all.

    A form of more than ``max_bytes`` is answered with the sentence ``too_long``.

    aiohttp's own way writes what is uploaded into a temporary file: nothing may get there.
    Raises OpusLiveError: body_too_large, body_timeout, invalid_request.
    """
    if request.content_type != "application/x-www-form-urlencoded":
        raise OpusLiveError(Code.INVALID_REQUEST, "This address takes a form that was filled in.")
    too_large = OpusLiveError(Code.BODY_TOO_LARGE, too_long)
    if (request.content_length or 0) > max_bytes:
        raise too_large
    let_body_come(request)
    body = bytearray()
    try:
        async with asyncio.timeout(FORM_SECONDS):
            while chunk := await request.content.readany():
                body += chunk
                if len(body) > max_bytes:
                    raise too_large
        posted = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=most,
        )
    except TimeoutError:
        raise OpusLiveError(Code.BODY_TIMEOUT, "The form did not arrive in time.") from None
    except (ValueError, web.RequestPayloadError):
        raise OpusLiveError(Code.INVALID_REQUEST, "The form is not well-formed.") from None
    found: dict[str, list[str]] = {}
    for name, value in posted:
        if name in fields:
            found.setdefault(name, []).append(value)
    return found
