"""Requests that are answered: the record is on disk before the answer's end."""

from __future__ import annotations

import asyncio
import weakref

import pytest

from opuslive.gateway.upstreams.health import UpstreamState
from opuslive.gateway.upstreams.wire import FailureKind
from opuslive.usage import TokenCounts, UsageRecord
from tests.support.clock import NOW
from tests.support.listener import Listener, answer
from tests.support.provider import LAST_CHUNK, STREAM_HEAD, chunk
from tests.support.rig import (
    BODY,
    COUNTING,
    COUNTS,
    EVENTS,
    LATENCY,
    MESSAGE,
    STREAM,
    Caller,
    Rig,
    held_disk,
)
from tests.support.waiting import eventually, soon, turns


async def test_a_stream_goes_through_and_is_recorded(
    rig: Rig, listener: Listener, caller: Caller
) -> None:
    rig.upstream(listener.port)
    serving = rig.serve(caller)
    peer = await listener.accept()
    assert await peer.request() == (
        b"POST /v1/messages?beta=true HTTP/1.1\r\n"
        b"host: upstream\r\n"
        b"x-api-key: secret\r\n"
        b"Anthropic-Version: 2023-06-01\r\n"
        b"accept-encoding: identity\r\n"
        b"content-length: %d\r\n\r\n" % len(BODY)
    )
    assert await peer.exactly(len(BODY)) == BODY
    rig.machine.elapsed += LATENCY
    assert rig.exchanges.running == 1
    await peer.send_apart(STREAM_HEAD, *map(chunk, EVENTS), LAST_CHUNK)
    await soon(serving)
    assert caller.head is not None
    assert caller.head.status == 200
    assert (b"cache-control", b"no-cache") in caller.head.headers
    assert caller.written == STREAM
    assert (caller.resets, caller.body_is_sent) == (0, True)
    assert await rig.record() == UsageRecord(rig.key.id, NOW, "claude-known", 200, LATENCY, COUNTS)
    assert rig.upstreams[0].pool.idle_connections == 1
    assert rig.exchanges.running == 0
    await soon(asyncio.ensure_future(rig.exchanges.wait_idle()))


@pytest.mark.parametrize("whole", [False, True])
async def test_no_stream_is_whole_at_the_client_before_its_record_is_on_disk(
    rig: Rig, listener: Listener, caller: Caller, whole: bool
) -> None:
    """In one packet, or event by event."""
    rig.upstream(listener.port)
    serving = rig.serve(caller)
    peer = await rig.arrived(listener)
    with held_disk(rig.storage):
        wire = [STREAM_HEAD, *map(chunk, EVENTS), LAST_CHUNK]
        await peer.send_apart(*([b"".join(wire)] if whole else wire))
        await turns(100)
        assert not serving.done()
        assert STREAM.startswith(caller.written)
        assert len(caller.written) <= len(STREAM) - 2
    await soon(serving)
    assert caller.written == STREAM


async def test_no_body_is_whole_at_the_client_before_its_record_is_on_disk(
    rig: Rig, listener: Listener, caller: Caller
) -> None:
    rig.upstream(listener.port)
    serving = rig.serve(caller)
    peer = await rig.arrived(listener)
    with held_disk(rig.storage):
        await peer.send_apart(answer(MESSAGE)[:-20], answer(MESSAGE)[-20:])
        await turns(100)
        assert caller.written == MESSAGE[:-20]
    await soon(serving)
    assert caller.written == MESSAGE
    assert (await rig.record()).tokens == COUNTS


@pytest.mark.parametrize("status", [400, 403, 404, 413, 500, 503, 529])
@pytest.mark.parametrize(
    ("told", "tokens"),
    [
        (b"", TokenCounts()),
        (b',"usage":null', TokenCounts()),
        (b',"usage":{"input_tokens":9}', TokenCounts(9)),
        (b',"usage":{"input_tokens":9,"output_tokens":2}', TokenCounts(9, 2)),
    ],
)
async def test_an_error_of_the_upstream_goes_on_as_it_came_and_costs_what_it_tells(
    rig: Rig, listener: Listener, caller: Caller, status: int, told: bytes, tokens: TokenCounts
) -> None:
    """It goes on byte for byte; what it does not tell was not used."""
    words = b"usage " * 100
    body = b'{"type":"error","error":{"type":"x","message":"%b"}%b}' % (words, told)
    rig.upstream(listener.port)
    serving = rig.serve(caller)
    (await rig.arrived(listener)).send(answer(body, b"x-should-retry: true", status=status))
    await soon(serving)
    assert caller.head is not None
    assert (caller.head.status, caller.written) == (status, body)
    assert (b"x-should-retry", b"true") in caller.head.headers
    record = await rig.record()
    assert (record.status, record.latency_ms, record.tokens) == (status, LATENCY, tokens)


