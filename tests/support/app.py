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
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from opuslive.bootstrap import Gateway, open_gateway
from opuslive.config.files import Settings, database_url, load_settings
from opuslive.config.sections import Config
from opuslive.times import Clock
from opuslive.web.server import WebServer
from tests.support.server import Server, gateway_config

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
    #: The clock to go by, if not the machine's.
    clock: Clock | None = None

    async def start(self, *options: str) -> None:
        assert not options, "the command takes them"
        settings = load_settings(str(self.config_file), {})
        url = database_url(settings.config, {})
        self.gateway = await open_gateway(settings, url, environ={}, clock=self.clock)
        self._web = WebServer(self.gateway, max_files=MAX_FILES)
        self._logged = io.StringIO()
        self._handler = logging.StreamHandler(self._logged)
        logging.getLogger().addHandler(self._handler)
        logging.getLogger("opuslive").setLevel(logging.DEBUG)
        self.port = await self._web.start("127.0.0.1", 0)
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
            await self.gateway.close()
            logging.getLogger().removeHandler(self._handler)
            logging.getLogger("opuslive").setLevel(logging.NOTSET)
        return 0

    async def kill(self) -> None:
        await self.stop()


class Apps:
    """Gateways of one test's own; they end with it."""

    def __init__(self) -> None:
        self._made: list[tuple[App, tempfile.TemporaryDirectory[str]]] = []

    def make(self, upstream_url: str | None, **sections: Any) -> App:
        """A gateway that does not run yet."""
        # A short path, as the paths of sockets have to be.
        folder = tempfile.TemporaryDirectory(prefix="opuslive-app-")
        app = App(Path(folder.name), gateway_config(upstream_url, **sections))
        self._made.append((app, folder))
        return app

    async def start(self, upstream_url: str | None, **sections: Any) -> App:
        app = self.make(upstream_url, **sections)
        await app.start()
        return app

    async def close(self) -> None:
        for app, folder in self._made:
            await app.stop()
            folder.cleanup()
