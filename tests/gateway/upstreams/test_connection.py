"""One answer on one connection, byte by byte: what the sink hears, what becomes of the wire."""

from __future__ import annotations

import asyncio
import hashlib
import itertools

import pytest

from opuslive.gateway.upstreams.connection import UpstreamConnection
from opuslive.gateway.upstreams.parser import MAX_HEAD
from opuslive.gateway.upstreams.pool import UpstreamPool
from opuslive.gateway.upstreams.wire import (
    AnswerHead,
    FailureKind,
    Timeouts,
    UpstreamError,
    UpstreamRequest,
)
from tests.support.listener import Listener, Peer, answer
from tests.support.pools import END, Line, MakePool, Sink, a_get, a_post
from tests.support.waiting import PATIENCE, eventually, settled, turns

HEAD = UpstreamRequest("HEAD", b"HEAD / HTTP/1.1\r\nhost: upstream\r\n\r\n")
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
HELLO: list[Line] = [("head", 200), ("body", b"hello"), END]


class Exchange:
    """A request that was sent, with both ends of its connection."""

    def __init__(self, pool: UpstreamPool, connection: UpstreamConnection, peer: Peer) -> None:
        self.pool, self.connection, self.peer = pool, connection, peer
        self.sink = Sink()

    async def ask(self, request: UpstreamRequest) -> None:
        self.sink = Sink()
        self.connection.send(request, self.sink)
        assert await self.peer.request() == request.head

    async def reused(self) -> None:
        """The connection is idle, and good for another request and answer."""
        assert self.pool.idle_connections == 1
        assert self.pool.take() is self.connection
        await self.ask(a_get("/again"))
        self.peer.send(answer(b"hello"))
        assert await self.sink.end() == HELLO
        assert self.sink.head.headers == [(b"content-length", b"5")]
        assert self.pool.idle_connections == 1

    async def closed(self) -> None:
        """The connection is not in the pool, and is closed."""
        assert self.pool.take() is None
        assert await self.peer.closed()
        await eventually(lambda: self.pool.open_connections == 0, "the end of the connection")


async def begin(
    pool: UpstreamPool, listener: Listener, request: UpstreamRequest | None = None
) -> Exchange:
    exchange = Exchange(pool, await pool.connect(), await listener.accept())
    await exchange.ask(request or a_get())
    return exchange


@pytest.fixture
async def exchange(pool: UpstreamPool, listener: Listener) -> Exchange:
    """A GET that has reached the upstream."""
    return await begin(pool, listener)


