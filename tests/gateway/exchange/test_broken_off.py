"""The upstream fails after the answer has begun: the client's connection is reset."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from opuslive.gateway.holder import Cut
from opuslive.gateway.upstreams.health import DOWN_FAILURES, UpstreamState
from opuslive.gateway.upstreams.wire import Timeouts
from tests.support.listener import Listener, Peer, answer
from tests.support.provider import LAST_CHUNK, STREAM_HEAD, chunk
from tests.support.rig import EVENTS, LATENCY, MESSAGE, STREAM, Caller, Rig, cut
from tests.support.waiting import eventually, soon

SHORT = Timeouts(60.0, 0.05, 0.05)


@pytest.mark.parametrize("way", [Peer.close, Peer.reset, lambda peer: peer.send(LAST_CHUNK)])
async def test_a_stream_that_its_upstream_breaks_off_resets_the_client(
    rig: Rig, listener: Listener, caller: Caller, way: Callable[[Peer], None]
) -> None:
    """A clean end is none where the last event is missing."""
    rig.upstream(listener.port)
    serving = rig.serve(caller)
    peer = await rig.arrived(listener)
    peer.send(STREAM_HEAD, *map(chunk, EVENTS[:-2]))
    await eventually(lambda: caller.written == b"".join(EVENTS[:-2]))
    way(peer)
    assert await cut(serving) is Cut.UPSTREAM_GONE
    assert caller.resets == 1
    record = await rig.record()
    assert (record.status, record.latency_ms, record.tokens.input) == (502, LATENCY, 11)
    assert record.tokens.output > 0  # an estimate: it was never told
    assert rig.states == [UpstreamState.FAILING]


async def test_an_upstream_that_always_breaks_off_is_down(rig: Rig, listener: Listener) -> None:
    """Though each answer begins well."""
    rig.upstream(listener.port)
    for _ in range(DOWN_FAILURES):
        assert rig.down == [False]
        caller = rig.caller()
        serving = rig.serve(caller)
        peer = await rig.arrived(listener)
        peer.send(STREAM_HEAD, chunk(EVENTS[0]))
        await eventually(partial(getattr, caller, "writes"))
        peer.reset()
        assert await cut(serving) is Cut.UPSTREAM_GONE
    assert rig.down == [True]


async def test_a_body_that_its_upstream_breaks_off_resets_the_client(
    rig: Rig, listener: Listener, caller: Caller
) -> None:
    rig.upstream(listener.port)
    serving = rig.serve(caller)
    peer = await rig.arrived(listener)
    peer.send(answer(MESSAGE)[:-1])
    await eventually(lambda: caller.head)
    peer.close()
    assert await cut(serving) is Cut.UPSTREAM_GONE
    assert caller.resets == 1
    assert (await rig.record()).status == 502


async def test_an_upstream_that_falls_silent_in_its_answer_resets_the_client(
    rig: Rig, listener: Listener, caller: Caller
) -> None:
    rig.upstream(listener.port, SHORT)
    serving = rig.serve(caller)
    peer = await rig.arrived(listener)
    peer.send(STREAM_HEAD, chunk(EVENTS[0]))
    assert await cut(serving) is Cut.UPSTREAM_GONE
    assert caller.resets == 1
    assert (await rig.record()).status == 502
    assert await peer.closed()


@pytest.mark.parametrize("way", [Peer.close, Peer.reset])
async def test_a_break_after_the_last_event_is_a_good_end(
    rig: Rig, listener: Listener, caller: Caller, way: Callable[[Peer], None]
) -> None:
    rig.upstream(listener.port)
    serving = rig.serve(caller)
    peer = await rig.arrived(listener)
    await peer.send_apart(STREAM_HEAD, *map(chunk, EVENTS))
    way(peer)
    await soon(serving)
    assert (caller.written, caller.resets) == (STREAM, 0)
    assert (await rig.record()).status == 200
