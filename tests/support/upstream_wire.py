"""Both ends of a connection in the hands of a test.

A ``Peer`` is the upstream's end of one connection: a plain socket whose calls take effect
before they return, so that a test decides what has reached the gateway when it takes its next
step. ``Sink`` writes down what an answer's listener hears. ``Peer`` speaks plain HTTP, byte by
byte; what needs TLS or many requests uses ``tests.support.provider.ScriptedUpstream``.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
from collections.abc import Callable
from typing import TypeVar

from opuslive.gateway.upstreams.wire import (
    AnswerHead,
    FailureKind,
    Timeouts,
    UpstreamError,
    UpstreamRequest,
)

T = TypeVar("T")

#: Seconds after which something that has to happen is taken not to happen.
PATIENCE = 5.0
#: Deadlines that never fire in a test.
NEVER = Timeouts(60.0, 60.0, 60.0)

#: A line of a transcript: ("head", status), ("body", bytes), ("end",) or ("failure", kind).
Line = tuple[object, ...]
END: Line = ("end",)


def get(path: str = "/") -> UpstreamRequest:
    return UpstreamRequest("GET", b"GET %b HTTP/1.1\r\nhost: upstream\r\n\r\n" % path.encode())


def post(*body: bytes) -> UpstreamRequest:
    length = sum(map(len, body))
    return UpstreamRequest(
        "POST", b"POST / HTTP/1.1\r\nhost: upstream\r\ncontent-length: %d\r\n\r\n" % length, body
    )


def answer(body: bytes, *headers: bytes, status: int = 200) -> bytes:
    """A whole answer with a Content-Length."""
    lines = (b"HTTP/1.1 %d Status" % status, b"content-length: %d" % len(body), *headers)
    return b"\r\n".join((*lines, b"", body))


async def eventually(condition: Callable[[], T], what: str = "it") -> T:
    """Let the event loop turn until the condition holds; return what it then is."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE
    while not (value := condition()):
        assert loop.time() < deadline, f"{what} did not come about"
        await asyncio.sleep(0.001)
    return value


async def turns(count: int = 20) -> None:
    """Let the event loop turn: whatever is ready by now happens."""
    for _ in range(count):
        await asyncio.sleep(0)


async def settled(number: Callable[[], int]) -> int:
    """What a number comes to that grows for a while."""
    last, same = number(), 0
    async with asyncio.timeout(PATIENCE * 4):
        while same < 30:
            await asyncio.sleep(0.005)
            same = same + 1 if number() == last else 0
            last = number()
    return last


class Sink:
    """Hears an answer, and keeps the transcript. An ``AnswerSink``."""

    def __init__(self, *, on_body: Callable[[], object] | None = None) -> None:
        self.heard: list[Line] = []
        self.heads: list[AnswerHead] = []
        self.pieces: list[bytes] = []
        self.error: UpstreamError | None = None
        self.ended = asyncio.Event()
        #: Whether each call came straight from the event loop, and not from a task of its own.
        self.outside_tasks = True
        self._then = on_body

    def _hear(self, *line: object) -> None:
        assert not self.ended.is_set(), f"{line} after the end"
        self.heard.append(line)
        self.outside_tasks &= asyncio.current_task() is None

    def on_head(self, head: AnswerHead) -> None:
        self._hear("head", head.status)
        self.heads.append(head)

    def on_body(self, chunk: bytes) -> None:
        assert chunk
        self.pieces.append(chunk)
        self._hear("body", chunk)
        if self._then is not None:
            self._then()

    def on_end(self) -> None:
        self._hear("end")
        self.ended.set()

    def on_failure(self, error: UpstreamError) -> None:
        self._hear("failure", error.kind)
        self.error = error
        self.ended.set()

    @property
    def head(self) -> AnswerHead:
        (head,) = self.heads
        return head

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    async def end(self) -> list[Line]:
        """The transcript, once the answer is over; neighbouring pieces of the body joined."""
        async with asyncio.timeout(PATIENCE):
            await self.ended.wait()
        return self.so_far

    @property
    def so_far(self) -> list[Line]:
        lines: list[Line] = []
        for kind, group in itertools.groupby(self.heard, lambda line: line[0]):
            lines += [("body", self.body)] if kind == "body" else list(group)
        return lines

    async def failure(self) -> FailureKind:
        """How the exchange failed, after nothing but perhaps a head and a piece of a body."""
        lines = await self.end()
        assert self.error is not None, lines
        assert self.error.kind is not FailureKind.UNREACHABLE
        return self.error.kind


class Peer:
    """The upstream's end of a connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._loop = asyncio.get_running_loop()
        self._received = b""

    def send(self, *pieces: bytes) -> None:
        """When this returns the bytes are in the gateway's socket. They must fit into it."""
        for piece in pieces:
            assert self.sock.send(piece) == len(piece)

    async def send_apart(self, *pieces: bytes) -> None:
        """Send pieces so that each is read by itself."""
        for piece in pieces:
            self.send(piece)
            await turns(4)

    def stuff(self, data: bytes) -> int:
        """Send as much as fits into the connection right now; return how much that was."""
        sent = 0
        view = memoryview(data)
        while sent < len(data):
            try:
                sent += self.sock.send(view[sent : sent + 2**18])
            except BlockingIOError:
                break
        return sent

    async def request(self) -> bytes:
        """The head of the next request, up to its empty line."""
        head, _, self._received = (await self._until(b"\r\n\r\n")).partition(b"\r\n\r\n")
        return head + b"\r\n\r\n"

    async def exactly(self, size: int) -> bytes:
        pieces = [self._received]
        missing = size - len(self._received)
        while missing > 0:
            piece = await self._receive()
            assert piece, "the gateway closed the connection"
            pieces.append(piece)
            missing -= len(piece)
        data = b"".join(pieces)
        self._received = data[size:]
        return data[:size]

    async def closed(self) -> bool:
        """Wait until the gateway's end is closed."""
        try:
            while await self._receive():
                pass
        except ConnectionError:
            pass
        return True

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    async def _until(self, mark: bytes) -> bytes:
        while mark not in self._received:
            piece = await self._receive()
            assert piece, "the gateway closed the connection"
            self._received += piece
        return self._received

    async def _receive(self) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await self._loop.sock_recv(self.sock, 2**18)


class Listener:
    """Accepts the gateway's connections one by one, when a test says so."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        self._peers: list[Peer] = []

    async def accept(self) -> Peer:
        async with asyncio.timeout(PATIENCE):
            sock, _ = await asyncio.get_running_loop().sock_accept(self._socket)
        return self._peer(sock)

    def accept_now(self) -> Peer | None:
        """A connection that is there already, whether the gateway knows it or not."""
        try:
            sock, _ = self._socket.accept()
        except BlockingIOError:
            return None
        sock.setblocking(False)
        return self._peer(sock)

    def _peer(self, sock: socket.socket) -> Peer:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._peers.append(Peer(sock))
        return self._peers[-1]

    def close(self) -> None:
        self._socket.close()
        for peer in self._peers:
            peer.close()
