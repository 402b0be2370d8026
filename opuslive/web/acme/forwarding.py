"""The port of plain HTTP: it answers the certificate authority, and sends browsers to https.

Only a request that says nothing is redirected. Clients of the APIs follow a redirect of a POST,
and would send their key in clear for as long as nobody notices. So whatever carries a credential
or a body is refused, in words that name the address to set. The host of a redirect is that of
``public_url``: the ``Host`` header is whatever somebody wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from aiohttp import web

from opuslive.dialects import registry
from opuslive.errors import Code, OpusLiveError
from opuslive.web.answers import (
    NOSNIFF,
    REQUEST_ID_KEY,
    SERVER,
    Handler,
    new_request_id,
    request_id_headers,
)
from opuslive.web.errors import PROBLEMS, HttpProblem, answer_to, dialect_document, problem_of
from opuslive.web.http.checks import check_request

_CHALLENGES = "/.well-known/acme-challenge/"
#: Headers that may hold a secret.
_CREDENTIALS = ("Authorization", "X-Api-Key", "Api-Key", "X-Goog-Api-Key", "Cookie")


def forwarding_app(public_url: str, answers: Mapping[str, str]) -> web.Application:
    """What is served there. ``answers``: token of a challenge → the text that proves it."""
    origin = urlsplit(public_url)._replace(path="", query="").geturl()
    render = {
        operation.path: dialect_document(dialect)
        for dialect in registry.DIALECTS.values()
        for operation in dialect.operations
    }
    default = dialect_document(registry.DEFAULT)

    async def serve(request: web.Request) -> web.StreamResponse:
        path = request.rel_url.raw_path
        if request.method == "GET" and path.startswith(_CHALLENGES):
            text = answers.get(path.removeprefix(_CHALLENGES))
            if text is None:
                raise HttpProblem(404, "No such challenge is open.", code=Code.NOT_FOUND)
            return web.Response(text=text, headers={**NOSNIFF, "cache-control": "no-store"})
        if any(name in request.headers for name in _CREDENTIALS):
            raise HttpProblem(
                403,
                f"Nothing is served in clear: the address is {public_url}. The credential of this "
                "request crossed the network unprotected; replace it.",
            )
        if request.method not in ("GET", "HEAD") or request.body_exists:
            raise HttpProblem(403, f"Nothing is served in clear: the address is {public_url}.")
        headers = {"location": origin + request.rel_url.raw_path_qs, **NOSNIFF}
        return web.Response(status=301, headers=headers)

    @web.middleware
    async def enter(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[REQUEST_ID_KEY] = new_request_id()
        document = render.get(request.rel_url.raw_path, default)
        try:
            check_request(request)
        except OpusLiveError as error:
            answer: web.StreamResponse = document(request, problem_of(error))
            answer.force_close()
            return answer
        try:
            answer = await handler(request)
        except PROBLEMS as error:
            answer = answer_to(request, error, document)
        # Nobody has more than one thing to say here.
        answer.force_close()
        return answer

    app = web.Application(middlewares=[enter])
    app.on_response_prepare.append(_sign)
    app.router.add_route("*", "/{path:(?s:.*)}", serve, expect_handler=_expect_nothing)
    return app


async def _sign(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = SERVER
    response.headers.update(request_id_headers(request))


async def _expect_nothing(request: web.Request) -> None:
    """No body is waited for."""
