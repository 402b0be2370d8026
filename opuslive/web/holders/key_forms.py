"""Forms of the pages for holders, which bring the key in their body."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from aiohttp import web

from opuslive.errors import Code, OpusLiveError
from opuslive.web.http.checks import MAX_CREDENTIAL
from opuslive.web.pages.forms import read_form

UNKNOWN_KEY = (
    "This is not a key of this gateway. Paste the whole key, as it was given to you; a key that "
    "was deleted or replaced is unknown here, too."
)


async def read_key_form(
    request: web.Request, fields: Collection[str]
) -> tuple[str, Mapping[str, str]]:
    """The key in the form that was posted, and those of the other ``fields`` that it has.

    Raises OpusLiveError as ``read_form`` does, invalid_request without a key, and invalid_key for
    what can be none.
    """
    form = await read_form(request, ("key", *fields))
    credential = form.get("key", "").strip()
    if not credential:
        raise OpusLiveError(Code.INVALID_REQUEST, "Paste your key first.")
    if len(credential) > MAX_CREDENTIAL:
        raise OpusLiveError(Code.INVALID_KEY, UNKNOWN_KEY)
    return credential, form
