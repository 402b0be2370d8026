"""The end of the process: no answer is cut and looks complete.

Each slow client here reads nothing of an answer that fills the kernels, while the transport keeps
too little for aiohttp to wait: aiohttp takes the answer for sent, and the connection for idle.
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest
import trustme
from aiohttp import web

from opuslive.web.http.closing import close_when_sent, reset_unsent
from opuslive.web.http.connection import ClientConnection
from tests.support.connections import Acceptor
from tests.support.waiting import eventually, soon
from tests.support.wire import request_bytes

GET = request_bytes("GET", "/")
PIECE = b"x" * 4096


class Filling:
    """Answers with more than the kernels have room for.

    ``tls``: with so little more that a TLS transport passes it on to the transport below.
    """

    def __init__(self, *, tls: bool = False) -> None:
        self.size = 0
        self._tls = tls

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        transport = request.transport
        assert transport is not None
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        full = False
        while not full:
            await response.write(PIECE)
            self.size += len(PIECE)
            if self._tls:
                full = await stays_full(sock)
            else:
                await asyncio.sleep(0)
                full = transport.get_write_buffer_size() >= 4 * len(PIECE)
        return response


async def short(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(text="answered")


async def stays_full(sock: socket.socket) -> bool:
    """Whether the kernel has no room for long enough to have sent what it can."""
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLOUT)
    for _ in range(200):
        if poll.poll(0):
            return False
        await asyncio.sleep(0)
    return True


def transport_of(writer: asyncio.StreamWriter) -> asyncio.Transport:
    return cast(asyncio.Transport, writer.transport)


def manager_of(listener: Acceptor) -> web.Server:
    assert listener.manager is not None
    return listener.manager


async def answered(listener: Acceptor) -> ClientConnection:
    """The only connection, once aiohttp takes it for idle after its first request."""
    manager = manager_of(listener)
    await eventually(lambda: manager.requests_count == 1)
    (connection,) = manager.connections
    assert isinstance(connection, ClientConnection)
    await eventually(lambda: connection._waiter is not None)
    return connection


async def still_open_after_idle_ones(listener: Acceptor) -> asyncio.Future[None]:
    """Begin to close; return what does, once it has closed an idle connection and not ended."""
    async with await listener.connect() as idle:
        await eventually(lambda: listener.connections == 2)
        await asyncio.sleep(0)  # It begins to wait for a request.
        closing = asyncio.ensure_future(close_when_sent(manager_of(listener)))
        assert await idle.ending() == ("closed", b"")
    await eventually(lambda: listener.connections == 1)
    assert not closing.done()
    return closing


async def test_an_answer_that_the_kernel_has_no_room_for_is_sent_whole(listener: Acceptor) -> None:
    filling = Filling()
    await listener.start(filling.answer)
    async with await listener.connect(narrow=True) as wire:
        await wire.send(GET)
        connection = await answered(listener)
        closing = await still_open_after_idle_ones(listener)
        assert connection.sending
        assert len((await wire.answer()).body) == filling.size
        assert await wire.ending() == ("closed", b"")
        await soon(closing)


async def test_an_answer_that_is_not_written_yet_is_sent_whole(listener: Acceptor) -> None:
    begun, finish = asyncio.Event(), asyncio.Event()

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        begun.set()
        await finish.wait()
        return await short(request)

    await listener.start(handler)
    async with await listener.connect() as wire:
        await wire.send(GET)
        await soon(begun.wait())
        closing = await still_open_after_idle_ones(listener)
        finish.set()
        assert (await wire.answer()).body == b"answered"
        assert await wire.ending() == ("closed", b"")
        await soon(closing)


async def test_an_answer_whose_time_is_over_is_reset(listener: Acceptor) -> None:
    await listener.start(Filling().answer)
    async with await listener.connect(narrow=True) as wire:
        await wire.send(GET)
        await answered(listener)
        closing = await still_open_after_idle_ones(listener)
        reset_unsent(manager_of(listener))
        assert (await wire.ending())[0] == "reset"
        await soon(closing)


async def test_idle_connections_are_closed_and_not_reset(listener: Acceptor) -> None:
    await listener.start(short)
    async with await listener.connect() as wire:
        await wire.send(GET)
        assert (await wire.answer()).status == 200
        await soon(close_when_sent(manager_of(listener)))
        reset_unsent(manager_of(listener))
        assert await wire.ending() == ("closed", b"")


class TestTls:
    """A TLS transport does not tell what waits in the transport below it."""

    @staticmethod
    @asynccontextmanager
    async def connected(
        listener: Acceptor,
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trusting.check_hostname = False
        trusting.verify_mode = ssl.CERT_NONE
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", listener.port))
        reader, writer = await asyncio.open_connection(
            sock=sock, ssl=trusting, server_hostname="127.0.0.1"
        )
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def test_an_answer_that_waits_below_tls_is_sent_whole(
        self, listener: Acceptor, context: ssl.SSLContext
    ) -> None:
        filling = Filling(tls=True)
        await listener.start(filling.answer, tls=context)
        async with self.connected(listener) as (reader, writer):
            transport_of(writer).pause_reading()
            writer.write(GET)
            connection = await answered(listener)
            transport = connection.transport
            assert transport is not None
            assert transport.get_write_buffer_size() == 0
            closing = asyncio.ensure_future(close_when_sent(manager_of(listener)))
            assert connection.sending
            for _ in range(1000):
                # One look may meet the moment in which the kernel has taken what it had room for.
                await asyncio.sleep(0)
                assert not closing.done()
            transport_of(writer).resume_reading()
            received = await soon(reader.read())
            assert received.endswith(b"\r\n0\r\n\r\n")
            assert received.count(b"x") == filling.size
            await soon(closing)

    async def test_a_client_that_does_not_say_goodbye_is_not_waited_for(
        self, listener: Acceptor, context: ssl.SSLContext
    ) -> None:
        await listener.start(short, tls=context)
        async with self.connected(listener) as (reader, writer):
            writer.write(GET)
            await soon(reader.readuntil(b"answered"))
            transport_of(writer).pause_reading()
            await soon(close_when_sent(manager_of(listener)))
            assert listener.connections == 1


@pytest.fixture(scope="module")
def context() -> ssl.SSLContext:
    """A listener's, with a certificate that nobody knows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context
