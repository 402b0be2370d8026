"""A provider for each module, and gateways for each test.

No example of a property is held to a time: a busy machine takes its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import trustme
from hypothesis import settings

from tests.support.listener import Listener
from tests.support.provider import ScriptedUpstream
from tests.support.server import Server, Servers
from tests.support.shim import compiled

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


#: Folders whose tests start programs, and so take longest.
SLOW_FOLDERS = frozenset({"e2e", "crash", "faults", "browser"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow files: one that came last would run while the other processes idle."""
    items.sort(key=lambda item: not SLOW_FOLDERS.intersection(item.path.parts))


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


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that makes the disk fail."""
    return compiled(tmp_path_factory.mktemp("shim"))


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    """An upstream's raw end."""
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """A certificate authority of the tests' own."""
    return trustme.CA()
