"""Ports behind which is whatever a test says, now this server and now that."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator


class Door:
    """Passes the bytes of connections on to a port on loopback, and keeps what clients sent."""

    def __init__(self, target: int) -> None:
        #: Where the next connections lead.
        self.target = target
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._sent: list[bytearray] = []

    async def open(self, listening: socket.socket | None = None) -> None:
        """Pass on what arrives at the socket, or at a port of the door's own."""
        if listening is None:
            listening = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._server = await asyncio.start_server(self._connected, sock=listening)

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def count(self, what: bytes) -> int:
        """How often this stands in what clients sent."""
        return sum(sent.count(what) for sent in self._sent)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in self._open.values():
            writer.transport.abort()
        await asyncio.gather(*self._open)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writer
        self._sent.append(sent := bytearray())
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
            try:
                await asyncio.gather(
                    _pass_on(reader, far_writer, sent), _pass_on(far_reader, writer)
                )
            except ConnectionResetError:
                _will_reset(writer)
                _will_reset(far_writer)
            finally:
                far_writer.transport.abort()
        except OSError:
            pass
        finally:
            del self._open[task]
            writer.transport.abort()


@contextlib.asynccontextmanager
async def door_to(target: int) -> AsyncIterator[Door]:
    """A door at a port of its own, open."""
    door = Door(target)
    await door.open()
    try:
        yield door
    finally:
        await door.close()


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray | None = None
) -> None:
    while data := await reader.read(65536):
        if kept is not None:
            kept += data
        writer.write(data)
        await writer.drain()
    writer.close()


def _will_reset(writer: asyncio.StreamWriter) -> None:
    """A connection that one side reset ends on the other side so, too."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
