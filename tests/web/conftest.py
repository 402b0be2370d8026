"""A listener of the connections under test; a provider and a gateway, each for a module."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient
from pytest_aiohttp.plugin import AiohttpClient

from opuslive.bootstrap import Gateway
from opuslive.config.sections import Config
from opuslive.web.app import public_app
from opuslive.web.http.accepting import ConnectionFactory
from opuslive.web.http.deadlines import Deadlines
from tests.support.app import App, Apps, opened
from tests.support.provider import ScriptedUpstream
from tests.support.wire import Wire

#: Opens a gateway with some of its configuration; returns it, and a client of what it serves.
Open = Callable[..., Awaitable[tuple[Gateway, TestClient[web.Request, web.Application]]]]
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

#: Seconds that no test lasts.
NEVER = 3600.0


class Listener:
    """Listens on loopback and serves every request with one handler."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self.manager: web.Server | None = None

    async def start(
        self,
        handler: Handler,
        *,
        head: float = NEVER,
        idle: float = NEVER,
        stall: float = NEVER,
        cap: int = 100,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.manager = web.Server(handler)
        deadlines = Deadlines(head=head, idle=idle, stall=stall)
        factory = ConnectionFactory(self.manager, loop, cap, deadlines)
        self._server = await loop.create_server(factory, "127.0.0.1", 0)

    @property
    def connections(self) -> int:
        assert self.manager is not None
        return len(self.manager.connections)

    async def connect(self) -> Wire:
        assert self._server is not None
        return await Wire.connect(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        if self._server is not None and self.manager is not None:
            self._server.close()
            await self.manager.shutdown(1.0)


class Watching:
    """Hears what becomes of a connection."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.full = asyncio.Event()
        self.drained = asyncio.Event()

    def client_gone(self) -> None:
        self.gone.set()

    def client_full(self) -> None:
        self.full.set()

    def client_drained(self) -> None:
        self.drained.set()


@pytest_asyncio.fixture
async def listener() -> AsyncIterator[Listener]:
    made = Listener()
    yield made
    await made.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider() -> AsyncIterator[ScriptedUpstream]:
    upstream = ScriptedUpstream()
    await upstream.start()
    yield upstream
    await upstream.close()


@pytest.fixture
def upstream(provider: ScriptedUpstream) -> ScriptedUpstream:
    """The module's provider, as if nobody had asked it anything yet."""
    provider.forget()
    return provider


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    """More of the configuration; modules override it."""
    return {}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(provider: ScriptedUpstream, sections: dict[str, Any]) -> AsyncIterator[App]:
    """The module's gateway, running."""
    apps = Apps()
    yield await apps.start(provider.base_url, **sections)
    await apps.close()


@pytest_asyncio.fixture(loop_scope="module")
async def key(gateway: App) -> str:
    """A new key's credential, without limits."""
    return await gateway.holder()


@pytest_asyncio.fixture(loop_scope="module")
async def apps() -> AsyncIterator[Apps]:
    """Makes gateways for one test."""
    made = Apps()
    yield made
    await made.close()


@pytest_asyncio.fixture
async def open_app(aiohttp_client: AiohttpClient, tmp_path: Path) -> AsyncIterator[Open]:
    """Opens one gateway for a test, which aiohttp's client asks."""
    async with contextlib.AsyncExitStack() as stack:

        async def open_one(
            config: Config, **more: Any
        ) -> tuple[Gateway, TestClient[web.Request, web.Application]]:
            gateway = await stack.enter_async_context(opened(tmp_path, config, **more))
            return gateway, await aiohttp_client(public_app(gateway))

        yield open_one
