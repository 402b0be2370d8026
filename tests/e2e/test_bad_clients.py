"""Clients that leave, dawdle, lie about lengths and stuff the line: what is left of each is one
record, if one is due, and nothing reserved; everyone else is served meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import logging
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from opuslive.bootstrap import open_gateway
from opuslive.config.files import Settings
from opuslive.config.sections import parse_config_text
from opuslive.web.http.deadlines import Deadlines
from opuslive.web.http.listening import open_sockets
from opuslive.web.server import WebServer
from tests.support.provider import (
    LAST_CHUNK,
    STALL,
    STREAM_HEAD,
    ScriptedUpstream,
    anthropic_events,
    chunk,
)
from tests.support.server import Server, gateway_config
from tests.support.waiting import eventually, soon
from tests.support.wire import Wire, message_body, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = message_body()
STREAM = message_body(stream=True)
EVENTS = anthropic_events("one two three", input_tokens=5, output_tokens=9)
#: Bytes of an event that fills what it passes through.
LARGE = 60_000
MB = 2**20
LIMITS = ["4 concurrent", "1B tokens/1h", "1000 requests/1h"]
#: Seconds that a test waits for.
SHORT = 0.1
LEAVING = {"close": Wire.close, "reset": Wire.abort, "half-close": Wire.half_close}


@pytest_asyncio.fixture(loop_scope="module")
async def key(gateway: Server) -> str:
    """A new key's credential, with limits that show what is reserved."""
    return await gateway.holder(limits=LIMITS)


async def left_behind(server: Server, key: str, *statuses: int) -> list[Any]:
    """The records of the key, which have to have these statuses; nothing else may be left."""

    async def nothing_reserved() -> None:
        while True:
            answer = await server.request("GET", "/v1/usage", key=key)
            if not any(limit["reserved"] for limit in answer.json()["limits"]):
                return
            await asyncio.sleep(0.01)

    await soon(nothing_reserved())
    records = await server.records(key, len(statuses))
    assert [record["status"] for record in records] == list(statuses)
    assert (await server.request("GET", "/healthz")).status == 200
    for trouble in ("defect", "Traceback", "the event loop reports"):
        assert trouble not in server.log
    return records


def large_answer(number: int, sent: Callable[[int], None]) -> Iterator[bytes]:
    """A stream of ``number`` large events; ``sent`` hears how many were taken."""
    text = b"x" * LARGE
    data = b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%b"}}'
    event = b"event: content_block_delta\ndata: " + data % text + b"\n\n"
    yield STREAM_HEAD
    yield chunk(EVENTS[0])
    for count in range(number):
        sent(count)
        yield chunk(event)
    yield from map(chunk, EVENTS[-3:])
    yield LAST_CHUNK


async def narrow(server: Server) -> Wire:
    """A connection whose client's end takes as little as the system lets it."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", server.port))
    return Wire(sock)


def resident(server: Server) -> int:
    """Bytes of memory that the server's process has in use."""
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if "VmRSS" in line) * 1024


class TestLeaving:
    @pytest.mark.parametrize("leave", LEAVING)
    @pytest.mark.parametrize(
        ("sent", "statuses"),
        [(b"", []), (b"POST /v1/mess", []), ("head", [499]), ("half", [499]), ("chunk", [499])],
        ids=["nothing", "half a line", "a head", "half a body", "half a chunk"],
    )
    async def test_a_client_that_leaves_before_its_request_is_whole(
        self,
        gateway: Server,
        upstream: ScriptedUpstream,
        key: str,
        leave: str,
        sent: bytes | str,
        statuses: list[int],
    ) -> None:
        whole = request_bytes("POST", "/v1/messages", key=key, body=BODY)
        if sent == "head":
            sent = whole.removesuffix(BODY)
        elif sent == "half":
            sent = whole[:-40]
        elif sent == "chunk":
            chunked = [("Transfer-Encoding", "chunked")]
            sent = request_bytes("POST", "/v1/messages", key=key, headers=chunked)
            sent += b"%x\r\n" % len(BODY) + BODY[:20]
        assert isinstance(sent, bytes)
        async with await gateway.connect() as wire:
            await wire.send(sent)
            LEAVING[leave](wire)
            for record in await left_behind(gateway, key, *statuses):
                assert (record["latency_ms"], record["model"]) == (None, None)
        assert upstream.inferences == []

    @pytest.mark.parametrize("leave", LEAVING)
    async def test_a_client_that_leaves_during_the_answer(
        self, gateway: Server, upstream: ScriptedUpstream, key: str, leave: str
    ) -> None:
        upstream.will([STREAM_HEAD, *map(chunk, EVENTS[:5]), STALL])
        async with gateway.asking(key, STREAM) as wire:
            await wire.until(EVENTS[4][-30:])
            LEAVING[leave](wire)
            await soon((await upstream.request()).gone.wait())
            await left_behind(gateway, key, 499)

    @pytest.mark.parametrize("leave", LEAVING)
    async def test_a_client_that_leaves_after_the_answer(
        self, gateway: Server, key: str, leave: str
    ) -> None:
        async with gateway.asking(key, STREAM) as wire:
            assert (await wire.answer()).status == 200
            LEAVING[leave](wire)
            await left_behind(gateway, key, 200)


