"""The administration's pages: how the gateway stands, all keys, and one of them.

Everything works without JavaScript. A small script of ours says while typing what a limit
means, and copies a new key. Who may see the pages is ``admin_auth``'s to say, and what may
be changed on them is in ``admin_actions``.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from urllib.parse import urlencode

from aiohttp import web

from opuslive.administration.figures import read_totals, total
from opuslive.bootstrap import Gateway
from opuslive.errors import OpusLiveError
from opuslive.keys import Key
from opuslive.times import end_of_day
from opuslive.web.admin.actions import NOTICES, AdminActions
from opuslive.web.admin.key_table import COLUMNS, STATES, Choice, make_table
from opuslive.web.admin.openapi import version
from opuslive.web.admin.overview import TOP_KEYS, Process, UpstreamStatus, condition, make_overview
from opuslive.web.answers import Handler
from opuslive.web.errors import Refused
from opuslive.web.pages.report import DAYS, Gauge, first_day, gauge, read_report
from opuslive.web.pages.states import shared_with
from opuslive.web.pages.templating import Templates

ROOT = "/admin"


class AdminPages:
    """``/admin``, for whoever has the admin password."""

    def __init__(self, gateway: Gateway, templates: Templates) -> None:
        self._gateway = gateway
        self._templates = templates
        self._actions = AdminActions(gateway, templates)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/admin", self.overview),
            web.get("/admin/", self.to_overview),
            web.get("/admin/keys", self.keys),
            *self._actions.routes(),
            web.get("/admin/keys/{id}", self.key),
        ]

    async def answering(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer what goes wrong with a page, too."""
        try:
            return await handler(request)
        except Refused as refused:
            return self._refusal(request, refused.status, refused.detail, refused.headers)
        except OpusLiveError as error:
            wait = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
            return self._problem(request, error.code.status, error.message, wait)
        except web.HTTPMethodNotAllowed as error:
            detail = f"This address takes {' and '.join(sorted(error.allowed_methods))} only."
            return self._problem(request, 405, detail, {"allow": error.headers["Allow"]})
        except web.HTTPNotFound:
            return self._problem(request, 404, "There is no page at this address.")

    async def to_overview(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=308, headers={"Location": ROOT})

    async def overview(self, request: web.Request) -> web.StreamResponse:
        gateway = self._gateway
        now = gateway.clock.steady_ms()
        storage, prices = gateway.storage, gateway.prices
        since, until = first_day(now), end_of_day(now)
        tokens = await storage.tokens_by_key(since=since, until=until)
        by_key = {}
        for key_id in heapq.nlargest(TOP_KEYS, tokens, key=tokens.__getitem__):
            used = await read_totals(storage, prices, key_id, since=since, until=until, by="day")
            by_key[key_id] = total(used.values())
        overview = make_overview(
            self._process(now),
            gateway.administration.all_keys(),
            gateway.admission.shared_limits(),
            await storage.sums(None, since=since, until=until, by="day"),
            by_key,
            used_keys=len(tokens),
            prices=prices,
            now=now,
        )
        return self._templates.render_admin(
            request, "admin_overview.html", overview=overview, days=DAYS
        )

    def _process(self, now: int) -> Process:
        gateway = self._gateway
        health = gateway.health.upstreams
        return Process(
            version=version(),
            started_at=gateway.started_at,
            in_flight=gateway.exchanges.running,
            unrecorded_refusals=gateway.exchanges.unrecorded_denials,
            ready=gateway.exchanges.ready,
            draining=gateway.exchanges.draining,
            storage_healthy=gateway.storage.healthy,
            all_down=gateway.health.all_down,
            upstreams=[
                UpstreamStatus(
                    name=upstream.name,
                    dialect=upstream.dialect.name,
                    authority=upstream.authority.decode("ascii"),
                    models=upstream.models,
                    priority=upstream.priority,
                    connections=upstream.pool.open_connections,
                    idle=upstream.pool.idle_connections,
                    state=health[upstream.name].state,
                    condition=condition(health[upstream.name], now),
                )
                for upstream in gateway.router.upstreams
            ],
        )

    async def keys(self, request: web.Request) -> web.StreamResponse:
        gateway = self._gateway
        now = gateway.clock.steady_ms()
        table = make_table(
            gateway.administration.all_keys(),
            await gateway.administration.all_usage(),
            gateway.admission.statuses,
            gateway.admission.shared_limits(),
            Choice.of_query(request.query),
            now,
        )
        return self._templates.render_admin(
            request,
            "admin_keys.html",
            table=table,
            columns=COLUMNS,
            states=STATES,
            now=now,
            address=_address_of(table.choice),
            notice=_notice(request, "deleted"),
        )

    async def key(self, request: web.Request) -> web.StreamResponse:
        key = self._actions.key(request)
        gateway = self._gateway
        now = gateway.clock.steady_ms()
        report = await read_report(gateway, key, now, contact=None)
        return self._templates.render_admin(
            request,
            "admin_key.html",
            report=report,
            days=DAYS,
            shared=self._shared(key, now),
            notice=_notice(request, "changed", "enabled" if key.enabled else "disabled"),
        )

    def _shared(self, key: Key, now: int) -> Mapping[str, Sequence[Gauge]]:
        """The limits that the key shares with others, by whom it shares them with."""
        shared = shared_with(key, self._gateway.admission.shared_limits())
        return {
            whom: [gauge(status, now) for status in statuses] for whom, statuses in shared.items()
        }

    def _refusal(
        self, request: web.Request, status: int, detail: str, headers: Mapping[str, str]
    ) -> web.Response:
        """What is told to somebody who is not let in."""
        closed = self._gateway.config.admin.password_hash is None
        response = self._templates.render(
            request,
            "refusal.html",
            status=status,
            closed=closed,
            sign_in=status == HTTPStatus.UNAUTHORIZED,
            title="Sign in" if status == HTTPStatus.UNAUTHORIZED else HTTPStatus(status).phrase,
            detail=detail,
        )
        response.headers.update(headers)
        return response

    def _problem(
        self,
        request: web.Request,
        status: int,
        detail: str,
        headers: Mapping[str, str] | None = None,
    ) -> web.Response:
        title = HTTPStatus(status).phrase
        response = self._templates.render_admin(
            request, "admin_problem.html", status=status, title=title, detail=detail
        )
        response.headers.update(headers or {})
        return response


def _notice(request: web.Request, *possible: str) -> str | None:
    """What was done just now, if the address has a code for that, and one that can be true."""
    done = request.query.get("done", "")
    return NOTICES[done] if done in possible else None


def _address_of(choice: Choice) -> Callable[..., str]:
    """Writes the address of the same table with something else chosen of it."""

    def address(**chosen: object) -> str:
        values: dict[str, object] = {
            "q": choice.text,
            "state": choice.state or "",
            "sort": choice.sort,
            "order": choice.order,
            "page": 1,
        } | chosen
        return "?" + urlencode({name: value for name, value in values.items() if value != ""})

    return address
