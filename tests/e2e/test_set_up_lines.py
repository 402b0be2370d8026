"""The set-up lines that holders are given are pasted, and do what they say.

Those of Claude Code and Codex have tests of their own, in which the programs run with them.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from typing import Any

import pytest

from opuslive.set_up import SetUp, clients
from tests.support.answering import answer
from tests.support.npm import NpmClients
from tests.support.provider import ScriptedUpstream
from tests.support.server import CREDENTIAL, Server

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

TEXT = "Hello from the tests"
MODELS = {"anthropic": "claude-test-1", "openai": "gpt-5-mini"}


@pytest.fixture(scope="module")
def sections(provider: ScriptedUpstream) -> dict[str, Any]:
    common = {"base_url": provider.base_url, "api_key": CREDENTIAL}
    return {
        "upstreams": [
            common | {"name": dialect, "dialect": dialect, "models": [model]}
            for dialect, model in MODELS.items()
        ]
    }


def lines_for(gateway: Server, key: str, *names: str) -> list[SetUp]:
    told = clients(f"http://127.0.0.1:{gateway.port}", key, MODELS)
    assert set(names) <= {client.name for client in told}
    return [lines for client in told if client.name in names for lines in client.set_ups]


async def printed_by(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_curl(gateway: Server, upstream: ScriptedUpstream, key: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    upstream.always(answer)
    for lines in lines_for(gateway, key, "curl"):
        assert TEXT in await printed_by("bash", "-c", f"{lines.text} --silent --noproxy '*'")


async def test_the_sdks_for_python(gateway: Server, upstream: ScriptedUpstream, key: str) -> None:
    upstream.always(answer)
    for lines in lines_for(gateway, key, "Anthropic SDK", "OpenAI SDK"):
        if lines.place == "Python":
            assert (await printed_by(sys.executable, "-c", lines.text)).strip() == TEXT


async def test_the_sdks_for_typescript(
    npm_clients: NpmClients, gateway: Server, upstream: ScriptedUpstream, key: str
) -> None:
    """Nothing in them needs its types, so Node runs them as they are."""
    upstream.always(answer)
    for lines in lines_for(gateway, key, "Anthropic SDK", "OpenAI SDK", "AI SDK"):
        if lines.place != "Python":
            assert TEXT in await npm_clients.run_source(lines.text)
