"""The administration's pages: how the gateway stands, all keys, and one of them.

Everything works without JavaScript. A small script of ours says while typing what a limit
means, and copies a new key. ``gate`` says who may see the pages, ``actions`` what may be changed
on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus

from aiohttp import web

from opuslive.administration.groups import Groups
from opuslive.administration.keys import Administration
from opuslive.administration.remembered import RememberedSums
from opuslive.administration.reports import Trouble, latest_trouble
from opuslive.gateway.admission.admission import Admission
from opuslive.gateway.holder import Holders
from opuslive.keys import Key
from opuslive.pricing.prices import Prices
from opuslive.storage import Storage
from opuslive.times import Clock
from opuslive.usage import ONE_OUTCOME
from opuslive.web.admin.actions import NOTICES, key_of
from opuslive.web.admin.gate import AccessDenied
from opuslive.web.admin.key_table import (
    COLUMNS,
    STATES,
    Choice,
    address_of,
    kinds_of,
    make_table,
)
from opuslive.web.admin.live import LivePart
from opuslive.web.admin.overview import make_overview
from opuslive.web.admin.ranges import range_of_query
from opuslive.web.admin.usage_reader import UsageReader
from opuslive.web.errors import HttpProblem
from opuslive.web.pages.report import Gauge, ReportReader, gauge
from opuslive.web.pages.states import shared_with
from opuslive.web.pages.templating import Templates

ROOT = "/admin"
#: How many of the latest requests that were not served the overview lists.
LATEST_TROUBLE = 12
#: What a 401 challenges a script with: HTTP wants a challenge, and no browser knows this one.
SCRIPT_CHALLENGE = 'xBasic realm="OpusLive administration"'


class AdminPages:
    """``/admin``, for whoever has the admin password."""

    def __init__(
        self,
        holders: Holders,
        administration: Administration,
        admission: Admission,
        storage: Storage,
        prices: Prices,
        clock: Clock,
        templates: Templates,
        live: LivePart,
        groups: Groups,
    ) -> None:
        self._holders = holders
        self._administration = administration
        self._admission = admission
        self._clock = clock
        self._templates = templates
        self._live = live
        self._groups = groups
        self._usage = UsageReader(
            RememberedSums(storage, holders, clock), prices, administration, groups
        )
        self._storage = storage
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
        live = self._live.read()
        chosen = range_of_query(request.query, now)
        return self._templates.render_admin(
            request,
            "admin_overview.html",
            scripts=("live.js",),
            overview=make_overview(live.activity.process, self._admission.shared_limits(), now),
            live=live,
            view=await self._usage.read(chosen),
            trouble=await self._latest_trouble(),
            groups=sorted({key.group for key in self._administration.all_keys() if key.group}),
            known=self._groups.known,
        )

    async def _latest_trouble(self) -> Sequence[tuple[Trouble, str]]:
        """Each with what its outcome is called."""
        names = {holder.key.id: holder.key.name for holder in self._holders}
        latest = await latest_trouble(self._storage, names, limit=LATEST_TROUBLE)
        return [(trouble, ONE_OUTCOME[trouble.outcome]) for trouble in latest]

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
            kinds=kinds_of(COLUMNS),
            states=STATES,
            now=now,
            address=address_of(table.choice),
            known=self._groups.known,
            notice=_notice(request, "deleted", "changed_many", "disabled_many", "enabled_many"),
        )

    async def key(self, request: web.Request) -> web.StreamResponse:
        key = key_of(request, self._holders)
        report = await self._reports.read(key, contact=None)
        return self._templates.render_admin(
            request,
            "admin_key.html",
            report=report,
            view=await self._usage.read(range_of_query(request.query, report.now), key),
            shared=self._shared(key, report.now),
            warning=self._groups.warning(key.group),
            notice=_notice(
                request,
                "changed",
                "revoked",
                "enabled" if key.enabled else "disabled",
                "raised" if key.raises else "lowered",
            ),
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
        headers = request.headers
        asked_by_script = headers.get("Sec-Fetch-Dest") == "empty" and "Authorization" in headers
        if asked_by_script and "www-authenticate" in response.headers:
            # A browser whose password is wrong would open its dialog over the page, which says
            # itself that the password is wanted. (One that sent none sends it when challenged.)
            response.headers["www-authenticate"] = SCRIPT_CHALLENGE
        return response


def _notice(request: web.Request, *possible: str) -> str | None:
    """What was done just now, if the address has a code for it that can be true."""
    done = request.query.get("done", "")
    return NOTICES[done] if done in possible else None
