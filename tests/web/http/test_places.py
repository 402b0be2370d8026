"""Who has a place for a connection, and who gives way.

The fault's kind: a place that is taken by somebody who does nothing with it. That is a connection
whose TLS handshake failed, stopped or never began; one that sent nothing, or half a head; one that
is idle between two requests; many of all these from one address.
"""

from __future__ import annotations

import asyncio
import ssl

import pytest
import trustme
from aiohttp import web

from opuslive.web.http.accepting import ConnectionFactory
from opuslive.web.http.heads import HeadBudget
from opuslive.web.http.places import Place, Places
from tests.support.connections import Acceptor, Occupied
from tests.support.waiting import eventually, soon
from tests.support.wire import Wire, request_bytes

GET = request_bytes("GET", "/")
SOMEBODY, ANOTHER = b"\xc0\x00\x02\x01", b"\xc0\x00\x02\x02"


def taken(place: Place | None) -> Place:
    assert place is not None
    return place


class TestPlaces:
    """Without connections."""

    def test_the_one_that_waits_longest_gives_way(self) -> None:
        places = Places(3)
        first, second, third, *late = [Occupied() for _ in range(6)]
        for one in (first, second, third):
            taken(places.take(one, None))
        for made_room, one in zip((first, second, third), late, strict=True):
            assert not made_room.aborted
            taken(places.take(one, None))
            assert made_room.aborted
        assert len(places.taken) == 3

    def test_who_is_answered_waits_from_the_end_of_the_answer(self) -> None:
        places = Places(2)
        first, second = Occupied(), Occupied()
        served = taken(places.take(first, None))
        taken(places.take(second, None))
        served.serve()
        served.wait()
        taken(places.take(Occupied(), None))
        assert (first.aborted, second.aborted) == (False, True)

    def test_who_is_answered_never_gives_way(self) -> None:
        places = Places(2)
        busy = [taken(places.take(Occupied(), None)) for _ in range(2)]
        for place in busy:
            place.serve()
        assert places.take(Occupied(), None) is None
        busy[0].leave()
        assert places.take(Occupied(), None) is not None

    @pytest.mark.parametrize("origin", [None, SOMEBODY])
    def test_who_still_sends_an_answer_does_not_give_way(self, origin: bytes | None) -> None:
        places = Places(100) if origin is None else Places(1000, 100)
        for _ in range(99):
            taken(places.take(Occupied(sending=True), origin))
        silent = Occupied()
        taken(places.take(silent, origin))
        # A look is short; the next one goes on where it ended.
        assert places.take(Occupied(), origin) is None
        assert places.take(Occupied(), origin) is not None
        assert silent.aborted

    def test_one_origin_has_a_share_and_beyond_it_takes_from_its_own(self) -> None:
        places = Places(6, 3)
        others = [Occupied() for _ in range(2)]
        own = [Occupied() for _ in range(4)]
        for one in others:
            taken(places.take(one, ANOTHER))
        for one in own:
            taken(places.take(one, SOMEBODY))
        assert [one.aborted for one in own] == [True, False, False, False]
        assert [one.aborted for one in others] == [False, False]

    def test_an_origin_whose_share_is_answered_gets_no_more(self) -> None:
        places = Places(6, 2)
        for _ in range(2):
            taken(places.take(Occupied(), SOMEBODY)).serve()
        assert places.take(Occupied(), SOMEBODY) is None
        assert places.take(Occupied(), ANOTHER) is not None

    def test_a_place_that_is_left_is_left_once(self) -> None:
        places = Places(2, 1)
        place = taken(places.take(Occupied(), SOMEBODY))
        for _ in range(3):
            place.leave()
            place.wait()
        assert (len(places.taken), len(places.waiting)) == (0, 0)
        taken(places.take(Occupied(), SOMEBODY))
        taken(places.take(Occupied(), SOMEBODY))
        assert len(places.taken) == 1


class TestHeadBudget:
    def test_the_oldest_head_is_given_up(self) -> None:
        heads = HeadBudget(1000)
        old, large, new = Occupied(), Occupied(), Occupied()
        heads.hold(old, 100, 0)
        heads.hold(large, 300, 0)
        heads.hold(old, 110, 0)
        heads.hold(new, 100, 0)
        assert (old.aborted, large.aborted, new.aborted) == (True, False, False)
        assert heads.total == 800

    def test_what_is_whole_or_over_counts_no_more(self) -> None:
        heads = HeadBudget(1000)
        for _ in range(100):
            sender = Occupied()
            heads.hold(sender, 400, 0)
            heads.release(sender)
            heads.release(sender)
            assert not sender.aborted
        assert heads.total == 0

    def test_many_short_lines_weigh_more_than_one_long_line(self) -> None:
        heads = HeadBudget()
        heads.hold(Occupied(), 500, 100)
        weight = heads.total
        heads.hold(Occupied(), 500, 1)
        assert weight > 10 * (heads.total - weight)


