"""Connections of clients on a listener of their own, and what an exchange hears of them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable

from aiohttp import web

from opuslive.web.http.accepting import ConnectionFactory
from opuslive.web.http.deadlines import Deadlines
from opuslive.web.http.heads import MAX_HEADS, HeadBudget
from opuslive.web.http.places import Places
from tests.support.wire import Wire

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


#: Seconds that no test lasts.
NEVER = 3600.0


class Acceptor:
    """Listens on loopback and serves every request with one handler."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self.manager: web.Server | None = None

    async def start(
        self,
        handler: Handler,
        *,
        head: float = NEVER,
        idle: float = NEVER,
        stall: float = NEVER,
        cap: int = 100,
        share: int | None = None,
        heads: int = MAX_HEADS,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.manager = web.Server(handler)
        deadlines = Deadlines(head=head, idle=idle, stall=stall)
        self.places, self.heads = Places(cap, share), HeadBudget(heads)
        factory = ConnectionFactory(self.manager, loop, self.places, self.heads, deadlines, tls)
        self._server = await loop.create_server(factory, "127.0.0.1", 0)

    @property
    def connections(self) -> int:
        assert self.manager is not None
        return len(self.manager.connections)

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def connect(self, *, narrow: bool = False) -> Wire:
        return await Wire.connect(self.port, narrow=narrow)

    async def close(self) -> None:
        if self._server is not None and self.manager is not None:
            self._server.close()
            await self.manager.shutdown(1.0)


class Occupied:
    """Has a place, and notes when it has to leave it."""

    def __init__(self, *, sending: bool = False) -> None:
        self.sending = sending
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


class Watching:
    """Hears what becomes of a connection."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.full = asyncio.Event()
        self.drained = asyncio.Event()

    def client_gone(self) -> None:
        self.gone.set()

    def client_full(self) -> None:
        self.full.set()

    def client_drained(self) -> None:
        self.drained.set()
