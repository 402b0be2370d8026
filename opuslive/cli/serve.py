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
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import uvloop

from opuslive.administration.keys import KeyChanges
from opuslive.bootstrap import Gateway, open_gateway, system_clock
from opuslive.cli.control import finishing
from opuslive.cli.logs import LogOutput, set_up_logging
from opuslive.cli.output import echo
from opuslive.cli.service import ServiceManager, inherited_sockets
from opuslive.cli.waiting import POLL_SECONDS, Patience
from opuslive.config.files import (
    Settings,
    certificates_path,
    control_path,
    database_url,
    load_settings,
    shown_path,
    unreadable,
)
from opuslive.config.reader import Place, duration, host_name
from opuslive.config.sections import (
    DEFAULT_CREDENTIAL_VARIABLE,
    Config,
    PriceConfig,
    UpstreamConfig,
    check_listen,
)
from opuslive.errors import OpusLiveError, UsageError
from opuslive.ownership import check_at_hand
from opuslive.reloading import Prepare, Reload, Reloaded, Reloader, Step
from opuslive.sandbox import DIALECT, MODEL, SimulatedProvider
from opuslive.storage import DatabaseInUse
from opuslive.thinning import THINNED
from opuslive.web.acme.opening import KeptCertificate, keep_certificate
from opuslive.web.http.listening import PortTaken, client_urls, listen_everywhere, open_sockets
from opuslive.web.http.tls import ServerCertificate
from opuslive.web.server import WebServer, check_parser

log = logging.getLogger(__name__)

#: A garbage collection begins when so many more objects were made than freed. (Python's own 700
#: cost 3 % of a request.)
_GC_THRESHOLD = 10_000

#: How long a server waits, at its start, for a command that has the database.
PATIENCE_SECONDS = 5.0
#: The longest that it can be told to wait, in seconds: a day.
_LONGEST_WAIT = 86_400.0
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
@click.option(
    "--wait",
    metavar="SPAN",
    help="How long to wait for a database that another process has, such as 30s. Default: for as "
    "long as a server that was told to end takes to finish, else 5s.",
)
@click.pass_obj
def serve(
    load: Callable[[], Settings],
    hosts: tuple[str, ...],
    port: int | None,
    sandbox: bool,
    wait: str | None,
) -> None:
    """Run the gateway until SIGTERM or Ctrl-C.

    Without [[upstreams]] in the configuration Anthropic is the upstream, if the environment
    variable ANTHROPIC_API_KEY is set.

    SIGHUP and 'opuslive reload' take a changed configuration into a server that runs; the options
    stay in force.

    With [server.tls] acme it also listens on acme_http_port, where it answers the certificate
    authority.

    The first signal lets running streams finish, for up to [server] drain; a second one
    cuts them. Either way their usage is recorded first.

    While an earlier server finishes its last answers, this one listens already: clients wait until
    it has the database. Sockets that a service manager holds (LISTEN_FDS) are taken instead of
    --host and --port; see 'opuslive systemd --socket'.
    """
    settings = load()
    log_output = set_up_logging(settings.config.log, system_clock().elapsed_ms)
    if settings.warning is not None:
        log.warning(settings.warning)
    check_parser()
    patience = None if wait is None else duration(0, _LONGEST_WAIT)(wait, Place("--wait"))
    held = inherited_sockets(os.environ, os.getpid())
    options = _Options(hosts, port, sandbox, patience, held)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(options.over(settings), _Again(load, settings.file), options, log_output))


@dataclass(frozen=True, slots=True)
class _Options:
    """The command's options, which hold whatever the configuration says; and the sockets that
    somebody holds for it to listen on. ``patience`` is in seconds: see ``_take_over``."""

    hosts: tuple[str, ...]
    port: int | None
    sandbox: bool
    patience: float | None
    held: Sequence[socket.socket]

    def over(self, settings: Settings) -> Settings:
        """The settings with the options. Raises UsageError if nothing can be served with them."""
        server = settings.config.server
        server = replace(
            server,
            host=tuple(host_name(host, Place("--host")) for host in self.hosts) or server.host,
            port=server.port if self.port is None else self.port,
        )
        if self.held:
            addresses = dict.fromkeys(each.getsockname()[0] for each in self.held)
            server = replace(server, host=tuple(addresses))
        check_listen(server)
        if not settings.config.upstreams and not self.sandbox:
            raise UsageError(
                "There is no upstream: the configuration has no [[upstreams]], and the environment "
                f"variable {DEFAULT_CREDENTIAL_VARIABLE} is not set; set it, or write "
                "[[upstreams]], or try 'opuslive serve --sandbox', which needs no account."
            )
        return replace(settings, config=replace(settings.config, server=server))


