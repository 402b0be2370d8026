"""The connections to one upstream: made, lent, taken back, proven open before use.

Idle connections form a stack: the one used last is lent first, so that the others
grow old and are closed. One is lent only after a poll of its socket says that it is
writable and silent. A connection that the server has closed, or on which it said
something unasked, shows up there as readable, even where the event loop has not come
round to telling us. So "the server closed an idle connection" is met before a byte of
a request is written, never after.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass

from opuslive.gateway.upstreams.connection import UpstreamConnection
from opuslive.gateway.upstreams.tls import connect_tls
from opuslive.gateway.upstreams.wire import (
    AnswerHead,
    FailureKind,
    Timeouts,
    UpstreamError,
    UpstreamRequest,
)

#: Seconds that an idle connection is kept. Short of what common servers keep theirs for.
MAX_IDLE_SECONDS = 15.0
#: Idle connections kept for one upstream.
MAX_IDLE = 100
#: Seconds less than the server says it keeps an idle connection that we count on.
KEEP_ALIVE_MARGIN = 1.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an upstream listens. ``tls`` is None for plain HTTP."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None


class UpstreamPool:
    """Keep-alive connections to one endpoint."""

    def __init__(
        self,
        endpoint: Endpoint,
        timeouts: Timeouts,
        loop: asyncio.AbstractEventLoop,
        max_idle_seconds: float = MAX_IDLE_SECONDS,
    ) -> None:
        self._endpoint = endpoint
        self._timeouts = timeouts
        self._loop = loop
        self._max_idle_seconds = max_idle_seconds
        #: Every open connection, and until when (loop time) it may be lent if it is idle.
        self._open: set[UpstreamConnection] = set()
        self._idle: list[tuple[UpstreamConnection, float]] = []
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def open_connections(self) -> int:
        return len(self._open)

    @property
    def idle_connections(self) -> int:
        return len(self._idle)

    def take(self) -> UpstreamConnection | None:
        """An idle connection proven open, or None if there is none."""
        now = self._loop.time()
        while self._idle:
            connection, until = self._idle.pop()
            if now < until and connection.open_and_silent():
                return connection
            connection.abandon()
        return None

    async def connect(self) -> UpstreamConnection:
        """A new connection. Raises UpstreamError (unreachable, nothing sent)."""
        endpoint = self._endpoint
        deadline = self._loop.time() + self._timeouts.connect
        try:
            async with asyncio.timeout_at(deadline):
                addresses = await self._loop.getaddrinfo(
                    endpoint.host, endpoint.port, type=socket.SOCK_STREAM
                )
            connection = await self._connect_to_one([info[4][0] for info in addresses], deadline)
        except (OSError, TimeoutError) as error:
            raise UpstreamError(FailureKind.UNREACHABLE) from error
        self._open.add(connection)
        return connection

    async def _connect_to_one(
        self, addresses: Sequence[str | int], deadline: float
    ) -> UpstreamConnection:
        """Try one address after the other, each for its share of the time that is left.

        So a route that leads nowhere (IPv6, often) leaves time for the others.
        """
        for left in range(len(addresses), 0, -1):
            now = self._loop.time()
            try:
                async with asyncio.timeout((deadline - now) / left):
                    return await self._connect_to(str(addresses[-left]))
            except (OSError, TimeoutError):
                if left == 1:
                    raise
        raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))

    async def _connect_to(self, address: str) -> UpstreamConnection:
        endpoint = self._endpoint
        if endpoint.tls is None:
            _, connection = await self._loop.create_connection(
                self._make_connection, address, endpoint.port
            )
            return connection
        connection = self._make_connection()
        await connect_tls(
            self._loop, address, endpoint.port, endpoint.host, endpoint.tls, connection
        )
        return connection

    def close(self) -> None:
        """Close every connection, the busy ones too (their sinks hear nothing)."""
        self._idle.clear()
        for connection in tuple(self._open):
            connection.abandon()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    def retire(self) -> None:
        """Keep no connection any more: idle ones close now, busy ones when their answers end."""
        self._max_idle_seconds = 0.0
        for connection, _ in tuple(self._idle):
            connection.abandon()
        self._idle.clear()

    def _make_connection(self) -> UpstreamConnection:
        return UpstreamConnection(self._loop, self._timeouts, self._take_back, self._forget)

    def _take_back(self, connection: UpstreamConnection) -> None:
        keep = self._max_idle_seconds
        if connection.keep_alive_hint is not None:
            keep = min(keep, connection.keep_alive_hint - KEEP_ALIVE_MARGIN)
        if keep <= 0 or len(self._idle) >= MAX_IDLE or connection not in self._open:
            connection.abandon()
            return
        self._idle.append((connection, self._loop.time() + keep))
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(keep, self._sweep)

    def _forget(self, connection: UpstreamConnection) -> None:
        self._open.discard(connection)
        self._idle = [entry for entry in self._idle if entry[0] is not connection]

    def _sweep(self) -> None:
        """Close what has been idle for too long; come back for the next one."""
        self._sweeper = None
        now = self._loop.time()
        expired = [connection for connection, until in self._idle if until <= now]
        self._idle = [entry for entry in self._idle if entry[1] > now]
        for connection in expired:
            connection.abandon()
        if self._idle:
            earliest = min(until for _, until in self._idle)
            self._sweeper = self._loop.call_later(earliest - now, self._sweep)


class _Collector:
    """A sink that keeps a small answer whole."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int) -> None:
        self.answer: asyncio.Future[tuple[AnswerHead, bytes]] = loop.create_future()
        self._limit = limit
        self._head: AnswerHead | None = None
        self._body = bytearray()

    def on_head(self, head: AnswerHead) -> None:
        self._head = head

    def on_body(self, chunk: bytes) -> None:
        self._body += chunk
        if len(self._body) > self._limit and not self.answer.done():
            self.answer.set_exception(UpstreamError(FailureKind.MALFORMED))

    def on_end(self) -> None:
        if not self.answer.done():
            assert self._head is not None
            self.answer.set_result((self._head, bytes(self._body)))

    def on_failure(self, error: UpstreamError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


async def fetch(
    pool: UpstreamPool, request: UpstreamRequest, *, limit: int, within: float
) -> tuple[AnswerHead, bytes]:
    """Send a request of the gateway's own and return the whole answer.

    ``limit`` bounds the body in bytes, ``within`` the whole in seconds. Raises
    UpstreamError.
    """
    loop = asyncio.get_running_loop()
    connection = pool.take() or await pool.connect()
    collector = _Collector(loop, limit)
    try:
        connection.send(request, collector)
        async with asyncio.timeout(within):
            return await collector.answer
    except TimeoutError as error:
        raise UpstreamError(FailureKind.HEAD_TIMEOUT) from error
    finally:
        connection.drop(collector)
