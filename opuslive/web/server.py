"""The listeners: the public one and the control socket, from their start to the end of a drain."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Awaitable, Sequence
from pathlib import Path

import aiohttp.http_parser
from aiohttp import web

from opuslive.bootstrap import Gateway
from opuslive.errors import UsageError
from opuslive.ownership import check_file
from opuslive.reloading import Reload, nothing_to_reload
from opuslive.web.app import control_app, public_app
from opuslive.web.http.accepting import ConnectionFactory
from opuslive.web.http.closing import close_when_sent, hand_over, reset_unsent
from opuslive.web.http.deadlines import Deadlines
from opuslive.web.http.heads import HeadBudget
from opuslive.web.http.listening import BACKLOG, open_sockets
from opuslive.web.http.places import Places

#: Connections kept at most, where the process may open that many files.
MAX_CONNECTIONS = 10_000
#: The part of them that one origin may have.
SHARE = 0.5
#: The part of that number which may be connected to the port of plain HTTP, besides.
FORWARDING_SHARE = 1 / 32
#: What helps where that port can't be listened on.
REMEDY = (
    "stop what listens there, or let the program listen there (CAP_NET_BIND_SERVICE), or set "
    "[server.tls] acme_http_port to another one and have port 80 forwarded to it"
)


def check_parser() -> None:
    """Raise UsageError unless aiohttp parses with llhttp.

    Its pure-Python parser accepts requests that other servers read differently.
    """
    if aiohttp.http_parser.HttpRequestParser.__module__ != "aiohttp._http_parser":
        raise UsageError(
            "aiohttp was installed without its C parser, which OpusLive needs to be safe; "
            "reinstall aiohttp from a binary wheel, and unset AIOHTTP_NO_EXTENSIONS."
        )


class WebServer:
    """A gateway's listeners: the public one, and the control socket for commands."""

    def __init__(
        self,
        gateway: Gateway,
        *,
        max_files: int,
        reload: Reload = nothing_to_reload,
        deadlines: Deadlines | None = None,
    ) -> None:
        self._gateway = gateway
        self._deadlines = deadlines = deadlines or Deadlines()
        # A client's connection may need another one to an upstream.
        self._max_connections = max(16, min(MAX_CONNECTIONS, (max_files - 64) // 2))
        self._public = web.AppRunner(
            public_app(gateway, reload), shutdown_timeout=deadlines.shutdown
        )
        self._control = web.AppRunner(
            control_app(gateway, reload), shutdown_timeout=deadlines.shutdown
        )
        self._forwarding: web.AppRunner | None = None
        self._listeners: list[asyncio.Server] = []
        self._accepting: ConnectionFactory | None = None
        #: Whether the sockets stay open when this process ends, and a successor gets them.
        self._held = False
        self._control_path: Path | None = None
        self._control_server: asyncio.Server | None = None

    async def start(
        self,
        sockets: Sequence[socket.socket],
        tls: ssl.SSLContext | None = None,
        *,
        held: bool = False,
    ) -> None:
        """Serve clients on sockets that listen, and close them in the end.

        ``held`` says that somebody else has them, too, and gives them to whoever serves next.
        """
        # A reverse proxy has the connections of all clients.
        one_origin = not self._gateway.in_force.config.server.behind_proxy
        share = int(SHARE * self._max_connections) if one_origin else None
        self._accepting = factory = await self._factory(
            self._public, self._max_connections, share, tls
        )
        self._held = held
        await self._listen(factory, sockets)

    async def start_forwarding(
        self,
        hosts: Sequence[str],
        port: int,
        app: web.Application,
        held: Sequence[socket.socket] = (),
    ) -> None:
        """Listen for plain HTTP: the app sends its clients to where TLS is. Without sockets that
        are ``held`` for it, listen on every host.

        Raises UsageError if that can't be done.
        """
        self._forwarding = web.AppRunner(app, shutdown_timeout=self._deadlines.shutdown)
        places = max(16, int(FORWARDING_SHARE * self._max_connections))
        factory = await self._factory(self._forwarding, places, int(SHARE * places))
        sockets = held or await open_sockets(hosts, port, remedy=REMEDY)
        await self._listen(factory, sockets)

    async def start_control(self, path: Path) -> None:
        """Listen for commands on a Unix socket that only this user may open.

        Raises UsageError if that can't be done, or if another user could put a socket in its place.
        """
        factory = await self._factory(self._control, self._max_connections)
        before = os.umask(0o177)
        try:
            folder = "The folder of the control socket"
            check_file(path.parent, folder, "set XDG_RUNTIME_DIR to another one")
            _remove(path)
            self._control_server = await asyncio.get_running_loop().create_unix_server(
                factory, str(path)
            )
        except OSError as error:
            raise UsageError(
                f"Can't make the control socket {path} ({error.strerror or error}); use a shorter "
                "path in [storage] url, or set XDG_RUNTIME_DIR."
            ) from None
        finally:
            os.umask(before)
        self._control_path = path

    async def drain(self, cut: asyncio.Event) -> None:
        """End gracefully: turn new requests away, let answers under way be sent to their end.

        They have the configured time, or until ``cut`` is set; then they are cut, and recorded.
        An answer is under way until all of it is with the kernel: its exchange is over before.
        Where a successor gets the sockets, what was accepted here is served here.
        """
        settings = self._gateway.in_force.config.server
        exchanges = self._gateway.exchanges
        exchanges.stopping = True
        await _either(cut.wait(), asyncio.sleep(settings.drain_notice))
        for server in self._listeners:
            server.close()
        exchanges.draining = True
        exchanges.handing_over = self._held
        await _either(cut.wait(), asyncio.sleep(settings.drain), self._answers_sent())
        exchanges.cut_all()
        await _either(exchanges.wait_idle(), asyncio.sleep(self._deadlines.shutdown))

    async def close(self) -> None:
        """Close every connection and the control socket.

        Answers that are still under way have ``Deadlines.shutdown``; then they are reset.
        """
        for listener in self._listeners:
            listener.close()
        if self._control_server is not None:
            self._control_server.close()
        named = (self._public, self._control, self._forwarding)
        runners = [runner for runner in named if runner is not None]
        servers = [runner.server for runner in runners if runner.server is not None]
        await _either(
            asyncio.gather(*map(close_when_sent, servers)),
            asyncio.sleep(self._deadlines.shutdown),
        )
        for server in servers:
            reset_unsent(server)
        for runner in runners:
            await runner.cleanup()
        if self._control_path is not None:
            _remove(self._control_path)

    async def _answers_sent(self) -> None:
        if self._held and self._accepting is not None:
            await hand_over(self._accepting)
        await self._gateway.exchanges.wait_idle()
        if self._public.server is not None:
            await close_when_sent(self._public.server)

    async def _listen(self, factory: ConnectionFactory, sockets: Sequence[socket.socket]) -> None:
        for listening in sockets:
            server = await asyncio.get_running_loop().create_server(
                factory, sock=listening, backlog=BACKLOG
            )
            self._listeners.append(server)

    async def _factory(
        self,
        runner: web.AppRunner,
        places: int,
        share: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> ConnectionFactory:
        """``places`` for connections, of which one origin may have its ``share``."""
        await runner.setup()
        assert runner.server is not None
        return ConnectionFactory(
            runner.server,
            asyncio.get_running_loop(),
            Places(places, share),
            HeadBudget(),
            self._deadlines,
            tls,
        )


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


async def _either(*waits: Awaitable[object]) -> None:
    """Wait for whichever comes first; the others are cancelled."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
