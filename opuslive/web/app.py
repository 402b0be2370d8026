"""What is served: the routes, and the answers to what goes wrong outside of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

from aiohttp import web

from opuslive.bootstrap import Gateway
from opuslive.dialects import registry
from opuslive.errors import Code, OpusLiveError
from opuslive.web.admin.api import MAX_BODY, AdminHandlers
from opuslive.web.admin.gate import AdminGate
from opuslive.web.admin.openapi import ROOT as ADMIN_API
from opuslive.web.admin.pages import ROOT as ADMIN_PAGES
from opuslive.web.admin.pages import AdminPages
from opuslive.web.answers import (
    REQUEST_ID,
    SERVER,
    Handler,
    error_answer,
    json_answer,
    new_request_id,
    request_id_headers,
)
from opuslive.web.errors import problems
from opuslive.web.holders.models import ModelHandlers
from opuslive.web.holders.pages import Pages
from opuslive.web.holders.usage import UsageHandlers
from opuslive.web.http.checks import check_request
from opuslive.web.pages.templating import Templates
from opuslive.web.proxy import BodyBudget, Proxy

#: All request bodies in flight may take this many times the largest one allowed.
BODIES_IN_FLIGHT = 8


def control_app(gateway: Gateway) -> web.Application:
    """What commands speak to."""
    app = web.Application(middlewares=[_identify, problems], client_max_size=MAX_BODY)
    app.add_routes(_patient(AdminHandlers(gateway).routes()))
    return app


def public_app(gateway: Gateway) -> web.Application:
    """What clients, holders and administrators speak to."""
    budget = BodyBudget(BODIES_IN_FLIGHT * gateway.config.server.max_body)
    proxy = Proxy(gateway.exchanges, gateway.admission, gateway.config.server.max_body, budget)
    usage = UsageHandlers(gateway)
    models = ModelHandlers(gateway.authenticator, gateway.catalog, gateway.router)
    templates = Templates(gateway)
    errors = _errors(gateway, templates)
    app = web.Application(middlewares=[_identify, errors], client_max_size=MAX_BODY)
    app.on_response_prepare.append(_sign)
    for dialect in registry.DIALECTS.values():
        for operation in dialect.operations:
            app.router.add_post(
                operation.path,
                proxy.handler(dialect, operation),
                expect_handler=_expect_nothing,
            )
    for path, handler in (
        ("/v1/models", models.list),
        ("/v1/models/{id:.+}", models.one),
        ("/v1/usage", usage.usage),
        ("/v1/usage/export", usage.export),
        ("/healthz", _healthy),
        ("/readyz", _ready(gateway)),
    ):
        app.router.add_get(path, handler, allow_head=False, expect_handler=_expect_nothing)
    pages = Pages(gateway, usage, templates)
    app.add_routes(_patient(pages.routes()))
    app.router.add_get("/", pages.landing, allow_head=False, expect_handler=_expect_nothing)
    for path in ("/", "/api/hello"):
        app.router.add_head(path, _hello, expect_handler=_expect_nothing)
    _route_administration(app, gateway, templates)
    _route_the_rest(app)
    return app


def _patient(routes: Iterable[web.RouteDef]) -> Iterable[web.RouteDef]:
    """The same routes, whose handlers say themselves when a body may come."""
    return [
        web.RouteDef(
            route.method,
            route.path,
            route.handler,
            {**route.kwargs, "expect_handler": _expect_nothing},
        )
        for route in routes
    ]


def _route_administration(app: web.Application, gateway: Gateway, templates: Templates) -> None:
    """What the control socket serves, and pages for it, for whoever has the admin password."""
    config = gateway.config
    gate = AdminGate(config.admin.password_hash, config.server.public_url, gateway.clock.steady_ms)
    pages = AdminPages(gateway, templates)
    for routes, root, answering in (
        (AdminHandlers(gateway).routes(), ADMIN_API, problems),
        (pages.routes(), ADMIN_PAGES, pages.answering),
    ):
        for path in dict.fromkeys(route.path for route in routes):
            resource = app.router.add_resource(path)
            handlers = {route.method: route.handler for route in routes if route.path == path}
            if "GET" in handlers and root == ADMIN_PAGES:
                handlers["HEAD"] = handlers["GET"]
            for method, handler in {**handlers, "*": _wrong_method(list(handlers))}.items():
                resource.add_route(
                    method, gate.guarded(handler, answering), expect_handler=_expect_nothing
                )
        app.router.add_route(
            "*",
            root + "{rest:(/.*)?}",
            gate.guarded(_nothing_here, answering),
            expect_handler=_expect_nothing,
        )


def _route_the_rest(app: web.Application) -> None:
    """Route what is not served, too: aiohttp's own way out would answer ``Expect`` first."""
    for resource in app.router.resources():
        assert isinstance(resource, web.Resource)
        methods = [route.method for route in resource]
        if "*" in methods:
            continue
        resource.add_route("*", _wrong_method(methods), expect_handler=_expect_nothing)
    app.router.add_route("*", "/{path:.*}", _nothing_here, expect_handler=_expect_nothing)


