"""``opuslive serve``: run the gateway. ``_serve`` has the steps of a server's life, in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from dataclasses import replace

import click
import uvloop

from opuslive.bootstrap import system_clock
from opuslive.cli.logs import LogOutput, set_up_logging
from opuslive.cli.sandboxes import Sandbox, noted
from opuslive.cli.service import ServiceManager, inherited_sockets
from opuslive.cli.serving.announcement import places_of, print_places, print_sandbox
from opuslive.cli.serving.certificate import shown_certificate
from opuslive.cli.serving.options import Again, Options
from opuslive.cli.serving.runtime import collect_seldom, log_loop_error, raise_file_limit
from opuslive.cli.serving.signals import Signals
from opuslive.cli.serving.simulation import make_key, simulated
from opuslive.cli.serving.takeover import take_over
from opuslive.config.files import Settings, control_path, database_url
from opuslive.config.reader import Place, duration
from opuslive.reloading import Prepare, Reloaded, Reloader, Step
from opuslive.sandbox import MODEL
from opuslive.web.http.listening import client_urls
from opuslive.web.server import WebServer, check_parser

log = logging.getLogger(__name__)

#: The longest that it can be told to wait, in seconds: a day.
_LONGEST_WAIT = 86_400.0


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
    options = Options(hosts, port, sandbox, patience, held)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, Again(load, settings.file), options, log_output))


async def _serve(
    found: Settings, again: Callable[[], Settings], options: Options, log_output: LogOutput
) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(log_loop_error)
    manager = ServiceManager(os.environ, os.getpid())
    async with contextlib.AsyncExitStack() as stack:
        signals = Signals(loop)

        # What is served: the configuration, under the options, in the sandbox without upstreams.
        configured = options.over(found)
        sandbox = None
        if options.sandbox:
            sandbox = await stack.enter_async_context(simulated(configured))

        def in_force(settings: Settings) -> Settings:
            settings = options.over(settings)
            return settings if sandbox is None else sandbox.over(settings)

        settings = in_force(found)
        server = settings.config.server
        url = database_url(settings.config, os.environ) if sandbox is None else sandbox.url

        # The port and the database, as soon as a server before this one lets go of them.
        manager.starting()
        held = options.held_for_clients(server)
        model = MODEL if options.sandbox else None
        taken = await take_over(
            settings, url, held, options.patience, model, manager, signals.stop, stack
        )
        if taken is None:
            return
        sockets, gateway = taken

        # What a reload takes anew, beside the gateway itself.
        parts: list[Prepare] = [lambda config: Step(lambda: log_output.use(config.log))]
        certificate = shown_certificate(configured)
        if certificate is not None:
            gateway = replace(gateway, certificate=certificate.status)
            parts.append(certificate.prepare)
        reloader = Reloader(gateway, lambda: in_force(again()), os.environ, parts)

        async def reload() -> Reloaded:
            with manager.reloading():
                return await reloader.reload()

        # The listeners.
        web = WebServer(gateway, max_files=raise_file_limit(), reload=reload)
        stack.push_async_callback(web.close)
        stack.push_async_callback(reloader.close)
        tls = None if certificate is None else certificate.context
        await web.start(sockets, tls, held=bool(held))
        if certificate is not None:
            await certificate.start(web, server.host, options.held_for_forwarding(server), stack)
        await web.start_control(control_path(url, os.environ))
        gateway.start()
        signals.on_hangup = reload
        collect_seldom()

        # Who wants to know is told.
        port: int = sockets[0].getsockname()[1]
        urls = client_urls(server.host, port, "https" if tls else "http")
        places = places_of(server, urls)
        if options.sandbox:
            noticed = stack.enter_context(noted(Sandbox(url, urls[0]), os.environ))
            print_sandbox(found, places, urls[0], await make_key(gateway), found=noticed)
        else:
            print_places(places, settings.file)
        manager.ready(f"Listening on {places}")
        manager.start_watchdog()
        stack.callback(manager.close)

        # The end: answers under way are finished, then all is closed, the last thing first.
        await signals.stop.wait()
        log.info("stopping: %d requests are running", gateway.exchanges.running)
        manager.stopping(f"Finishing {gateway.exchanges.running} requests")
        await web.drain(signals.cut)
