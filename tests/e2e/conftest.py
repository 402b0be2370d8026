"""A gateway for each module, a process of its own."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.provider import ScriptedUpstream
from tests.support.server import Server, gateway_config


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder with a short path, as the paths of sockets have to be."""
    with tempfile.TemporaryDirectory(prefix="opuslive-e2e-") as name:
        yield Path(name)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    provider: ScriptedUpstream, folder: Path, sections: dict[str, Any]
) -> AsyncIterator[Server]:
    """The module's gateway, running."""
    server = Server(folder, gateway_config(provider.base_url, **sections))
    await server.start()
    yield server
    await server.kill()
