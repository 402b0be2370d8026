"""How pages are made: templates, their static files, and the headers of every page."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType
from urllib.parse import urlsplit

import jinja2
from aiohttp import web

from opuslive import set_up
from opuslive.administration.invitations import DAYS as INVITATION_DAYS
from opuslive.administration.self_service import MAX_GRACE_HOURS
from opuslive.config.alerts import AlertsConfig
from opuslive.config.in_force import ConfigInForce
from opuslive.config.sections import Config
from opuslive.times import iso_ms, iso_seconds
from opuslive.usage import export_rows
from opuslive.web.answers import close_unread, request_id_headers
from opuslive.web.pages import words
from opuslive.web.pages.addresses import group_address
from opuslive.web.pages.states import causes

_SCRIPT = "text/javascript; charset=utf-8"
#: What is served below /static, and as what.
STATIC: Mapping[str, str] = MappingProxyType(
    {
        "style.css": "text/css; charset=utf-8",
        "icon.svg": "image/svg+xml",
        "admin.js": _SCRIPT,
        "copy.js": _SCRIPT,
        "invite.js": _SCRIPT,
        "live.js": _SCRIPT,
        "times.js": _SCRIPT,
    }
)
#: The scripts of every page of the administration.
ADMIN_SCRIPTS = ("admin.js", "copy.js", "times.js")
#: What a page may do: show itself, and send its forms here.
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
#: The same for a page with a script of ours.
SCRIPT_POLICY = f"{POLICY}; script-src 'self'"
#: The same for the administration, one of whose scripts asks this server.
ADMIN_POLICY = f"{SCRIPT_POLICY}; connect-src 'self'"
SECURITY_HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        # "no-referrer" would make browsers send "Origin: null" with the pages' own forms.
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
)
_HOST = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?"
)
#: One year, in seconds: the address of a static file changes with its content.
_FOR_GOOD = "public, max-age=31536000, immutable"


class Templates:
    """Renders the pages of one gateway, and serves their static files.

    ``simulated_model`` is the model of the sandbox, where that is the provider. ``draining`` says
    whether the process is about to end.
    """

    def __init__(
        self, in_force: ConfigInForce, simulated_model: str | None, draining: Callable[[], bool]
    ) -> None:
        self._in_force = in_force
        self._draining = draining
        self._static = {
            name: resources.files("opuslive.web.pages").joinpath("static", name).read_bytes()
            for name in STATIC
        }
        self._tags = {
            name: hashlib.blake2b(content, digest_size=8).hexdigest()
            for name, content in self._static.items()
        }
        self._environment = self._make_environment(simulated_model)

    def render(
        self,
        request: web.Request,
        template: str,
        *,
        status: int = 200,
        scripts: Sequence[str] = (),
        policy: str | None = None,
        **values: object,
    ) -> web.Response:
        """A page, which no cache keeps.

        ``scripts`` are the static files that it runs; ``base.html`` says so in its foot.
        ``policy``: the one that allows just that, unless it is given.
        """
        text = self._environment.get_template(template).render(
            {**self._configured(), **values}, path=request.path, scripts=scripts
        )
        headers = {
            "Content-Type": "text/html; charset=utf-8",
            "Cache-Control": "no-store",
            **SECURITY_HEADERS,
            "Content-Security-Policy": policy or (SCRIPT_POLICY if scripts else POLICY),
            **request_id_headers(request),
        }
        response = web.Response(status=status, body=text.encode(), headers=headers)
        close_unread(request, response)
        if self._draining():
            response.force_close()
        return response

    def render_admin(
        self,
        request: web.Request,
        template: str,
        *,
        status: int = 200,
        scripts: Sequence[str] = (),
        **values: object,
    ) -> web.Response:
        """A page of the administration; beside the scripts of all of them it has ``scripts``."""
        return self.render(
            request,
            template,
            status=status,
            scripts=(*ADMIN_SCRIPTS, *scripts),
            policy=ADMIN_POLICY,
            **values,
        )

    async def static(self, request: web.Request) -> web.StreamResponse:
        """``/static/{name}``."""
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

    def base(self, request: web.Request) -> str | None:
        """The address that clients are to use: the configured one, or else the one that the
        browser asked, if that is an address."""
        server = self._in_force.config.server
        if server.public_url is not None:
            return server.public_url.rstrip("/")
        host = request.headers.get("Host", "")
        if _HOST.fullmatch(host) is None:
            return None
        return f"{'https' if server.behind_proxy else request.scheme}://{host}"

    def _configured(self) -> dict[str, object]:
        """What every page may know of the configuration in force."""
        config = self._in_force.config
        return {
            "contact": config.admin.contact,
            "installation": _installation(config),
        }

    def _make_environment(self, simulated_model: str | None) -> jinja2.Environment:
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("opuslive.web.pages"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            auto_reload=False,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters.update(
            amount=words.amount,
            count=words.count,
            cost=lambda totals: words.cost(totals.cost, complete=totals.complete),
            moment=words.moment,
            marked_moment=words.marked_moment,
            exact=words.exact_moment,
            iso=iso_seconds,
            iso_ms=iso_ms,
            ago=words.ago,
            day=words.day,
            expiry=words.expiry,
            last_day=words.last_day,
            causes=causes,
            rows=export_rows,
            shell=set_up.bash,
            host=lambda url: urlsplit(url).netloc,
            group_address=group_address,
        )

        def clients(
            address: str, key: str, models: Mapping[str, str | None]
        ) -> Sequence[set_up.Client]:
            """Set up to use the simulated model, where that is the provider."""
            usable = {dialect: simulated_model or model for dialect, model in models.items()}
            return set_up.clients(address, key, usable)

        environment.globals.update(
            static=lambda name: f"/static/{name}?{self._tags[name]}",
            simulated_model=simulated_model,
            invitation_days=INVITATION_DAYS,
            max_grace_hours=MAX_GRACE_HOURS,
            clients=clients,
        )
        # Compiled now, and not while streams run. Without a password nobody gets to see the pages
        # of the administration.
        administered = self._in_force.config.admin.password_hash is not None
        for name in environment.list_templates(extensions=["html"]):
            if administered or not name.startswith("admin"):
                environment.get_template(name)
        return environment


@dataclass(frozen=True, slots=True)
class Installation:
    """What every page may know of the configuration: none of its secrets."""

    key_prefix: str
    has_upstream: bool
    access_log: bool
    debug_log: bool
    metrics_of_keys: bool
    alerts: Sequence[str]
    behind_proxy: bool
    tls: bool
    cache_read_weight: float
    self_service: bool


def _installation(config: Config) -> Installation:
    return Installation(
        key_prefix=config.keys.prefix,
        has_upstream=bool(config.upstreams),
        access_log=config.log.access,
        debug_log=config.log.level == "debug",
        metrics_of_keys=config.metrics.keys,
        alerts=_told_of_alerts(config.alerts),
        behind_proxy=config.server.behind_proxy,
        tls=config.server.tls is not None,
        cache_read_weight=config.limits.cache_read_weight,
        self_service=config.keys.self_service,
    )


def _told_of_alerts(config: AlertsConfig) -> Sequence[str]:
    """Whom alerts are told to, as a holder may know it: where that is, is the administrator's."""
    told = {"a web address": config.webhook, "a mail server": config.smtp}
    return [name for name, where in told.items() if where is not None]
