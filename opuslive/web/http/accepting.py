"""Which connections are taken: up to a cap, with those in their TLS handshake counted in."""

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
        #: Accepted, and not made yet: in the middle of a TLS handshake, or given up in it.
        self._accepted: set[object] = set()

    @property
    def handshake_seconds(self) -> float:
        """How long a client has for its TLS handshake."""
        return self._deadlines.head

    def __call__(self) -> asyncio.Protocol:
        if len(self._manager.connections) + len(self._accepted) >= self._max_connections:
            return _Refused()
        place = object()
        self._accepted.add(place)
        # Nobody is told of a handshake that fails: its place is kept for as long as one may take.
        leave = partial(self._accepted.discard, place)
        self._loop.call_later(self.handshake_seconds, leave)
        return ClientConnection(
            self._manager, loop=self._loop, deadlines=self._deadlines, made=leave
        )


class _Refused(asyncio.Protocol):
    """A connection beyond the cap: closed as soon as it is accepted."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.WriteTransport, transport).abort()