class _Again:
    """Reads the configuration again: the file that was found first, whatever others there are.

    A pipe, which a server may start with, can't be read twice.
    """

    def __init__(self, load: Callable[[], Settings], file: Path | None) -> None:
        self._load = load
        self._file = file

    def __call__(self) -> Settings:
        """Raises UsageError as ``load_settings`` does."""
        if self._file is not None:
            try:
                check_at_hand(self._file)
            except OSError as error:
                raise unreadable(self._file, error) from None
            return load_settings(str(self._file), os.environ)
        settings = self._load()
        self._file = settings.file
        return settings


async def _serve(
    settings: Settings, again: Callable[[], Settings], options: _Options, log_output: LogOutput
) -> None:
    asyncio.get_running_loop().set_exception_handler(_log_loop_error)
    config = settings.config.server
    manager = ServiceManager(os.environ, os.getpid())
    async with contextlib.AsyncExitStack() as stack:
        signals = _Signals(asyncio.get_running_loop())
        configured = settings
        overlay: Callable[[Settings], Settings] = options.over
        if options.sandbox:
            provider, url = await stack.enter_async_context(_simulated(settings))
            settings = _with_provider(settings, provider)

            def overlay(settings: Settings) -> Settings:
                return _with_provider(options.over(settings), provider)

        else:
            url = database_url(settings.config, os.environ)
        taken = await _take_over(settings, url, options, manager, signals.stop, stack)
        if taken is None:
            return
        sockets, gateway = taken
        stack.push_async_callback(gateway.close)
        kept = _kept_certificate(configured)
        certificate = _certificate(settings) if kept is None else kept.certificate
        if certificate is not None:
            status = certificate.status if kept is None else kept.renewal.status
            gateway = replace(gateway, certificate=status)
        parts = [] if certificate is None else [_certificate_part(certificate, kept)]
        reloader = Reloader(
            gateway, lambda: overlay(again()), os.environ, [*parts, _log_part(log_output)]
        )

        async def reload() -> Reloaded:
            with manager.reloading():
                return await reloader.reload()

        web = WebServer(gateway, max_files=_raise_file_limit(), reload=reload)
        stack.push_async_callback(web.close)
        stack.push_async_callback(reloader.close)
        tls = None if certificate is None else certificate.context
        await web.start(sockets, tls, held=bool(options.held))
        if certificate is not None:
            stack.callback(asyncio.create_task(certificate.watch()).cancel)
        if kept is not None:
            await web.start_forwarding(config.host, kept.http_port, kept.forwarding)
            stack.push_async_callback(_ended, asyncio.create_task(kept.renewal.run()))
        await web.start_control(control_path(url, os.environ))
        gateway.start()
        signals.on_hangup = reload
        # Nearly all that a request makes is freed without a collection.
        gc.freeze()
        gc.set_threshold(_GC_THRESHOLD)
        port: int = sockets[0].getsockname()[1]
        urls = client_urls(config.host, port, "https" if tls else "http")
        places = " and ".join(urls)
        if listen_everywhere(config.host):
            places += ", and on this machine's other addresses"
        await _announce(gateway, urls[0], places, options.sandbox)
        if settings.file is not None:
            echo(f"Configuration: {shown_path(settings.file)}")
        manager.ready(f"Listening on {places}")
        manager.start_watchdog()
        stack.callback(manager.close)
        await signals.stop.wait()
        log.info("stopping: %d requests are running", gateway.exchanges.running)
        manager.stopping(f"Finishing {gateway.exchanges.running} requests")
        await web.drain(signals.cut)