async def answered(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(text="answered")


async def ask(wire: Wire) -> None:
    await wire.send(GET)
    assert (await wire.answer()).status == 200


async def test_when_all_are_busy_the_next_is_turned_away(listener: Acceptor) -> None:
    finish = asyncio.Event()

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        await finish.wait()
        return await answered(request)

    await listener.start(handler, cap=1)
    async with await listener.connect() as busy:
        await busy.send(GET)
        await eventually(lambda: len(listener.places.taken) > len(listener.places.waiting))
        async with await listener.connect() as late:
            assert (await late.ending())[1] == b""
        finish.set()
        assert (await busy.answer()).status == 200


@pytest.mark.parametrize("sent", [b"", GET[:-3], GET], ids=["nothing", "half a head", "a request"])
async def test_who_waits_makes_room_for_the_next(listener: Acceptor, sent: bytes) -> None:
    await listener.start(answered, cap=2)
    async with await listener.connect() as first, await listener.connect() as second:
        for wire in (first, second):
            await wire.send(sent)
            if sent == GET:
                await wire.answer()
        async with await listener.connect() as third:
            await ask(third)
            assert (await first.ending())[1] == b""
            await second.send(GET[len(sent) % len(GET) :])
            assert (await second.answer()).status == 200


class Remote(asyncio.Transport):
    """A connection from an address that no test can connect from."""

    def __init__(self, address: str) -> None:
        super().__init__({"peername": (address, 1)})
        self.protocol: asyncio.BaseProtocol | None = None
        self.aborted = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.aborted

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        if not self.aborted:
            self.aborted = True
            assert isinstance(self.protocol, asyncio.Protocol)
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)


@pytest.mark.parametrize(
    ("addresses", "aborted"),
    [
        (["192.0.2.1"] * 4, 2),
        (["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4"], 2),
        (["192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.2"], 0),
        (["127.0.0.1"] * 4, 0),
        (["::1"] * 4, 0),
    ],
)
async def test_an_address_has_its_share_of_the_connections_unless_it_is_this_machine(
    addresses: list[str], aborted: int
) -> None:
    loop = asyncio.get_running_loop()
    manager = web.Server(answered)
    factory = ConnectionFactory(manager, loop, Places(100, 2), HeadBudget())
    remotes = [Remote(address) for address in addresses]
    for remote in remotes:
        remote.protocol = factory()
        remote.protocol.connection_made(remote)
    assert [remote.aborted for remote in remotes] == [True] * aborted + [False] * (4 - aborted)
    assert len(factory.places.taken) == 4 - aborted
    for remote in remotes:
        remote.abort()
    await eventually(lambda: not factory.places.taken and not manager.connections)


async def test_heads_that_never_end_have_one_budget(listener: Acceptor) -> None:
    """62 KB each; many short fields count as what they become in memory."""
    await listener.start(answered, heads=500_000)
    long = b"GET / HTTP/1.1\r\nHost: a\r\n" + 2 * (b"a: " + b"x" * 31_000 + b"\r\n")
    short = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 100
    for begun in (long, short):
        wires = [await listener.connect() for _ in range(40)]
        for wire in wires:
            await wire.send(begun)
        assert (await wires[0].ending())[1] == b""
        await wires[-1].send(b"\r\n")
        assert (await wires[-1].answer()).status == 200
        for wire in wires:
            wire.close()
        await eventually(lambda: listener.connections == 0)
        assert listener.heads.total == 0


class TestTls:
    """A handshake that does not come to its end."""

    @staticmethod
    def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
        authority = trustme.CA()
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(server)
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(client)
        return server, client

    @staticmethod
    async def ask(port: int, context: ssl.SSLContext) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(request_bytes("GET", "/", headers=[("Connection", "close")]))
        answer = await soon(reader.read())
        writer.close()
        return answer

    @pytest.mark.parametrize(
        ("sent", "waits"),
        [
            (b"", True),
            (b"\x16\x03\x01\x02\x00\x01\x00", True),
            (GET, False),
            (b"\x15\x03\x01\x00\x02\x02\x28", False),
        ],
        ids=["nothing", "half a hello", "clear text", "an alert"],
    )
    @pytest.mark.parametrize("abort", [False, True], ids=["closed", "reset"])
    async def test_frees_its_place_as_soon_as_the_client_is_gone(
        self, listener: Acceptor, sent: bytes, waits: bool, abort: bool
    ) -> None:
        server, client = self.contexts()
        await listener.start(answered, cap=2, tls=server)
        for _ in range(5):
            wire = await listener.connect()
            await wire.send(sent)
            if waits:
                await eventually(lambda: len(listener.places.taken) == 1)
            wire.abort() if abort else wire.close()
            await eventually(lambda: not listener.places.taken)
        assert (await self.ask(listener.port, client)).endswith(b"answered")

    async def test_makes_room_while_it_lasts(self, listener: Acceptor) -> None:
        server, client = self.contexts()
        await listener.start(answered, cap=2, tls=server)
        async with await listener.connect() as first, await listener.connect() as second:
            await second.send(b"\x16\x03\x01\x02\x00")
            await eventually(lambda: len(listener.places.taken) == 2)
            assert (await self.ask(listener.port, client)).endswith(b"answered")
            assert (await first.ending())[1] == b""

    async def test_is_cut_when_its_time_is_over(self, listener: Acceptor) -> None:
        server, _ = self.contexts()
        await listener.start(answered, head=0.05, tls=server)
        async with await listener.connect() as wire:
            assert (await wire.ending())[1] == b""
        await eventually(lambda: not listener.places.taken)

    async def test_that_does_leads_to_a_connection_that_is_served_again_and_again(
        self, listener: Acceptor
    ) -> None:
        server, client = self.contexts()
        await listener.start(answered, tls=server)
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port, ssl=client)
        for _ in range(3):
            writer.write(GET)
            assert (await soon(reader.readuntil(b"answered"))).startswith(b"HTTP/1.1 200")
        writer.close()
        await eventually(lambda: not listener.places.taken)