def _wrong_method(allowed: Sequence[str]) -> Handler:
    async def wrong_method(request: web.Request) -> web.StreamResponse:
        raise web.HTTPMethodNotAllowed(request.method, allowed)

    return wrong_method


async def _nothing_here(request: web.Request) -> web.StreamResponse:
    raise web.HTTPNotFound


@web.middleware
async def _identify(request: web.Request, handler: Handler) -> web.StreamResponse:
    request[REQUEST_ID[0]] = new_request_id()
    return await handler(request)


def _errors(gateway: Gateway, templates: Templates) -> Callable[..., Awaitable[web.StreamResponse]]:
    """Answer what goes wrong before or outside an exchange."""

    @web.middleware
    async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            check_request(request)
        except OpusLiveError as error:
            refusal = error_answer(request, error, registry.DEFAULT)
            refusal.force_close()
            return refusal
        try:
            return await handler(request)
        except OpusLiveError as error:
            if request.writer.output_size > 0:
                # The answer has begun and can't be completed: the connection is reset.
                raise ConnectionResetError from error
            answer = error_answer(request, error, registry.DEFAULT)
            if gateway.exchanges.draining:
                answer.force_close()
            return answer
        except web.HTTPMethodNotAllowed as not_allowed:
            allow = {"allow": not_allowed.headers["Allow"]}
            if _is_for_reading(request):
                page = templates.render(request, "missing.html", status=405)
                page.headers.update(allow)
                return page
            wrong_method = OpusLiveError(
                Code.METHOD_NOT_ALLOWED,
                f"This path takes {' and '.join(sorted(not_allowed.allowed_methods))} only.",
            )
            answer = error_answer(request, wrong_method, registry.DEFAULT)
            answer.headers.update(allow)
            return answer
        except web.HTTPNotFound:
            if _is_for_reading(request):
                return templates.render(request, "missing.html", status=404)
            return error_answer(request, _not_served(request, gateway), registry.DEFAULT)

    return errors


def _is_for_reading(request: web.Request) -> bool:
    """Whether a person with a browser asks, and not a client of the API."""
    accepted = ",".join(request.headers.getall("Accept", ()))
    return (
        request.method == "GET" and "text/html" in accepted and not request.path.startswith("/v1")
    )


def _not_served(request: web.Request, gateway: Gateway) -> OpusLiveError:
    """A 404 that names the right base URL, which is what was usually got wrong."""
    base = gateway.config.server.public_url or f"{request.scheme}://HOST:PORT of this gateway"
    return OpusLiveError(
        Code.NOT_FOUND,
        f"This path is not served here. The base URL for Anthropic clients is {base}, "
        "with nothing after it; for OpenAI clients add /v1.",
    )


async def _sign(request: web.Request, response: web.StreamResponse) -> None:
    """Say less of the software than aiohttp would, and which request this answers."""
    response.headers["Server"] = SERVER
    response.headers.update(request_id_headers(request))


async def _expect_nothing(request: web.Request) -> None:
    """Leave ``Expect: 100-continue`` to the handler, which first looks at key and size. (aiohttp's
    own way would repeat, where no middleware sees it, an expectation that it does not know.)"""


async def _hello(request: web.Request) -> web.StreamResponse:
    return web.Response()


async def _healthy(request: web.Request) -> web.StreamResponse:
    return json_answer(request, {"status": "ok"})


def _ready(gateway: Gateway) -> Handler:
    async def ready(request: web.Request) -> web.StreamResponse:
        problem = None
        if not gateway.exchanges.ready:
            problem = "draining"
        elif not gateway.storage.healthy:
            problem = "storage"
        elif gateway.health.all_down:
            problem = "upstream"
        return json_answer(
            request, {"status": problem or "ok"}, status=200 if problem is None else 503
        )

    return ready
