"""An answer on its way from the upstream to the client: what goes when, and what is held."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import pytest

from opuslive.dialects import Meter, NoUsage
from opuslive.dialects.anthropic.dialect import AnthropicDialect
from opuslive.gateway.relay import HIGH_WATER, Relay
from opuslive.gateway.upstreams.connection import UpstreamConnection
from opuslive.gateway.upstreams.pool import UpstreamPool
from opuslive.gateway.upstreams.wire import FailureKind, Timeouts, UpstreamError
from opuslive.usage import TokenCounts
from tests.support.listener import Listener, Peer, answer
from tests.support.pools import MakePool, a_post
from tests.support.provider import LAST_CHUNK, STREAM_HEAD, anthropic_events, chunk
from tests.support.upstreams import upstream
from tests.support.waiting import eventually, settled, soon, turns

EVENTS = anthropic_events("Hello to you", input_tokens=11, output_tokens=7)
BEFORE, LAST = EVENTS[:-1], EVENTS[-1]
MESSAGE = b'{"type":"message","content":[],"usage":{"input_tokens":11,"output_tokens":7}}'
COUNTS = TokenCounts(input=11, output=7)


class Goodbye(Exception):
    pass


class Wire:
    """A relay between an upstream's end of a connection and a client that writes down all."""

    def __init__(self, pool: UpstreamPool, connection: UpstreamConnection, peer: Peer) -> None:
        self.pool, self.connection, self.peer = pool, connection, peer
        self.relay = Relay(connection, upstream(), asyncio.get_running_loop())
        self.meter: Meter = NoUsage()
        self.writes: list[bytes] = []

    @property
    def written(self) -> bytes:
        return b"".join(self.writes)

    async def begin(
        self, wire: bytes, *, stream: bool = True, meter: Meter | None = None, chunked: bool = False
    ) -> None:
        """The upstream sends a head, and perhaps more; the relay measures and is started."""
        self.peer.send(wire)
        await self.relay.head()
        self.meter = meter or AnthropicDialect().meter(stream=stream)
        self.relay.measure(self.meter)
        self.relay.start(self.writes.append, chunked=chunked)

    async def writes_to_come(self, expected: bytes) -> None:
        await eventually(lambda: len(self.written) >= len(expected), f"{expected!r}")
        assert self.written == expected

    async def gone(self) -> None:
        """The upstream's connection is closed."""
        assert await self.peer.closed()
        await eventually(lambda: self.pool.open_connections == 0)


async def connect(pool: UpstreamPool, listener: Listener) -> Wire:
    wire = Wire(pool, await pool.connect(), await listener.accept())
    wire.connection.send(a_post(), wire.relay)
    await wire.peer.request()
    return wire


@pytest.fixture
async def wire(pool: UpstreamPool, listener: Listener) -> Wire:
    return await connect(pool, listener)


async def fails(coroutine: Coroutine[Any, Any, Any]) -> FailureKind:
    with pytest.raises(UpstreamError) as raised:
        await soon(coroutine)
    return raised.value.kind


