"""An upstream that answers before it has read the request, and closes: the answer counts.

The kind has these members, over plain TCP and over TLS, each with either event loop:

* the upstream reads a little of the body, or more of it, and answers;
* it closes with bytes unread (its kernel sends a reset), or resets the connection itself;
* the write fails before the answer is read, in its midst, or not at all;
* the answer has a length, comes in chunks, or lasts until the connection ends;
* the answer is whole, or is cut: half an answer must never pass for a whole one.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence

import pytest
import trustme

from opuslive.gateway.upstreams.wire import FailureKind
from tests.support.listener import Listener, answer
from tests.support.pools import END, MakePool, Sink, a_post
from tests.support.waiting import eventually, settled

BODY = bytes(12_000_000)
REFUSAL = b"x" * 2_000
#: More than a TLS record has.
LARGE = bytes(range(256)) * 120
#: How often what may happen in one order or another is done.
ROUNDS = 15


#: Sends a request, and returns what is heard of its answer.
Ask = Callable[[], Awaitable[Sequence[object]]]


def whole(status: int, body: bytes) -> Sequence[object]:
    return [("head", status), ("body", body), END]


def linger_not(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class EarlyServer:
    """Reads ``reads`` pieces of each request, sends ``answer``, and closes; in threads.

    ``resets``: by a reset, whatever it has read.
    """

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self.tls = tls
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port: int = self._socket.getsockname()[1]
        self.reads = 1
        self.answer = answer(REFUSAL, status=413)
        self.resets = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=[sock], daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        # What waits for an earlier packet to be acknowledged would be lost with a reset.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):
            if self.tls is not None:
                sock = self.tls.wrap_socket(sock, server_side=True)
            for _ in range(self.reads):
                sock.recv(64 * 1024)
            sock.sendall(self.answer)
            if self.resets:
                linger_not(sock)
        sock.close()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture(scope="module")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


@pytest.fixture(params=[False, True], ids=["plain", "TLS"])
def server(request: pytest.FixtureRequest, server_tls: ssl.SSLContext) -> Iterator[EarlyServer]:
    server = EarlyServer(server_tls if request.param else None)
    yield server
    server.close()


@pytest.fixture
def ask(server: EarlyServer, make_pool: MakePool, authority: trustme.CA) -> Ask:
    """Each request has BODY, and a connection of its own."""
    context = None
    if server.tls is not None:
        context = ssl.create_default_context()
        authority.configure_trust(context)

    async def once() -> Sequence[object]:
        pool = make_pool(server.port, host="localhost", tls=context)
        connection = await pool.connect()
        sink = Sink()
        connection.send(a_post(BODY), sink)
        lines = await sink.end()
        assert pool.idle_connections == 0
        assert pool.take() is None
        await eventually(lambda: pool.open_connections == 0, "the end of the connection")
        return lines

    return once


@pytest.mark.parametrize("reads", [1, 8, 40])
@pytest.mark.parametrize("resets", [False, True], ids=["closes", "resets"])
async def test_the_answer_of_an_upstream_that_stops_reading_is_heard(
    server: EarlyServer, ask: Ask, reads: int, resets: bool
) -> None:
    server.reads, server.resets = reads, resets
    for _ in range(ROUNDS):
        assert await ask() == whole(413, REFUSAL)


@pytest.mark.parametrize("status", [200, 400, 429, 529])
async def test_an_early_answer_is_heard_whatever_its_status(
    server: EarlyServer, ask: Ask, status: int
) -> None:
    server.answer = answer(REFUSAL, b"retry-after: 7", status=status)
    for _ in range(ROUNDS):
        assert await ask() == whole(status, REFUSAL)


async def test_an_answer_in_chunks_is_heard_to_its_end(server: EarlyServer, ask: Ask) -> None:
    head = b"HTTP/1.1 413 Too large\r\ntransfer-encoding: chunked\r\n\r\n"
    server.answer = head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(LARGE), LARGE)
    for _ in range(ROUNDS):
        assert await ask() == whole(413, LARGE)


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 3000",
        b"transfer-encoding: chunked",
        # Nothing but an orderly end would make it whole.
        b"connection: close",
    ],
)
async def test_half_an_answer_stays_half_an_answer(
    server: EarlyServer, ask: Ask, head: bytes
) -> None:
    server.answer = b"HTTP/1.1 413 Too large\r\n" + head + b"\r\n\r\n7d0\r\n" + REFUSAL
    server.resets = True
    for _ in range(ROUNDS):
        assert (await ask())[-1] == ("failure", FailureKind.BROKEN)


class TestBeforeTheFirstByteIsWritten:
    """The connection is reset already when it is written to: no chance decides the order."""

    async def test_a_whole_answer_is_heard(self, make_pool: MakePool, listener: Listener) -> None:
        pool = make_pool(listener.port)
        connection, peer = await pool.connect(), await listener.accept()
        sink = Sink()
        peer.send(answer(REFUSAL, status=429))
        peer.reset()
        connection.send(a_post(BODY), sink)
        assert await sink.end() == whole(429, REFUSAL)
        assert pool.take() is None

    async def test_an_answer_that_only_its_end_completes_is_not_completed_by_a_reset(
        self, make_pool: MakePool, listener: Listener
    ) -> None:
        pool = make_pool(listener.port)
        connection, peer = await pool.connect(), await listener.accept()
        sink = Sink()
        peer.send(b"HTTP/1.1 429 Slow\r\n\r\nslow")
        peer.reset()
        connection.send(a_post(BODY), sink)
        assert (await sink.end())[-1] == ("failure", FailureKind.BROKEN)

    async def test_an_answer_that_only_its_end_completes_is_completed_by_a_close(
        self, make_pool: MakePool, listener: Listener
    ) -> None:
        pool = make_pool(listener.port)
        connection, peer = await pool.connect(), await listener.accept()
        sink = Sink()
        peer.send(b"HTTP/1.1 429 Slow\r\n\r\nslow")
        peer.close()
        # The first write makes the closed end answer with a reset.
        connection.send(a_post(BODY), sink)
        assert await sink.end() == whole(429, b"slow")

    async def test_silence_is_a_failure(self, make_pool: MakePool, listener: Listener) -> None:
        pool = make_pool(listener.port)
        connection, peer = await pool.connect(), await listener.accept()
        sink = Sink()
        peer.reset()
        connection.send(a_post(BODY), sink)
        assert await sink.failure() is FailureKind.BROKEN


class TestTheRestOfTheRequest:
    async def test_is_not_sent_once_it_is_refused(
        self, make_pool: MakePool, listener: Listener
    ) -> None:
        pool = make_pool(listener.port)
        connection, peer = await pool.connect(), await listener.accept()
        sink = Sink()
        connection.send(a_post(BODY), sink)
        await peer.request()
        peer.send(b"HTTP/1.1 413 Too large\r\ncontent-length: 4\r\n\r\nno")
        await eventually(lambda: sink.pieces)
        received = 0

        def drain() -> int:
            nonlocal received
            with contextlib.suppress(BlockingIOError):
                while piece := peer.sock.recv(2**18):
                    received += len(piece)
            return received

        assert await settled(drain) < len(BODY)
        peer.send(b"ne")
        assert await sink.end() == whole(413, b"none")
        assert pool.take() is None
        assert await peer.closed()

    async def test_is_sent_behind_an_answer_that_refuses_nothing(
        self, make_pool: MakePool, listener: Listener
    ) -> None:
        pool = make_pool(listener.port)
        connection, peer = await pool.connect(), await listener.accept()
        sink = Sink()
        connection.send(a_post(BODY), sink)
        await peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nyes")
        await eventually(lambda: sink.pieces)
        assert await peer.exactly(len(BODY)) == BODY
        peer.send(b"!")
        assert await sink.end() == whole(200, b"yes!")
        assert pool.take() is connection
