"""Everything that ``opuslive check`` looks at, in one list, for a server that runs and without one.

Nothing is changed by it. All looks go on at once, and each has ``MOST_SECONDS``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from opuslive.administration.certificate import CertificateStatus
from opuslive.bootstrap import price_overrides
from opuslive.config.changes import compare
from opuslive.config.files import Settings, load_settings, shown_path
from opuslive.config.sections import Config, UpstreamConfig
from opuslive.diagnostics import addresses, alerts, certificate, database, files, models, upstreams
from opuslive.diagnostics.findings import Finding, error, from_error, listed_names, ok, warning
from opuslive.errors import OpusLiveError, UsageError
from opuslive.gateway.upstreams.listing import Listing
from opuslive.pricing.prices import Prices
from opuslive.storage import (
    DatabaseState,
    database_path,
    inspect_database,
)

#: Seconds that a look may take, and that looking through the database may.
MOST_SECONDS = 10.0
INSPECTION_SECONDS = 6.0


@dataclass(frozen=True, slots=True)
class Subject:
    """What is checked: a configuration with its database at ``url``.

    ``serving`` is where clients on this machine reach the server of this process, None if this
    process is none. ``try_listening`` raises UsageError if no server could listen. ``now_ms`` is
    the wall clock, in ms since the epoch. ``certificate`` tells how that of the server stands,
    None without one.
    """

    settings: Settings
    environ: Mapping[str, str]
    url: str
    serving: Sequence[str] | None
    try_listening: Callable[[], Awaitable[object]]
    now_ms: Callable[[], int]
    certificate: Callable[[], CertificateStatus] | None = None


async def check(subject: Subject) -> Sequence[Finding]:
    """Look at everything; see ``Finding``."""
    settings, config = subject.settings, subject.settings.config
    path = database_path(subject.url)
    listings = [
        asyncio.ensure_future(upstreams.look_at(each, settings.folder, subject.environ))
        for each in config.upstreams
    ]
    inspection = asyncio.ensure_future(
        asyncio.to_thread(_inspect, subject.url, in_use_here=subject.serving is not None)
    )

    async def of_configuration() -> Iterable[Finding]:
        return [await asyncio.to_thread(_configuration, subject)]

    async def of_upstream(at: int, upstream: UpstreamConfig) -> Iterable[Finding]:
        found = await asyncio.shield(listings[at])
        return upstreams.findings_of(upstream, found, subject.now_ms())

    async def of_models() -> Iterable[Finding]:
        await asyncio.wait((*listings, inspection), timeout=MOST_SECONDS - 1)
        lists = {
            upstream.name: listing
            for upstream, task in zip(config.upstreams, listings, strict=True)
            if task.done() and isinstance(listing := task.result(), Listing)
        }
        found = inspection.result() if inspection.done() else None
        keys = found.keys if isinstance(found, DatabaseState) else None
        table = Prices(price_overrides(config))
        return [
            *models.aliases(config, lists),
            models.prices(config, lists, keys or (), table, subject.now_ms()),
        ]

    async def of_files() -> Iterable[Finding]:
        # Whose files they are may have to be asked over the network.
        found = await asyncio.to_thread(lambda: list(files.secrets(settings, path)))
        return [*found, files.open_files()]

    async def of_database() -> Iterable[Finding]:
        return [
            database.engine_finding(),
            *database.findings_of(path, await asyncio.shield(inspection)),
        ]

    async def of_certificate() -> Iterable[Finding]:
        found = await asyncio.to_thread(lambda: list(certificate.look(settings)))
        in_use = None if subject.certificate is None else subject.certificate()
        return [*certificate.kept(config.server, in_use, subject.now_ms()), *found]

    async def of_listener() -> Iterable[Finding]:
        server = config.server
        return [await addresses.listener(server, subject.serving, subject.try_listening)]

    async def of_alerts() -> Iterable[Finding]:
        return await alerts.look(config.alerts, settings.folder)

    async def of_public_url() -> Iterable[Finding]:
        return await addresses.public_url(config.server, serving=subject.serving is not None)

    looks = (
        ("configuration", of_configuration()),
        *(
            (f"upstream {upstream.name}", of_upstream(at, upstream))
            for at, upstream in enumerate(config.upstreams)
        ),
        ("prices", of_models()),
        ("files", of_files()),
        ("database", of_database()),
        ("certificate", of_certificate()),
        ("listening address", of_listener()),
        ("public_url", of_public_url()),
        ("alerts", of_alerts()),
    )
    try:
        found = await asyncio.gather(*(_bounded(name, look) for name, look in looks))
    finally:
        for task in (*listings, inspection):
            task.cancel()
        await asyncio.gather(*listings, inspection, return_exceptions=True)
    return [finding for findings in found for finding in findings]


async def _bounded(name: str, look: Awaitable[Iterable[Finding]]) -> Sequence[Finding]:
    """What a look finds; that it takes too long is a finding, too."""
    try:
        async with asyncio.timeout(MOST_SECONDS):
            return list(await look)
    except TimeoutError:
        return [
            error(
                name,
                f"did not answer within {MOST_SECONDS:.0f} s",
                "see what holds it up; try again",
            )
        ]


def _configuration(subject: Subject) -> Finding:
    """Whether the configuration's file can be read, and is what is in use."""
    name = "configuration"
    settings, config = subject.settings, subject.settings.config
    if not config.upstreams:
        return error(
            name,
            "there is no upstream",
            "write [[upstreams]], or run 'opuslive init' for a new configuration",
        )
    if settings.file is None:
        return ok(name, "there is no file: the defaults are used")
    try:
        written = load_settings(str(settings.file), subject.environ)
    except OpusLiveError as problem:
        return from_error(name, problem)
    if subject.serving is not None:
        changes = compare(config, _with_listener(written.config, config))
        text = f"{shown_path(settings.file)} was changed since the server read it"
        if changes.applied:
            return warning(name, text, "run 'opuslive reload', so that it takes effect")
        if changes.needs_restart:
            keys = listed_names(changes.needs_restart)
            return warning(name, f"{text}: {keys}", "restart the server, so that it takes effect")
    return ok(name, f"{shown_path(settings.file)} holds no mistake")


def _with_listener(written: Config, used: Config) -> Config:
    """``written``, but where the server listens: options of 'serve' may say that."""
    server = replace(written.server, host=used.server.host, port=used.server.port)
    return replace(written, server=server)


def _inspect(url: str, *, in_use_here: bool) -> DatabaseState | OpusLiveError | None:
    try:
        return inspect_database(url, in_use_here=in_use_here, seconds=INSPECTION_SECONDS)
    except OpusLiveError as problem:
        return problem


def unreadable(problem: UsageError) -> Sequence[Finding]:
    """What is found where there is no configuration to check."""
    return [from_error("configuration", problem)]
