"""A gateway for each module, a process of its own."""

from __future__ import annotations

import re
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support import namespaces, npm
from tests.support.building import run
from tests.support.claude_code import ClaudeCode
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


@pytest.fixture(scope="session")
def npm_clients() -> npm.NpmClients:
    """The clients from npm that the quick tests use."""
    return _installed(everything=False)


@pytest.fixture(scope="session")
def all_npm_clients() -> npm.NpmClients:
    return _installed(everything=True)


def _installed(*, everything: bool) -> npm.NpmClients:
    try:
        return npm.install(everything=everything)
    except npm.UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def sealed() -> None:
    """Programs may run where they reach nothing but what a test gives them."""
    if (reason := namespaces.missing()) is not None:
        pytest.skip(reason)


@pytest.fixture
def claude_code(sealed: None, npm_clients: npm.NpmClients, tmp_path: Path) -> ClaudeCode:
    return ClaudeCode(npm_clients.claude_code, tmp_path / "claude")


@pytest.fixture(scope="session")
def executable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program in one file."""
    library = Path(sysconfig.get_config_var("LIBPL"), sysconfig.get_config_var("LIBRARY"))
    if shutil.which("cc") is None or not library.exists():
        pytest.skip("there is no C compiler, or this Python came without its static library")
    path = tmp_path_factory.mktemp("executable") / "opuslive"
    told = run("sh", ".ci/executable", path, PYTHON=sys.executable)
    assert re.search(r"runs with glibc [\d.]+ and newer", told)
    return path
