"""Answers that the gateway makes itself."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType

import msgspec
from aiohttp import web

from opuslive.dialects import Dialect
from opuslive.errors import OpusLiveError

#: Answers one request.
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: Both names under which clients look for the id of a request.
REQUEST_ID = ("request-id", "x-request-id")
#: Where a request keeps its id.
REQUEST_ID_KEY = web.RequestKey("request_id", str)
#: A browser must not take an answer for anything else than it says it is.
NOSNIFF: Mapping[str, str] = MappingProxyType({"x-content-type-options": "nosniff"})
#: Tells a client that waits for it to send its body.
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
#: The value of the ``Server`` header.
SERVER = "OpusLive"


def new_request_id() -> str:
    return "req_" + secrets.token_hex(12)


def request_id_headers(request: web.Request) -> dict[str, str]:
    """The id of this request, as the gateway made it, for the answer's head."""
    return dict.fromkeys(REQUEST_ID, request[REQUEST_ID_KEY])


def let_body_come(request: web.Request) -> None:
    """Answer ``Expect: 100-continue``, unless the client did not wait for that.

    A handler calls it when nothing in the head is in the way of reading the body.
    """
    expects = request.headers.get("Expect", "").lower() == "100-continue"
    if expects and request.version >= (1, 1) and not request.content.is_eof():
        transport = request.transport
        if transport is not None:
            transport.write(_CONTINUE)


def error_answer(
    request: web.Request,
    error: OpusLiveError,
    dialect: Dialect,
    extra: Iterable[tuple[str, str]] = (),
) -> web.Response:
    """The error in the dialect's form, with the headers that tell clients what to do."""
    headers = {**request_id_headers(request), **NOSNIFF, "content-type": "application/json"}
    headers |= dict(extra)
    headers |= dict(dialect.error_headers(error))
    if error.code.should_retry is not None:
        headers["x-should-retry"] = "true" if error.code.should_retry else "false"
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    response = web.Response(
        status=error.code.status,
        headers=headers,
        body=dialect.error_body(error, headers[REQUEST_ID[0]]),
    )
    close_unread(request, response)
    return response


def close_unread(request: web.Request, response: web.StreamResponse) -> None:
    """Have the connection closed behind the answer, unless the request's body was read.

    The rest of the body is of no use to anyone: aiohttp reads a little of it, then closes.
    """
    if not request.content.is_eof():
        response.force_close()


def gone_answer() -> web.StreamResponse:
    """The answer of a handler whose client is gone. It is never sent."""
    response = web.Response(status=499)
    response.force_close()
    return response


def json_answer(
    request: web.Request,
    value: object,
    *,
    status: int = 200,
    content_type: str = "application/json",
) -> web.Response:
    """A JSON answer, which no cache keeps."""
    headers = {**request_id_headers(request), **NOSNIFF}
    headers |= {"content-type": content_type, "cache-control": "no-store"}
    return web.Response(status=status, headers=headers, body=msgspec.json.encode(value) + b"\n")
