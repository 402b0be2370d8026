"""What the handlers of the administration's forms share."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from aiohttp import web

from opuslive.web.answers import request_id_headers
from opuslive.web.pages.forms import read_form, read_lists

#: Bytes of a form: 50 limits and 50 globs of 100 characters, percent-encoded, have less, even
#: twice: as they were, and as they are to be.
MAX_FORM = 256 * 1024
_TOO_LONG = "That is far too long."


async def read(request: web.Request, fields: Collection[str]) -> Mapping[str, str]:
    """Those of the fields that the form has; see ``read_form``."""
    return await read_form(request, fields, max_bytes=MAX_FORM, too_long=_TOO_LONG)


async def read_chosen(
    request: web.Request, fields: Collection[str], *, most: int
) -> Mapping[str, Sequence[str]]:
    """The same for a form in which a field may stand several times, ``most`` in all."""
    return await read_lists(request, fields, most=most, max_bytes=MAX_FORM, too_long=_TOO_LONG)


def see_other(request: web.Request, location: str) -> web.Response:
    """Go on at another page."""
    headers = {"Location": location, "Cache-Control": "no-store", **request_id_headers(request)}
    return web.Response(status=303, headers=headers)
