"""``opuslive serve``: run the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import logging
import os
import random
import resource
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import click
import uvloop

from opuslive.administration.keys import KeyChanges
from opuslive.bootstrap import Gateway, open_gateway, system_clock
from opuslive.cli.logs import set_up_logging
from opuslive.cli.output import echo
from opuslive.cli.waiting import Patience
from opuslive.config.files import (
    Settings,
    certificates_path,
    control_path,
    database_url,
    shown_path,
)
from opuslive.config.reader import Place, host_name
from opuslive.config.sections import (
    DEFAULT_CREDENTIAL_VARIABLE,
    PriceConfig,
    UpstreamConfig,
    check_listen,
)
from opuslive.errors import UsageError
from opuslive.sandbox import DIALECT, MODEL, SimulatedProvider
from opuslive.storage import DatabaseInUse
from opuslive.thinning import THINNED
from opuslive.web.acme.opening import KeptCertificate, keep_certificate
from opuslive.web.http.listening import client_urls, listen_everywhere
from opuslive.web.http.tls import ServerCertificate
from opuslive.web.server import WebServer, check_parser

log = logging.getLogger(__name__)

#: A garbage collection begins when so many more objects were made than freed. (Python's own 700
#: cost 3 % of a request.)
_GC_THRESHOLD = 10_000

#: How long a server waits, at its start, for a command that has the database.
PATIENCE_SECONDS = 5.0
#: How long the sandbox's key works.
SANDBOX_KEY_MS = 24 * 3_600_000


@click.command()
@click.option(
    "--host",
    "hosts",
    metavar="ADDRESS",
    multiple=True,
    help="Address to listen on; :: is every address, localhost both loopbacks. May be given "
    "several times. Default: [server] host, 127.0.0.1.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 takes a free one. Default: [server] port, 8080.",
)
@click.option(
    "--sandbox",
    is_flag=True,
    help="Also run a simulated model provider, make a key, and print a curl line that works: "
    "the way to try OpusLive with no account. Uses a temporary database unless [storage] url "
    "names one.",
)
@click.pass_obj
def serve(
    load: Callable[[], Settings], hosts: tuple[str, ...], port: int | None, sandbox: bool
) -> None:
    """Run the gateway until SIGTERM or Ctrl-C.

    Without [[upstreams]] in the configuration Anthropic is the upstream, if the environment
    variable ANTHROPIC_API_KEY is set.

    With [server.tls] acme it also listens on acme_http_port, where it answers the certificate
    authority.

    The first signal lets running streams finish, for up to [server] drain; a second one
    cuts them. Either way their usage is recorded first.
    """
    settings = load()
    set_up_logging(settings.config.log, system_clock().elapsed_ms)
    if settings.warning is not None:
        log.warning(settings.warning)
    check_parser()
    server = settings.config.server
    server = replace(
        server,
        host=tuple(host_name(host, Place("--host")) for host in hosts) or server.host,
        port=server.port if port is None else port,
    )
    check_listen(server)
    settings = replace(settings, config=replace(settings.config, server=server))
    if not settings.config.upstreams and not sandbox:
        raise UsageError(
            "There is no upstream: the configuration has no [[upstreams]], and the environment "
            f"variable {DEFAULT_CREDENTIAL_VARIABLE} is not set; set it, or write [[upstreams]], "
            "or try 'opuslive serve --sandbox', which needs no account."
        )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, sandbox=sandbox))


async def _serve(settings: Settings, *, sandbox: bool) -> None:
    asyncio.get_running_loop().set_exception_handler(_log_loop_error)
    async with contextlib.AsyncExitStack() as stack:
        signals = _Signals(asyncio.get_running_loop())
        configured = settings
        if sandbox:
            settings, url = await stack.enter_async_context(_simulated(settings))
        else:
            url = database_url(settings.config, os.environ)
        gateway = await _open(settings, url, MODEL if sandbox else None)
        stack.push_async_callback(gateway.close)
        kept = _kept_certificate(configured)
        certificate = _certificate(settings) if kept is None else kept.certificate
        if certificate is not None:
            status = certificate.status if kept is None else kept.renewal.status
            gateway = replace(gateway, certificate=status)
        web = WebServer(gateway, max_files=_raise_file_limit())
        stack.push_async_callback(web.close)
        config = settings.config.server
        tls = None if certificate is None else certificate.context
        port = await web.start(config.host, config.port, tls)
        if certificate is not None:
            stack.callback(asyncio.create_task(certificate.watch()).cancel)
            signals.on_hangup = certificate.reload
        if kept is not None:
            await web.start_forwarding(config.host, kept.http_port, kept.forwarding)
            stack.push_async_callback(_ended, asyncio.create_task(kept.renewal.run()))
            signals.on_hangup = kept.reload
        await web.start_control(control_path(url, os.environ))
        gateway.start()
        # Nearly all that a request makes is freed without a collection.
        gc.freeze()
        gc.set_threshold(_GC_THRESHOLD)
        urls = client_urls(config.host, port, "https" if tls else "http")
        places = " and ".join(urls)
        if listen_everywhere(config.host):
            places += ", and on this machine's other addresses"
        await _announce(gateway, urls[0], places, sandbox)
        if settings.file is not None:
            echo(f"Configuration: {shown_path(settings.file)}")
        await signals.stop.wait()
        log.info("stopping: %d requests are running", gateway.exchanges.running)
        await web.drain(signals.cut)


async def _ended(task: asyncio.Task[None]) -> None:
    """Cancel the task, and wait for its end."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def _simulated(settings: Settings) -> AsyncIterator[tuple[Settings, str]]:
    """Run a simulated provider. Yields the settings for it, and the URL of the database.

    The provider is the only upstream. The database is temporary unless one is configured.
    """
    provider = SimulatedProvider()
    await provider.start()
    upstream = UpstreamConfig(name="sandbox", base_url=provider.base_url, dialect=DIALECT)
    # With a price, the pages show costs, and limits in USD can be tried.
    prices = {**settings.config.prices, MODEL: PriceConfig(input=3.0, output=15.0)}
    config = replace(settings.config, upstreams=(upstream,), prices=prices)
    try:
        with contextlib.ExitStack() as stack:
            url = config.storage.url
            if url is None:
                url = f"sqlite://{stack.enter_context(_temporary_folder())}/opuslive.db"
            yield replace(settings, config=config), url
    finally:
        await provider.close()


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Raises UsageError if no folder for temporary files can be written to."""
    try:
        return tempfile.TemporaryDirectory(prefix="opuslive-sandbox-")
    except OSError as error:
        raise UsageError(
            "Can't make a folder for the sandbox's database "
            f"({error.strerror or error}); set TMPDIR to one that can be written to."
        ) from None


async def _open(settings: Settings, url: str, simulated_model: str | None) -> Gateway:
    """Open the gateway. While a command has the database, wait for the command to end.

    Raises DatabaseInUse if that takes longer than ``PATIENCE_SECONDS``, and UsageError.
    """
    patience = Patience(PATIENCE_SECONDS)
    while True:
        try:
            return await open_gateway(
                settings, url, environ=os.environ, simulated_model=simulated_model
            )
        except DatabaseInUse as error:
            await patience.wait(error)


async def _announce(gateway: Gateway, address: str, places: str, sandbox: bool) -> None:
    """Print the places where it listens; in the sandbox, also make a key and print requests that
    work: they go to ``address``."""
    if not sandbox:
        echo(
            f"OpusLive listens on {places} (hand out a key with 'opuslive keys create NAME', "
            "stop with Ctrl-C)"
        )
        return
    names = {key.name for key in gateway.holders.all_keys()}
    candidates = itertools.chain(["sandbox"], (f"sandbox {n}" for n in itertools.count(2)))
    name = next(name for name in candidates if name not in names)
    # The key is printed on a terminal, and its database may be kept: so the key expires.
    expires_at = gateway.clock.wall_ms() + SANDBOX_KEY_MS
    _, credential = await gateway.administration.create(
        KeyChanges(name=name, set_expiry=True, expires_at=expires_at)
    )
    body = {
        "model": MODEL,
        "max_tokens": 1024,
        "stream": True,
        "messages": [{"role": "user", "content": "Hello"}],
    }
    echo(
        f"""OpusLive listens on {places} with a simulated model: no account, no bill.

