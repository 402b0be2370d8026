"""Cross-origin requests of browsers (the Fetch standard, 3.2), below ``/v1/`` alone.

A browser asks before it sends another origin's page's request (the *preflight*), and lets that page
read only an answer that names its origin. The origins are those of the configuration. No answer
ever allows credentials of the browser's own: a key is what the page itself sends.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from aiohttp import web
from aiohttp.hdrs import (
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD,
    ORIGIN,
    VARY,
)
from aiohttp.typedefs import Middleware

from opuslive.dialects.headers import comes_from_clients
from opuslive.web.answers import REQUEST_ID, Handler, close_unread

_ROOT = "/v1/"
_METHODS = "GET, HEAD, POST"
#: Seconds for which a browser may remember a preflight. Chromium takes no more than two hours.
_MAX_AGE = "7200"
_CREDENTIALS = frozenset({b"authorization", b"x-api-key"})
#: What a page may read of an answer's head beside what every page may.
_EXPOSED = (*REQUEST_ID, "retry-after", "x-should-retry")
_EXPOSED_PREFIXES = ("anthropic-ratelimit-", "x-ratelimit-")


class CrossOrigin:
    """Answers preflights, and marks answers, for pages of these origins. ``last`` says whether no
    further request is to come on a connection."""

    def __init__(self, origins: Collection[str], last: Callable[[], bool]) -> None:
        self._origins = frozenset(origins)
        self._last = last

    @property
    def preflights(self) -> Middleware:
        """A middleware that answers preflights; all other requests it lets pass."""

        @web.middleware
        async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
            if (
                request.method != "OPTIONS"
                or ACCESS_CONTROL_REQUEST_METHOD not in request.headers
                or self._page_of(request) is None
            ):
                return await handler(request)
            response = web.Response(
                status=204,
                headers={
                    ACCESS_CONTROL_ALLOW_METHODS: _METHODS,
                    ACCESS_CONTROL_ALLOW_HEADERS: ", ".join(_allowed(request)),
                    ACCESS_CONTROL_MAX_AGE: _MAX_AGE,
                },
            )
            close_unread(request, response)
            if self._last():
                response.force_close()
            return response

        return answer

    async def mark(self, request: web.Request, response: web.StreamResponse) -> None:
        """Let the page read the answer, which is about to be sent."""
        origin = self._page_of(request)
        if origin is None:
            return
        headers = response.headers
        exposed = [name.lower() for name in headers if name.lower().startswith(_EXPOSED_PREFIXES)]
        headers[ACCESS_CONTROL_ALLOW_ORIGIN] = origin
        headers[ACCESS_CONTROL_EXPOSE_HEADERS] = ", ".join((*_EXPOSED, *exposed))
        headers.add(VARY, ORIGIN)

    def _page_of(self, request: web.Request) -> str | None:
        """The origin of the page that asks, if it is one that may."""
        origin = request.headers.get(ORIGIN)
        if origin not in self._origins or not request.path.startswith(_ROOT):
            return None
        return origin


def _allowed(request: web.Request) -> Iterable[str]:
    """Which of the headers that the page wants to send it may: those that clients of the providers'
    APIs send, and a key's."""
    for value in request.headers.getall(ACCESS_CONTROL_REQUEST_HEADERS, ()):
        for name in value.lower().split(","):
            raw = name.strip().encode("utf-8", "surrogateescape")
            if raw in _CREDENTIALS or comes_from_clients(raw):
                yield raw.decode()
