"""Clients that put load on a proxy: they count whole answers, and time their first bytes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import cast

import httptools

from tests.bench.subjects import MODEL, TLS_MODEL, Subject

#: Bytes of the text that a small request asks with.
SMALL = 1_000
#: ms between the events of a stream that is to stay open.
_SLOW_MS = 20_000
#: Seconds for all streams to begin.
_PATIENCE = 60.0


def small_request(subject: Subject, *, tls: bool = False, size: int = SMALL) -> bytes:
    """A request whose answer is one small JSON message; with a text of so many bytes."""
    return _request(subject, tls, {"max_tokens": 100, "stream": False}, size)


def stream_request(subject: Subject, events: int, pace_ms: int) -> bytes:
    """A request whose answer is a stream of so many events, one each ``pace_ms``."""
    return _request(subject, False, {"max_tokens": events, "top_k": pace_ms, "stream": True}, SMALL)


def _request(subject: Subject, tls: bool, members: dict[str, object], size: int) -> bytes:
    messages = [{"role": "user", "content": "x" * size}]
    model = TLS_MODEL if tls else MODEL
    body = json.dumps({"model": model, "messages": messages, **members}).encode()
    return (
        b"POST %b HTTP/1.1\r\nhost: bench\r\nx-api-key: %b\r\nuser-agent: bench/1.0\r\n"
        b"anthropic-version: 2023-06-01\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%b"
        % (subject.path.encode(), subject.key.encode(), len(body), body)
    )


class Client(asyncio.Protocol):
    """One connection. Asks when told to, and hears of the answer's first byte and of its end."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._waits_for_first = self._waits_for_end = self._loop.create_future()
        #: Whether something of the answer has come.
        self.begun = False
        self.lost = False
        #: When something came, if a list was put here.
        self.heard: list[float] | None = None

    def ask(self, request: bytes) -> tuple[Awaitable[float], Awaitable[int]]:
        """What the first byte of the answer ends, with its time; and what its end, with the status.

        Either raises ConnectionResetError.
        """
        self._waits_for_first = self._loop.create_future()
        self._waits_for_end = self._loop.create_future()
        self.begun = False
        if self.lost:
            self.connection_lost(None)
        else:
            self._transport.write(request)
        return self._waits_for_first, self._waits_for_end

    def close(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self.begun:
            self.begun = True
            if not self._waits_for_first.done():
                self._waits_for_first.set_result(time.perf_counter())
        if self.heard is not None:
            self.heard.append(time.perf_counter())
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        self._parser = httptools.HttpResponseParser(self)
        if not self._waits_for_end.done():
            self._waits_for_end.set_result(status)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        for waiter in (self._waits_for_first, self._waits_for_end):
            if not waiter.done():
                waiter.set_exception(ConnectionResetError("the proxy closed the connection"))
                waiter.exception()  # It is known, whether or not somebody waits for it.


@contextlib.asynccontextmanager
async def connected(port: int, number: int) -> AsyncIterator[list[Client]]:
    loop = asyncio.get_running_loop()
    clients: list[Client] = []
    try:
        while len(clients) < number:
            _, client = await loop.create_connection(Client, "127.0.0.1", port)
            clients.append(client)
        yield clients
    finally:
        for client in clients:
            client.close()


async def saturate(port: int, request: bytes, connections: int, requests: int) -> None:
    """So many requests on so many connections, each one after the other. Raises AssertionError if
    one is not served."""

    async def work(client: Client) -> None:
        for _ in range(requests // connections):
            _, end = client.ask(request)
            status = await end
            assert status == 200, f"answered {status}"

    async with connected(port, connections) as clients:
        await asyncio.gather(*map(work, clients))


async def pace(port: int, request: bytes, rate: int, seconds: float) -> Sequence[float]:
    """Requests at that rate a second, whatever becomes of those before; ms to each first byte."""
    taken: list[float] = []
    idle: list[Client] = []
    loop = asyncio.get_running_loop()

    async def one() -> None:
        client = idle.pop() if idle else None
        if client is None:
            client = (await loop.create_connection(Client, "127.0.0.1", port))[1]
        sent = time.perf_counter()
        first, end = client.ask(request)
        taken.append((await first - sent) * 1000)
        assert await end == 200
        idle.append(client)

    began = loop.time()
    tasks = []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(began + number / rate - loop.time())
        tasks.append(asyncio.ensure_future(one()))
    await asyncio.gather(*tasks)
    for client in idle:
        client.close()
    return taken


async def stream(port: int, request: bytes, streams: int) -> None:
    """So many streams at once, to their end. Raises AssertionError if one is not served."""
    async with connected(port, streams) as clients:
        ends = [client.ask(request)[1] for client in clients]
        for end in ends:
            assert await end == 200


async def gaps(port: int, request: bytes, streams: int) -> Sequence[float]:
    """ms between what streams receive, each to its end."""
    found: list[float] = []
    async with connected(port, streams) as clients:
        for client in clients:
            client.heard = []
        for end in [client.ask(request)[1] for client in clients]:
            assert await end == 200
        for client in clients:
            times = client.heard or []
            found += [(b - a) * 1000 for a, b in itertools.pairwise(times)]
    return found


@contextlib.asynccontextmanager
async def held_open(subject: Subject, streams: int) -> AsyncIterator[int]:
    """Streams that have begun and stay open. Yields how many of them failed."""
    request = stream_request(subject, 1000, _SLOW_MS)
    async with connected(subject.port, streams) as clients:
        firsts = []
        for client in clients:
            firsts.append(client.ask(request)[0])
            if len(firsts) % 50 == 0:
                await asyncio.sleep(0.05)
        await asyncio.wait(map(asyncio.ensure_future, firsts), timeout=_PATIENCE)
        await asyncio.sleep(1)
        yield sum(client.lost or not client.begun for client in clients)