class TestSlowReaders:
    async def test_memory_of_slow_readers_is_bounded(
        self, gateway: Server, upstream: ScriptedUpstream, key: str
    ) -> None:
        """Four clients that take a few hundred bytes of 60 MB each."""
        number = 1000
        taken = [0] * 4
        upstream.will(*(large_answer(number, partial(taken.__setitem__, i)) for i in range(4)))
        before = resident(gateway)
        async with contextlib.AsyncExitStack() as stack:
            for index in range(4):
                wire = await stack.enter_async_context(await narrow(gateway))
                await wire.send(request_bytes("POST", "/v1/messages", key=key, body=STREAM))
                await soon(upstream.request(index))
                for _ in range(300):
                    await wire.exactly(1)
            settled = [-1]
            while settled != taken:
                settled = list(taken)
                for _ in range(20):
                    assert (await gateway.request("GET", "/healthz")).status == 200
            assert max(taken) < number / 4
            # Each may fill the high-water marks of both its transports, and one read.
            assert resident(gateway) - before < 4 * 2 * MB
        await left_behind(gateway, key, 499, 499, 499, 499)


class TestLengths:
    @pytest.mark.parametrize("leave", LEAVING)
    async def test_a_body_shorter_than_its_length_is_not_sent_on(
        self, gateway: Server, upstream: ScriptedUpstream, key: str, leave: str
    ) -> None:
        """Even where the part that came would do."""
        headers = [("Content-Length", str(len(BODY) + 1))]
        head = request_bytes("POST", "/v1/messages", key=key, headers=headers)
        async with await gateway.connect() as wire:
            await wire.send(head + BODY)
            LEAVING[leave](wire)
            await left_behind(gateway, key, 499)
        assert upstream.inferences == []

    @pytest.mark.parametrize(
        "behind", [b"}", b"\r\n", b"x" * 100_000, b"POST /v1/messages HTTP/1.1\r\n"], ids=len
    )
    async def test_bytes_behind_a_body_are_not_served(
        self, gateway: Server, upstream: ScriptedUpstream, key: str, behind: bytes
    ) -> None:
        """What is too much is no part of the body, and no request."""
        request = request_bytes("POST", "/v1/messages", key=key, body=BODY)
        asked = asyncio.Event()
        upstream.will([asked, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"])
        async with await gateway.connect() as wire:
            await wire.send(request)
            received = await soon(upstream.request())
            with contextlib.suppress(ConnectionError):
                await wire.send(behind)
            asked.set()
            assert (await wire.answer()).status == 200
            assert (await wire.ending())[1] == b""
        assert received.body == BODY
        assert len(upstream.inferences) == 1
        await left_behind(gateway, key, 200)

    @pytest.mark.parametrize("number", [2, 10])
    async def test_requests_at_once_are_answered_one_by_one(
        self, gateway: Server, upstream: ScriptedUpstream, key: str, number: int
    ) -> None:
        """A connection ends behind an answer that others were sent behind: who asks again for what
        was not answered, as HTTP has it, gets all in order, and none of them twice."""
        bodies = [message_body(filler=index) for index in range(number)]
        requests = [request_bytes("POST", "/v1/messages", key=key, body=body) for body in bodies]
        while requests:
            async with await gateway.connect() as wire:
                await wire.send(b"".join(requests))
                assert (await wire.answer()).status == 200
                if len(requests) > 1:
                    assert (await wire.ending())[1] == b""
            requests.pop(0)
        assert [received.body for received in upstream.inferences] == bodies
        await left_behind(gateway, key, *[200] * number)


class TestCompression:
    @pytest.mark.parametrize("coding", ["gzip", "GZIP", "x-gzip", "deflate", "br", "zstd"])
    async def test_a_compressed_body_is_refused_unread(
        self, gateway: Server, upstream: ScriptedUpstream, key: str, coding: str
    ) -> None:
        """A bomb of 200 MB in 200 KB, say."""
        bomb = gzip.compress(bytes(200 * MB), compresslevel=1) if coding == "gzip" else BODY
        before = resident(gateway)
        async with await gateway.connect() as wire:
            headers = [("Content-Encoding", coding)]
            with contextlib.suppress(ConnectionError):
                await wire.send(
                    request_bytes("POST", "/v1/messages", key=key, headers=headers, body=bomb)
                )
            answer = await wire.answer()
        assert answer.error == (400, "invalid_request_error")
        assert "compressed" in answer.message
        assert resident(gateway) - before < 20 * MB
        assert upstream.inferences == []
        await left_behind(gateway, key, 400)

    async def test_identity_is_no_compression(
        self, gateway: Server, upstream: ScriptedUpstream, key: str
    ) -> None:
        assert (await gateway.messages(key, BODY, [("Content-Encoding", "identity")])).status == 200
        assert (await soon(upstream.request())).header("content-encoding") == "identity"


class QuickServer(Server):
    """A gateway in this process, so that its deadlines can be given to it."""

    async def begin(self, deadlines: Deadlines) -> None:
        config = parse_config_text(self.config_file.read_text(), source="the test")
        url = f"sqlite://{self.database}"
        self._gateway = await open_gateway(Settings(config), url, environ={})
        self._web = WebServer(self._gateway, max_files=1000, deadlines=deadlines)
        (listening,) = await open_sockets(["127.0.0.1"], 0)
        self.port = listening.getsockname()[1]
        await self._web.start([listening])
        await self._web.start_control(Path(f"{self.database}.sock"))
        self._gateway.start()

    @property
    def connections(self) -> int:
        """Those of clients that are open now."""
        server = self._web._public.server
        assert server is not None
        return len(server.connections)

    async def ask_for_more_than_kernels_take(self, wire: Wire, key: str) -> None:
        """Have the gateway write an answer of LARGE bytes, most of which stays in its transport."""
        await eventually(lambda: self.connections == 1)
        server = self._web._public.server
        assert server is not None
        (connection,) = server.connections
        assert connection.transport is not None
        sock = connection.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        await wire.send(request_bytes("POST", "/v1/messages", key=key, body=STREAM))
        await wire.head()
        await eventually(lambda: self._gateway.exchanges.running == 0)

    async def shut_down(self) -> None:
        """What SIGTERM does."""
        await self._web.drain(asyncio.Event())
        await self._web.close()

    async def end(self) -> None:
        await self._web.close()
        await self._gateway.close()


@pytest_asyncio.fixture(loop_scope="module")
async def quick(provider: ScriptedUpstream) -> AsyncIterator[QuickServer]:
    with tempfile.TemporaryDirectory(prefix="opuslive-e2e-") as folder:
        server = QuickServer(Path(folder), gateway_config(provider.base_url))
        await server.begin(Deadlines(head=SHORT, body=SHORT, stall=SHORT))
        yield server
        await server.end()


# aiohttp would have requests hold what it has a typed key for. Once a process, it says so.
@pytest.mark.filterwarnings("ignore::aiohttp.web.NotAppKeyWarning")
class TestDeadlines:
    async def test_a_body_that_trickles_in_is_cut_off_in_time(
        self, quick: QuickServer, upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Each byte comes in time, the body as a whole does not."""
        key = await quick.holder(limits=LIMITS)
        body = message_body(filler="x" * 1000)
        request = request_bytes("POST", "/v1/messages", key=key, body=body)

        async def trickle(wire: Wire) -> None:
            for byte in body[:-1]:
                await wire.send(b"%c" % byte)
                await asyncio.sleep(0.001)
            await asyncio.Event().wait()

        async with await quick.connect() as wire:
            await wire.send(request.removesuffix(body))
            sending = asyncio.ensure_future(trickle(wire))
            answer = await wire.answer()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        assert answer.error == (408, "invalid_request_error")
        assert answer.header("connection") == "close"
        await left_behind(quick, key, 408)
        assert upstream.inferences == []
        assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []

    async def test_a_body_that_stops_is_answered_408(
        self, quick: QuickServer, upstream: ScriptedUpstream
    ) -> None:
        key = await quick.holder(limits=LIMITS)
        headers = [("Content-Length", "100")]
        head = request_bytes("POST", "/v1/messages", key=key, headers=headers)
        async with await quick.connect() as wire:
            await wire.send(head + b'{"model":')
            assert (await wire.answer()).error == (408, "invalid_request_error")
        await left_behind(quick, key, 408)
        assert upstream.inferences == []

    async def test_a_body_that_lacks_its_last_byte_has_no_more_time_for_its_size(
        self, quick: QuickServer, upstream: ScriptedUpstream
    ) -> None:
        """At the least rate it could take two minutes."""
        key = await quick.holder(limits=LIMITS)
        body = message_body(filler="x" * 8 * MB)
        request = request_bytes("POST", "/v1/messages", key=key, body=body)
        async with await quick.connect() as wire:
            await wire.send(request[:-1])
            assert (await wire.answer()).error == (408, "invalid_request_error")
        await left_behind(quick, key, 408)
        assert upstream.inferences == []

    @pytest.mark.parametrize("sent", [b"", b"POST /v1/mess", b"POST /v1/messages HTTP/1.1\r\nx:"])
    async def test_a_head_that_stops_is_cut_off_in_time(
        self, quick: QuickServer, sent: bytes
    ) -> None:
        key = await quick.holder(limits=LIMITS)
        async with await quick.connect() as wire:
            await wire.send(sent)
            assert await wire.ending() == ("closed", b"")
        await left_behind(quick, key)

    @pytest.mark.parametrize("forwarded", [False, True], ids=["a page", "a forwarded endpoint"])
    async def test_a_head_that_stops_behind_a_request(
        self, quick: QuickServer, forwarded: bool
    ) -> None:
        key = await quick.holder(limits=LIMITS)
        request = request_bytes("GET", "/healthz")
        if forwarded:
            request = request_bytes("POST", "/v1/messages", key=key, body=BODY)
        async with await quick.connect() as wire:
            await wire.send(request + b"POST /v1/mess")
            assert (await wire.answer()).status == 200
            assert (await wire.ending())[1] == b""
        await left_behind(quick, key, *[200] * forwarded)

    async def test_a_client_that_never_reads_is_cut_off_in_time(
        self, quick: QuickServer, upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
    ) -> None:
        key = await quick.holder(limits=LIMITS)
        upstream.will(large_answer(1000, lambda _: None))
        async with await narrow(quick) as wire:
            await wire.send(request_bytes("POST", "/v1/messages", key=key, body=STREAM))
            await soon(upstream.request())
            await eventually(lambda: quick.connections == 0)
            assert (await wire.ending())[0] == "reset"
        await left_behind(quick, key, 499)
        assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.filterwarnings("ignore::aiohttp.web.NotAppKeyWarning")
class TestSlowReadersWhenTheProcessEnds:
    """The exchange is over, and aiohttp takes the connection for idle: the transport alone still
    has some of the answer."""

    async def test_slow_readers_get_the_rest_of_their_answer(
        self, quick: QuickServer, upstream: ScriptedUpstream
    ) -> None:
        key = await quick.holder()
        upstream.will(large_answer(1, lambda _: None))
        async with await quick.connect(narrow=True) as wire:
            await quick.ask_for_more_than_kernels_take(wire, key)
            async with await quick.connect() as idle:
                await idle.send(request_bytes("GET", "/healthz"))
                assert (await idle.answer()).status == 200
                stopping = asyncio.ensure_future(quick.shut_down())
                assert await idle.ending() == ("closed", b"")
            for _ in range(1000):
                await asyncio.sleep(0)
            assert not stopping.done()
            body = b""
            while piece := await wire.chunk():
                body += piece
            assert body.endswith(EVENTS[-1])
            await soon(stopping)

    async def test_slow_readers_are_reset_when_their_time_is_over(
        self, provider: ScriptedUpstream, upstream: ScriptedUpstream
    ) -> None:
        config = gateway_config(provider.base_url, server={"drain": "0s"})
        with tempfile.TemporaryDirectory(prefix="opuslive-e2e-") as folder:
            server = QuickServer(Path(folder), config)
            await server.begin(Deadlines(shutdown=SHORT))
            key = await server.holder()
            upstream.will(large_answer(1, lambda _: None))
            async with await server.connect(narrow=True) as wire:
                await server.ask_for_more_than_kernels_take(wire, key)
                await server.shut_down()
                assert (await wire.ending())[0] == "reset"
            await server.end()