class TestWholeAnswers:
    """Each leaves the connection ready for the next request."""

    async def test_an_answer_with_a_content_length_leaves_its_connection_idle(
        self, exchange: Exchange
    ) -> None:
        exchange.peer.send(answer(b"hello", b"X-Name:  Value "))
        assert await exchange.sink.end() == HELLO
        head = exchange.sink.head
        assert head.headers == [(b"content-length", b"5"), (b"X-Name", b"Value ")]
        assert head.length == 5
        await exchange.reused()

    async def test_a_body_that_comes_in_one_read_is_heard_in_one_piece(
        self, exchange: Exchange
    ) -> None:
        exchange.peer.send(CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in b"hello"))
        await eventually(lambda: exchange.sink.pieces)
        assert exchange.sink.heard == [("head", 200), ("body", b"hello")]
        assert exchange.sink.head.length is None
        exchange.peer.send(b"0\r\n\r\n")
        assert await exchange.sink.end() == HELLO
        await exchange.reused()

    async def test_an_answer_is_heard_as_it_comes(self, exchange: Exchange) -> None:
        peer, sink = exchange.peer, exchange.sink
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-len")
        await turns()
        assert sink.heard == []
        peer.send(b"gth: 5\r\n\r\n")
        await eventually(lambda: sink.heard == [("head", 200)])
        peer.send(b"hel")
        await eventually(lambda: sink.heard == [("head", 200), ("body", b"hel")])
        peer.send(b"lo")
        await sink.end()
        assert sink.heard == [("head", 200), ("body", b"hel"), ("body", b"lo"), END]

    @pytest.mark.parametrize(
        "wire",
        [
            b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"hello"),
            CHUNKED + b"3;a=b\r\nhel\r\n2\r\nlo\r\n0\r\nx-trailer: no\r\n\r\n",
        ],
        ids=["content-length", "chunked"],
    )
    async def test_an_answer_may_be_split_at_every_byte(
        self, pool: UpstreamPool, listener: Listener, wire: bytes
    ) -> None:
        exchange = await begin(pool, listener)
        for cut in range(1, len(wire)):
            await exchange.peer.send_apart(wire[:cut], wire[cut:])
            assert await exchange.sink.end() == HELLO, cut
            assert len(exchange.sink.head.headers) == 1
            assert pool.take() is exchange.connection, cut
            await exchange.ask(a_get(f"/{cut}"))
        await exchange.peer.send_apart(*(bytes([byte]) for byte in wire))
        assert await exchange.sink.end() == HELLO
        await exchange.reused()

    @pytest.mark.parametrize("status", [204, 304])
    @pytest.mark.parametrize(
        "framing", [b"content-length: 5", b"transfer-encoding: chunked", b"x: y"]
    )
    async def test_an_answer_has_no_body_if_its_status_says_so(
        self, exchange: Exchange, status: int, framing: bytes
    ) -> None:
        exchange.peer.send(b"HTTP/1.1 %d None\r\n%b\r\n\r\n" % (status, framing))
        assert await exchange.sink.end() == [("head", status), END]
        assert exchange.sink.head.length == 0
        await exchange.reused()

    async def test_an_answer_with_an_empty_body_is_whole(self, exchange: Exchange) -> None:
        exchange.peer.send(answer(b""))
        assert await exchange.sink.end() == [("head", 200), END]
        await exchange.reused()

    async def test_interim_answers_are_swallowed(self, exchange: Exchange) -> None:
        interim = (
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.1 102 Processing\r\nx-interim: yes\r\n\r\n",
            b"HTTP/1.1 103 Early Hints\r\nlink: </>\r\ncontent-length: 7\r\n\r\n",
        )
        await exchange.peer.send_apart(*interim)
        assert exchange.sink.heard == []
        exchange.peer.send(b"".join(interim) + answer(b"hello"))
        assert await exchange.sink.end() == HELLO
        assert exchange.sink.head.headers == [(b"content-length", b"5")]
        await exchange.reused()

    async def test_trailers_are_dropped(self, exchange: Exchange) -> None:
        """And what was a trailer is no header of the next answer."""
        exchange.peer.send(CHUNKED + b"5\r\nhello\r\n0\r\nx-a: 1\r\nkeep-alive: timeout=1\r\n\r\n")
        assert await exchange.sink.end() == HELLO
        assert exchange.sink.head.headers == [(b"transfer-encoding", b"chunked")]
        await exchange.reused()

    async def test_a_large_answer_arrives_byte_for_byte(self, exchange: Exchange) -> None:
        body = bytes(range(256)) * 16 * 1024
        wire = memoryview(answer(body))
        sent = 0
        while sent < len(wire):
            sent += exchange.peer.stuff(wire[sent:])  # type: ignore[arg-type]
            await asyncio.sleep(0)
        await exchange.sink.end()
        assert exchange.sink.body == body
        assert len(exchange.sink.pieces) > 1
        await exchange.reused()

    async def test_an_answer_reaches_its_sink_without_a_task(self, exchange: Exchange) -> None:
        """Each read is heard in the event loop's own callback; nothing is woken for it."""
        before = asyncio.all_tasks()
        await exchange.peer.send_apart(CHUNKED, *(b"1\r\n%c\r\n" % byte for byte in b"hello"))
        exchange.peer.send(b"0\r\n\r\n")
        assert await exchange.sink.end() == HELLO
        assert exchange.sink.outside_tasks
        assert asyncio.all_tasks() == before


