"""A provider and a gateway for each module, and keys for each test."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.provider import ScriptedUpstream
from tests.support.server import Server, Servers, gateway_config


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder with a short path, as the paths of sockets have to be."""
    with tempfile.TemporaryDirectory(prefix="opuslive-e2e-") as name:
        yield Path(name)


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
async def gateway(
    provider: ScriptedUpstream, folder: Path, sections: dict[str, Any]
) -> AsyncIterator[Server]:
    """The module's gateway, running."""
    server = Server(folder, gateway_config(provider.base_url, **sections))
    await server.start()
    yield server
    await server.kill()


@pytest_asyncio.fixture(loop_scope="module")
async def key(gateway: Server) -> str:
    """A new key's credential, without limits."""
    return await gateway.holder()


@pytest_asyncio.fixture(loop_scope="module")
async def servers(tmp_path: Path) -> AsyncIterator[Servers]:
    """Makes servers for one test."""
    made = Servers()
    yield made
    await made.close()
