"""The cap on connections. One in its TLS handshake counts, too."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import cast

from aiohttp import web

from opuslive.web.http.connection import ClientConnection
from opuslive.web.http.deadlines import Deadlines


class ConnectionFactory:
    """Makes the protocol of each connection that a listener accepts, up to ``max_connections``."""

    def __init__(
        self,
        manager: web.Server,
        loop: asyncio.AbstractEventLoop,
        max_connections: int,
        deadlines: Deadlines | None = None,
    ) -> None:
        self._manager = manager
        self._loop = loop
        self._max_connections = max_connections
        self._deadlines = deadlines or Deadlines()
        #: A place for each connection whose TLS handshake is running, or failed a moment ago.
        self._handshaking: set[object] = set()

    @property
    def handshake_seconds(self) -> float:
        """Seconds that a client has for its TLS handshake."""
        return self._deadlines.head

    def __call__(self) -> asyncio.Protocol:
        if len(self._manager.connections) + len(self._handshaking) >= self._max_connections:
            return _TurnedAway()
        place = object()
        self._handshaking.add(place)
        # No callback tells of a handshake that fails: its place is free when its time is over.
        leave = partial(self._handshaking.discard, place)
        self._loop.call_later(self.handshake_seconds, leave)
        return ClientConnection(
            self._manager, loop=self._loop, deadlines=self._deadlines, made=leave
        )


class _TurnedAway(asyncio.Protocol):
    """A connection beyond the cap: it is closed as soon as it is accepted."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.WriteTransport, transport).abort()
