"""The administration's pages: how the gateway stands, all keys, and one of them.

Everything works without JavaScript. A small script of ours says while typing what a limit
means, and copies a new key. ``gate`` says who may see the pages, ``actions`` what may be changed
on them.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from urllib.parse import urlencode

from aiohttp import web

from opuslive.administration.figures import read_totals, total
from opuslive.administration.keys import Administration
from opuslive.administration.status import StatusReader
from opuslive.gateway.admission.admission import Admission
from opuslive.gateway.holder import Holders
from opuslive.keys import Key
from opuslive.pricing.prices import Prices
from opuslive.storage import Storage
from opuslive.times import Clock, end_of_day
from opuslive.web.admin.actions import NOTICES, key_of
from opuslive.web.admin.gate import AccessDenied
from opuslive.web.admin.key_table import COLUMNS, STATES, Choice, make_table
from opuslive.web.admin.overview import TOP_KEYS, make_overview
from opuslive.web.errors import HttpProblem
from opuslive.web.pages.report import DAYS, Gauge, ReportReader, first_day, gauge
from opuslive.web.pages.states import shared_with
from opuslive.web.pages.templating import Templates

ROOT = "/admin"


class AdminPages:
    """``/admin``, for whoever has the admin password."""

    def __init__(
        self,
        holders: Holders,
        administration: Administration,
        admission: Admission,
        storage: Storage,
        prices: Prices,
        status: StatusReader,
        clock: Clock,
        templates: Templates,
    ) -> None:
        self._holders = holders
        self._administration = administration
        self._admission = admission
        self._storage = storage
        self._prices = prices
        self._status = status
        self._clock = clock
        self._templates = templates
        self._reports = ReportReader(storage, admission, prices, clock)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/admin", self.overview),
            web.get("/admin/", self.to_overview),
            web.get("/admin/keys", self.keys),
            web.get("/admin/keys/{id}", self.key),
        ]

    async def to_overview(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=308, headers={"Location": ROOT})

    async def overview(self, request: web.Request) -> web.StreamResponse:
        now = self._clock.steady_ms()
        storage, prices = self._storage, self._prices
        since, until = first_day(now), end_of_day(now)
        tokens = await storage.tokens_by_key(since=since, until=until)
        by_key = {}
        for key_id in heapq.nlargest(TOP_KEYS, tokens, key=tokens.__getitem__):
            used = await read_totals(storage, prices, key_id, since=since, until=until, by="day")
            by_key[key_id] = total(used.values())
        overview = make_overview(
            self._status.read(),
            self._administration.all_keys(),
            self._admission.shared_limits(),
            await storage.sums(None, since=since, until=until, by="day"),
            by_key,
            used_keys=len(tokens),
            prices=prices,
            now=now,
        )
        return self._templates.render_admin(
            request, "admin_overview.html", overview=overview, days=DAYS
        )

    async def keys(self, request: web.Request) -> web.StreamResponse:
        now = self._clock.steady_ms()
        table = make_table(
            self._administration.all_keys(),
            await self._administration.all_usage(),
            self._admission.statuses,
            self._admission.shared_limits(),
            Choice.of_query(request.query),
            now=now,
            wall_ms=self._clock.wall_ms(),
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
        key = key_of(request, self._holders)
        report = await self._reports.read(key, contact=None)
        return self._templates.render_admin(
            request,
            "admin_key.html",
            report=report,
            days=DAYS,
            shared=self._shared(key, report.now),
            notice=_notice(request, "changed", "revoked", "enabled" if key.enabled else "disabled"),
        )

    def _shared(self, key: Key, now: int) -> Mapping[str, Sequence[Gauge]]:
        """The limits that the key shares: whom it shares them with → their gauges."""
        shared = shared_with(key, self._admission.shared_limits())
        return {
            whom: [gauge(status, now) for status in statuses] for whom, statuses in shared.items()
        }

    def problem(self, request: web.Request, problem: HttpProblem) -> web.Response:
        """The page that shows a problem."""
        title = HTTPStatus(problem.status).phrase
        if isinstance(problem, AccessDenied):
            sign_in = problem.status == HTTPStatus.UNAUTHORIZED
            response = self._templates.render(
                request,
                "access_denied.html",
                status=problem.status,
                closed=problem.status == HTTPStatus.NOT_FOUND,
                sign_in=sign_in,
                title="Sign in" if sign_in else title,
                detail=problem.sentence,
            )
        else:
            response = self._templates.render_admin(
                request,
                "admin_problem.html",
                status=problem.status,
                title=title,
                detail=problem.sentence,
            )
        response.headers.update(problem.headers)
        return response


def _notice(request: web.Request, *possible: str) -> str | None:
    """What was done just now, if the address has a code for it that can be true."""
    done = request.query.get("done", "")
    return NOTICES[done] if done in possible else None


def _address_of(choice: Choice) -> Callable[..., str]:
    """Makes addresses of the same table, with another choice."""

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
