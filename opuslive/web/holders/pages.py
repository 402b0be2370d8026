"""The pages: what this is, Check Usage, and the privacy policy.

They need no script, set no cookie and load nothing from elsewhere. A key arrives in the body
of a form and is forgotten with it: it stands in no address and in no page, so a download asks
for it again.
"""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from opuslive.bootstrap import Gateway
from opuslive.errors import Code, OpusLiveError
from opuslive.keys import Key
from opuslive.web.answers import Handler
from opuslive.web.holders import privacy
from opuslive.web.holders.usage import EXPORT_FORMATS, UsageHandlers
from opuslive.web.http.checks import MAX_CREDENTIAL
from opuslive.web.pages.forms import read_form
from opuslive.web.pages.report import DAYS, read_report
from opuslive.web.pages.templating import Templates

_UNKNOWN_KEY = (
    "This is not a key of this gateway. Paste the whole key, as it was given to you; a key that "
    "was deleted or replaced is unknown here, too."
)


class Pages:
    """Handlers of the pages; ``exports`` answers downloads."""

    def __init__(self, gateway: Gateway, exports: UsageHandlers, templates: Templates) -> None:
        self._gateway = gateway
        self._exports = exports
        self._templates = templates

    def routes(self) -> list[web.RouteDef]:
        """All but ``/``, whose place in the router depends on other routes."""
        return [
            web.get("/usage", self._page(self.usage_form)),
            web.post("/usage", self._page(self.usage)),
            web.post("/usage/export", self._page(self.export)),
            web.get("/privacy", self._page(self.privacy)),
            web.get("/static/{name}", self._templates.static),
        ]

    def _page(self, handler: Handler) -> Handler:
        """Answer what goes wrong with a page as well."""

        async def page(request: web.Request) -> web.StreamResponse:
            try:
                return await handler(request)
            except OpusLiveError as error:
                if request.writer.output_size > 0:
                    raise
                return self._problem(request, error)

        return page

    async def landing(self, request: web.Request) -> web.StreamResponse:
        config = self._gateway.config
        return self._templates.render(
            request,
            "landing.html",
            base=self._templates.base(request),
            dialects={upstream.dialect for upstream in config.upstreams},
            prefix=config.keys.prefix,
            model=self._templates.example_model,
        )

    async def usage_form(self, request: web.Request) -> web.StreamResponse:
        return self._templates.render(request, "usage.html", problem=None)

    async def usage(self, request: web.Request) -> web.StreamResponse:
        key, _ = await self._prove(request)
        gateway = self._gateway
        now = gateway.clock.steady_ms()
        report = await read_report(gateway, key, now, contact=self._contact)
        shared = key.group in gateway.config.limits.groups or bool(gateway.config.limits.gateway)
        return self._templates.render(
            request, "report.html", report=report, shared=shared, days=DAYS
        )

    async def export(self, request: web.Request) -> web.StreamResponse:
        key, form = await self._prove(request)
        file_format = form.get("format", "csv")
        if file_format not in EXPORT_FORMATS:
            raise OpusLiveError(
                Code.INVALID_REQUEST, f"Choose one of the formats {', '.join(EXPORT_FORMATS)}."
            )
        return await self._exports.send_export(request, key, file_format)

    async def privacy(self, request: web.Request) -> web.StreamResponse:
        return self._templates.render(
            request,
            "privacy.html",
            kept=self._gateway.storage.kept_tables,
            changed=privacy.CHANGED,
            upstreams=self._gateway.config.upstreams,
        )

    async def _prove(self, request: web.Request) -> tuple[Key, Mapping[str, str]]:
        """The key in the form that was posted, and the form.

        Raises OpusLiveError as ``read_form`` and ``Authenticator.prove`` do.
        """
        form = await read_form(request)
        credential = form.get("key", "").strip()
        if not credential:
            raise OpusLiveError(Code.INVALID_REQUEST, "Paste your key first.")
        if len(credential) > MAX_CREDENTIAL:
            raise OpusLiveError(Code.INVALID_KEY, _UNKNOWN_KEY)
        return (await self._gateway.authenticator.prove([credential])).key, form

    def _problem(self, request: web.Request, error: OpusLiveError) -> web.Response:
        message = _UNKNOWN_KEY if error.code is Code.INVALID_KEY else error.message
        response = self._templates.render(
            request, "usage.html", status=error.code.status, problem=message
        )
        if error.retry_after is not None:
            response.headers["Retry-After"] = str(error.retry_after)
        return response

    @property
    def _contact(self) -> str:
        return self._gateway.config.admin.contact or "the administrator"
