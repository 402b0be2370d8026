"""What is checked: one and the same for the API of a server and for the command without one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from opuslive.bootstrap import Gateway
from opuslive.config.files import Settings
from opuslive.diagnostics.checkup import Subject
from opuslive.web.http.listening import check_listening, client_urls


def subject(
    settings: Settings,
    environ: Mapping[str, str],
    url: str,
    now_ms: Callable[[], int],
    *,
    serving: bool,
) -> Subject:
    """An installation to check. ``url`` is that of the database; ``now_ms`` is the wall clock."""
    server = settings.config.server
    scheme = "http" if server.tls is None else "https"
    return Subject(
        settings,
        environ,
        url,
        client_urls(server.host, server.port, scheme) if serving else None,
        partial(check_listening, server.host, server.port),
        now_ms,
    )


def subject_of(gateway: Gateway) -> Subject | None:
    """The installation that a gateway is of; None if it was put together without one."""
    origin = gateway.origin
    if origin is None:
        return None
    # The configuration may be another since the start.
    settings = replace(origin.settings, config=gateway.in_force.config)
    if gateway.simulated_model is not None:
        # What it serves is not what stands in the file.
        settings = Settings(settings.config, settings.folder)
    looked_at = subject(
        settings, origin.environ, origin.url, gateway.clock.wall_ms, serving=origin.serving
    )
    return replace(looked_at, certificate=gateway.certificate)
