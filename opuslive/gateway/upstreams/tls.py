"""TLS towards an upstream, over a plain connection that is ours.

What a lost connection has still to say (``leftovers.py``) is, under TLS, records that only the
event loop's own TLS protocol can read. ``TlsLayer`` stands below that protocol, and hands
them over. So the plain connection is made first, and TLS begun on it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from collections.abc import Callable
from typing import cast

from opuslive.gateway.upstreams.connection import UpstreamConnection
from opuslive.gateway.upstreams.leftovers import unread


async def connect_tls(
    loop: asyncio.AbstractEventLoop,
    address: str,
    port: int,
    name: str,
    context: ssl.SSLContext,
    connection: UpstreamConnection,
) -> None:
    """Connect ``connection`` to a server over TLS, by the server's ``name``.

    Raises OSError, which an ``ssl.SSLError`` is.
    """
    plain, first = await loop.create_connection(_First, address, port)
    try:
        if first.heard:
            raise _no_tls()
        if plain.is_closing():
            raise _reset()
        transport = await loop.start_tls(plain, connection, context, server_hostname=name)
        if transport is None:
            raise _reset()
    except BaseException:
        plain.abort()
        raise
    TlsLayer(plain, connection.write_failed)
    connection.connection_made(transport)


class _First(asyncio.Protocol):
    """What has the plain connection until TLS begins. A server with TLS says nothing by then."""

    heard = False

    def data_received(self, data: bytes) -> None:
        self.heard = True


def _no_tls() -> ssl.SSLError:
    error = ssl.SSLError(errno.EPROTO, "the server speaks first")
    error.reason = "WRONG_VERSION_NUMBER"
    return error


def _reset() -> OSError:
    return ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))


class TlsLayer(asyncio.BufferedProtocol):
    """Stands between a plain connection and the event loop's TLS protocol on it."""

    def __init__(self, transport: asyncio.Transport, write_failed: Callable[[], None]) -> None:
        """``transport`` is the plain connection, whose protocol speaks TLS already.

        ``write_failed`` is called before what is left is handed over.
        """
        self._transport = transport
        self._write_failed = write_failed
        self._tls = cast(asyncio.BufferedProtocol, transport.get_protocol())
        # Every read takes these two: no frame of ours in between.
        self.get_buffer = self._tls.get_buffer  # type: ignore[method-assign]  # as said above
        self.buffer_updated = self._tls.buffer_updated  # type: ignore[method-assign]  # so too
        transport.set_protocol(self)

    def eof_received(self) -> bool | None:
        return self._tls.eof_received()

    def pause_writing(self) -> None:
        self._tls.pause_writing()

    def resume_writing(self) -> None:
        self._tls.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._write_failed()
        for data in unread(self._transport):
            self._hand_over(data)
        self._tls.connection_lost(exc)

    def _hand_over(self, data: bytes) -> None:
        while data:
            room = memoryview(self.get_buffer(len(data)))
            size = min(len(room), len(data))
            room[:size] = data[:size]
            self.buffer_updated(size)
            data = data[size:]
