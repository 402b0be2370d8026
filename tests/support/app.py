"""The whole gateway in the process of the test: its real routes, store and upstreams.

An ``App`` listens as the program does, is asked as a ``Server`` is, and starts in a tenth of a
second. With ``opened`` a test has a gateway for aiohttp's own client, which serves everything
but what is forwarded. What needs a process of its own (commands, signals, the end of a process) is
for ``Server`` to show.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from aiohttp import web
from aiohttp.test_utils import TestClient

from opuslive.bootstrap import Gateway, open_gateway
from opuslive.config.files import Settings, database_url, load_settings
from opuslive.config.sections import Config
from opuslive.reloading import Reloader
from opuslive.times import Clock
from opuslive.web.http.listening import open_sockets
from opuslive.web.server import WebServer
from tests.support.server import Made, Server

#: Open files that the process may have.
MAX_FILES = 1024


@contextlib.asynccontextmanager
async def opened(
    folder: Path,
    config: Config,
    *,
    clock: Clock | None = None,
    simulated_model: str | None = None,
) -> AsyncIterator[Gateway]:
    """A gateway on a database in the folder."""
    gateway = await open_gateway(
        Settings(config, folder),
        f"sqlite://{folder}/opuslive.db",
        environ={},
        clock=clock,
        simulated_model=simulated_model,
    )
    try:
        yield gateway
    finally:
        await gateway.close()


class App(Server):
    """A gateway on one configuration. ``start`` it, ``stop`` it, start it again."""

    gateway: Gateway
    reloader: Reloader
    #: The clock to go by, if not the machine's.
    clock: Clock | None = None
    #: Whether a successor is to get the listening socket.
    held = False

    async def start(self, *options: str) -> None:
        assert not options, "the command takes them"
        settings = load_settings(str(self.config_file), {})
        url = database_url(settings.config, {})
        self.gateway = await open_gateway(settings, url, environ=self.environ, clock=self.clock)
        self.reloader = Reloader(
            self.gateway, lambda: load_settings(str(self.config_file), {}), self.environ
        )
        self._web = WebServer(self.gateway, max_files=MAX_FILES, reload=self.reloader.reload)
        self._logged = io.StringIO()
        self._handler = logging.StreamHandler(self._logged)
        logging.getLogger().addHandler(self._handler)
        logging.getLogger("opuslive").setLevel(logging.DEBUG)
        (listening,) = await open_sockets(["127.0.0.1"], 0)
        self.port = listening.getsockname()[1]
        await self._web.start([listening], held=self.held)
        await self._web.start_control(Path(f"{self.database}.sock"))
        self.gateway.start()

    @property
    def log(self) -> str:
        return self._logged.getvalue()

    async def drain(self, cut: asyncio.Event) -> None:
        """What SIGTERM asks for, and ``cut`` for a second one."""
        await self._web.drain(cut)

    async def stop(self) -> int:
        if self.port:
            self.port = 0
            await self._web.close()
            await self.reloader.close()
            await self.gateway.close()
            logging.getLogger().removeHandler(self._handler)
            logging.getLogger("opuslive").setLevel(logging.NOTSET)
        return 0

    async def kill(self) -> None:
        await self.stop()


class Apps(Made[App]):
    """Gateways of one test's own in its process; they end with it."""

    def __init__(self) -> None:
        super().__init__(App)


#: Opens a gateway with some of its configuration; returns it, and a client of what it serves.
OpenApp = Callable[..., Awaitable[tuple[Gateway, TestClient[web.Request, web.Application]]]]
