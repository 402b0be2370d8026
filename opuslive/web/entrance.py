"""What holds for every request and answer, whatever route it takes: id, host, problems."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Middleware

from opuslive.config.in_force import ConfigInForce
from opuslive.config.sections import ServerConfig
from opuslive.dialects import registry
from opuslive.errors import Code, OpusLiveError
from opuslive.web.answers import (
    REQUEST_ID_KEY,
    SERVER,
    Handler,
    new_request_id,
    request_id_headers,
)
from opuslive.web.errors import (
    PROBLEMS,
    HttpProblem,
    Renderer,
    answer_to,
    dialect_document,
    problem_of,
)
from opuslive.web.http.checks import check_request
from opuslive.web.http.hosts import is_this_machine, known_hosts
from opuslive.web.pages.templating import Templates

#: What begins so is served under any host: a key opens it, which no page of somebody else's has,
#: or nothing in it is worth reading. Load balancers and monitors ask by other names.
_ANY_HOST = (
    "/v1/",
    "/healthz",
    "/readyz",
    "/metrics",
    "/api/hello",
    "/api/oauth/usage",
    "/managed/settings",
)
#: For a year, browsers ask for this host over TLS alone (RFC 6797).
_ONLY_TLS = "max-age=31536000"


@web.middleware
async def identify(request: web.Request, handler: Handler) -> web.StreamResponse:
    request[REQUEST_ID_KEY] = new_request_id()
    return await handler(request)


def entering(render: Renderer, in_force: ConfigInForce) -> Middleware:
    """A middleware that gives each request its id, refuses what two servers may read differently
    and what is meant for another host, and answers problems. (It is one, for each of them costs
    every request some 4 µs.)"""

    @web.middleware
    async def enter(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[REQUEST_ID_KEY] = new_request_id()
        try:
            check_request(request)
        except OpusLiveError as error:
            answer = render(request, problem_of(error))
            answer.force_close()
            return answer
        try:
            if not request.path.startswith(_ANY_HOST):
                _check_host(request, in_force.config.server)
            return await handler(request)
        except PROBLEMS as error:
            return answer_to(request, error, render)

    return enter


def _check_host(request: web.Request, server: ServerConfig) -> None:
    """Raise HttpProblem for a request that names a host which is not the gateway's."""
    hosts = known_hosts(server)
    # (Browsers always name one.)
    host = request.headers.get("Host")
    if hosts is not None and host is not None and not hosts.knows(host):
        raise HttpProblem(
            421,
            "Nothing is served here under the host that the request names; if it is this "
            "gateway's, set [server] public_url.",
        )


def public_renderer(templates: Templates, draining: Callable[[], bool]) -> Renderer:
    """Renders the problems that no group of routes renders: as a dialect's document, or as a page
    for a browser that asks for a page which is not there."""
    document = dialect_document(registry.DEFAULT)

    def render(request: web.Request, problem: HttpProblem) -> web.Response:
        if problem.code in (Code.NOT_FOUND, Code.METHOD_NOT_ALLOWED) and _is_for_reading(request):
            page = templates.render(request, "missing.html", status=problem.status)
            page.headers.update(problem.headers)
            return page
        answer = document(request, problem)
        if draining():
            answer.force_close()
        return answer

    return render


def _is_for_reading(request: web.Request) -> bool:
    """Whether a person with a browser asks, and not a client of the API."""
    accepted = ",".join(request.headers.getall("Accept", ()))
    return (
        request.method in ("GET", "HEAD")
        and "text/html" in accepted
        and not request.path.startswith("/v1")
    )


async def sign(request: web.Request, response: web.StreamResponse) -> None:
    """Name the server, with fewer details than aiohttp, and the request that this answers."""
    response.headers["Server"] = SERVER
    response.headers.update(request_id_headers(request))


async def sign_secure(request: web.Request, response: web.StreamResponse) -> None:
    """The same where TLS is the gateway's own, and browsers are to keep to it. (Other servers of
    this machine may have no TLS, and share the name ``localhost``.)"""
    await sign(request, response)
    if not is_this_machine(request.headers.get("Host", "")):
        response.headers["Strict-Transport-Security"] = _ONLY_TLS
