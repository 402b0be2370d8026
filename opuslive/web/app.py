"""What is served: the groups of routes, each with what its handlers use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from aiohttp import web

from opuslive.administration.activity import ActivityReader
from opuslive.administration.status import StatusReader
from opuslive.bootstrap import Gateway
from opuslive.dialects import registry
from opuslive.errors import Code
from opuslive.gateway.admission.bulkheads import reading_bulkhead
from opuslive.reloading import Reload, nothing_to_reload
from opuslive.web.admin.actions import AdminActions
from opuslive.web.admin.api import MAX_BODY, AdminHandlers
from opuslive.web.admin.checking import subject_of
from opuslive.web.admin.gate import AdminGate
from opuslive.web.admin.live import LivePart
from opuslive.web.admin.maintenance import MaintenanceHandlers
from opuslive.web.admin.metrics import PATH as METRICS
from opuslive.web.admin.metrics import MetricsGate, MetricsHandler
from opuslive.web.admin.openapi import ROOT as ADMIN_API
from opuslive.web.admin.pages import ROOT as ADMIN_PAGES
from opuslive.web.admin.pages import AdminPages
from opuslive.web.answers import Handler, json_answer
from opuslive.web.entrance import entering, identify, public_renderer, sign, sign_secure
from opuslive.web.errors import (
    HttpProblem,
    Renderer,
    answered,
    answering,
    problem_document,
)
from opuslive.web.holders.models import ModelHandlers
from opuslive.web.holders.pages import Pages
from opuslive.web.holders.usage import UsageHandlers
from opuslive.web.http.cors import CrossOrigin
from opuslive.web.model_names import ModelNames
from opuslive.web.pages.report import ReportReader
from opuslive.web.pages.templating import Templates
from opuslive.web.proxy import BodyBudget, Proxy
from opuslive.web.unserved import Advice, not_served

#: All request bodies in flight may take this many times the largest one allowed.
BODIES_IN_FLIGHT = 8
#: And those of one key this many times: three keys that misuse theirs leave room for the others.
BODIES_OF_A_KEY = 2


def control_app(gateway: Gateway, reload: Reload = nothing_to_reload) -> web.Application:
    """What commands speak to. ``reload`` reads the configuration anew."""
    app = web.Application(
        middlewares=[identify, answering(problem_document)], client_max_size=MAX_BODY
    )
    app.add_routes(_patient(_admin_api(gateway, reload).routes()))
    app.add_routes(
        MaintenanceHandlers(
            gateway.storage.maintenance, lambda: gateway.exchanges.stopping
        ).routes()
    )
    return app


def public_app(
    gateway: Gateway,
    reload: Reload = nothing_to_reload,
) -> web.Application:
    """What clients, holders and administrators speak to."""
    in_force, exchanges = gateway.in_force, gateway.exchanges
    storage, prices, clock = gateway.storage, gateway.prices, gateway.clock
    templates = Templates(in_force, gateway.simulated_model, lambda: exchanges.draining)
    reading = reading_bulkhead()
    usage = UsageHandlers(gateway.authenticator, gateway.admission, storage, prices, clock, reading)
    reports = ReportReader(storage, gateway.admission, prices, clock)
    pages = Pages(
        in_force,
        gateway.authenticator,
        storage.kept_tables,
        reports,
        usage,
        templates,
        reading,
        _model_names(gateway),
    )
    render = public_renderer(templates, lambda: exchanges.draining)
    app = web.Application(middlewares=[entering(render, in_force)], client_max_size=MAX_BODY)
    server = in_force.config.server
    app.on_response_prepare.append(sign if server.tls is None else sign_secure)
    if server.cors_origins:
        cross_origin = CrossOrigin(server.cors_origins, lambda: exchanges.draining)
        app.middlewares.append(cross_origin.preflights)
        app.on_response_prepare.append(cross_origin.mark)
    app.add_routes(_patient(_forwarded(gateway)))
    app.add_routes(
        _patient(_models(ModelHandlers(gateway.authenticator, gateway.catalog, gateway.router)))
    )
    app.add_routes(_patient(usage.routes()))
    app.add_routes(_patient(_health(_status(gateway))))
    app.add_routes(_patient(pages.routes()))
    app.add_routes(_patient(_probes(pages.landing)))
    gate = AdminGate(in_force, clock.elapsed_ms)
    app.add_routes(_patient(_metrics(gateway, gate)))
    _add_administration(app, gateway, gate, templates, reload)
    served = [resource.canonical for resource in app.router.resources()]
    advice = Advice(served, registry.UNSERVED, registry.DEFAULT.operations[0].path)
    _add_the_rest(app, not_served(advice, templates.base))
    return app


def _forwarded(gateway: Gateway) -> Iterable[web.RouteDef]:
    """The endpoints behind which an upstream answers."""
    max_body = gateway.in_force.config.server.max_body
    budget = BodyBudget(BODIES_IN_FLIGHT * max_body, BODIES_OF_A_KEY * max_body)
    proxy = Proxy(gateway.exchanges, gateway.admission, max_body, budget)
    for dialect in registry.DIALECTS.values():
        for operation in dialect.operations:
            yield web.post(operation.path, proxy.handler(dialect, operation))


def _models(models: ModelHandlers) -> Iterable[web.RouteDef]:
    return [
        web.get("/v1/models", models.list),
        web.get("/v1/models/{id:.+}", models.one),
    ]


def _health(status: StatusReader) -> Iterable[web.RouteDef]:
    """Whether the process lives, and whether it can serve."""

    async def healthy(request: web.Request) -> web.StreamResponse:
        return json_answer(request, {"status": "ok"})

    async def ready(request: web.Request) -> web.StreamResponse:
        process = status.read()
        return json_answer(
            request,
            {
                "status": process.unready or "ok",
                "upstreams": {"up": process.upstreams_up, "configured": len(process.upstreams)},
            },
            status=200 if process.ready else 503,
        )

    return [
        web.get("/healthz", healthy),
        web.get("/readyz", ready),
    ]


def _probes(landing: Handler) -> Iterable[web.RouteDef]:
    """The paths with which clients probe for a server, and the page at one of them."""

    async def hello(request: web.Request) -> web.StreamResponse:
        return web.Response()

    # Some modes of Claude Code ask for it at each start, and end on anything but 200 or 404.
    unmanaged = _not_found("This gateway manages no settings of its clients.")
    return [
        web.get("/", landing),
        web.head("/api/hello", hello),
        web.route("*", "/managed/settings", unmanaged),
    ]


def _status(gateway: Gateway) -> StatusReader:
    return StatusReader(
        gateway.exchanges,
        gateway.storage,
        gateway.router,
        gateway.holders,
        gateway.in_force,
        gateway.clock,
        gateway.certificate,
    )


def _admin_api(gateway: Gateway, reload: Reload) -> AdminHandlers:
    return AdminHandlers(
        gateway.administration,
        gateway.admission,
        gateway.storage,
        gateway.prices,
        _status(gateway),
        gateway.clock,
        _activity(gateway),
        lambda: subject_of(gateway),
        _model_names(gateway),
        reload,
        gateway.in_force,
        gateway.channels,
    )


def _activity(gateway: Gateway) -> ActivityReader:
    return ActivityReader(_status(gateway), gateway.admission, gateway.holders, gateway.clock)


def _model_names(gateway: Gateway) -> ModelNames:
    return ModelNames(gateway.router, gateway.catalog, lambda: gateway.in_force.config.upstreams)


def _metrics(gateway: Gateway, gate: AdminGate) -> Iterable[web.RouteDef]:
    handler = MetricsHandler(
        MetricsGate(gate, gateway.metrics_token),
        gateway.metrics,
        _status(gateway),
        gateway.admission,
        gateway.holders,
        gateway.storage,
        gateway.clock,
    )
    return [web.get(METRICS, answered(handler.scrape, problem_document))]


def _add_administration(
    app: web.Application,
    gateway: Gateway,
    gate: AdminGate,
    templates: Templates,
    reload: Reload,
) -> None:
    """What the control socket serves, and pages for it, for whoever has the admin password."""
    clock = gateway.clock
    live = LivePart(
        _activity(gateway), gateway.holders, gateway.admission, gateway.clock, templates
    )
    pages = AdminPages(
        gateway.holders,
        gateway.administration,
        gateway.admission,
        gateway.storage,
        gateway.prices,
        clock,
        templates,
        live,
    )
    actions = AdminActions(
        gateway.in_force,
        gateway.holders,
        gateway.administration,
        _model_names(gateway),
        templates,
        reload,
    )
    _add_guarded(
        app,
        gate,
        _admin_api(gateway, reload).routes(),
        ADMIN_API,
        problem_document,
        f"This path is not served; {ADMIN_API}/openapi.json describes those that are.",
    )
    _add_guarded(
        app,
        gate,
        # The forms come first: "new" is not the id of a key.
        [*actions.routes(), *live.routes(), *pages.routes()],
        ADMIN_PAGES,
        pages.problem,
        "There is no page at this address.",
    )


def _add_guarded(
    app: web.Application,
    gate: AdminGate,
    routes: Sequence[web.RouteDef],
    root: str,
    render: Renderer,
    missing: str,
) -> None:
    """The routes, and one for every other path below ``root``, which the sentence ``missing``
    answers: the administrator alone may know which paths there are."""
    for path in dict.fromkeys(route.path for route in routes):
        handlers = {route.method: route.handler for route in routes if route.path == path}
        if any(route.path == path and route.kwargs.get("allow_head") for route in routes):
            handlers["HEAD"] = handlers["GET"]
        handlers["*"] = _wrong_method(list(handlers))
        resource = app.router.add_resource(path)
        for method, handler in handlers.items():
            guarded = gate.guarded(handler, render)
            resource.add_route(method, guarded, expect_handler=_expect_nothing)
    app.router.add_route(
        "*",
        root + "{rest:(/.*)?}",
        gate.guarded(_not_found(missing), render),
        expect_handler=_expect_nothing,
    )


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


def _add_the_rest(app: web.Application, missing: Handler) -> None:
    """Route what is not served, too: aiohttp's own way out would answer ``Expect`` first."""
    for resource in app.router.resources():
        assert isinstance(resource, web.Resource)
        methods = [route.method for route in resource]
        if "*" not in methods:
            resource.add_route("*", _wrong_method(methods), expect_handler=_expect_nothing)
    app.router.add_route("*", "/{path:.*}", missing, expect_handler=_expect_nothing)


def _wrong_method(allowed: Sequence[str]) -> Handler:
    async def wrong_method(request: web.Request) -> web.StreamResponse:
        raise web.HTTPMethodNotAllowed(request.method, allowed)

    return wrong_method


def _not_found(sentence: str) -> Handler:
    async def not_found(request: web.Request) -> web.StreamResponse:
        raise HttpProblem(404, sentence, code=Code.NOT_FOUND)

    return not_found


async def _expect_nothing(request: web.Request) -> None:
    """Leave ``Expect: 100-continue`` to the handler, which first looks at key and size. (aiohttp's
    own way would repeat, where no middleware sees it, an expectation that it does not know.)"""