class Steps:
    """Awaits a coroutine and counts how often it was resumed."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self.count = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._coroutine.__await__()
        while True:
            self.count += 1
            try:
                waited = steps.send(None)
            except StopIteration as end:
                return end.value
            yield waited


class TestStreams:
    async def test_events_go_through_at_once_and_the_last_one_waits(self, wire: Wire) -> None:
        await wire.begin(STREAM_HEAD)
        passed = b""
        for event in BEFORE:
            wire.peer.send(chunk(event))
            passed += event
            await wire.writes_to_come(passed)
        assert not wire.relay.finished
        wire.peer.send(chunk(LAST) + LAST_CHUNK)
        await soon(wire.relay.last_word())
        assert wire.meter.counts() == COUNTS
        await turns()
        assert wire.written == passed + LAST[: len(wire.written) - len(passed)]
        assert LAST not in wire.written
        wire.relay.release()
        assert wire.written == passed + LAST
        await soon(wire.relay.end())
        assert wire.pool.idle_connections == 1

    async def test_the_last_event_waits_also_if_all_come_in_one_packet(self, wire: Wire) -> None:
        await wire.begin(STREAM_HEAD + b"".join(map(chunk, EVENTS)) + LAST_CHUNK)
        await soon(wire.relay.last_word())
        assert wire.written == b"".join(BEFORE)
        wire.relay.release()
        assert wire.written == b"".join(EVENTS)
        await soon(wire.relay.end())

    async def test_a_stream_split_anywhere_is_never_whole_before_its_release(
        self, pool: UpstreamPool, listener: Listener
    ) -> None:
        """Wherever the terminal event is cut, its end is held until the release."""
        whole = b"".join(EVENTS)
        for cut in range(len(whole) - len(LAST) - 3, len(whole)):
            wire = await connect(pool, listener)
            await wire.begin(STREAM_HEAD)
            await wire.peer.send_apart(chunk(whole[:cut]), chunk(whole[cut:]) + LAST_CHUNK)
            await soon(wire.relay.last_word())
            assert whole.startswith(wire.written)
            assert len(wire.written) < len(whole) - 1, cut
            wire.relay.release()
            assert wire.written == whole
            wire.connection.abandon()

    async def test_what_follows_the_last_event_waits_too(self, wire: Wire) -> None:
        extra = b": a comment\n\n"
        await wire.begin(STREAM_HEAD)
        await wire.peer.send_apart(*map(chunk, EVENTS), chunk(extra))
        await soon(wire.relay.last_word())
        assert wire.written == b"".join(BEFORE)
        wire.relay.release()
        assert wire.written == b"".join(EVENTS) + extra
        wire.peer.send(chunk(extra) + LAST_CHUNK)
        await soon(wire.relay.end())
        assert wire.written == b"".join(EVENTS) + extra * 2

    async def test_an_error_event_waits_as_the_last_one_does(self, wire: Wire) -> None:
        error = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error"}}\n\n'
        await wire.begin(STREAM_HEAD)
        await wire.peer.send_apart(chunk(BEFORE[0]), chunk(error))
        await soon(wire.relay.last_word())
        assert wire.meter.failed
        assert error not in wire.written
        wire.relay.release()
        assert wire.written == BEFORE[0] + error

    async def test_each_read_becomes_one_http_chunk(self, wire: Wire) -> None:
        """An upstream's read becomes one chunk; the last chunk is for the caller to write."""
        await wire.begin(STREAM_HEAD, chunked=True)
        wire.peer.send(chunk(EVENTS[0]) + chunk(EVENTS[1]))
        await wire.writes_to_come(chunk(EVENTS[0] + EVENTS[1]))
        await wire.peer.send_apart(*map(chunk, EVENTS[2:]), LAST_CHUNK)
        await soon(wire.relay.last_word())
        wire.relay.release()
        await soon(wire.relay.end())
        assert wire.writes[-1] == chunk(LAST)
        assert not any(write.startswith(b"0\r\n") for write in wire.writes)

    @pytest.mark.parametrize("ending", [LAST_CHUNK, b"close"])
    @pytest.mark.parametrize("count", [0, 1, len(BEFORE)])
    async def test_a_clean_end_without_the_last_event_is_a_failure(
        self, wire: Wire, ending: bytes, count: int
    ) -> None:
        closing = ending == b"close"
        head = b"HTTP/1.1 200 OK\r\n\r\n" if closing else STREAM_HEAD
        await wire.begin(head)
        for event in BEFORE[:count]:
            await wire.peer.send_apart(event if closing else chunk(event))
        if closing:
            wire.peer.close()
        else:
            wire.peer.send(ending)
        assert await fails(wire.relay.last_word()) is FailureKind.BROKEN
        assert wire.written == b"".join(BEFORE[:count])

    @pytest.mark.parametrize("released", [False, True])
    @pytest.mark.parametrize("way", [Peer.close, Peer.reset])
    async def test_a_break_after_the_last_event_is_an_end(
        self, wire: Wire, way: Callable[[Peer], None], released: bool
    ) -> None:
        await wire.begin(STREAM_HEAD)
        await wire.peer.send_apart(*map(chunk, EVENTS))
        await soon(wire.relay.last_word())
        if released:
            wire.relay.release()
        way(wire.peer)
        await eventually(lambda: wire.pool.open_connections == 0)
        await soon(wire.relay.last_word())
        wire.relay.release()
        await soon(wire.relay.end())
        assert wire.written == b"".join(EVENTS)

    @pytest.mark.parametrize("released", [False, True])
    async def test_a_break_after_the_last_event_of_a_stream_with_a_length_is_a_failure(
        self, wire: Wire, released: bool
    ) -> None:
        """The client would take its next answer for what is missing of this one."""
        stream = b"".join(EVENTS)
        await wire.begin(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (len(stream) + 1))
        wire.peer.send(stream)
        await soon(wire.relay.last_word())
        if released:
            wire.relay.release()
        wire.peer.close()
        await eventually(lambda: wire.pool.open_connections == 0)
        wire.relay.release()
        assert await fails(wire.relay.end()) is FailureKind.BROKEN
        assert wire.written == stream

    async def test_silence_after_the_last_event_is_an_end(
        self, make_pool: MakePool, listener: Listener
    ) -> None:
        wire = await connect(make_pool(listener.port, Timeouts(60.0, 60.0, 0.05)), listener)
        await wire.begin(STREAM_HEAD)
        await wire.peer.send_apart(*map(chunk, EVENTS))
        await soon(wire.relay.last_word())
        wire.relay.release()
        await soon(wire.relay.end())
        assert wire.written == b"".join(EVENTS)
        await wire.gone()

    @pytest.mark.parametrize("count", [1, len(BEFORE)])
    async def test_a_break_in_one_read_with_the_head_is_a_failure_whose_usage_is_known(
        self, wire: Wire, count: int
    ) -> None:
        """What was used until then is known."""
        wire.peer.send(STREAM_HEAD + b"".join(map(chunk, BEFORE[:count])) + b"no chunk\r\n")
        await soon(wire.relay.head())
        meter = AnthropicDialect().meter(stream=True)
        with pytest.raises(UpstreamError):
            wire.relay.measure(meter)
        assert meter.counts().input == 11
        assert wire.written == b""

    @pytest.mark.parametrize("way", [Peer.close, Peer.reset])
    async def test_a_break_before_the_last_event_is_a_failure(
        self, wire: Wire, way: Callable[[Peer], None]
    ) -> None:
        await wire.begin(STREAM_HEAD)
        await wire.peer.send_apart(*map(chunk, BEFORE))
        await wire.writes_to_come(b"".join(BEFORE))
        way(wire.peer)
        assert await fails(wire.relay.last_word()) is FailureKind.BROKEN
        assert wire.meter.counts().input == 11

    async def test_chunks_wake_nobody_on_their_way(self, wire: Wire) -> None:
        await wire.begin(STREAM_HEAD + chunk(EVENTS[0]))
        steps = Steps(wire.relay.last_word())

        async def wait() -> None:
            await steps

        waiting = asyncio.ensure_future(wait())
        for _ in range(200):
            await wire.peer.send_apart(chunk(EVENTS[3]))
        await eventually(lambda: len(wire.writes) > 100)
        assert steps.count == 1
        wire.peer.send(chunk(LAST))
        await soon(asyncio.wait_for(waiting, None))
        assert steps.count <= 3


