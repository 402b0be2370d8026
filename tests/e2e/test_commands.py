"""Commands as processes of their own: what the system does to them, and what a server counts."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.provider import ScriptedUpstream
from tests.support.server import Server, Servers
from tests.support.wire import message_body

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_commands_show_what_was_used_over_http(
    gateway: Server, upstream: ScriptedUpstream
) -> None:
    key = await gateway.create_key("used over http", "--limit", "8 concurrent")
    for _ in range(2):
        assert (await gateway.messages(key["key"], message_body())).status == 200
    shown, report = await asyncio.gather(
        gateway.run("keys", "show", key["prefix"]), gateway.json("usage", "used over http")
    )
    fields = dict(line.split("  ", 1) for line in shown.out.partition("\n\n")[0].splitlines())
    assert fields["id"].strip() == key["id"]
    assert fields["output tokens"].strip() == "14"
    assert fields["requests"].strip() == "2, and 0 refused"
    assert (report["totals"]["requests"], report["totals"]["output_tokens"]) == (2, 14)


async def test_a_reader_that_has_seen_enough_ends_a_command_quietly(gateway: Server) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [*gateway.command("keys", "list", "--json")]
    done: subprocess.CompletedProcess[bytes] = await asyncio.to_thread(
        subprocess.run, command, env=gateway.environ, stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    assert done.returncode == 1
    assert done.stderr == b""


async def test_output_onto_a_full_disk_is_one_sentence(
    servers: Servers, provider: ScriptedUpstream
) -> None:
    server = servers.make(provider.base_url)
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


async def test_a_folder_for_temporary_files_that_can_hold_no_socket_is_one_sentence(
    servers: Servers, provider: ScriptedUpstream
) -> None:
    server = servers.make(provider.base_url)
    long = server.folder / ("long" * 30)
    long.mkdir()
    assert "TMPDIR" in (await server.run("keys", "list", TMPDIR=str(long))).complaint


async def test_arguments_that_are_not_utf_8_are_one_sentence(
    servers: Servers, provider: ScriptedUpstream
) -> None:
    server = servers.make(provider.base_url)
    assert "UTF-8" in (await server.run("keys", "show", "\udcff")).complaint


async def test_a_new_key_comes_with_the_address_of_the_server_that_runs(
    servers: Servers, provider: ScriptedUpstream
) -> None:
    """Whatever port the configuration has."""
    server = servers.make(provider.base_url)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    await server.start("--port", str(port))
    made = await server.run("keys", "create", "alice")
    assert f"export ANTHROPIC_BASE_URL=http://127.0.0.1:{port}\n" in made.out
