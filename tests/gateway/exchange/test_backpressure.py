"""A client that takes no more stops its upstream."""

from __future__ import annotations

from tests.support.listener import Listener
from tests.support.phases import body, streaming
from tests.support.provider import LAST_CHUNK, chunk
from tests.support.rig import EVENTS, Rig
from tests.support.waiting import eventually, soon, turns


async def test_a_client_that_is_full_stops_the_upstream(rig: Rig, listener: Listener) -> None:
    phase = await streaming(rig, listener)
    exchange, peer = phase.caller.exchange, phase.peer
    assert exchange is not None
    assert peer is not None
    exchange.client_full()
    await peer.send_apart(*map(chunk, EVENTS[1:3]))
    await turns()
    assert phase.caller.written == EVENTS[0]
    exchange.client_drained()
    await eventually(lambda: phase.caller.written == b"".join(EVENTS[:3]))
    peer.send(*map(chunk, EVENTS[3:]), LAST_CHUNK)
    await soon(phase.serving)


async def test_a_full_client_means_nothing_outside_of_an_answer(
    rig: Rig, listener: Listener
) -> None:
    phase = await body(rig, listener)
    assert phase.caller.exchange is not None
    phase.caller.exchange.client_full()
    phase.caller.exchange.client_drained()
