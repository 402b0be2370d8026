"""An upstream's raw end: a listener, and its end of each connection, byte by byte.

A ``Peer`` is a plain socket whose calls take effect before they return, so that a test decides
what has reached the gateway when it takes its next step. What needs TLS or many requests uses
``tests.support.provider.ScriptedUpstream``.
"""

from __future__ import annotations

import asyncio
import socket
import struct

from tests.support.waiting import PATIENCE, turns


def answer(body: bytes, *headers: bytes, status: int = 200) -> bytes:
    """A whole answer with a Content-Length."""
    lines = (b"HTTP/1.1 %d Status" % status, b"content-length: %d" % len(body), *headers)
    return b"\r\n".join((*lines, b"", body))


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