class TestBodies:
    async def test_the_last_bytes_of_a_body_of_known_length_wait(self, wire: Wire) -> None:
        head, _, body = answer(MESSAGE).partition(b"\r\n\r\n")
        await wire.begin(head + b"\r\n\r\n" + body[:30], stream=False)
        await wire.writes_to_come(body[:30])
        await wire.peer.send_apart(body[30:40], body[40:])
        await soon(wire.relay.last_word())
        assert wire.meter.counts() == COUNTS
        assert wire.written == body[:40]
        wire.relay.release()
        assert wire.written == body
        await soon(wire.relay.end())
        assert wire.pool.idle_connections == 1

    async def test_a_body_that_comes_in_one_packet_waits_as_a_whole(self, wire: Wire) -> None:
        await wire.begin(answer(MESSAGE), stream=False)
        await soon(wire.relay.last_word())
        assert wire.writes == []
        wire.relay.release()
        assert wire.writes == [MESSAGE]

    @pytest.mark.parametrize("meter", [NoUsage(), None])
    async def test_the_last_bytes_of_an_error_wait_if_it_is_measured(
        self, wire: Wire, meter: Meter | None
    ) -> None:
        """Unless it is not measured at all."""
        wire.peer.send(answer(b"no such", status=404))
        await wire.relay.head()
        wire.relay.measure(meter)
        wire.relay.start(wire.writes.append, chunked=False)
        await soon(wire.relay.last_word())
        assert wire.written == (b"" if meter else b"no such")
        wire.relay.release()
        await soon(wire.relay.end())
        assert wire.written == b"no such"

    @pytest.mark.parametrize("length", [b"content-length: 0", b"transfer-encoding: chunked"])
    async def test_an_empty_body_ends_without_a_write(self, wire: Wire, length: bytes) -> None:
        end = LAST_CHUNK if b"chunked" in length else b""
        await wire.begin(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n%b" % (length, end), stream=False)
        await soon(wire.relay.last_word())
        wire.relay.release()
        await soon(wire.relay.end())
        assert wire.writes == []

    async def test_the_end_of_a_body_of_unknown_length_is_left_to_the_caller(
        self, wire: Wire
    ) -> None:
        await wire.begin(STREAM_HEAD + chunk(MESSAGE), stream=False, chunked=True)
        await wire.writes_to_come(chunk(MESSAGE))
        assert not wire.relay.finished
        wire.peer.send(LAST_CHUNK)
        await soon(wire.relay.last_word())
        wire.relay.release()
        await soon(wire.relay.end())
        assert wire.writes == [chunk(MESSAGE)]
        assert wire.meter.counts() == COUNTS

    async def test_a_body_that_is_too_short_is_a_failure(self, wire: Wire) -> None:
        await wire.begin(answer(MESSAGE)[:-1], stream=False)
        wire.peer.close()
        assert await fails(wire.relay.last_word()) is FailureKind.BROKEN
        assert wire.written == MESSAGE[:-1]

    async def test_a_body_that_came_before_measuring_is_measured(self, wire: Wire) -> None:
        wire.peer.send(answer(MESSAGE))
        assert await soon(wire.relay.whole_body(HIGH_WATER))
        assert wire.relay.so_far() == MESSAGE
        await wire.relay.head()
        meter = AnthropicDialect().meter(stream=False)
        wire.relay.measure(meter)
        assert wire.relay.finished
        assert meter.counts() == COUNTS
        wire.relay.start(wire.writes.append, chunked=False)
        assert wire.writes == []
        wire.relay.release()
        assert wire.writes == [MESSAGE]

    @pytest.mark.parametrize("whole", [True, False])
    async def test_a_break_before_measuring_is_an_end_only_after_the_last_event(
        self, wire: Wire, whole: bool
    ) -> None:
        """Counts as an end only where the stream had come to its last event."""
        wire.peer.send(STREAM_HEAD, *map(chunk, EVENTS if whole else BEFORE))
        await wire.relay.head()
        wire.peer.reset()
        await eventually(lambda: wire.pool.open_connections == 0)
        meter = AnthropicDialect().meter(stream=True)
        if not whole:
            with pytest.raises(UpstreamError):
                wire.relay.measure(meter)
            return
        wire.relay.measure(meter)
        wire.relay.start(wire.writes.append, chunked=False)
        wire.relay.release()
        await soon(wire.relay.end())
        assert wire.written == b"".join(EVENTS)

    @pytest.mark.parametrize("size", [HIGH_WATER, HIGH_WATER + 1])
    async def test_a_body_is_given_whole_up_to_a_size(self, wire: Wire, size: int) -> None:
        body = bytes(size)
        wire.peer.send(answer(body, status=400))
        if await soon(wire.relay.whole_body(HIGH_WATER)):
            assert wire.relay.so_far() == body
        else:
            assert HIGH_WATER < len(wire.relay.so_far()) <= size
        await wire.relay.head()
        wire.relay.measure(NoUsage())
        wire.relay.start(wire.writes.append, chunked=False)
        await soon(wire.relay.last_word())
        wire.relay.release()
        await soon(wire.relay.end())
        assert wire.written == body

    async def test_a_body_that_breaks_off_is_never_given_whole(self, wire: Wire) -> None:
        wire.peer.send(answer(MESSAGE, status=400)[:-1])
        await wire.relay.head()
        wire.peer.close()
        assert await fails(wire.relay.whole_body(HIGH_WATER)) is FailureKind.BROKEN


class TestBackpressure:
    SIZE = 64_000_000

    async def stuffed(self, wire: Wire) -> int:
        """How much of a large body the upstream gets rid of."""
        body = bytes(self.SIZE)
        sent = 0

        def stuff() -> int:
            nonlocal sent
            sent += wire.peer.stuff(body[sent : sent + 2**20])
            return sent

        return await settled(stuff)

    def large(self) -> bytes:
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % self.SIZE

    async def test_a_client_that_is_full_stops_the_upstream(self, wire: Wire) -> None:
        await wire.begin(self.large(), meter=NoUsage())
        wire.relay.client_full()
        await turns()
        sent = await self.stuffed(wire)
        assert sent < self.SIZE // 2
        assert len(wire.written) <= 2**18  # one read
        wire.relay.client_drained()
        await eventually(lambda: len(wire.written) == sent)

    async def test_a_client_that_is_not_there_yet_stops_the_upstream(self, wire: Wire) -> None:
        wire.peer.send(self.large())
        await wire.relay.head()
        sent = await self.stuffed(wire)
        assert sent < self.SIZE // 2
        assert not await soon(wire.relay.whole_body(HIGH_WATER))
        wire.relay.measure(NoUsage())
        await turns()
        wire.relay.start(wire.writes.append, chunked=False)
        await eventually(lambda: len(wire.written) == sent)

    async def test_a_record_that_is_not_on_disk_stops_the_upstream(self, wire: Wire) -> None:
        await wire.begin(STREAM_HEAD.replace(b"transfer-encoding: chunked\r\n", b""))
        wire.peer.send(*EVENTS)
        await soon(wire.relay.last_word())
        sent = await self.stuffed(wire)
        assert sent < self.SIZE // 2
        assert wire.written == b"".join(BEFORE)
        wire.relay.release()
        await eventually(lambda: len(wire.written) == len(b"".join(EVENTS)) + sent)

    async def test_a_client_that_is_full_stays_so_when_a_record_is_written(
        self, wire: Wire
    ) -> None:
        await wire.begin(STREAM_HEAD)
        await wire.peer.send_apart(*map(chunk, EVENTS))
        await soon(wire.relay.last_word())
        wire.relay.client_full()
        wire.relay.release()
        held = len(wire.written)
        await wire.peer.send_apart(chunk(b": comment\n\n"))
        assert len(wire.written) == held
        wire.relay.client_drained()
        await eventually(lambda: len(wire.written) > held)


class TestInterrupt:
    """Closes the upstream, and raises in whoever waits, now or later."""

    async def interrupted(self, wire: Wire, waiting: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.ensure_future(waiting)
        await turns(3)
        assert not task.done()
        wire.relay.interrupt(Goodbye())
        with pytest.raises(Goodbye):
            await soon(asyncio.wait_for(task, None))
        await wire.gone()

    async def test_an_interrupt_ends_the_wait_for_the_head(self, wire: Wire) -> None:
        await self.interrupted(wire, wire.relay.head())

    async def test_an_interrupt_ends_the_wait_for_the_whole_body(self, wire: Wire) -> None:
        wire.peer.send(answer(MESSAGE)[:-1])
        await wire.relay.head()
        await self.interrupted(wire, wire.relay.whole_body(HIGH_WATER))

    async def test_an_interrupt_before_measuring_is_raised_by_it(self, wire: Wire) -> None:
        wire.peer.send(STREAM_HEAD)
        await wire.relay.head()
        wire.relay.interrupt(Goodbye())
        with pytest.raises(Goodbye):
            wire.relay.measure(AnthropicDialect().meter(stream=True))

    async def test_an_interrupt_ends_the_wait_for_the_last_word(self, wire: Wire) -> None:
        await wire.begin(STREAM_HEAD + chunk(EVENTS[0]))
        await self.interrupted(wire, wire.relay.last_word())
        assert wire.written == EVENTS[0]

    async def test_an_interrupt_ends_the_wait_for_the_end(self, wire: Wire) -> None:
        await wire.begin(STREAM_HEAD + b"".join(map(chunk, EVENTS)))
        await soon(wire.relay.last_word())
        wire.relay.release()
        await self.interrupted(wire, wire.relay.end())

    async def test_an_interrupt_while_nobody_waits_is_raised_later(self, wire: Wire) -> None:
        await wire.begin(STREAM_HEAD + chunk(EVENTS[0]))
        wire.relay.interrupt(Goodbye())
        with pytest.raises(Goodbye):
            await soon(wire.relay.last_word())
        await wire.gone()

    async def test_an_interrupt_closes_an_upstream_that_is_paused(self, wire: Wire) -> None:
        await wire.begin(STREAM_HEAD + chunk(EVENTS[0]))
        wire.relay.client_full()
        await self.interrupted(wire, wire.relay.last_word())
        wire.relay.client_drained()

    async def test_a_failure_before_an_interrupt_is_what_is_raised(self, wire: Wire) -> None:
        await wire.begin(STREAM_HEAD)
        wire.peer.reset()
        await eventually(lambda: wire.pool.open_connections == 0)
        wire.relay.interrupt(Goodbye())
        assert await fails(wire.relay.last_word()) is FailureKind.BROKEN

    async def test_an_interrupt_after_the_end_leaves_the_connection_alone(self, wire: Wire) -> None:
        await wire.begin(answer(MESSAGE), stream=False)
        wire.relay.release()
        await soon(wire.relay.end())
        assert wire.pool.take() is wire.connection
        following = Relay(wire.connection, upstream(), asyncio.get_running_loop())
        wire.connection.send(a_post(), following)
        wire.relay.interrupt(Goodbye())
        await wire.peer.request()
        wire.peer.send(answer(MESSAGE))
        assert (await soon(following.head())).status == 200
