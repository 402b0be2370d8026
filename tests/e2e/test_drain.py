"""SIGTERM under load: nothing is lost, nothing is cut before its time, and each is recorded."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from contextlib import suppress

import pytest

from tests.support.held_streams import BEGUN, EVENTS, STREAM, begun, held_until, rest_of
from tests.support.provider import (
    LAST_CHUNK,
    STALL,
    STREAM_HEAD,
    Request,
    Script,
    ScriptedUpstream,
    anthropic_events,
    anthropic_message,
    chunk,
    json_answer,
)
from tests.support.server import Server, Servers, log_is_truncated
from tests.support.waiting import eventually, soon
from tests.support.wire import Wire, message_body, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")

STREAMS = 36
LOOPS = 8


def answers(finish: asyncio.Event, upstream: ScriptedUpstream) -> None:
    """Streams stop in the middle until ``finish``; what is no stream is answered at once."""

    def script(request: Request) -> Script:
        if b'"stream": true' in request.body:
            return held_until(finish)
        return json_answer(anthropic_message("Hi", input_tokens=11, output_tokens=7))

    upstream.always(script)


class Loop:
    """A client that asks again and again on kept connections, until it is refused."""

    def __init__(self, server: Server, key: str) -> None:
        self.statuses: Counter[int] = Counter()
        #: Connections that ended in the middle of a request.
        self.lost = 0
        self._server = server
        self._request = request_bytes("POST", "/v1/messages", key=key, body=message_body())

    async def run(self) -> None:
        while True:
            try:
                wire = await self._server.connect()
            except (ConnectionRefusedError, ConnectionResetError):
                return
            async with wire:
                while True:
                    try:
                        await wire.send(self._request)
                        answer = await wire.answer()
                    except (EOFError, ConnectionError):
                        self.lost += 1
                        break
                    self.statuses[answer.status] += 1
                    if answer.status != 200:
                        assert answer.error == (503, "overloaded_error")
                        assert answer.header("connection") == "close"
                    if answer.header("connection") == "close":
                        break


def left_behind(server: Server) -> set[str]:
    names = {path.name for path in server.database.parent.iterdir()}
    # The lock is let go of, and its file stays: removing it could take it from a successor.
    return names - {"opuslive.db", "opuslive.db-wal", "opuslive.db-shm", "opuslive.db.lock"}


@pytest.mark.parametrize("twice", [False, True], ids=["drains", "is cut"])
async def test_sigterm_under_load_loses_no_answer_and_no_record(
    servers: Servers, provider: ScriptedUpstream, upstream: ScriptedUpstream, twice: bool
) -> None:
    """Dozens of streams, and requests in a loop: each that was answered is recorded, once."""
    server = await servers.start(provider.base_url)
    streaming, looping = await server.holder(), await server.holder()
    finish = asyncio.Event()
    answers(finish, upstream)
    wires = [await begun(server, streaming) for _ in range(STREAMS)]
    loops = [Loop(server, looping) for _ in range(LOOPS)]
    running = [asyncio.ensure_future(loop.run()) for loop in loops]
    await eventually(lambda: all(loop.statuses[200] >= 5 for loop in loops))
    server.signal(signal.SIGTERM)
    await asyncio.gather(*running)  # Each of them was refused, or found nobody listening.
    seen = sum((loop.statuses for loop in loops), Counter[int]())
    # A connection that the kernel took and the gateway never saw is reset, and cost nothing.
    assert sum(loop.lost for loop in loops) <= LOOPS
    if twice:
        server.signal(signal.SIGTERM)
        endings = await asyncio.gather(*(wire.ending() for wire in wires))
        assert {how for how, _ in endings} == {"reset"}
        assert not any(b"message_stop" in rest for _, rest in endings)
    else:
        finish.set()
        rests = await asyncio.gather(*(rest_of(wire) for wire in wires))
        assert {BEGUN + rest for rest in rests} == {b"".join(EVENTS)}
    assert await server.wait() == 0
    assert log_is_truncated(server)
    assert left_behind(server) == set()
    for wire in wires:
        wire.close()
    await server.start()
    recorded = Counter(record["status"] for record in await server.records(streaming))
    assert recorded == {503 if twice else 200: STREAMS}
    recorded = Counter(record["status"] for record in await server.records(looping))
    assert recorded[200] == seen[200]
    assert recorded[503] <= seen[503]  # of refusals one a second is recorded
    assert set(recorded) <= {200, 503}
    if twice:
        assert {r["input_tokens"] for r in await server.records(streaming)} == {5}


class TestWhatIsUnderWay:
    """An upload, a request that waits for room, one that has no answer yet."""

    UPLOAD = message_body(messages=[{"role": "user", "content": "x" * 600_000}])

    async def test_what_is_under_way_at_sigterm_is_served_to_its_end(
        self, servers: Servers, provider: ScriptedUpstream, upstream: ScriptedUpstream
    ) -> None:
        server = await servers.start(provider.base_url, limits={"max_wait": "10m"})
        key, other = await server.holder(limits=["1 concurrent"]), await server.holder()
        finish = asyncio.Event()
        answers(finish, upstream)
        stream = await begun(server, key)
        async with stream, await server.connect() as upload, server.asking(key, STREAM) as waiting:
            request = request_bytes("POST", "/v1/messages", key=other, body=self.UPLOAD)
            await upload.send(request[:-1000])
            await self.in_flight(server, 3)
            server.signal(signal.SIGTERM)
            await server.logged("stopping: 3 requests are running")
            # Commands go on: a key can still be made, and be deleted.
            made = await server.create_key("made meanwhile")
            await server.json("keys", "delete", made["id"], "--yes")
            assert (await server.admin("GET", "status"))["draining"] is True
            await upload.send(request[-1000:])
            answer = await upload.answer()
            assert answer.status == 200
            assert answer.header("connection") == "close"
            finish.set()
            assert await rest_of(stream) == b"".join(EVENTS[5:])
            head = await waiting.head()
            assert (head.status, head.header("connection")) == (200, "close")
            assert await rest_of(waiting) == b"".join(EVENTS)
            assert await server.wait() == 0
        await server.start()
        assert [r["status"] for r in await server.records(key)] == [200, 200]
        assert [r["status"] for r in await server.records(other)] == [200]

    async def test_what_is_cut_at_sigterm_is_told(
        self, servers: Servers, provider: ScriptedUpstream, upstream: ScriptedUpstream
    ) -> None:
        server = await servers.start(provider.base_url, limits={"max_wait": "10m"})
        key, other, third = (
            await server.holder(limits=["1 concurrent"]),
            await server.holder(),
            await server.holder(),
        )
        upstream.will([STREAM_HEAD, *map(chunk, EVENTS[:5]), STALL], [STALL])
        stream = await begun(server, key)
        async with (
            stream,
            await server.connect() as upload,
            server.asking(key, STREAM) as waiting,
            server.asking(third, message_body()) as unanswered,
        ):
            request = request_bytes("POST", "/v1/messages", key=other, body=self.UPLOAD)
            await upload.send(request[:-1000])
            await soon(upstream.request(1))
            await self.in_flight(server, 4)
            server.signal(signal.SIGTERM)
            await server.logged("stopping: 4 requests are running")
            server.signal(signal.SIGTERM)
            assert await stream.ending() == ("reset", b"")
            assert (await upload.ending())[0] == "reset"
            for told in (waiting, unanswered):
                answer = await told.answer()
                assert answer.error == (503, "overloaded_error")
                assert answer.header("connection") == "close"
            assert await server.wait() == 0
        assert log_is_truncated(server)
        await server.start()
        assert [r["status"] for r in await server.records(key)] == [503, 503]
        assert [r["status"] for r in await server.records(other)] == [503]
        assert [r["status"] for r in await server.records(third)] == [503]

    @staticmethod
    async def in_flight(server: Server, number: int) -> None:
        async with asyncio.timeout(20):
            while (await server.admin("GET", "status"))["requests_in_flight"] != number:
                await asyncio.sleep(0.005)


def whole(body: bytes) -> bytes:
    """A chunked body without its framing."""
    pieces = []
    while body:
        size, _, rest = body.partition(b"\r\n")
        pieces.append(rest[: int(size, 16)])
        body = rest[int(size, 16) + 2 :]
    return b"".join(pieces)


async def test_clients_that_read_slowly_get_all_of_their_answers(
    servers: Servers, provider: ScriptedUpstream, upstream: ScriptedUpstream
) -> None:
    """What the gateway has for them counts as under way, though the provider is long done."""
    server = await servers.start(provider.base_url)
    words = [anthropic_events("x" * 1000)[3]]
    sizes = (40, 80, 100, 120, 140)  # About as many KB: the kernel takes some, no more.
    answers = {size: b"".join((*EVENTS[:5], *words * size, *EVENTS[5:])) for size in sizes}
    slow: list[tuple[int, Wire]] = []
    for size, answer in answers.items():
        upstream.will([STREAM_HEAD, chunk(answer), LAST_CHUNK])
        wire = await server.connect(narrow=True)
        key = await server.holder()
        await wire.send(request_bytes("POST", "/v1/messages", key=key, body=STREAM))
        await wire.head()
        await server.records(key, 1)  # So the exchange is over, and nothing of it was read.
        slow.append((size, wire))
    server.signal(signal.SIGTERM)
    await server.logged(r"stopping: \d requests are running")
    with suppress(OSError):  # It may end, where the kernel has all of it.
        for _ in range(100):
            assert (await server.admin("GET", "status"))["ready"] is False
    for size, wire in slow:
        async with wire:
            assert whole(await wire.until(b"\r\n0\r\n\r\n")) == answers[size]
    assert await server.wait() == 0
