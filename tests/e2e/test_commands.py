"""The command line: the same with and without a running server."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from opuslive.storage import open_storage
from tests.e2e.conftest import Servers
from tests.support.keys import a_key
from tests.support.provider import ScriptedUpstream
from tests.support.server import Server
from tests.support.wire import message_body

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = {
    "id",
    "name",
    "prefix",
    "group",
    "enabled",
    "created_at",
    "expires_at",
    "previous_secret_expires_at",
    "models",
    "limits",
}
SHOWN = KEY | {"state", "last_used_at", "usage"}
USAGE = {
    "requests",
    "refusals",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
}


@pytest.mark.parametrize("running", [True, False], ids=["with a server", "without"])
async def test_the_life_of_a_key(
    servers: Servers, provider: ScriptedUpstream, running: bool
) -> None:
    server = servers.make(provider.base_url)
    if running:
        await server.start()

    options = ["--limit", "60 requests / 60s", "--limit", "2000000 tokens/5h", "--group", "friends"]
    options += ["--model", "claude-*", "--model", "gpt-4", "--expires", "2099-12-31"]
    made = await server.create_key("alice", *options)
    assert made.keys() == KEY | {"key"}
    assert made["key"].startswith(made["prefix"] + "-")
    assert made["prefix"].endswith(made["id"])
    assert made["limits"] == ["60 requests/1m", "2M tokens/5h"]
    assert (made["models"], made["group"]) == (["claude-*", "gpt-4"], "friends")
    assert (made["enabled"], made["expires_at"]) == (True, "2100-01-01T00:00:00Z")

    shown = await server.json("keys", "show", made["prefix"])
    assert shown.keys() == SHOWN
    assert {name: shown[name] for name in KEY} == {name: made[name] for name in KEY}
    assert shown["usage"] == dict.fromkeys(USAGE, 0)
    assert (shown["state"], shown["last_used_at"]) == ("enabled", None)
    assert await server.json("keys", "list") == [shown]

    changes = ["--name", "alicia", "--no-limits", "--all-models", "--never-expires", "--no-group"]
    updated = await server.json("keys", "update", "alice", *changes)
    cleared: dict[str, Any] = {
        "limits": [],
        "models": [],
        "expires_at": None,
        "group": None,
        "name": "alicia",
    }
    assert updated == shown | cleared
    disabled = await server.json("keys", "disable", "alicia")
    assert disabled == updated | {"enabled": False, "state": "disabled"}
    assert await server.json("keys", "enable", made["id"]) == updated

    rotated = await server.json("keys", "rotate", "alicia", "--grace", "24h")
    assert rotated.keys() == KEY | {"key"}
    assert rotated["key"] != made["key"]
    assert rotated["previous_secret_expires_at"] is not None

    deleted = await server.json("keys", "delete", "alicia", "--yes")
    assert deleted.keys() == KEY | {"erased_records"}
    assert deleted["erased_records"] == 0
    empty = await server.run("keys", "list")
    assert (empty.status, empty.err) == (0, "")
    assert "no keys yet" in empty.out
    assert made["id"].encode() not in server.database_files()


#: Commands that are refused, and a word of what is said of each.
REFUSED = {
    ("create", "taken"): "taken",
    ("create", "new", "--limit", "60 reqests/1m"): "requests",
    ("rotate", "other", "--grace", "-1h"): "-1h",
    ("create", "new", "--limit", "1 concurrent", "--limit", "2 concurrent"): "same thing",
    ("create", "new", "--expires", "2001-01-01"): "passed",
    ("update", "other", "--name", "taken"): "taken",
    ("show", "nobody"): "no key",
}


@pytest.mark.parametrize("running", [True, False], ids=["with a server", "without"])
async def test_what_is_refused(servers: Servers, provider: ScriptedUpstream, running: bool) -> None:
    server = servers.make(provider.base_url)
    if running:
        await server.start()
    await asyncio.gather(server.create_key("taken"), server.create_key("other"))
    # All of it is said by one implementation: without a server, a sample will do.
    refused = dict(list(REFUSED.items())[: None if running else 2])
    outcomes = await asyncio.gather(*(server.run("keys", *arguments) for arguments in refused))
    for (arguments, said), outcome in zip(refused.items(), outcomes, strict=True):
        assert said in outcome.complaint, arguments
    assert {key["name"] for key in await server.json("keys", "list")} == {"taken", "other"}


class TestForPeople:
    async def test_a_key_is_shown_once(self, gateway: Server) -> None:
        created = await gateway.run("keys", "create", "Zoë [bold]", "--limit", "8 concurrent")
        credential = created.out.splitlines()[0]
        assert (await gateway.request("GET", "/v1/usage", key=credential)).status == 200
        assert "only time" in created.out
        assert "'Zoë [bold]' is kept" in created.out
        secret = credential.rpartition("-")[2]
        for command in (["list"], ["show", "Zoë [bold]"], ["list", "--json"]):
            outcome = await gateway.run("keys", *command)
            assert secret not in outcome.out
            assert "\x1b" not in outcome.out  # no colours where nobody looks
        rotated = await gateway.run("keys", "rotate", "Zoë [bold]", "--grace", "1h")
        assert rotated.out.splitlines()[0].startswith("sk-ant-ol-")
        assert "The old secret works until" in rotated.out

    async def test_tables(self, gateway: Server, upstream: ScriptedUpstream) -> None:
        key = await gateway.create_key(
            "A name that is long, but not too long", "--limit", "8 concurrent"
        )
        for _ in range(2):
            assert (await gateway.messages(key["key"], message_body())).status == 200
        listed = (await gateway.run("keys", "list")).out
        (row,) = (line for line in listed.splitlines() if key["id"] in line)
        assert row.startswith("A name that is long, but not too long  ")
        assert "8 concurrent" in row
        shown = (await gateway.run("keys", "show", key["prefix"])).out
        fields = dict(line.split("  ", 1) for line in shown.splitlines())
        assert fields["id"].strip() == key["id"]
        assert fields["output tokens"].strip() == "14"
        assert fields["requests"].strip() == "2, and 0 refused"

    async def test_delete_asks(self, gateway: Server) -> None:
        await gateway.create_key("asked about")
        refused = await gateway.run("keys", "delete", "asked about", input_="n\n")
        assert refused.status == 1
        assert "Delete the key 'asked about'" in refused.err
        assert (await gateway.run("keys", "delete", "asked about")).status == 1  # no answer at all
        done = await gateway.run("keys", "delete", "asked about", input_="y\n")
        assert (done.status, done.out.startswith("Deleted the key 'asked about'")) == (0, True)
        assert (await gateway.run("keys", "show", "asked about")).complaint

    async def test_wrong_usage(self, gateway: Server) -> None:
        commands: list[list[str]] = [
            ["create"],
            ["nonsense"],
            ["update", "x"],
            ["update", "x", "--limit", "8 concurrent", "--no-limits"],
        ]
        outcomes = await asyncio.gather(*(gateway.run("keys", *command) for command in commands))
        assert [outcome.status for outcome in outcomes] == [2] * 4
        assert all(outcome.out == "" for outcome in outcomes)

    async def test_a_reader_that_has_seen_enough(self, gateway: Server) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        command = [*gateway.command("keys", "list", "--json")]
        done: subprocess.CompletedProcess[bytes] = await asyncio.to_thread(
            subprocess.run, command, env=gateway.environ, stdout=writing, stderr=subprocess.PIPE
        )
        os.close(writing)
        assert done.returncode == 1
        assert done.stderr == b""


async def test_surroundings_that_do_not_help(servers: Servers, provider: ScriptedUpstream) -> None:
    server = servers.make(provider.base_url)
    long = server.folder / ("long" * 30)
    long.mkdir()
    for outcome in await asyncio.gather(
        server.run("keys", "list", TMPDIR=str(long)),
        server.run("keys", "create", "\udcff"),
        server.run("keys", "show", "\udcff"),
    ):
        assert outcome.complaint
    with Path("/dev/full").open("wb") as full:
        done = await asyncio.to_thread(
            subprocess.run,
            server.command("keys", "list"),
            env=server.environ,
            stdout=full,
            stderr=subprocess.PIPE,
        )
    assert done.returncode == 1
    assert done.stderr == b"Error: The output can't be written: the disk is full.\n"


async def test_many_keys_come_in_pages(servers: Servers, provider: ScriptedUpstream) -> None:
    server = servers.make(provider.base_url)
    storage = await open_storage(f"sqlite://{server.database}")
    for number in range(501):
        await storage.add_key(a_key(number))
    await storage.close()
    await server.start()
    listed = [key["name"] for key in await server.json("keys", "list")]
    assert listed == [f"name of {number}" for number in range(501)]
    page: Any = await server.admin("GET", "keys")
    assert [key["name"] for key in page["items"]] == listed[:100]
    assert page["next"].endswith("-" + page["items"][-1]["id"])


async def test_a_configuration_is_found(servers: Servers, provider: ScriptedUpstream) -> None:
    """By its variable, in the working folder, or where XDG says."""
    server = servers.make(provider.base_url)
    await server.create_key("findable")
    text = server.config_file.read_text()
    (server.folder / "xdg" / "opuslive").mkdir()
    for place, environ in (
        (server.folder / "elsewhere.toml", {"OPUSLIVE_CONFIG": "elsewhere.toml"}),
        (server.folder / "home" / "config.toml", {}),
        (server.folder / "xdg" / "opuslive" / "config.toml", {}),
    ):
        place.write_text(text)
        place.chmod(0o600)
        if environ:
            environ = {"OPUSLIVE_CONFIG": str(place)}
        command = [server.command()[0], "-m", "opuslive", "keys", "show", "findable"]
        done = await asyncio.to_thread(
            subprocess.run,
            command,
            env=server.environ | environ,
            cwd=server.folder / "home",
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr
        place.unlink()
