"""A restart refuses nobody: clients wait for the next process, and streams end with the first."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import trustme

from tests.support.held_sockets import Held
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


class Handshake:
    """A client of TLS that stops in the midst of its handshake."""

    def __init__(self, port: int, authority: Path) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setblocking(False)
        self._heard, self._said = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context(cafile=str(authority))
        self._tls = context.wrap_bio(self._heard, self._said, server_hostname="127.0.0.1")

    async def begin(self) -> None:
        """Say hello, and hear the answer without going on."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        await self._say()
        await self._hear()

    async def finish(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
                return await self._say()
            except ssl.SSLWantReadError:
                await self._say()
                await self._hear()

    async def ask(self, request: bytes) -> bytes:
        """All that is answered until the end."""
        self._tls.write(request)
        await self._say()
        answer = b""
        while True:
            try:
                piece = self._tls.read(65536)
            except ssl.SSLWantReadError:
                await self._hear()
                continue
            except ssl.SSLZeroReturnError:
                return answer
            if not piece:
                return answer
            answer += piece

    def close(self) -> None:
        self._socket.close()

    async def _say(self) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, self._said.read())

    async def _hear(self) -> None:
        data = await soon(asyncio.get_running_loop().sock_recv(self._socket, 65536))
        self._heard.write(data)
        if not data:
            self._heard.write_eof()


class TestTls:
    """The same with TLS: who shakes hands when the process is told to end is served by it."""

    @pytest_asyncio.fixture(loop_scope="module")
    async def server(
        self, servers: Servers, held: Held, upstream: ScriptedUpstream, authority: trustme.CA
    ) -> Server:
        tls = {"certificate": "chain.pem", "private_key": "key.pem"}
        server = servers.make(upstream.base_url, server={"tls": tls})
        made = authority.issue_cert("127.0.0.1")
        made.private_key_pem.write_to_path(str(server.folder / "key.pem"))
        (server.folder / "key.pem").chmod(0o600)
        made.cert_chain_pems[0].write_to_path(str(server.folder / "chain.pem"))
        authority.cert_pem.write_to_path(str(server.folder / "authority.pem"))
        held.give_to(server)
        await server.start()
        return server

    async def test_who_shakes_hands_is_served_by_the_process_that_ends(
        self, server: Server, held: Held, upstream: ScriptedUpstream
    ) -> None:
        upstream.always(slowly)
        key = await server.holder()
        authority = server.folder / "authority.pem"
        half, whole = Handshake(held.port, authority), Handshake(held.port, authority)
        await half.begin()
        await whole.begin()
        await whole.finish()
        server.signal(signal.SIGTERM)
        await server.logged("stopping: ")
        await half.finish()
        request = request_bytes("POST", "/v1/messages", key=key, body=message_body())
        for client in (half, whole):
            answer = await client.ask(request)
            assert answer.startswith(b"HTTP/1.1 200")
            assert b"\r\nconnection: close\r\n" in answer.lower()
            client.close()
        assert await server.wait() == 0

    async def test_who_says_hello_meanwhile_is_served_by_the_next_process(
        self, server: Server, held: Held, upstream: ScriptedUpstream
    ) -> None:
        upstream.always(slowly)
        key = await server.holder()
        assert await server.stop() == 0
        client = Handshake(held.port, server.folder / "authority.pem")
        begun = asyncio.ensure_future(client.begin())
        await asyncio.sleep(0)
        await server.start()
        await soon(begun)
        await client.finish()
        headers = [("Connection", "close")]
        body = message_body()
        request = request_bytes("POST", "/v1/messages", key=key, headers=headers, body=body)
        assert (await client.ask(request)).startswith(b"HTTP/1.1 200")
        client.close()

    async def test_restarts_refuse_nobody(
        self, server: Server, held: Held, upstream: ScriptedUpstream
    ) -> None:
        upstream.always(slowly)
        key = await server.holder()
        context = ssl.create_default_context(cafile=str(server.folder / "authority.pem"))
        ended, whole = asyncio.Event(), 0

        async def keep_asking() -> None:
            nonlocal whole
            headers = [("Connection", "close")]
            request = request_bytes(
                "POST", "/v1/messages", key=key, headers=headers, body=message_body()
            )
            while not ended.is_set():
                reader, writer = await asyncio.open_connection("127.0.0.1", held.port, ssl=context)
                writer.write(request)
                answer = await asyncio.wait_for(reader.read(), 60)
                assert answer.startswith(b"HTTP/1.1 200"), answer
                writer.close()
                whole += 1

        async def until(number: int) -> None:
            await eventually(lambda: whole >= number)

        visits = [asyncio.ensure_future(keep_asking()) for _ in range(8)]
        for _ in range(2):
            await until(whole + 20)
            server.signal(signal.SIGTERM)
            assert await server.wait() == 0
            await server.start()
        ended.set()
        await asyncio.gather(*visits)
        assert [each["status"] for each in await self.records(server, context, key)] == [
            200
        ] * whole

    async def records(self, server: Server, context: ssl.SSLContext, key: str) -> list[Any]:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context)
        headers = [("Connection", "close")]
        writer.write(
            request_bytes("GET", "/v1/usage/export?format=jsonl", key=key, headers=headers)
        )
        answer = await soon(reader.read())
        writer.close()
        return [json.loads(line) for line in answer.splitlines() if line.startswith(b"{")]


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
    everywhere = Held(["0.0.0.0"])
    everywhere.give_to(server)
    with pytest.raises(AssertionError, match="without TLS would send keys"):
        await server.start()
    everywhere.close()
