"""From a connection that the system has accepted to one that is served.

A protocol of our own meets every connection first: it asks for a place, and begins TLS where
that is wanted. (When the event loop is given a TLS context to listen with, nothing tells of a
handshake that fails, nor where its connection comes from.)
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import cast

from aiohttp import web

from opuslive.web.http.connection import ClientConnection
from opuslive.web.http.deadlines import Deadlines
from opuslive.web.http.heads import HeadBudget
from opuslive.web.http.peers import is_local, origin_of
from opuslive.web.http.places import Place, Places


class ConnectionFactory:
    """Makes the protocol of each connection that a listener accepts.

    The listener listens without TLS; it is begun here if there is a context for it.
    """

    def __init__(
        self,
        manager: web.Server,
        loop: asyncio.AbstractEventLoop,
        places: Places,
        heads: HeadBudget,
        deadlines: Deadlines | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.manager = manager
        self.loop = loop
        self.places = places
        self.heads = heads
        self.deadlines = deadlines or Deadlines()
        self.tls = tls
        #: Connections that shake hands for TLS.
        self.handshakes = 0

    def __call__(self) -> asyncio.Protocol:
        return _Arrival(self)


class _Arrival(asyncio.Protocol):
    """A connection until it is served: it is given a place, and shakes hands for TLS."""

    __slots__ = ("_factory", "_handshake", "_heard", "_place", "_transport")

    sending = False

    def __init__(self, factory: ConnectionFactory) -> None:
        self._factory = factory
        self._transport: asyncio.Transport | None = None
        self._place: Place | None = None
        #: What the client said before TLS was there to hear it. (uvloop reads at once.)
        self._heard: list[bytes] = []
        #: The handshake. (The event loop keeps no task alive.)
        self._handshake: asyncio.Task[None] | None = None

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        factory = self._factory
        self._transport = cast(asyncio.Transport, transport)
        origin = origin_of(transport)
        # This machine is no client that could be one too many: proxies run here.
        own = None if origin is None or is_local(origin) else origin
        self._place = place = factory.places.take(self, own)
        if place is None:
            self._transport.abort()
        elif factory.tls is None:
            connection = self._served(place)
            self._transport.set_protocol(connection)
            connection.connection_made(transport)
        else:
            self._transport.pause_reading()
            # From now on, for the task begins later.
            factory.handshakes += 1
            self._handshake = factory.loop.create_task(
                self._begin_tls(self._transport, place, factory.tls)
            )

    def data_received(self, data: bytes) -> None:
        self._heard.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._place is not None:
            self._place.leave()

    def _served(self, place: Place) -> ClientConnection:
        factory = self._factory
        connection = ClientConnection(
            factory.manager,
            loop=factory.loop,
            deadlines=factory.deadlines,
            place=place,
            heads=factory.heads,
        )
        place.occupant = connection
        return connection

    async def _begin_tls(
        self, plain: asyncio.Transport, place: Place, context: ssl.SSLContext
    ) -> None:
        early = _Early()
        secure = None
        try:
            if not plain.is_closing():
                with contextlib.suppress(OSError):
                    secure = await self._shake_hands(plain, context, early)
        finally:
            self._factory.handshakes -= 1
            if secure is None or plain.is_closing():
                plain.abort()
                place.leave()
        if secure is None or plain.is_closing():
            return
        connection = self._served(place)
        secure.set_protocol(connection)
        connection.connection_made(secure)
        early.hand_over(connection)

    async def _shake_hands(
        self, plain: asyncio.Transport, context: ssl.SSLContext, early: _Early
    ) -> asyncio.Transport | None:
        """The connection with TLS, or None if it is lost. Raises OSError."""
        plain.pause_reading()
        begun = asyncio.ensure_future(
            self._factory.loop.start_tls(
                plain,
                early,
                context,
                server_side=True,
                ssl_handshake_timeout=self._factory.deadlines.head,
            )
        )
        if self._heard:
            # One turn of the event loop until TLS has the connection, and one until it is told.
            for _ in range(2):
                await asyncio.sleep(0)
            if not begun.done():
                _tell(plain.get_protocol(), self._heard)
        return await begun


def _tell(protocol: asyncio.BaseProtocol, heard: list[bytes]) -> None:
    tls = cast(asyncio.BufferedProtocol, protocol)
    for data in heard:
        rest = memoryview(data)
        while rest:
            room = memoryview(tls.get_buffer(len(rest)))
            size = min(len(room), len(rest))
            room[:size] = rest[:size]
            tls.buffer_updated(size)
            rest = rest[size:]


class _Early(asyncio.Protocol):
    """Keeps what a client sends in the moment between its handshake and its being served."""

    __slots__ = ("_data", "_ended")

    def __init__(self) -> None:
        self._data: list[bytes] = []
        self._ended = False

    def data_received(self, data: bytes) -> None:
        self._data.append(data)

    def eof_received(self) -> None:
        self._ended = True

    def hand_over(self, connection: ClientConnection) -> None:
        for data in self._data:
            connection.data_received(data)
        if self._ended:
            connection.eof_received()
