"""The pages: what this is, Check Usage, and the privacy policy.

They need no script, set no cookie and load nothing from elsewhere. A key arrives in the body
of a form and is forgotten with it: it stands in no address and in no page, so a download asks
for it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aiohttp import web

from opuslive.config.in_force import ConfigInForce
from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.admission.bulkheads import Bulkhead
from opuslive.gateway.authenticator import Authenticator
from opuslive.gateway.holder import Holder
from opuslive.storage import KeptTable
from opuslive.web.errors import HttpProblem, answered
from opuslive.web.exports import EXPORT_FORMATS
from opuslive.web.holders import privacy
from opuslive.web.holders.usage import UsageHandlers
from opuslive.web.http.checks import MAX_CREDENTIAL
from opuslive.web.model_names import ModelNames
from opuslive.web.pages.forms import read_form
from opuslive.web.pages.report import DAYS, ReportReader
from opuslive.web.pages.templating import Templates

_UNKNOWN_KEY = (
    "This is not a key of this gateway. Paste the whole key, as it was given to you; a key that "
    "was deleted or replaced is unknown here, too."
)


class Pages:
    """Handlers of the pages. ``kept`` is what the privacy policy names, ``exports`` answers
    downloads."""

    def __init__(
        self,
        in_force: ConfigInForce,
        authenticator: Authenticator,
        kept: Sequence[KeptTable],
        reports: ReportReader,
        exports: UsageHandlers,
        templates: Templates,
        reading: Bulkhead,
        models: ModelNames,
    ) -> None:
        self._in_force = in_force
        self._authenticator = authenticator
        self._kept = kept
        self._reports = reports
        self._exports = exports
        self._templates = templates
        self._reading = reading
        self._models = models

    def routes(self) -> list[web.RouteDef]:
        """All but ``/``, which clients that probe ask for, too."""
        return [
            web.get("/usage", answered(self.usage_form, self.problem)),
            web.post("/usage", answered(self.usage, self.problem)),
            web.post("/usage/export", answered(self.export, self.problem)),
            web.get("/privacy", answered(self.privacy, self.problem)),
            web.get("/static/{name}", self._templates.static),
        ]

    async def landing(self, request: web.Request) -> web.StreamResponse:
        return self._templates.render(
            request,
            "landing.html",
            base=self._templates.base(request),
            models=self._models.first_of(()),
        )

    async def usage_form(self, request: web.Request) -> web.StreamResponse:
        return self._templates.render(request, "usage.html", problem=None)

    async def usage(self, request: web.Request) -> web.StreamResponse:
        holder, _ = await self._prove(request)
        config = self._in_force.config
        contact, limits = config.admin.contact or "the administrator", config.limits
        with self._reading.place(holder) as turn:
            async with turn:
                key = holder.key
                report = await self._reports.read(key, contact=contact)
                shared = key.group in limits.groups or bool(limits.gateway)
                return self._templates.render(
                    request, "report.html", report=report, shared=shared, days=DAYS
                )

    async def export(self, request: web.Request) -> web.StreamResponse:
        holder, form = await self._prove(request)
        file_format = form.get("format", "csv")
        if file_format not in EXPORT_FORMATS:
            raise OpusLiveError(
                Code.INVALID_REQUEST, f"Choose one of the formats {', '.join(EXPORT_FORMATS)}."
            )
        return await self._exports.send_export(request, holder, file_format)

    async def privacy(self, request: web.Request) -> web.StreamResponse:
        return self._templates.render(
            request,
            "privacy.html",
            kept=self._kept,
            changed=privacy.REVISION.day,
            upstreams=self._in_force.config.upstreams,
        )

    async def _prove(self, request: web.Request) -> tuple[Holder, Mapping[str, str]]:
        """The holder of the key in the form that was posted, and the form.

        Raises OpusLiveError as ``read_form`` and ``Authenticator.prove`` do.
        """
        form = await read_form(request, ("key", "format"))
        credential = form.get("key", "").strip()
        if not credential:
            raise OpusLiveError(Code.INVALID_REQUEST, "Paste your key first.")
        if len(credential) > MAX_CREDENTIAL:
            raise OpusLiveError(Code.INVALID_KEY, _UNKNOWN_KEY)
        return await self._authenticator.prove([credential]), form

    def problem(self, request: web.Request, problem: HttpProblem) -> web.Response:
        """The form for a key once more, with what is wrong."""
        unknown = problem.code is Code.INVALID_KEY
        response = self._templates.render(
            request,
            "usage.html",
            status=problem.status,
            problem=_UNKNOWN_KEY if unknown else problem.sentence,
        )
        response.headers.update(problem.headers)
        return response
