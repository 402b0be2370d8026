"""Connections to one upstream: which are lent again, and that none is lent that is not open."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
import trustme

from opuslive.gateway.upstreams.connection import UpstreamConnection
from opuslive.gateway.upstreams.pool import MAX_IDLE, UpstreamPool, fetch
from opuslive.gateway.upstreams.wire import FailureKind, Timeouts, UpstreamError
from tests.support.listener import Listener, Peer, answer
from tests.support.pools import END, MakePool, Sink, a_get, a_post
from tests.support.provider import (
    CLOSE,
    CUT,
    RESET,
    STALL,
    STREAM_HEAD,
    Request,
    ScriptedUpstream,
    chunk,
)
from tests.support.waiting import PATIENCE, eventually, settled, turns

Connected = tuple[UpstreamConnection, Peer]


async def connected(pool: UpstreamPool, listener: Listener) -> Connected:
    return await pool.connect(), await listener.accept()


async def use(connected: Connected, wire: bytes = answer(b"hello")) -> Sink:
    """Have a request answered on the connection."""
    connection, peer = connected
    sink = Sink()
    connection.send(a_get(), sink)
    await peer.request()
    peer.send(wire)
    assert (await sink.end())[-1] == END
    return sink


async def idle(pool: UpstreamPool, listener: Listener, count: int = 1) -> list[Connected]:
    """Connections that were used in this order, and are idle."""
    made = [await connected(pool, listener) for _ in range(count)]
    for each in made:
        await use(each)
    assert pool.idle_connections == pool.open_connections == count
    return made


async def unreachable(connecting: Awaitable[object]) -> BaseException | None:
    """Nothing was sent; returns why."""
    with pytest.raises(UpstreamError) as raised:
        async with asyncio.timeout(PATIENCE):
            await connecting
    assert raised.value.kind is FailureKind.UNREACHABLE
    return raised.value.__cause__


class TestLending:
    async def test_the_connection_used_last_is_lent_first(
        self, pool: UpstreamPool, listener: Listener
    ) -> None:
        made = await idle(pool, listener, 3)
        assert [pool.take() for _ in range(4)] == [*(each[0] for each in reversed(made)), None]
        assert (pool.idle_connections, pool.open_connections) == (0, 3)

    async def test_a_connection_is_lent_again_and_again(
        self, pool: UpstreamPool, listener: Listener
    ) -> None:
        ((connection, peer),) = await idle(pool, listener)
        for _ in range(10):
            assert pool.take() is connection
            await use((connection, peer))

    @pytest.mark.parametrize(
        "leave",
        [
            Peer.close,
            Peer.reset,
            lambda peer: peer.sock.shutdown(socket.SHUT_WR),
            lambda peer: peer.send(b"HTTP/1.1 408 Timeout\r\nconnection: close\r\n\r\n"),
            lambda peer: peer.send(b"\r\n"),
        ],
        ids=["closed", "reset", "half closed", "spoken on", "one line end"],
    )
    @pytest.mark.parametrize("noticed", [False, True])
    async def test_a_connection_that_the_server_is_done_with_is_never_lent(
        self,
        pool: UpstreamPool,
        listener: Listener,
        leave: Callable[[Peer], None],
        noticed: bool,
    ) -> None:
        """Not even where the event loop has had no occasion to notice."""
        (_, first), (_, second), (third, _) = await idle(pool, listener, 3)
        leave(second)
        leave(first)
        if noticed:
            await eventually(lambda: pool.open_connections == 1)
            assert pool.idle_connections == 1
        assert pool.take() is third
        assert pool.take() is None
        await eventually(lambda: pool.open_connections == 1)

    async def test_a_connection_is_lent_only_within_the_time_that_the_server_tells(
        self, pool: UpstreamPool, listener: Listener
    ) -> None:
        """A second less, to be sure."""
        for value, kept in [
            (b"timeout=30, max=100", True),
            (b"max=5, Timeout=2", True),
            (b"timeout=soon", True),
            (b"timeout=1", False),
            (b"timeout=0", False),
        ]:
            each = await connected(pool, listener)
            await use(each, answer(b"hello", b"Keep-Alive: " + value))
            assert pool.take() is (each[0] if kept else None), value

    async def test_an_idle_connection_is_kept_only_for_so_long(
        self, make_pool: MakePool, listener: Listener
    ) -> None:
        """After that they are closed, each at its time."""
        pool = make_pool(listener.port, max_idle_seconds=0.05)
        for _ in range(2):
            made = await idle(pool, listener, 3)
            for _, peer in made:
                assert await peer.closed()
            await eventually(lambda: pool.open_connections == 0)
            assert pool.take() is None

    async def test_an_open_connection_whose_time_is_up_is_not_lent(
        self, make_pool: MakePool, listener: Listener
    ) -> None:
        pool = make_pool(listener.port, max_idle_seconds=0.0)
        each = await connected(pool, listener)
        await use(each)
        assert pool.take() is None
        assert await each[1].closed()

    @pytest.mark.asyncio(loop_factories=["asyncio"])  # uvloop's clock stands still within a turn
    async def test_a_connection_is_not_lent_before_the_event_loop_has_closed_it(
        self, make_pool: MakePool, listener: Listener
    ) -> None:
        """A turn of the event loop took so long that the time was up within it."""
        pool = make_pool(listener.port, max_idle_seconds=0.02)
        ((connection, peer),) = await idle(pool, listener)
        time.sleep(0.03)
        assert not connection.closing
        assert pool.take() is None
        assert await peer.closed()

    async def test_so_many_connections_are_kept_at_most(
        self, pool: UpstreamPool, listener: Listener
    ) -> None:
        made = [await connected(pool, listener) for _ in range(MAX_IDLE + 3)]
        for each in made:
            await use(each)
        assert pool.idle_connections == MAX_IDLE
        for _, peer in made[MAX_IDLE:]:
            assert await peer.closed()
        await eventually(lambda: pool.open_connections == MAX_IDLE)

    async def test_a_closed_pool_lends_no_connection(
        self, pool: UpstreamPool, listener: Listener
    ) -> None:
        ((_, resting),) = await idle(pool, listener)
        connection, working = await connected(pool, listener)
        sink = Sink()
        connection.send(a_get(), sink)
        await working.request()
        pool.close()
        assert pool.take() is None
        assert await resting.closed()
        assert await working.closed()
        await eventually(lambda: pool.open_connections == 0)
        assert sink.heard == []


async def test_a_pool_that_retires_closes_what_is_idle_now_and_the_rest_when_it_ends(
    pool: UpstreamPool, listener: Listener
) -> None:
    ((_, idle_peer), (busy, busy_peer)) = await idle(pool, listener, 2)
    assert pool.take() is busy
    pool.retire()
    assert await idle_peer.closed()
    await use((busy, busy_peer))
    # A request that was on its way here all the same is served, too.
    late = await connected(pool, listener)
    await use(late)
    assert (pool.idle_connections, pool.open_connections) == (0, 0)
    assert await busy_peer.closed()
    assert await late[1].closed()


class TestConnecting:
    async def test_connecting_fails_where_nobody_listens(
        self, make_pool: MakePool, listener: Listener
    ) -> None:
        listener.close()
        cause = await unreachable(make_pool(listener.port).connect())
        assert isinstance(cause, ConnectionRefusedError)

    async def test_connecting_fails_in_time_where_nobody_answers(self, make_pool: MakePool) -> None:
        """The queue of those who want to connect is full."""
        with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
            pool = make_pool(full.getsockname()[1], Timeouts(0.05, 60.0, 60.0))
            attempts = (pool.connect() for _ in range(5))
            cause = await unreachable(asyncio.gather(*attempts))
        assert isinstance(cause, TimeoutError)

    async def test_connecting_fails_in_time_where_nobody_shakes_hands(
        self, make_pool: MakePool, listener: Listener
    ) -> None:
        context = ssl.create_default_context()
        pool = make_pool(listener.port, Timeouts(0.05, 60.0, 60.0), tls=context)
        assert isinstance(await unreachable(pool.connect()), TimeoutError)
        assert await (await listener.accept()).closed()
        assert pool.open_connections == 0

    async def test_connecting_to_a_server_that_closes_at_once(
        self, pool: UpstreamPool, listener: Listener
    ) -> None:
        connecting = asyncio.ensure_future(pool.connect())
        (await listener.accept()).close()
        connection = await connecting
        await eventually(lambda: pool.open_connections == 0)
        with pytest.raises(UpstreamError) as raised:
            connection.send(a_get(), Sink())
        assert raised.value.kind is FailureKind.UNREACHABLE

    async def test_connecting_that_is_cancelled_leaves_no_connection(
        self, make_pool: MakePool, listener: Listener
    ) -> None:
        pool = make_pool(listener.port, tls=ssl.create_default_context())
        connecting = asyncio.ensure_future(pool.connect())
        peer = await listener.accept()
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        assert await peer.closed()
        assert pool.open_connections == 0


@asynccontextmanager
async def secured(certificate: trustme.LeafCert) -> AsyncIterator[ScriptedUpstream]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    upstream = ScriptedUpstream(context)
    await upstream.start()
    yield upstream
    await upstream.close()


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """As the gateway makes its own, but for the authority."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
async def secure(authority: trustme.CA) -> AsyncIterator[ScriptedUpstream]:
    async with secured(authority.issue_cert("127.0.0.1")) as upstream:
        yield upstream


