"""Heads that begin behind a request: the deadline of a head must run for them all the same.

These are the ways in which such a head begins:

* in one packet with the whole request, be that a GET or a request with a body;
* in one packet with the end of the request's head, or of its body;
* in a packet of its own, while the request is being answered;
* with one byte, with empty lines, or with all but the last byte;
* behind a request that came behind another one.

The connection is closed after the answer instead where the request is watched (the forwarded
endpoints) or has a body in chunks; and where it offers an upgrade, which is ignored, but has the
parser lose what came in one packet with the request's end. Nothing is lost of what comes later.

The packets are given to the connection itself: over a socket two packets may become one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import cast

import pytest
import pytest_asyncio
from aiohttp import web

from opuslive.web.http.connection import ClientConnection
from opuslive.web.http.deadlines import Deadlines
from opuslive.web.http.heads import HeadBudget
from opuslive.web.http.places import Places
from tests.support.connections import NEVER, Occupied, Watching
from tests.support.waiting import eventually, soon
from tests.support.wire import request_bytes

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])

#: Seconds that a test waits for.
SHORT = 0.05
GET = request_bytes("GET", "/")
PART, REST = GET[:5], GET[5:]
POST = request_bytes("POST", "/", body=b"a body\r\n\r\n" * 20)
CHUNKED = request_bytes("POST", "/", headers=[("Transfer-Encoding", "chunked")]) + b"0\r\n\r\n"
UPGRADE = request_bytes("GET", "/", headers=[("Connection", "upgrade"), ("Upgrade", "websocket")])
H2C = [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMA")]
#: Requests that offer to go on in another protocol.
OFFERS = {
    "h2c": request_bytes("GET", "/", headers=H2C),
    "h2c and a body": request_bytes("POST", "/", headers=H2C, body=b"a body\r\n\r\n" * 20),
    "a socket": UPGRADE,
    "a socket and a body": request_bytes(
        "POST", "/", headers=[("Connection", "upgrade"), ("Upgrade", "websocket")], body=b"a body"
    ),
    "two protocols": request_bytes(
        "POST", "/", headers=[("Connection", "upgrade"), ("Upgrade", "websocket, h2c")], body=b"a"
    ),
    "two fields": request_bytes("POST", "/", headers=[*H2C, ("Upgrade", "websocket")], body=b"a"),
    "TLS": request_bytes(
        "OPTIONS", "/", headers=[("Connection", "upgrade"), ("Upgrade", "TLS/1.0")]
    ),
}
#: More than a connection reads ahead of its handler.
LARGE = request_bytes("POST", "/", body=b"a" * 900_000)
ANSWER = b"HTTP/1.1 200 OK"

#: A name → packets with a request and PART behind it.
BEGUN = {
    "one packet with a GET": [GET + PART],
    "one packet with a body": [POST + PART],
    "one packet with the end of a head": [GET[:-1], GET[-1:] + PART],
    "one packet with the end of a body": [POST[:-30], POST[-30:] + PART],
    "while a GET is answered": [GET, PART],
    "while a body is answered": [POST, PART],
    "behind a second GET": [GET, GET + PART],
}


class Transport(asyncio.Transport):
    """Keeps what a connection writes."""

    def __init__(self, protocol: ClientConnection) -> None:
        super().__init__()
        self.written = b""
        self.closed = asyncio.Event()
        self._protocol = protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closed.is_set()

    def close(self) -> None:
        if not self.closed.is_set():
            self.closed.set()
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()


class Clients:
    """Connections to a handler that answers while ``answering`` is set."""

    def __init__(self) -> None:
        self.answering = asyncio.Event()
        self.watching = False
        self.manager = web.Server(self._answer)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if self.watching:
            cast(ClientConnection, request.protocol).watch(request, Watching())
        await request.read()
        await self.answering.wait()
        return web.Response(text="answered")

    def connect(self, *, head: float = NEVER, idle: float = NEVER) -> Client:
        return Client(self.manager, Deadlines(head=head, idle=idle))


class Client:
    def __init__(self, manager: web.Server, deadlines: Deadlines) -> None:
        place = Places(1).take(Occupied(), None)
        assert place is not None
        self._connection = ClientConnection(
            manager,
            loop=asyncio.get_running_loop(),
            deadlines=deadlines,
            place=place,
            heads=HeadBudget(),
        )
        self._transport = Transport(self._connection)
        self._connection.connection_made(self._transport)

    async def send(self, packets: Sequence[bytes]) -> None:
        """Send packets, each once the connection has done what the one before made it do."""
        for packet in packets:
            self._connection.data_received(packet)
            for _ in range(10):
                await asyncio.sleep(0)

    async def answered(self, number: int = 1) -> None:
        await eventually(lambda: self._transport.written.count(ANSWER) == number)

    async def closed(self) -> None:
        await soon(self._transport.closed.wait())


@pytest_asyncio.fixture
async def clients() -> AsyncIterator[Clients]:
    made = Clients()
    yield made
    await made.manager.shutdown(1.0)


def heads(packets: Sequence[bytes]) -> int:
    return b"".join(packets).count(b" HTTP/1.1\r\n")


class TestTheDeadlineOfAHead:
    @pytest.mark.parametrize("packets", BEGUN.values(), ids=BEGUN)
    async def test_runs_for_a_head_that_began_behind_a_request(
        self, clients: Clients, packets: Sequence[bytes]
    ) -> None:
        client = clients.connect(head=SHORT)
        await client.send(packets)
        clients.answering.set()
        await client.answered(heads(packets))
        await client.closed()

    @pytest.mark.parametrize("behind", [b"G", b"\r\n", b"\r\n\r\nGET /", GET[:-1]], ids=repr)
    async def test_runs_from_any_first_byte(self, clients: Clients, behind: bytes) -> None:
        client = clients.connect(head=SHORT)
        clients.answering.set()
        await client.send([GET + behind])
        await client.answered()
        await client.closed()

    async def test_does_not_run_while_a_request_before_it_is_answered(
        self, clients: Clients
    ) -> None:
        for packets in BEGUN.values():
            client, silent = clients.connect(head=SHORT), clients.connect(head=SHORT)
            clients.answering.clear()
            await client.send(packets)
            await silent.closed()
            clients.answering.set()
            await client.answered(heads(packets))

    async def test_does_not_run_while_a_second_request_is_answered(self, clients: Clients) -> None:
        client = clients.connect(head=SHORT)
        await client.send([GET, GET])
        clients.answering.set()
        clients.answering.clear()  # Whoever waits now goes on; the second request does not yet.
        await client.answered()
        await client.send([PART])
        await clients.connect(head=SHORT).closed()
        clients.answering.set()
        await client.answered(2)
        await client.closed()

    @pytest.mark.parametrize("request_", [GET, POST], ids=["GET", "POST"])
    async def test_does_not_run_with_nothing_behind(
        self, clients: Clients, request_: bytes
    ) -> None:
        clients.answering.set()
        client, silent = clients.connect(head=SHORT), clients.connect(head=SHORT)
        await client.send([request_])
        await client.answered()
        await silent.closed()
        await client.send([request_])
        await client.answered(2)


@pytest.mark.parametrize("packets", BEGUN.values(), ids=BEGUN)
async def test_the_rest_of_a_head_may_take_longer_than_a_connection_may_be_idle(
    clients: Clients, packets: Sequence[bytes]
) -> None:
    client, idle = clients.connect(idle=SHORT), clients.connect(idle=SHORT)
    await client.send(packets)
    clients.answering.set()
    await client.answered(heads(packets))
    await idle.send([GET])
    await idle.answered()
    await idle.closed()
    await client.send([REST])
    await client.answered(heads(packets) + 1)


@pytest.mark.parametrize("packets", BEGUN.values(), ids=BEGUN)
async def test_behind_a_watched_request_the_connection_is_closed_after_the_answer(
    clients: Clients, packets: Sequence[bytes]
) -> None:
    clients.watching = True
    client = clients.connect()
    await client.send(packets)
    clients.answering.set()
    await client.answered()
    await client.closed()


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
class TestAnOfferOfAnUpgrade:
    async def test_is_ignored_and_the_connection_goes_on(
        self, clients: Clients, offer: bytes
    ) -> None:
        clients.answering.set()
        client = clients.connect()
        await client.send([offer])
        await client.answered()
        await client.send([PART, REST])
        await client.answered(2)
        await client.send([offer[:-1], offer[-1:]])
        await client.answered(3)
        await client.send([POST])
        await client.answered(4)

    @pytest.mark.parametrize("behind", [b"G", b"\r\n", PART, GET, GET + PART, POST], ids=repr)
    @pytest.mark.parametrize("watching", [False, True], ids=["plain", "watched"])
    async def test_ends_the_connection_where_bytes_came_with_its_end(
        self, clients: Clients, offer: bytes, behind: bytes, watching: bool
    ) -> None:
        """They are answered by nothing, as no request and as no part of one."""
        clients.watching = watching
        middle = len(offer) - 1
        for packets in ([offer + behind], [offer[:middle], offer[middle:] + behind]):
            clients.answering.clear()
            client = clients.connect()
            await client.send(packets)
            await client.send([REST, GET])
            clients.answering.set()
            await client.answered()
            await client.closed()
            await client.answered()


@pytest.mark.parametrize("watching", [False, True], ids=["plain", "watched"])
@pytest.mark.parametrize("offers", [False, True], ids=["plain", "offer"])
async def test_a_large_body_is_read_to_its_end_whatever_came_behind_it(
    clients: Clients, watching: bool, offers: bool
) -> None:
    clients.watching = watching
    clients.answering.set()
    head, body = LARGE.split(b"\r\n\r\n")
    fields = b"".join(b"\r\n%b: %b" % (name.encode(), text.encode()) for name, text in H2C)
    client = clients.connect()
    await client.send([head + (fields if offers else b"") + b"\r\n\r\n" + body + PART])
    await client.answered()
    if watching or offers:
        await client.closed()


@pytest.mark.parametrize(
    "packets",
    [[CHUNKED + PART], [CHUNKED, PART], [UPGRADE + PART], [UPGRADE, PART], [UPGRADE + GET + PART]],
    ids=["chunks", "chunks, later", "upgrade", "upgrade, later", "upgrade and a GET"],
)
async def test_behind_chunks_or_an_upgrade_the_connection_is_closed_after_the_answer(
    clients: Clients, packets: Sequence[bytes]
) -> None:
    client = clients.connect()
    await client.send(packets)
    clients.answering.set()
    await client.answered()
    await client.closed()