Ask it something, in another terminal:

  curl -N {address}/v1/messages -H 'x-api-key: {credential}' \\
    -H 'anthropic-version: 2023-06-01' -H 'content-type: application/json' \\
    -d '{json.dumps(body)}'

Then see what was recorded of it:

  curl -H 'x-api-key: {credential}' {address}/v1/usage

Stop with Ctrl-C."""
    )


def _certificate(settings: Settings) -> ServerCertificate | None:
    """The certificate in the configured files, if that is where it is."""
    config = settings.config.server.tls
    if config is None or config.certificate is None or config.private_key is None:
        return None
    folder = settings.folder
    return ServerCertificate(folder / config.certificate, folder / config.private_key, time.time)


def _kept_certificate(settings: Settings) -> KeptCertificate | None:
    """The certificate that the gateway gets by itself, if it is to.

    Its files stay where they are in the sandbox, too: authorities issue only so many a week.
    """
    server = settings.config.server
    if server.tls is None or server.tls.acme is None:
        return None
    state = certificates_path(database_url(settings.config, os.environ))
    chance = random.random  # no secret depends on it
    return keep_certificate(server, settings.folder, state, time.time, chance)


def _raise_file_limit() -> int:
    """Let this process open as many files as the system allows; return the number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft


def _log_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log that a callback failed, without its arguments: these may hold addresses and content."""
    error = context.get("exception")
    log.error("the event loop reports a problem (%s)", type(error).__name__, extra=THINNED)


class _Signals:
    """What the process was asked by signals.

    The first SIGTERM or SIGINT sets ``stop``, the second one ``cut``. SIGHUP calls ``on_hangup``,
    which returns whether the certificate could be read again.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.stop = asyncio.Event()
        self.cut = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._hear)
        self.on_hangup: Callable[[], bool] | None = None
        # A terminal that is closed sends SIGHUP, too: the streams of others must not end by that.
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)

    def _hang_up(self) -> None:
        if self.on_hangup is None:
            log.warning("SIGHUP is ignored: the configuration is read only at the start.")
        elif self.on_hangup():
            log.warning(
                "SIGHUP: the certificate was read again, and nothing else: the configuration is "
                "read only at the start."
            )

    def _hear(self) -> None:
        (self.cut if self.stop.is_set() else self.stop).set()