async def _ended(task: asyncio.Task[None]) -> None:
    """Cancel the task, and wait for its end."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _log_part(output: LogOutput) -> Prepare:
    """The part of a new configuration that the log takes."""
    return lambda config: Step(lambda: output.use(config.log))


def _certificate_part(certificate: ServerCertificate, kept: KeptCertificate | None) -> Prepare:
    """The part that the certificate is, whose files are read again. What keeps one by itself tries
    again now what failed."""

    def prepare(config: Config) -> Step:
        changed = ("server.tls.certificate",) if certificate.changed else ()
        use = certificate.prepare()

        def apply() -> None:
            use()
            if kept is not None:
                kept.renewal.hurry()

        return Step(apply, changed)

    return prepare


@contextlib.asynccontextmanager
async def _simulated(settings: Settings) -> AsyncIterator[tuple[SimulatedProvider, str]]:
    """Run a simulated provider. Yields it, and the URL of the database: a temporary one unless one
    is configured."""
    provider = SimulatedProvider()
    await provider.start()
    try:
        with contextlib.ExitStack() as stack:
            url = settings.config.storage.url
            if url is None:
                url = f"sqlite://{stack.enter_context(_temporary_folder())}/opuslive.db"
            yield provider, url
    finally:
        await provider.close()


def _with_provider(settings: Settings, provider: SimulatedProvider) -> Settings:
    """The settings with the provider as the only upstream."""
    upstream = UpstreamConfig(name="sandbox", base_url=provider.base_url, dialect=DIALECT)
    # With a price, the pages show costs, and limits in USD can be tried.
    prices = {**settings.config.prices, MODEL: PriceConfig(input=3.0, output=15.0)}
    return replace(settings, config=replace(settings.config, upstreams=(upstream,), prices=prices))


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Raises UsageError if no folder for temporary files can be written to."""
    try:
        return tempfile.TemporaryDirectory(prefix="opuslive-sandbox-")
    except OSError as error:
        raise UsageError(
            "Can't make a folder for the sandbox's database "
            f"({error.strerror or error}); set TMPDIR to one that can be written to."
        ) from None


async def _take_over(
    settings: Settings,
    url: str,
    options: _Options,
    manager: ServiceManager,
    stop: asyncio.Event,
    stack: contextlib.AsyncExitStack,
) -> tuple[Sequence[socket.socket], Gateway] | None:
    """Listen, on sockets that somebody holds or on new ones, and open the gateway.

    While another process has the port or the database, wait for it to end: for as many seconds as
    the options say; without that for as long as it takes a server that was told to end, and for a
    command ``PATIENCE_SECONDS``. None if ``stop`` is set meanwhile. Raises DatabaseInUse if it
    takes longer, and UsageError. Sockets are closed when ``stack`` is.
    """
    sockets, patience = options.held, options.patience
    waiting = Patience(PATIENCE_SECONDS if patience is None else patience)
    told = False
    while not stop.is_set():
        try:
            # Before the database is free: who connects meanwhile waits.
            config = settings.config.server
            if not sockets:
                sockets = await open_sockets(config.host, config.port)
                for each in sockets:
                    stack.callback(each.close)
            return sockets, await open_gateway(
                settings,
                url,
                environ=os.environ,
                simulated_model=MODEL if options.sandbox else None,
            )
        except (DatabaseInUse, PortTaken) as error:
            running = await finishing(url)
            if running is not None and not told:
                told = True
                sentence = (
                    f"the server before this one is finishing its last {running} answers; this "
                    "one serves when it has ended"
                )
                log.warning(sentence)
                manager.waiting(sentence)
            if running is not None and patience is None:
                await asyncio.sleep(POLL_SECONDS)
            elif running is None and isinstance(error, PortTaken):
                raise
            else:
                await waiting.wait(error)
    return None


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


async def _reload(reload: Reload) -> None:
    """Reload the configuration; the log has what came of it."""
    try:
        await reload()
    except OpusLiveError:
        pass
    except Exception as error:
        log.error("the configuration could not be reloaded (%s)", type(error).__name__)


class _Signals:
    """What the process was asked by signals.

    The first SIGTERM or SIGINT sets ``stop``, the second one ``cut``. SIGHUP calls ``on_hangup``.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.stop = asyncio.Event()
        self.cut = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._hear)
        self.on_hangup: Reload | None = None
        self._reloads: set[asyncio.Task[None]] = set()
        # A terminal that is closed sends SIGHUP, too: the streams of others must not end by that.
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)

    def _hang_up(self) -> None:
        if self.on_hangup is None:
            log.warning("SIGHUP is ignored while the gateway starts.")
            return
        task = asyncio.ensure_future(_reload(self.on_hangup))
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    def _hear(self) -> None:
        (self.cut if self.stop.is_set() else self.stop).set()
