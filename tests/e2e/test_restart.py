"""A restart refuses nobody: clients wait for the next process, and streams end with the first."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.held_streams import EVENTS, STREAM, begun, held_until
from tests.support.provider import (
    LAST_CHUNK,
    STREAM_HEAD,
    Request,
    Script,
    ScriptedUpstream,
    anthropic_message,
    chunk,
    json_answer,
)
from tests.support.server import Server, Servers
from tests.support.waiting import eventually, soon
from tests.support.wire import Wire, message_body, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")


#: What the process does before it becomes the program; its arguments are the number of the socket,
#: and the program.
BECOME = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


class Held:
    """A socket that listens all the time, as a service manager holds it."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = self._listening.getsockname()[1]

    def give_to(self, server: Server) -> None:
        """The server gets it as its file descriptor 3."""
        number = self._listening.fileno()
        server.inherited = (number,)
        server.environ["LISTEN_FDS"] = "1"
        server.program = [sys.executable, "-c", BECOME, str(number), *server.program]

    def close(self) -> None:
        self._listening.close()


@pytest_asyncio.fixture(loop_scope="module")
async def held() -> AsyncIterator[Held]:
    held = Held()
    yield held
    held.close()


class Visitor:
    """Clients of a gateway that restarts; each has a connection of its own."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._key = key
        self.whole = 0

    async def ask(self, *, stream: bool) -> None:
        body = STREAM if stream else message_body()
        async with await Wire.connect(self._port) as wire:
            await wire.send(request_bytes("POST", "/v1/messages", key=self._key, body=body))
            answer = await asyncio.wait_for(wire.answer(), 60)
        assert answer.status == 200, answer
        assert not stream or answer.body == b"".join(EVENTS)
        self.whole += 1

    async def until(self, number: int) -> None:
        """Wait until so many answers have come whole."""
        await eventually(lambda: self.whole >= number)

    async def keep_asking(self, ended: asyncio.Event, *, stream: bool, pause: float = 0.0) -> None:
        while not ended.is_set():
            await self.ask(stream=stream)
            await asyncio.sleep(pause)


def slowly(request: Request) -> Script:
    if b'"stream": true' not in request.body:
        return json_answer(anthropic_message("Hi", input_tokens=11, output_tokens=7))
    return [STREAM_HEAD, *map(chunk, EVENTS), LAST_CHUNK]


@pytest.mark.parametrize(
    ("restarts", "streams"), [(2, 10), pytest.param(10, 50, marks=pytest.mark.long)]
)
async def test_restarts_under_load_refuse_nobody_and_lose_nothing(
    servers: Servers, held: Held, upstream: ScriptedUpstream, restarts: int, streams: int
) -> None:
    upstream.always(slowly)
    upstream.pace = 0.1
    server = servers.make(upstream.base_url)
    held.give_to(server)
    await server.start()
    key = await server.holder()
    visitor, ended = Visitor(held.port, key), asyncio.Event()
    visits = [
        asyncio.ensure_future(visitor.keep_asking(ended, stream=True)) for _ in range(streams)
    ]
    visits += [
        asyncio.ensure_future(visitor.keep_asking(ended, stream=False, pause=0.5))
        for _ in range(10)
    ]
    for _ in range(restarts):
        await visitor.until(visitor.whole + streams)
        server.signal(signal.SIGTERM)
        assert await server.wait() == 0
        await server.start()
    ended.set()
    await asyncio.gather(*visits)
    statuses = [record["status"] for record in await server.records(key)]
    assert statuses == [200] * visitor.whole
    assert await server.stop() == 0
    upstream.pace = 0.0


async def test_who_has_just_connected_is_served_by_the_process_that_ends(
    servers: Servers, held: Held, upstream: ScriptedUpstream
) -> None:
    upstream.always(slowly)
    server = servers.make(upstream.base_url)
    held.give_to(server)
    await server.start()
    key = await server.holder()
    async with await server.connect() as kept, await server.connect() as fresh:
        await kept.send(request_bytes("GET", "/healthz"))
        assert (await kept.answer()).status == 200
        server.signal(signal.SIGTERM)
        # Its client connects again, to the successor.
        assert await kept.ending() == ("closed", b"")
        await fresh.send(request_bytes("POST", "/v1/messages", key=key, body=message_body()))
        answer = await fresh.answer()
        assert (answer.status, answer.header("connection")) == (200, "close")
    assert await server.wait() == 0


async def test_who_connects_meanwhile_is_served_by_the_next_process(
    servers: Servers, held: Held, upstream: ScriptedUpstream
) -> None:
    upstream.always(slowly)
    server = servers.make(upstream.base_url)
    held.give_to(server)
    await server.start()
    key = await server.holder()
    assert await server.stop() == 0
    waiting = asyncio.ensure_future(Visitor(held.port, key).ask(stream=False))
    await asyncio.sleep(0)
    await server.start()
    await soon(waiting)


class TestSuccessor:
    """A second ``serve`` while the first one finishes."""

    @contextlib.asynccontextmanager
    async def draining(
        self, servers: Servers, upstream: ScriptedUpstream
    ) -> AsyncIterator[tuple[Server, asyncio.Event, str]]:
        """A server that was told to end, and a stream of it that ends at the event."""
        finish = asyncio.Event()
        upstream.will(held_until(finish))
        server = await servers.start(upstream.base_url)
        key = await server.holder()
        async with await begun(server, key):
            server.signal(signal.SIGTERM)
            await server.logged("stopping: 1 requests are running")
            yield server, finish, key
            finish.set()

    def successor_of(self, server: Server) -> Server:
        """Another server on the same configuration, and the same port."""
        second = Server.__new__(Server)
        second.__dict__.update(server.__dict__, process=None)
        return second

    async def test_waits_and_serves_whoever_came_meanwhile(
        self, servers: Servers, upstream: ScriptedUpstream
    ) -> None:
        async with self.draining(servers, upstream) as (server, finish, key):
            port = server.port
            second = self.successor_of(server)
            starting = asyncio.ensure_future(second.start("--port", str(port)))
            await eventually(lambda: getattr(second, "_err", None) is not server._err)
            await second.logged("warning: the server before this one is finishing its last 1 ans")
            upstream.always(slowly)
            waiting = asyncio.ensure_future(Visitor(port, key).ask(stream=False))
            finish.set()
            assert await server.wait() == 0
            await soon(starting)
            assert second.port == port
            await soon(waiting)
        assert await second.stop() == 0

    async def test_ends_at_a_signal_though_it_waits(
        self, servers: Servers, upstream: ScriptedUpstream
    ) -> None:
        async with self.draining(servers, upstream) as (server, finish, _):
            second = self.successor_of(server)
            starting = asyncio.ensure_future(second.start())
            await eventually(lambda: getattr(second, "_err", None) is not server._err)
            await second.logged("the server before this one")
            second.signal(signal.SIGTERM)
            assert await second.wait() == 0
            with pytest.raises(AssertionError, match="it ended without"):
                await starting
            finish.set()
            assert await server.wait() == 0

    async def test_waits_no_longer_than_it_is_told_to(
        self, servers: Servers, upstream: ScriptedUpstream
    ) -> None:
        async with self.draining(servers, upstream) as (server, _, _key):
            refused = await server.run("serve", "--port", "0", "--wait", "10ms")
            assert "is in use by another OpusLive process" in refused.err
            assert refused.status == 1

    async def test_does_not_wait_for_a_server_that_goes_on(
        self, servers: Servers, upstream: ScriptedUpstream
    ) -> None:
        server = await servers.start(upstream.base_url)
        refused = await server.run("serve", "--port", str(server.port))
        assert "Address already in use" in refused.complaint
        refused = await server.run("serve", "--port", "0", "--wait", "0s")
        assert "is in use by another OpusLive process" in refused.complaint


async def test_sockets_beyond_loopback_need_tls(
    servers: Servers, upstream: ScriptedUpstream
) -> None:
    server = servers.make(upstream.base_url)
    everywhere = Held.__new__(Held)
    everywhere._listening = socket.create_server(("0.0.0.0", 0))
    everywhere.give_to(server)
    with pytest.raises(AssertionError, match="without TLS would send keys"):
        await server.start()
    everywhere.close()
