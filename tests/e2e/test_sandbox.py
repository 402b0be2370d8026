"""``serve --sandbox``: what it prints works when it is pasted into a shell."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess

import pytest

from tests.support.server import Server, Servers
from tests.support.wire import message_body

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


class TestCommands:
    """Commands that name no configuration find the sandbox, whose database is temporary."""

    def make(self, servers: Servers) -> Server:
        server = servers.make(None)
        server.config_file.unlink()
        server.config_file = server.folder / "home" / "no.toml"
        server.command = lambda *arguments: [*server.program, *arguments]  # type: ignore[method-assign]
        return server

    async def test_a_key_that_is_made_meanwhile_works(self, servers: Servers) -> None:
        server = self.make(servers)
        await server.start("--sandbox")
        told = await server.printed(r"Make another key for it:\n\n  (.*)\n")
        assert told[1].endswith("opuslive keys create alice")
        made = await server.run("keys", "create", "alice")
        address = f"http://127.0.0.1:{server.port}"
        assert made.err == f"This is about the sandbox at {address}.\n"
        assert f"ANTHROPIC_BASE_URL={address}" in made.out
        key = made.out.split("\n")[0]
        asked = message_body(model="claude-sandbox")
        assert (await server.messages(key, asked)).status == 200
        listed = await server.run("keys", "list", "--json")
        assert [each["name"] for each in listed.json()] == ["sandbox", "alice"]
        assert (await server.run("database", "check")).out == "The database is sound.\n"
        assert (await server.run("reload")).out.startswith("Changed: nothing\n")
        assert await server.stop() == 0
        assert list((server.folder / "state" / "opuslive" / "sandboxes").iterdir()) == []

    async def test_of_two_the_newest_that_runs_is_meant(self, servers: Servers) -> None:
        first, second = self.make(servers), self.make(servers)
        second.environ = first.environ
        await first.start("--sandbox")
        await first.printed("Stop with Ctrl-C")
        await second.start("--sandbox")
        await second.printed("Stop with Ctrl-C")
        assert f":{second.port}." in (await first.run("keys", "list")).err
        await second.kill()
        assert f":{first.port}." in (await first.run("keys", "list")).err
        assert await first.stop() == 0
        assert (await first.run("keys", "list")).err == ""

    async def test_what_was_named_is_meant_whatever_sandbox_runs(self, servers: Servers) -> None:
        server = self.make(servers)
        await server.start("--sandbox")
        await server.printed("Stop with Ctrl-C")
        other = servers.make(None)
        other.environ = server.environ
        made = await other.run("keys", "create", "alice")
        assert "sandbox" not in made.err
        assert [each["name"] for each in await other.json("keys", "list")] == ["alice"]

    async def test_a_note_that_another_user_could_change_is_refused(self, servers: Servers) -> None:
        server = self.make(servers)
        await server.start("--sandbox")
        await server.printed("Stop with Ctrl-C")
        (note,) = (server.folder / "state" / "opuslive" / "sandboxes").iterdir()
        assert note.stat().st_mode & 0o077 == 0
        note.chmod(0o666)
        refused = await server.run("keys", "list")
        assert f"The note of a sandbox {note} is not used" in refused.complaint

    async def test_without_a_place_for_a_note_it_says_so(self, servers: Servers) -> None:
        server = self.make(servers)
        (server.folder / "state" / "opuslive").write_text("no folder")
        await server.start("--sandbox")
        await server.printed("Other commands don't find this sandbox")
        assert await server.stop() == 0

    async def test_a_change_tells_the_database_where_nothing_was_named(
        self, servers: Servers
    ) -> None:
        server = self.make(servers)
        made = await server.run("keys", "create", "alice")
        database = server.folder / "state" / "opuslive" / "opuslive.db"
        assert made.err == f"Database: {database} (no server runs)\n"