async def test_an_error_within_a_stream_ends_it_and_is_recorded_as_a_failure(
    rig: Rig, listener: Listener, caller: Caller
) -> None:
    error = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error"}}\n\n'
    rig.upstream(listener.port)
    serving = rig.serve(caller)
    peer = await rig.arrived(listener)
    await peer.send_apart(STREAM_HEAD, chunk(EVENTS[0]), chunk(error), LAST_CHUNK)
    await soon(serving)
    assert (caller.written, caller.resets) == (EVENTS[0] + error, 0)
    record = await rig.record()
    assert (record.status, record.tokens.input) == (502, 11)
    health = rig.health[0]
    assert (health.failures_in_a_row, health.last_failure) == (1, FailureKind.GAVE_UP)
    assert health.last_success_at is None


async def test_an_alias_is_resolved_in_the_body_and_in_the_record(
    rig: Rig, listener: Listener
) -> None:
    rig.upstream(listener.port)
    caller = rig.caller(b'{ "model" : "known", "x": "known"}')
    serving = rig.serve(caller)
    peer = await listener.accept()
    await peer.request()
    resolved = b'{ "model" : "claude-known", "x": "known"}'
    assert await peer.exactly(len(resolved)) == resolved
    peer.send(answer(MESSAGE))
    await soon(serving)
    assert (await rig.record()).model == "claude-known"


async def test_a_model_name_that_only_a_glob_matches_is_not_kept(
    rig: Rig, listener: Listener
) -> None:
    rig.upstream(listener.port)
    serving = rig.serve(rig.caller(b'{"model":"claude-dear-diary"}'))
    (await rig.arrived(listener)).send(answer(MESSAGE))
    await soon(serving)
    assert (await rig.record()).model is None


async def test_counting_tokens_leaves_no_record(
    rig: Rig, listener: Listener, caller: Caller
) -> None:
    rig.upstream(listener.port)
    serving = rig.serve(caller, COUNTING)
    (await rig.arrived(listener)).send(answer(b'{"input_tokens":5}'))
    await soon(serving)
    assert caller.written == b'{"input_tokens":5}'
    assert await rig.records() == []


async def test_a_request_goes_on_a_new_connection_if_the_idle_one_was_closed(
    rig: Rig, listener: Listener
) -> None:
    rig.upstream(listener.port)
    first = rig.serve(rig.caller())
    peer = await rig.arrived(listener)
    peer.send(answer(MESSAGE))
    await soon(first)
    assert rig.upstreams[0].pool.idle_connections == 1
    peer.close()
    second = rig.serve(rig.caller())
    (await rig.arrived(listener)).send(answer(MESSAGE))
    await soon(second)
    assert [record.status for record in await rig.records()] == [200, 200]


async def test_the_next_upstream_is_asked_if_nothing_was_sent_to_the_first(
    rig: Rig, listener: Listener, caller: Caller
) -> None:
    closed = Listener()
    closed.close()
    rig.upstream(closed.port, priority=-1)
    rig.upstream(listener.port)
    serving = rig.serve(caller)
    (await rig.arrived(listener)).send(answer(MESSAGE))
    await soon(serving)
    assert (await rig.record()).status == 200
    assert rig.states == [UpstreamState.FAILING, UpstreamState.OK]


async def test_the_next_upstream_is_asked_if_the_first_hangs_up_at_once(
    rig: Rig, listener: Listener, caller: Caller
) -> None:
    """As a balancer does that has nobody behind it."""
    balancer = Listener()
    rig.upstream(balancer.port, priority=-1)
    rig.upstream(listener.port)
    serving = rig.serve(caller)
    while (peer := balancer.accept_now()) is None:
        await asyncio.sleep(0)
    peer.close()
    (await rig.arrived(listener)).send(answer(MESSAGE))
    await soon(serving)
    assert (await rig.record()).status == 200
    balancer.close()


async def test_a_requests_body_takes_no_memory_while_its_answer_streams(
    rig: Rig, listener: Listener
) -> None:
    class Body(bytearray):
        """Bytes that tell when they are gone."""

    rig.upstream(listener.port)
    sent = Body(BODY)
    gone = weakref.ref(sent)
    caller = rig.caller(sent)
    del sent
    serving = rig.serve(caller)
    peer = await rig.arrived(listener)
    assert gone() is not None
    peer.send(STREAM_HEAD, chunk(EVENTS[0]))
    await eventually(lambda: caller.writes)
    assert gone() is None
    peer.send(*map(chunk, EVENTS[1:]), LAST_CHUNK)
    await soon(serving)


@pytest.mark.parametrize("status", [400, 413, 529])
async def test_an_answer_that_comes_before_its_request_is_read_goes_on_to_the_client(
    rig: Rig, listener: Listener, status: int
) -> None:
    """The upstream closes behind it, with most of a large body unread."""
    rig.upstream(listener.port)
    for _ in range(10):
        body = b'{"model":"claude-known","messages":"%b"}' % bytes(12_000_000).replace(b"\0", b"x")
        caller = rig.caller(body)
        serving = rig.serve(caller)
        peer = await listener.accept()
        await peer.request()
        peer.send(answer(b'{"type":"error"}', status=status))
        peer.reset()
        await soon(serving)
        assert caller.head is not None
        assert (caller.head.status, caller.written) == (status, b'{"type":"error"}')
    refusals = 1 if status < 500 else 10  # They all come within one second.
    assert [record.status for record in await rig.records()] == [status] * refusals
    assert rig.upstreams[0].pool.idle_connections == 0
