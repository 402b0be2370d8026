"""The pages: what this is, Check Usage, and the privacy policy.

They need no script, set no cookie and load nothing from elsewhere. A key arrives in the body
of a form and is forgotten with it: it stands in no address and in no page, so a download asks
for it again.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Awaitable, Callable, Mapping
from importlib import resources
from types import MappingProxyType
from urllib.parse import urlsplit

import jinja2
from aiohttp import web

from opuslive.bootstrap import Gateway
from opuslive.errors import Code, OpusLiveError
from opuslive.keys import Key
from opuslive.usage import end_of_day, export_row, iso_ms, iso_seconds
from opuslive.web import privacy, words
from opuslive.web.answers import request_id_headers
from opuslive.web.forms import read_form
from opuslive.web.report import DAYS, RECENT, first_day, first_hour, make_report
from opuslive.web.sandbox import MODEL as SIMULATED_MODEL
from opuslive.web.security import MAX_CREDENTIAL
from opuslive.web.usage import EXPORT_FORMATS, UsageHandlers

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: What is served below /static, and as what.
STATIC: Mapping[str, str] = MappingProxyType(
    {"style.css": "text/css; charset=utf-8", "icon.svg": "image/svg+xml"}
)
SECURITY_HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Content-Security-Policy": (
            "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
            "base-uri 'none'; frame-ancestors 'none'"
        ),
        "X-Content-Type-Options": "nosniff",
        # "no-referrer" would make browsers send "Origin: null" with the pages' own forms.
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
)
_HOST = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?"
)
_UNKNOWN_KEY = (
    "This is not a key of this gateway. Paste the whole key, as it was given to you; a key that "
    "was deleted or replaced is unknown here, too."
)
#: The model that the examples ask for; whoever may not use it sees which ones there are.
EXAMPLE_MODEL = "claude-opus-4-8"
#: One year, in seconds: the address of a static file changes with its content.
_FOR_GOOD = "public, max-age=31536000, immutable"


class Pages:
    """Handlers of the pages; ``exports`` answers downloads."""

    def __init__(self, gateway: Gateway, exports: UsageHandlers) -> None:
        self._gateway = gateway
        self._exports = exports
        self._static = {
            name: resources.files("opuslive.web").joinpath("static", name).read_bytes()
            for name in STATIC
        }
        self._tags = {
            name: hashlib.blake2b(content, digest_size=8).hexdigest()
            for name, content in self._static.items()
        }
        self._templates = self._compile()

    def routes(self) -> list[web.RouteDef]:
        """All but ``/``, whose place in the router depends on other routes."""
        return [
            web.get("/usage", self._page(self.usage_form)),
            web.post("/usage", self._page(self.usage)),
            web.post("/usage/export", self._page(self.export)),
            web.get("/privacy", self._page(self.privacy)),
            web.get("/static/{name}", self.static),
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
        return self._render(
            request,
            "landing.html",
            base=self._base(request),
            dialects={upstream.dialect for upstream in config.upstreams},
            prefix=config.keys.prefix,
            model=SIMULATED_MODEL if self._simulated else EXAMPLE_MODEL,
        )

    async def usage_form(self, request: web.Request) -> web.StreamResponse:
        return self._render(request, "usage.html", problem=None)

    async def usage(self, request: web.Request) -> web.StreamResponse:
        key, _ = await self._prove(request)
        gateway = self._gateway
        storage = gateway.storage
        now = gateway.clock.steady_ms()
        report = make_report(
            key,
            await storage.key_usage(key.id),
            gateway.admission.standings(key.id),
            await storage.sums(key.id, since=first_day(now), until=end_of_day(now), by="day"),
            await storage.sums(key.id, since=first_hour(now), until=now + 1, by="hour"),
            await storage.latest_records(key.id, limit=RECENT),
            prices=gateway.prices,
            contact=self._contact,
            now=now,
        )
        shared = key.group in gateway.config.limits.groups or bool(gateway.config.limits.gateway)
        return self._render(request, "report.html", report=report, shared=shared, days=DAYS)

    async def export(self, request: web.Request) -> web.StreamResponse:
        key, form = await self._prove(request)
        file_format = form.get("format", "csv")
        if file_format not in EXPORT_FORMATS:
            raise OpusLiveError(
                Code.INVALID_REQUEST, f"Choose one of the formats {', '.join(EXPORT_FORMATS)}."
            )
        return await self._exports.send_export(request, key, file_format)

    async def privacy(self, request: web.Request) -> web.StreamResponse:
        return self._render(
            request,
            "privacy.html",
            kept=privacy.KEPT,
            changed=privacy.CHANGED,
            upstreams=self._gateway.config.upstreams,
        )

    async def static(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in self._static:
            raise web.HTTPNotFound
        headers = {
            "Content-Type": STATIC[name],
            "Cache-Control": _FOR_GOOD,
            "ETag": f'"{self._tags[name]}"',
            **SECURITY_HEADERS,
        }
        if headers["ETag"] in request.headers.get("If-None-Match", ""):
            return web.Response(status=304, headers=headers)
        return web.Response(headers=headers, body=self._static[name])

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
        return await self._gateway.authenticator.prove([credential]), form

    def _problem(self, request: web.Request, error: OpusLiveError) -> web.Response:
        message = _UNKNOWN_KEY if error.code is Code.INVALID_KEY else error.message
        response = self._render(request, "usage.html", problem=message)
        response.set_status(error.code.status)
        if error.retry_after is not None:
            response.headers["Retry-After"] = str(error.retry_after)
        if not request.content.is_eof():
            response.force_close()
        return response

    def _render(self, request: web.Request, template: str, **values: object) -> web.Response:
        text = self._templates[template].render(values, path=request.path)
        headers = {
            "Content-Type": "text/html; charset=utf-8",
            "Cache-Control": "no-store",
            **SECURITY_HEADERS,
            **request_id_headers(request),
        }
        response = web.Response(body=text.encode(), headers=headers)
        if self._gateway.exchanges.draining:
            response.force_close()
        return response

    def _base(self, request: web.Request) -> str | None:
        """The address that clients are to use, if it is known or what the browser says is one."""
        server = self._gateway.config.server
        if server.public_url is not None:
            return server.public_url.rstrip("/")
        host = request.headers.get("Host", "")
        if _HOST.fullmatch(host) is None:
            return None
        return f"{'https' if server.behind_proxy else request.scheme}://{host}"

    @property
    def _simulated(self) -> bool:
        return any(upstream.name == "sandbox" for upstream in self._gateway.config.upstreams)

    @property
    def _contact(self) -> str:
        return self._gateway.config.admin.contact or "the administrator"

    def _compile(self) -> Mapping[str, jinja2.Template]:
        config = self._gateway.config
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("opuslive.web"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            auto_reload=False,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters.update(
            count=words.count,
            dollars=words.dollars,
            moment=words.moment,
            exact=words.exact_moment,
            iso=iso_seconds,
            iso_ms=iso_ms,
            row=export_row,
            shell=shlex.quote,
            literal=json.dumps,
            host=lambda url: urlsplit(url).netloc,
        )
        environment.globals.update(
            static=lambda name: f"/static/{name}?{self._tags[name]}",
            contact=config.admin.contact,
            config=config,
            simulated=self._simulated,
        )
        names = ("landing.html", "usage.html", "report.html", "privacy.html")
        return {name: environment.get_template(name) for name in names}