class TestLastAnswers:
    """Answers that are whole, on connections that can't be used again."""

    @pytest.mark.parametrize(
        "wire",
        [
            answer(b"hello", b"Connection: close"),
            answer(b"hello", b"Connection: Keep-Alive, Close"),
            answer(b"hello").replace(b"HTTP/1.1", b"HTTP/1.0"),
            CHUNKED.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
            + b"5\r\nhello\r\n0\r\n\r\n",
        ],
        ids=["close", "close among others", "HTTP/1.0", "chunked and close"],
    )
    async def test_a_connection_that_the_server_does_not_keep_is_not_used_again(
        self, exchange: Exchange, wire: bytes
    ) -> None:
        exchange.peer.send(wire)
        assert await exchange.sink.end() == HELLO
        await exchange.closed()

    async def test_a_connection_of_http_1_0_may_be_kept(self, exchange: Exchange) -> None:
        wire = answer(b"hello", b"connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0")
        exchange.peer.send(wire)
        assert await exchange.sink.end() == HELLO
        await exchange.reused()

    @pytest.mark.parametrize("version", [b"1.0", b"1.1"])
    async def test_a_body_without_a_length_ends_with_its_connection(
        self, exchange: Exchange, version: bytes
    ) -> None:
        exchange.peer.send(b"HTTP/%b 200 OK\r\n\r\nhel" % version, b"lo")
        await eventually(lambda: exchange.sink.body == b"hello")
        await turns()
        assert not exchange.sink.ended.is_set()
        assert exchange.sink.head.length is None
        exchange.peer.close()
        assert await exchange.sink.end() == HELLO
        await eventually(lambda: exchange.pool.open_connections == 0)

    @pytest.mark.parametrize("wire", [answer(b"not to come"), answer(b"")[:-2] + b"x: y\r\n\r\n"])
    async def test_an_answer_to_head_has_no_body_and_ends_its_connection(
        self, pool: UpstreamPool, listener: Listener, wire: bytes
    ) -> None:
        """A server that sends a body all the same can't confuse anyone with it."""
        exchange = await begin(pool, listener, HEAD)
        exchange.peer.send(wire)
        assert await exchange.sink.end() == [("head", 200), END]
        assert exchange.sink.head.length == 0
        await exchange.closed()

    @pytest.mark.parametrize(
        "extra", [b"x", b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", b"\0" * 1000]
    )
    @pytest.mark.parametrize("wire", [answer(b"hello"), CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"])
    async def test_an_answer_that_something_follows_ends_its_connection(
        self, exchange: Exchange, wire: bytes, extra: bytes
    ) -> None:
        """Its first bytes in the same read, or in one of their own; an answer, or not."""
        exchange.peer.send(wire + extra)
        assert await exchange.sink.end() == HELLO
        await exchange.closed()

    async def test_an_answer_before_the_request_is_sent_ends_its_connection(
        self, pool: UpstreamPool, listener: Listener
    ) -> None:
        request = a_post(b"x" * 30_000_000)
        exchange = await begin(pool, listener, request)
        exchange.peer.send(answer(b"hello", status=413))
        assert await exchange.sink.end() == [("head", 413), ("body", b"hello"), END]
        await exchange.closed()

    async def test_an_answer_before_the_kernel_has_the_request_ends_its_connection(
        self, pool: UpstreamPool, listener: Listener
    ) -> None:
        """The transport holds the request's last bytes, too few to make it ask for a pause."""
        connection = await pool.connect()
        peer = await listener.accept()
        transport = connection._transport
        assert transport is not None
        step = 16 * 1024
        sizes = itertools.count(step, step)
        while not transport.get_write_buffer_size():  # find out how much the kernel takes
            transport.write(bytes(step))
            await asyncio.sleep(0)
            size = next(sizes)
        connection.abandon()
        for extra in range(-40, 40):
            connection, peer, sink = await pool.connect(), await listener.accept(), Sink()
            connection.send(a_post(bytes(size + extra * step)), sink)
            await turns(3)
            transport = connection._transport
            assert transport is not None
            if transport.get_write_buffer_size():
                break
            connection.abandon()
        assert connection._outgoing is None
        peer.send(answer(b"hello"))
        assert await sink.end() == HELLO
        assert pool.idle_connections == 0


class TestMalformedAnswers:
    """Each is a failure, closes the connection, and is never taken for an answer."""

    @pytest.mark.parametrize(
        "wire",
        [
            b"SSH-2.0-OpenSSH_9.9\r\n",
            b"\x15\x03\x01\x00\x02\x02\x50",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\0\0\x12\x04\0\0\0\0\0",
            answer(b"hello").replace(b"HTTP/1.1", b"HTTP/0.9"),
            answer(b"hello").replace(b"HTTP/1.1", b"HTTP/1.2"),
            answer(b"hello").replace(b"HTTP/1.1", b"HTTP/2.0"),
            answer(b"hello").replace(b"HTTP/1.1 200", b"HTTP/1.1 1000"),
            answer(b"hello").replace(b"HTTP/1.1 200", b"HTTP/1.1  200"),
            answer(b"hello").replace(b"HTTP/1.1", b"http/1.1"),
            b"HTTP/1.1 ABC\r\n\r\n",
            b"HTTP/1.1 20\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nname : value\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nname: a\0b\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nname: folded\r\n value\r\n\r\n",
            b"HTTP/1.1 200 OK\ncontent-length: 5\n\nhello",
            b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\ncontent-length: 0x5\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: \r\ncontent-length: 5\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
            CHUNKED[:-2] + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            CHUNKED[:-2].replace(b"1.1", b"1.0") + b"connection: keep-alive\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello",
            b"HTTP/1.1 101 Switching\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 Switching\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\ngarbage",
            b"HTTP/1.1 103 Hints\r\ncontent-length: 5\r\n\r\nhello" + answer(b"hello"),
            b"HTTP/1.1 150 Wait\r\ncontent-length: 5\r\n\r\nhello" + answer(b"hello"),
            b"HTTP/1.1 199 Wait\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
            + answer(b"hello"),
            b"HTTP/1.1 050 Too small\r\ncontent-length: 5\r\n\r\nhello",
            b"HTTP/1.1 000 Zero\r\n\r\nhello",
        ],
    )
    async def test_what_is_no_head_is_malformed(self, exchange: Exchange, wire: bytes) -> None:
        exchange.peer.send(wire)
        assert await exchange.sink.failure() is FailureKind.MALFORMED
        assert exchange.sink.heard == [("failure", FailureKind.MALFORMED)]
        await exchange.closed()

    @pytest.mark.parametrize(
        "rest",
        [
            b"x\r\nhello",
            b"-5\r\nhello",
            b"0x5\r\nhello",
            b"\r\nhello",
            b"fffffffffffffffff\r\nhello",
            b"5 \r\nhello\r\n",
            b"5\nhello\r\n",
            b"5\r\nhelloworld\r\n",
            b"0\r\ncontent-length: 5\r\n\r\nhello",
        ],
    )
    async def test_what_is_no_chunk_is_malformed(self, exchange: Exchange, rest: bytes) -> None:
        await exchange.peer.send_apart(CHUNKED, b"2\r\nhi\r\n")
        exchange.peer.send(rest)
        assert await exchange.sink.failure() is FailureKind.MALFORMED
        assert exchange.sink.heard[0] == ("head", 200)
        assert exchange.sink.heard[-1] == ("failure", FailureKind.MALFORMED)
        await exchange.closed()

    async def test_the_body_before_a_malformed_chunk_is_heard(self, exchange: Exchange) -> None:
        """In one read or in two: what was used must not depend on that."""
        exchange.peer.send(CHUNKED + b"5\r\nhello\r\n5\r\nagain" + b"no line end")
        expected = [("body", b"helloagain"), ("failure", FailureKind.MALFORMED)]
        assert await exchange.sink.end() == [("head", 200), *expected]
        await exchange.closed()

    async def test_a_head_of_64_kb_is_taken(self, exchange: Exchange) -> None:
        exchange.peer.send(answer(b"hello", b"x: " + b"y" * (MAX_HEAD - 100)))
        assert await exchange.sink.end() == HELLO
        await exchange.reused()

    @pytest.mark.parametrize("finished", [False, True])
    @pytest.mark.parametrize(
        "lines",
        [b"x: " + b"y" * MAX_HEAD, b"\r\n".join([b"x: y"] * (MAX_HEAD // 4))],
        ids=["one long line", "many lines"],
    )
    async def test_a_head_over_64_kb_is_malformed(
        self, exchange: Exchange, lines: bytes, finished: bool
    ) -> None:
        end = b"\r\ncontent-length: 0\r\n\r\n" if finished else b""
        exchange.peer.send(b"HTTP/1.1 200 OK\r\n" + lines + end)
        assert await exchange.sink.failure() is FailureKind.MALFORMED
        assert exchange.sink.heads == []
        await exchange.closed()

    async def test_interim_answers_without_end_are_malformed(self, exchange: Exchange) -> None:
        for _ in range(MAX_HEAD // 27 + 1):
            await exchange.peer.send_apart(b"HTTP/1.1 102 Processing\r\n\r\n")
            if exchange.sink.ended.is_set():
                break
        assert await exchange.sink.failure() is FailureKind.MALFORMED
        await exchange.closed()

    @pytest.mark.parametrize(
        "framing",
        [b"0\r\nx: " + b"y" * 16_000, b"0\r\n" + b"x: y\r\n" * 3000, b"5;" + b"e" * 16_000],
    )
    async def test_framing_without_end_is_malformed(
        self, exchange: Exchange, framing: bytes
    ) -> None:
        """Trailers and chunk extensions are dropped, but not for ever."""
        await exchange.peer.send_apart(CHUNKED + b"5\r\nhello\r\n", framing)
        for _ in range(50):
            if exchange.sink.ended.is_set():
                break
            await exchange.peer.send_apart(framing[-12_000:])
        assert await exchange.sink.failure() is FailureKind.MALFORMED
        await exchange.closed()


class TestBrokenAnswers:
    @pytest.mark.parametrize(
        "wire",
        [
            b"",
            b"HTTP/1.1 200 OK\r\ncontent-le",
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell",
            CHUNKED,
            CHUNKED + b"5\r\nhel",
            CHUNKED + b"5\r\nhello\r\n",
            CHUNKED + b"5\r\nhello\r\n0\r\n",
            CHUNKED + b"5\r\nhello\r\n0\r\nx: y\r\n",
        ],
    )
    @pytest.mark.parametrize("way", [Peer.close, Peer.reset])
    async def test_an_answer_that_its_connections_end_cuts_is_broken(
        self, exchange: Exchange, wire: bytes, way: object
    ) -> None:
        if wire:
            await exchange.peer.send_apart(wire)
        assert callable(way)
        way(exchange.peer)
        assert await exchange.sink.failure() is FailureKind.BROKEN
        expected = wire.count(b"200 OK\r\n") and wire.count(b"\r\n\r\n")
        assert len(exchange.sink.heads) == expected
        await eventually(lambda: exchange.pool.open_connections == 0)
        assert exchange.pool.take() is None

    async def test_a_body_without_a_length_that_a_reset_ends_is_broken(
        self, exchange: Exchange
    ) -> None:
        """A body that lasts until the connection ends is whole only if that ended in order."""
        await exchange.peer.send_apart(b"HTTP/1.1 200 OK\r\n\r\nhello")
        exchange.peer.reset()
        assert await exchange.sink.failure() is FailureKind.BROKEN
        assert exchange.sink.body == b"hello"

    async def test_nothing_is_sent_on_a_connection_that_is_lost(
        self, pool: UpstreamPool, listener: Listener
    ) -> None:
        """It was open when it was made; the upstream closed it before it was used."""
        connection, peer, sink = await pool.connect(), await listener.accept(), Sink()
        peer.close()
        await eventually(lambda: connection.closing)
        with pytest.raises(UpstreamError) as raised:
            connection.send(a_get(), sink)
        assert raised.value.kind is FailureKind.UNREACHABLE
        assert sink.heard == []


class TestDeadlines:
    async def test_the_head_of_an_answer_has_a_deadline(
        self, make_pool: MakePool, listener: Listener
    ) -> None:
        pool = make_pool(listener.port, Timeouts(60.0, 0.05, 60.0))
        exchange = await begin(pool, listener)
        exchange.peer.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nx: ")
        assert await exchange.sink.end() == [("failure", FailureKind.HEAD_TIMEOUT)]
        await exchange.closed()

    async def test_a_request_that_is_not_read_has_a_deadline(
        self, make_pool: MakePool, listener: Listener
    ) -> None:
        pool = make_pool(listener.port, Timeouts(60.0, 0.05, 60.0))
        exchange = await begin(pool, listener, a_post(b"x" * 30_000_000))
        assert await exchange.sink.end() == [("failure", FailureKind.HEAD_TIMEOUT)]

    async def test_the_next_chunk_has_a_deadline(
        self, make_pool: MakePool, listener: Listener
    ) -> None:
        pool = make_pool(listener.port, Timeouts(60.0, 60.0, 0.05))
        exchange = await begin(pool, listener)
        exchange.peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello")
        assert await exchange.sink.end() == [*HELLO[:2], ("failure", FailureKind.IDLE_TIMEOUT)]
        await exchange.closed()

    async def test_no_deadline_passes_while_bytes_keep_coming(
        self, make_pool: MakePool, listener: Listener
    ) -> None:
        """The whole takes longer than any one gap may."""
        pool = make_pool(listener.port, Timeouts(60.0, 60.0, 1.5))
        exchange = await begin(pool, listener)
        exchange.peer.send(CHUNKED)
        loop = asyncio.get_running_loop()
        until = loop.time() + 2.5
        while loop.time() < until:
            exchange.peer.send(b"1\r\nx\r\n")
            await asyncio.sleep(0.02)
        assert not exchange.sink.ended.is_set()
        exchange.peer.send(b"0\r\n\r\n")
        assert (await exchange.sink.end())[-1] == END
        await exchange.reused()

    async def test_no_deadline_passes_while_the_sink_takes_no_more(
        self, make_pool: MakePool, listener: Listener
    ) -> None:
        pool = make_pool(listener.port, Timeouts(60.0, 60.0, 0.05))
        exchange = await begin(pool, listener)
        exchange.peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello")
        await eventually(lambda: exchange.sink.pieces)
        exchange.connection.pause_for(exchange.sink)
        await asyncio.sleep(0.2)  # several deadlines
        assert not exchange.sink.ended.is_set()
        exchange.connection.resume_for(exchange.sink)
        assert await exchange.sink.failure() is FailureKind.IDLE_TIMEOUT

    async def test_no_deadline_passes_on_an_idle_connection(
        self, make_pool: MakePool, listener: Listener
    ) -> None:
        pool = make_pool(listener.port, Timeouts(60.0, 0.05, 0.05))
        exchange = await begin(pool, listener)
        exchange.peer.send(answer(b"hello"))
        await exchange.sink.end()
        await asyncio.sleep(0.2)  # several deadlines
        await exchange.reused()


class TestRequests:
    async def test_a_small_request_goes_out_whole(
        self, pool: UpstreamPool, listener: Listener
    ) -> None:
        request = a_post(b"hello", b" ", b"world")
        exchange = await begin(pool, listener, request)
        assert await exchange.peer.exactly(11) == b"hello world"

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    async def test_a_large_request_arrives_byte_for_byte(
        self, pool: UpstreamPool, listener: Listener, kind: type
    ) -> None:
        """In slices, so that no more than two of them ever wait in the transport."""
        content = bytes(itertools.islice(itertools.cycle(range(251)), 30_000_000))
        pieces = (content[:7], content[7:20_000_001], content[20_000_001:])
        request = UpstreamRequest("POST", a_post(*pieces).head, [kind(piece) for piece in pieces])
        exchange = await begin(pool, listener, request)
        transport = exchange.connection._transport
        assert transport is not None
        digest, size, buffered = hashlib.sha256(), 0, 0
        while size < len(content):
            buffered = max(buffered, transport.get_write_buffer_size())
            piece = await exchange.peer.exactly(min(2**17, len(content) - size))
            digest.update(piece)
            size += len(piece)
        assert digest.digest() == hashlib.sha256(content).digest()
        assert 0 < buffered <= 3 * 64 * 1024
        exchange.peer.send(answer(b"hello"))
        assert await exchange.sink.end() == HELLO
        await exchange.reused()

    async def test_a_request_that_is_not_read_is_not_taken_into_memory(
        self, pool: UpstreamPool, listener: Listener
    ) -> None:
        body = [memoryview(bytes(64 * 1024))] * 2000
        exchange = await begin(pool, listener, UpstreamRequest("POST", a_post().head, body))
        transport = exchange.connection._transport
        assert transport is not None
        taken = await settled(transport.get_write_buffer_size)
        assert taken <= 3 * 64 * 1024


class TestBackpressure:
    async def test_a_paused_upstream_can_send_no_more(self, exchange: Exchange) -> None:
        size = 64_000_000
        peer, sink, connection = exchange.peer, exchange.sink, exchange.connection
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\nx" % size)
        await eventually(lambda: sink.pieces)
        connection.pause_for(sink)
        rest = bytes(size - 1)
        sent = 0

        def stuff() -> int:
            nonlocal sent
            sent += peer.stuff(rest[sent : sent + 2**20])
            return sent

        assert await settled(stuff) < size // 2  # what the kernel takes
        assert len(sink.body) == 1
        connection.resume_for(sink)
        async with asyncio.timeout(PATIENCE * 4):
            while sent < size - 1:
                stuff()
                await asyncio.sleep(0)
        assert (await sink.end())[-1] == END
        assert len(sink.body) == size
        await exchange.reused()

    async def test_a_sink_may_pause_within_its_call(
        self, pool: UpstreamPool, listener: Listener
    ) -> None:
        connection, peer = await pool.connect(), await listener.accept()
        sink = Sink(on_body=lambda: connection.pause_for(sink))
        connection.send(a_get(), sink)
        await peer.send_apart(CHUNKED, *[b"1\r\nx\r\n"] * 20, b"0\r\n\r\n")
        pieces = 0
        while not sink.ended.is_set():
            await turns()
            assert len(sink.pieces) <= pieces + 1
            pieces = len(sink.pieces)
            connection.resume_for(sink)
        assert sink.body == b"x" * 20

    async def test_an_answer_that_ends_while_paused_leaves_its_connection_reading(
        self, pool: UpstreamPool, listener: Listener
    ) -> None:
        """The sink paused on the answer's last bytes, and never resumed."""
        exchange = Exchange(pool, await pool.connect(), await listener.accept())
        exchange.sink = Sink(on_body=lambda: exchange.connection.pause_for(exchange.sink))
        exchange.connection.send(a_get(), exchange.sink)
        await exchange.peer.request()
        exchange.peer.send(answer(b"hello"))
        assert await exchange.sink.end() == HELLO
        await exchange.reused()

    async def test_only_the_exchange_that_runs_may_pause_its_upstream(
        self, exchange: Exchange
    ) -> None:
        """Those that are over can't pause, resume or drop what runs now."""
        over = exchange.sink
        exchange.peer.send(answer(b"hello"))
        await over.end()
        exchange.pool.take()
        await exchange.ask(a_get("/next"))
        exchange.connection.pause_for(over)
        exchange.connection.drop(over)
        exchange.peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel")
        await eventually(lambda: exchange.sink.body == b"hel")
        exchange.connection.pause_for(exchange.sink)
        exchange.connection.resume_for(over)
        exchange.peer.send(b"lo")
        await turns()
        assert exchange.sink.body == b"hel"
        exchange.connection.resume_for(exchange.sink)
        assert await exchange.sink.end() == HELLO


class TestAbandoning:
    @pytest.mark.parametrize(
        "wire",
        [
            b"",
            b"HTTP/1.1 200 OK\r\nx: ",
            b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello",
            CHUNKED + b"5\r\nhello\r\n",
        ],
    )
    async def test_abandoning_closes_the_connection_at_once(
        self, exchange: Exchange, wire: bytes
    ) -> None:
        if wire:
            await exchange.peer.send_apart(wire)
        heard = list(exchange.sink.heard)
        exchange.connection.drop(exchange.sink)
        await exchange.closed()
        await turns()
        assert exchange.sink.heard == heard

    async def test_abandoning_while_the_request_goes_out_closes_the_connection(
        self, pool: UpstreamPool, listener: Listener
    ) -> None:
        exchange = await begin(pool, listener, a_post(b"x" * 30_000_000))
        exchange.connection.abandon()
        await exchange.closed()
        assert exchange.sink.heard == []

    @pytest.mark.parametrize("rest", [b"0\r\n\r\n", b"5\r\nagain\r\n", b"garbage", b""])
    async def test_a_sink_may_abandon_within_its_call(
        self, pool: UpstreamPool, listener: Listener, rest: bytes
    ) -> None:
        """The sink hears nothing more, whatever else the same read brought."""
        connection, peer = await pool.connect(), await listener.accept()

        class Leaving(Sink):
            def on_head(self, head: AnswerHead) -> None:
                super().on_head(head)
                connection.drop(self)

        sink = Leaving()
        connection.send(a_get(), sink)
        await peer.request()
        peer.send(CHUNKED + b"5\r\nhello\r\n" + rest)
        assert await peer.closed()
        await eventually(lambda: pool.open_connections == 0)
        assert sink.heard == [("head", 200)]

    async def test_abandoning_twice_is_abandoning_once(self, exchange: Exchange) -> None:
        exchange.connection.abandon()
        exchange.connection.abandon()
        await exchange.closed()
        exchange.connection.abandon()
        assert exchange.sink.heard == []
