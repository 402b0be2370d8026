"""What has sockets runs on both event loops: asyncio's own, and uvloop as in production."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from opuslive.gateway.upstreams.pool import Endpoint, UpstreamPool
from opuslive.gateway.upstreams.wire import Timeouts
from opuslive.storage import open_storage
from tests.support.limiting import Limiting, MakeLimiting, settings
from tests.support.listener import Listener
from tests.support.loops import ASYNCIO, BOTH, LoopFactories
from tests.support.pools import PATIENT, MakePool
from tests.support.provider import ScriptedUpstream

#: Where a test has one of these, it has sockets.
SOCKETS = {"listener", "upstream"}


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(item: pytest.Function) -> LoopFactories:
    return ASYNCIO if SOCKETS.isdisjoint(item.fixturenames) else BOTH


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    upstream = ScriptedUpstream()
    await upstream.start()
    yield upstream
    await upstream.close()


@pytest.fixture
async def make_pool() -> AsyncIterator[MakePool]:
    """Makes pools of connections to a port; they are closed in the end."""
    pools: list[UpstreamPool] = []

    def make(
        port: int,
        timeouts: Timeouts = PATIENT,
        *,
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
        max_idle_seconds: float = 60.0,
    ) -> UpstreamPool:
        loop = asyncio.get_running_loop()
        pools.append(UpstreamPool(Endpoint(host, port, tls), timeouts, loop, max_idle_seconds))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()
    await asyncio.sleep(0)


@pytest.fixture
async def pool(listener: Listener, make_pool: MakePool) -> UpstreamPool:
    return make_pool(listener.port)


@pytest.fixture
async def make_limiting(tmp_path: Path) -> AsyncIterator[MakeLimiting]:
    """Makes admissions on one store; in the end nothing may be left in any of them."""
    storage = await open_storage(f"sqlite://{tmp_path / 'opuslive.db'}")
    made: list[Limiting] = []

    def make(**how: Any) -> Limiting:
        made.append(Limiting(storage, settings(**how)))
        return made[-1]

    yield make
    await storage.close()
    for limiting in made:
        limiting.assert_nothing_left()


@pytest.fixture
async def limiting(make_limiting: MakeLimiting) -> Limiting:
    return make_limiting()
