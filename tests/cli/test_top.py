"""The live view of a running server."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import struct
import subprocess
import time
from fcntl import ioctl
from termios import TIOCSWINSZ

import pytest

from tests.support.provider import ScriptedUpstream
from tests.support.server import Server, Servers
from tests.support.wire import message_body

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def busy(servers: Servers, upstream: ScriptedUpstream) -> Server:
    """A server with a key that has used 3 of its 4 requests."""
    server = await servers.start(upstream.base_url)
    key = await server.create_key("alice", "--limit", "4 requests/1h", "--limit", "9 concurrent")
    for _ in range(3):
        assert (await server.messages(key["key"], message_body())).status == 200
    return server


async def test_json_has_every_figure(servers: Servers, upstream: ScriptedUpstream) -> None:
    server = await busy(servers, upstream)
    shown = await server.json("top")
    (key,) = shown.pop("keys")
    (provider,) = shown.pop("upstreams")
    used = await server.json("usage", "alice")
    tokens = sum(n for name, n in used["totals"].items() if name.endswith("_tokens"))
    assert shown == {
        "in_flight": 0,
        "waiting": 0,
        "requests_per_minute": 3,
        "tokens_per_minute": tokens,
    }
    assert (provider["name"], provider["state"]) == ("provider", "ok")
    assert (key["name"], key["requests_per_minute"], key["tokens_per_minute"]) == (
        "alice",
        3,
        tokens,
    )
    tightest = key["tightest"]
    assert (tightest["limit"], tightest["used"], tightest["percent"]) == ("4 requests/1h", 3, 75)


async def test_a_deleted_key_is_gone_from_it(servers: Servers, upstream: ScriptedUpstream) -> None:
    server = await busy(servers, upstream)
    await server.json("keys", "delete", "alice", "--yes")
    shown = await server.json("top")
    assert (shown["keys"], shown["tokens_per_minute"]) == ([], 0)


async def test_without_a_terminal_one_view_is_printed(
    servers: Servers, upstream: ScriptedUpstream
) -> None:
    server = await busy(servers, upstream)
    shown = await server.run("top")
    assert shown.status == 0
    assert re.search(r"^0 in flight  0 waiting  3 requests a minute  \S+ tokens a min", shown.out)
    assert re.search(r"^provider +ok", shown.out, re.MULTILINE)
    assert re.search(r"^alice +\S{8} +3 +\S+ +4 requests/1h +75%", shown.out, re.MULTILINE)


async def test_without_a_server_there_is_nothing_to_see(servers: Servers) -> None:
    server = servers.make("http://127.0.0.1:9")
    shown = await server.run("top")
    assert shown.complaint.startswith("No server runs on this database; start one with")


@pytest.mark.parametrize("every", ["0s", "x", "2h"])
async def test_a_pause_that_makes_no_sense_is_refused(servers: Servers, every: str) -> None:
    server = servers.make("http://127.0.0.1:9")
    assert (await server.run("top", "--every", every)).complaint.startswith("--every:")


async def test_on_a_terminal_it_goes_on_until_it_is_interrupted(
    servers: Servers, upstream: ScriptedUpstream
) -> None:
    server = await busy(servers, upstream)
    ours, theirs = pty.openpty()
    ioctl(theirs, TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        server.command("top", "--every", "200ms"),
        env=server.environ | {"TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen, views, end = b"", 0, time.monotonic() + 30
    while views < 3 and time.monotonic() < end:
        if select.select([ours], [], [], 0.1)[0]:
            seen += os.read(ours, 65536)
        views = seen.count(b"requests a minute")
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    os.close(ours)
    assert views >= 3
    plain = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", seen).decode()
    assert "Traceback" not in plain
