"""``serve --sandbox``: what it prints works when it is pasted into a shell."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess

import pytest

from tests.support.server import Servers

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def shell(script: str) -> str:
    done = await asyncio.to_thread(
        subprocess.run, ["sh", "-ec", script], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_the_commands_that_the_sandbox_prints_work(servers: Servers) -> None:
    server = servers.make(None)
    await server.start("--sandbox")
    await server.printed(r"Stop with Ctrl-C\.\n")
    assert "simulated" in server.out
    ask, read = re.findall(r"^  (curl .*(?:\n    .*)*)", server.out, re.MULTILINE)

    streamed = await shell(ask)
    events = [json.loads(line) for line in re.findall(r"^data: (.*)$", streamed, re.MULTILINE)]
    assert len(events) >= 20
    assert (events[0]["type"], events[-1]["type"]) == ("message_start", "message_stop")
    text = "".join(e["delta"]["text"] for e in events if e["type"] == "content_block_delta")
    assert "simulated" in text
    output = next(e["usage"]["output_tokens"] for e in events if e["type"] == "message_delta")

    usage = json.loads(await shell(read))
    assert usage["key"]["name"] == "sandbox"
    assert (usage["totals"]["requests"], usage["totals"]["output_tokens"]) == (1, output)
    assert usage["totals"]["input_tokens"] == events[0]["message"]["usage"]["input_tokens"] > 0

    assert await server.stop() == 0
    assert re.findall(r"warning|error", server.log) == []
    assert list((server.folder / "tmp").iterdir()) == []


async def test_every_page_says_that_the_model_is_simulated(servers: Servers) -> None:
    server = servers.make(None)
    await server.start("--sandbox")
    for path in ("/", "/usage", "/privacy"):
        page = await server.request("GET", path)
        assert (page.status, b"simulated" in page.body) == (200, True)
    assert b"claude-sandbox" in (await server.request("GET", "/")).body


async def test_the_sandbox_keeps_a_database_and_makes_a_key_each_time(servers: Servers) -> None:
    """It makes a key each time, and leaves those of before alone."""
    server = servers.make(None)
    for _ in range(2):
        await server.start("--sandbox")
        await server.printed(r"x-api-key: (\S+)'")
        assert await server.stop() == 0
    names = [key["name"] for key in await server.json("keys", "list")]
    assert names == ["sandbox", "sandbox 2"]