@pytest.fixture
async def secure_pool(
    make_pool: MakePool, secure: ScriptedUpstream, trusting: ssl.SSLContext
) -> UpstreamPool:
    return make_pool(secure.port, tls=trusting)


class TestTLS:
    async def test_tls_with_a_certificate_of_the_right_name(
        self, secure_pool: UpstreamPool, secure: ScriptedUpstream
    ) -> None:
        connection = await secure_pool.connect()
        for _ in range(3):
            secure.will([answer(b"hello")])
            sink = Sink()
            connection.send(a_post(b"body"), sink)
            assert await sink.end() == [("head", 200), ("body", b"hello"), END]
            # What a TLS server sends on its own (session tickets) came before the answer.
            assert secure_pool.take() is connection
        assert [request.body for request in secure.requests] == [b"body"] * 3
        assert secure.connections == 1

    @pytest.mark.parametrize("fault", ["name", "expired", "not yet", "stranger"])
    async def test_tls_fails_with_a_certificate_that_is_not_good(
        self, make_pool: MakePool, authority: trustme.CA, trusting: ssl.SSLContext, fault: str
    ) -> None:
        now = datetime.now(UTC)
        day = timedelta(days=1)
        certificate = {
            "name": lambda: authority.issue_cert("localhost", "127.0.0.2"),
            "expired": lambda: authority.issue_cert(
                "127.0.0.1", not_before=now - 2 * day, not_after=now - day
            ),
            "not yet": lambda: authority.issue_cert(
                "127.0.0.1", not_before=now + day, not_after=now + 2 * day
            ),
            "stranger": lambda: trustme.CA().issue_cert("127.0.0.1"),
        }[fault]()
        async with secured(certificate) as upstream:
            pool = make_pool(upstream.port, tls=trusting)
            cause = await unreachable(pool.connect())
            assert isinstance(cause, ssl.SSLCertVerificationError)
            assert upstream.requests == []
            assert pool.open_connections == 0

    async def test_tls_fails_with_a_certificate_that_signs_itself(
        self, make_pool: MakePool, trusting: ssl.SSLContext
    ) -> None:
        stranger = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with stranger.private_key_pem.tempfile() as key, stranger.cert_pem.tempfile() as cert:
            context.load_cert_chain(cert, key)
        upstream = ScriptedUpstream(context)
        await upstream.start()
        cause = await unreachable(make_pool(upstream.port, tls=trusting).connect())
        assert isinstance(cause, ssl.SSLCertVerificationError)
        assert upstream.requests == []
        await upstream.close()

    async def test_tls_fails_where_the_server_speaks_none(
        self, make_pool: MakePool, listener: Listener, trusting: ssl.SSLContext
    ) -> None:
        connecting = asyncio.ensure_future(make_pool(listener.port, tls=trusting).connect())
        peer = await listener.accept()
        peer.send(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n")
        assert isinstance(await unreachable(connecting), ssl.SSLError)

    async def test_a_tls_connection_closed_while_idle_is_not_lent(
        self, secure_pool: UpstreamPool, secure: ScriptedUpstream
    ) -> None:
        go = asyncio.Event()
        secure.will([answer(b"hello"), go, CLOSE])
        connection, sink = await secure_pool.connect(), Sink()
        connection.send(a_post(), sink)
        await sink.end()
        assert secure_pool.idle_connections == 1
        go.set()
        await eventually(lambda: secure_pool.open_connections == 0)
        assert secure_pool.take() is None

    @pytest.mark.parametrize(
        ("script", "kind"),
        [
            ([CLOSE], FailureKind.BROKEN),
            ([RESET], FailureKind.BROKEN),
            ([b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello", CLOSE], FailureKind.BROKEN),
            ([b"HTTP/1.1 200 OK\r\n\r\nhello", RESET], FailureKind.BROKEN),
            ([b"HTTP/1.1 200 OK\r\n\r\nhello", CUT], FailureKind.BROKEN),
            ([STREAM_HEAD + chunk(b"hello"), CUT], FailureKind.BROKEN),
            ([b"garbage\r\n", STALL], FailureKind.MALFORMED),
        ],
    )
    async def test_failures_over_tls_are_told_apart(
        self,
        secure_pool: UpstreamPool,
        secure: ScriptedUpstream,
        script: list[bytes],
        kind: FailureKind,
    ) -> None:
        secure.will(script)
        connection, sink = await secure_pool.connect(), Sink()
        connection.send(a_post(), sink)
        assert await sink.failure() is kind
        await eventually(lambda: secure_pool.open_connections == 0)

    async def test_a_body_ends_with_its_tls_connection_if_that_is_announced(
        self, secure_pool: UpstreamPool, secure: ScriptedUpstream
    ) -> None:
        secure.will([b"HTTP/1.1 200 OK\r\n\r\nhello", CLOSE])
        connection, sink = await secure_pool.connect(), Sink()
        connection.send(a_post(), sink)
        assert await sink.end() == [("head", 200), ("body", b"hello"), END]

    async def test_a_large_request_over_tls_arrives_byte_for_byte(
        self, secure_pool: UpstreamPool, secure: ScriptedUpstream
    ) -> None:
        body = bytes(range(250)) * 120_000
        secure.will([answer(b"hello")])
        connection, sink = await secure_pool.connect(), Sink()
        connection.send(a_post(body), sink)
        assert (await sink.end())[0] == ("head", 200)
        digest = hashlib.sha256(secure.requests[0].body).digest()
        assert digest == hashlib.sha256(body).digest()
        assert secure_pool.take() is connection

    async def test_a_paused_upstream_over_tls_can_send_no_more(
        self, secure_pool: UpstreamPool, secure: ScriptedUpstream
    ) -> None:
        size, piece = 64_000_000, bytes(64_000)
        sent = 0

        def script(_: Request) -> Iterator[bytes]:
            nonlocal sent
            yield b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size
            while sent < size:
                sent += len(piece)
                yield piece

        secure.will(script)
        connection = await secure_pool.connect()
        sink = Sink(on_body=lambda: connection.pause_for(sink))
        connection.send(a_post(), sink)
        await eventually(lambda: sink.pieces)
        assert await settled(lambda: sent) < size // 2  # what the kernel takes
        assert len(sink.body) < 2**20
        async with asyncio.timeout(PATIENCE * 4):
            while not sink.ended.is_set():
                connection.resume_for(sink)
                await asyncio.sleep(0)
        assert sink.body == bytes(size)

    async def test_abandoning_closes_a_tls_connection_at_once(
        self, secure_pool: UpstreamPool, secure: ScriptedUpstream
    ) -> None:
        secure.will([b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello", STALL])
        connection, sink = await secure_pool.connect(), Sink()
        connection.send(a_post(), sink)
        await eventually(lambda: sink.pieces)
        connection.abandon()
        async with asyncio.timeout(PATIENCE):
            await secure.requests[0].gone.wait()
        await eventually(lambda: secure_pool.open_connections == 0)
        assert not sink.ended.is_set()


class TestFetch:
    async def test_fetch_returns_the_whole_answer(
        self, pool: UpstreamPool, listener: Listener
    ) -> None:
        for _ in range(2):
            fetching = asyncio.ensure_future(fetch(pool, a_get(), limit=5, within=PATIENCE))
            if pool.open_connections == 0:
                peer = await listener.accept()
            await peer.request()
            peer.send(answer(b"hello", status=203))
            head, body = await fetching
            assert (head.status, body) == (203, b"hello")
            assert (pool.idle_connections, pool.open_connections) == (1, 1)

    @pytest.mark.parametrize(
        ("wire", "kind"),
        [
            (b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello!", FailureKind.MALFORMED),
            (b"HTTP/1.1 200 OK\r\n\r\nhello, ", FailureKind.MALFORMED),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell", FailureKind.HEAD_TIMEOUT),
            (b"", FailureKind.HEAD_TIMEOUT),
            (b"garbage", FailureKind.MALFORMED),
        ],
    )
    async def test_fetch_fails_beyond_its_limits(
        self, pool: UpstreamPool, listener: Listener, wire: bytes, kind: FailureKind
    ) -> None:
        within = 0.05 if kind is FailureKind.HEAD_TIMEOUT else PATIENCE
        fetching = asyncio.ensure_future(fetch(pool, a_get(), limit=5, within=within))
        peer = await listener.accept()
        await peer.request()
        if wire:
            peer.send(wire)
        with pytest.raises(UpstreamError) as raised:
            await fetching
        assert raised.value.kind is kind

    async def test_fetch_reads_no_more_of_a_long_answer_than_its_limit(
        self, pool: UpstreamPool, listener: Listener
    ) -> None:
        fetching = asyncio.ensure_future(fetch(pool, a_get(), limit=5, within=PATIENCE))
        peer = await listener.accept()
        await peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nhello!")
        with pytest.raises(UpstreamError):
            await fetching
        assert await peer.closed()
        await eventually(lambda: pool.open_connections == 0)

    async def test_fetch_that_is_given_up_closes_the_connection(
        self, pool: UpstreamPool, listener: Listener
    ) -> None:
        fetching = asyncio.ensure_future(fetch(pool, a_get(), limit=5, within=PATIENCE))
        peer = await listener.accept()
        await peer.request()
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching
        assert await peer.closed()
        await turns()
        assert pool.open_connections == 0

    async def test_fetch_fails_where_nobody_listens(
        self, make_pool: MakePool, listener: Listener
    ) -> None:
        listener.close()
        pool = make_pool(listener.port)
        await unreachable(fetch(pool, a_get(), limit=5, within=PATIENCE))
