"""What many clients at once cost: memory and descriptors are bounded, and come back."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.provider import LAST_CHUNK, ScriptedUpstream, chunk
from tests.support.server import Server, descriptors, gateway_config
from tests.support.waiting import eventually, soon
from tests.support.wire import Answer, Wire, message_body, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")

MB = 2**20
#: Bytes of memory that an idle connection may cost: its transport, its parser, its task and its
#: timers. About 9 KB were measured.
IDLE_COST = 24 * 1024
#: Bytes that all heads may cost which are not whole. 33 MB were measured.
HEADS_COST = 64 * MB
#: And what one costs that brings a body, besides the body: what the event loop and the parser
#: read at once, and what they leave behind. About 1.5 MB were measured.
BUSY_COST = 3 * MB
#: Bodies of the largest size that fit into the budget at once.
FITTING = 8
GET = request_bytes("GET", "/healthz")


class Confined(Server):
    """A server that may open so many files."""

    file_limit = 0

    def command(self, *arguments: str) -> list[str]:
        limit = f"--nofile={self.file_limit}:{self.file_limit}"
        return ["prlimit", limit, *super().command(*arguments)]


@contextlib.asynccontextmanager
async def confined(files: int) -> AsyncIterator[Confined]:
    with tempfile.TemporaryDirectory(prefix="opuslive-e2e-") as folder:
        server = Confined(Path(folder), gateway_config("http://127.0.0.1:1"))
        server.file_limit = files
        await server.start()
        try:
            yield server
        finally:
            await server.kill()


def memory(server: Server, name: str) -> int:
    """A figure of /proc/PID/status, in bytes: VmRSS, what is in memory now, or VmHWM, at most."""
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


async def ask(wire: Wire) -> None:
    await wire.send(GET)
    assert (await wire.answer()).status == 200


async def turned_away(wire: Wire) -> None:
    """It is closed without a word."""
    with contextlib.suppress(ConnectionError):
        await wire.send(GET)
    assert (await wire.ending())[1] == b""


@pytest.mark.parametrize("number", [1000, pytest.param(9900, marks=pytest.mark.long)])
async def test_idle_connections_are_cheap_and_capped(number: int) -> None:
    """Up to the cap, and beyond it; fewer where the system allows no process so many files."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY:
        number = min(number, (hard - 64) // 2)
    async with confined(2 * number + 64) as server, contextlib.AsyncExitStack() as stack:
        for _ in range(20):
            assert (await server.request("GET", "/healthz")).status == 200
        before, opened = memory(server, "VmRSS"), descriptors(server)
        idle: list[Wire] = []
        while len(idle) < number - 1:
            wire = await stack.enter_async_context(await server.connect())
            await ask(wire)
            idle.append(wire)
        cost = (memory(server, "VmRSS") - before) / len(idle)
        assert cost < IDLE_COST
        # Whoever comes next is served, in the place of the one that has been idle longest.
        async with await server.connect() as last:
            await ask(last)
            for oldest in idle[:20]:
                excess = await stack.enter_async_context(await server.connect())
                await ask(excess)
                await turned_away(oldest)
                idle.append(excess)
            await ask(last)
            await ask(idle[20])
            await ask(idle[-1])
        for wire in idle:
            wire.abort()
        await eventually(lambda: descriptors(server) <= opened)
        assert (await server.request("GET", "/healthz")).status == 200
        assert "event loop reports" not in server.log
        assert "defect" not in server.log


@pytest.mark.parametrize("number", [1000, pytest.param(9900, marks=pytest.mark.long)])
async def test_heads_that_never_end_share_one_budget_of_memory(number: int) -> None:
    """62 KB each; those that are given up are closed, and whoever comes next is served."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY:
        number = min(number, (hard - 64) // 2)
    begun = b"GET / HTTP/1.1\r\nHost: a\r\n" + 2 * (b"a: " + b"x" * 31_000 + b"\r\n")
    async with confined(2 * number + 64) as server, contextlib.AsyncExitStack() as stack:
        for _ in range(20):
            assert (await server.request("GET", "/healthz")).status == 200
        before = memory(server, "VmHWM")
        first = None
        for _ in range(number):
            wire = await stack.enter_async_context(await server.connect())
            await wire.send(begun)
            first = first or wire
        assert first is not None
        assert (await first.ending())[1] == b""
        assert (await server.request("GET", "/healthz")).status == 200
        assert memory(server, "VmHWM") - before < HEADS_COST


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [4, pytest.param(32, marks=pytest.mark.long)])
async def test_bodies_being_read_share_one_budget_of_memory(
    provider: ScriptedUpstream, upstream: ScriptedUpstream, size: int, chunked: bool
) -> None:
    """Of twelve bodies of six keys eight fit: the other clients are told to come again."""
    with tempfile.TemporaryDirectory(prefix="opuslive-e2e-") as folder:
        config = gateway_config(provider.base_url, server={"max_body": f"{size}MB"})
        server = Server(Path(folder), config)
        await server.start()
        try:
            await share(server, upstream, size * MB, chunked)
        finally:
            await server.kill()


async def share(server: Server, upstream: ScriptedUpstream, size: int, chunked: bool) -> None:
    keys = [await server.holder() for _ in range(6)]
    for key in keys:
        assert (await server.messages(key, message_body())).status == 200
    upstream.forget()
    body = message_body(filler="")
    body = message_body(filler="x" * (size - len(body)))
    assert len(body) == size

    def asked(key: str) -> bytes:
        if not chunked:
            return request_bytes("POST", "/v1/messages", key=key, body=body)
        headers = [("Transfer-Encoding", "chunked")]
        head = request_bytes("POST", "/v1/messages", key=key, headers=headers)
        return head + chunk(body) + LAST_CHUNK

    requests = [asked(key) for key in keys]
    last = requests[0][-1:]
    before = memory(server, "VmRSS")
    refused: list[Answer] = []
    held: list[Wire] = []

    async def upload(wire: Wire, request: bytes) -> Answer:
        held.append(wire)
        with contextlib.suppress(ConnectionError):
            await wire.send(request[:-1])
        answer = await wire.answer()
        if answer.status == 503:
            held.remove(wire)
            refused.append(answer)
        return answer

    async with contextlib.AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(await server.connect()) for _ in range(12)]
        uploads = [
            asyncio.create_task(upload(wire, request))
            for wire, request in zip(wires, requests * 2, strict=True)
        ]
        await eventually(lambda: len(refused) == len(wires) - FITTING)
        assert (await server.request("GET", "/healthz")).status == 200
        for wire in held:
            await wire.send(last)
        answers = await soon(asyncio.gather(*uploads))
    assert sorted(answer.status for answer in answers) == [200] * FITTING + [503] * len(refused)
    for answer in refused:
        assert answer.error == (503, "overloaded_error")
        assert answer.header("retry-after") == "5"
    assert {received.body for received in upstream.inferences} == {body}
    assert memory(server, "VmHWM") - before < FITTING * size + len(wires) * BUSY_COST
    # All of the budget is free again.
    again = await soon(
        asyncio.gather(*(server.messages(key, body) for key in (keys * 2)[:FITTING]))
    )
    assert {answer.status for answer in again} == {200}
    assert "defect" not in server.log


async def test_a_refused_body_is_freed_at_once(
    provider: ScriptedUpstream, upstream: ScriptedUpstream, gateway: Server, key: str
) -> None:
    """Not when the garbage collector finds it."""
    body = message_body("unknown", filler="x" * 4 * MB)
    before = memory(gateway, "VmRSS")
    for _ in range(20):
        assert (await gateway.messages(key, body)).error == (404, "not_found_error")
    assert memory(gateway, "VmHWM") - before < len(body) + 3 * BUSY_COST
