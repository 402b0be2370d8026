"""A client's end of a connection, byte by byte.

What an HTTP library would hide is what these tests are about: where a chunk ends, whether a
connection was closed or reset, what comes back for bytes that are not HTTP.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.waiting import PATIENCE

Headers = Iterable[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it came; names of headers are lower-cased."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, str]:
        """The status, and the type of the error in the body."""
        document = self.json()
        assert document["type"] == "error"
        assert document["error"]["message"]
        assert document["request_id"] == self.header("request-id") == self.header("x-request-id")
        return self.status, document["error"]["type"]

    @property
    def message(self) -> str:
        text: str = self.json()["error"]["message"]
        return text


class Wire:
    """An open connection. Its waits end after ``PATIENCE`` seconds with a TimeoutError."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()

    @classmethod
    async def connect(cls, port: int, source: str | None = None, *, narrow: bool = False) -> Self:
        """Connect to the port on loopback, from the loopback address ``source``.

        ``narrow``: as over a bad line, for which the kernels on both sides keep little.
        """
        sock = socket.socket(socket.AF_INET)
        if narrow:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            # The other side's kernel reckons in segments how much to take for sending.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        if source is not None:
            sock.bind((source, 0))
        return await cls._connected(sock, ("127.0.0.1", port))

    @classmethod
    async def connect_unix(cls, path: Path) -> Self:
        return await cls._connected(socket.socket(socket.AF_UNIX), str(path))

    @classmethod
    async def _connected(cls, sock: socket.socket, address: Any) -> Self:
        sock.setblocking(False)
        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.get_running_loop().sock_connect(sock, address)
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def address(self) -> tuple[str, int]:
        """The client's own address."""
        address: tuple[str, int] = self._sock.getsockname()
        return address

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(PATIENCE):
            await asyncio.get_running_loop().sock_sendall(self._sock, data)

    async def _more(self) -> bool:
        """Read once. False at a clean end; raises ConnectionResetError at a reset."""
        async with asyncio.timeout(PATIENCE):
            data = await asyncio.get_running_loop().sock_recv(self._sock, 2**18)
        self._buffer += data
        return bool(data)

    async def until(self, marker: bytes) -> bytes:
        """What comes up to and with the marker."""
        start = 0
        while (found := self._buffer.find(marker, start)) < 0:
            start = max(0, len(self._buffer) - len(marker))
            if not await self._more():
                raise EOFError(bytes(self._buffer))
        return self._take(found + len(marker))

    async def exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            if not await self._more():
                raise EOFError(bytes(self._buffer))
        return self._take(size)

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    async def head(self) -> Answer:
        """Status and headers of the next answer."""
        line, *fields = (await self.until(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        split = [field.partition(":") for field in fields]
        return Answer(
            int(line.split(" ")[1]), [(name.lower(), value.strip()) for name, _, value in split]
        )

    async def chunk(self) -> bytes:
        """The next HTTP chunk; the last one is empty."""
        size = int(await self.until(b"\r\n"), 16)
        data = await self.exactly(size + 2)
        assert data.endswith(b"\r\n")
        return data[:-2]

    async def chunks(self, size: int) -> bytes:
        """The next chunks, until they hold this many bytes, in all."""
        data = b""
        while len(data) < size:
            piece = await self.chunk()
            assert piece, "the body ended"
            data += piece
        return data

    async def answer(self, *, head_only: bool = False) -> Answer:
        """The next answer, by its own framing. ``head_only``: it is one to a HEAD."""
        head = await self.head()
        if head_only or head.status in (204, 304):
            body = b""
        elif head.header("transfer-encoding") == "chunked":
            chunks = []
            while chunk := await self.chunk():
                chunks.append(chunk)
            body = b"".join(chunks)
        elif (length := head.header("content-length")) is not None:
            body = await self.exactly(int(length))
        else:
            body = await self.rest()
        return Answer(head.status, head.headers, body)

    async def rest(self) -> bytes:
        """All that comes until the clean end of the connection."""
        while await self._more():
            pass
        return self._take(len(self._buffer))

    async def ending(self) -> tuple[str, bytes]:
        """How the connection ends, ``reset`` or ``closed``, and what came before."""
        try:
            while await self._more():
                pass
        except ConnectionResetError:
            return "reset", bytes(self._buffer)
        return "closed", bytes(self._buffer)

    def half_close(self) -> None:
        """Say that nothing more will be sent."""
        self._sock.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """Close with a reset."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    def close(self) -> None:
        self._sock.close()


def request_bytes(
    method: str,
    target: str,
    *,
    key: str | None = None,
    headers: Headers = (),
    body: bytes | None = None,
    version: str = "1.1",
) -> bytes:
    """A request: ``Host`` and ``Content-Length`` are added, nothing else."""
    lines = [f"{method} {target} HTTP/{version}", "Host: gateway.localhost"]
    if key is not None:
        lines.append(f"x-api-key: {key}")
    lines += [f"{name}: {value}" for name, value in headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join((*lines, "", "")).encode("latin-1") + (body or b"")


def message_body(model: str = "claude-test-1", *, stream: bool = False, **more: object) -> bytes:
    """A request for a message."""
    document: dict[str, object] = {
        "model": model,
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "Hello"}],
    }
    return json.dumps(document | ({"stream": True} if stream else {}) | more).encode()
