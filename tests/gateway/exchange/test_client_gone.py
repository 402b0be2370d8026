"""The client leaves: the upstream is let go at once, what was used until then is recorded."""

from __future__ import annotations

import asyncio

import pytest

from opuslive.dialects import Buffer
from opuslive.gateway.cutting import ExchangeCut
from opuslive.gateway.holder import Cut
from opuslive.gateway.upstreams.health import UpstreamState
from tests.support.listener import Listener, answer
from tests.support.phases import PHASES, UNSENT, Reach, ending, streaming, waiting
from tests.support.provider import LAST_CHUNK, STREAM_HEAD, chunk
from tests.support.rig import (
    COUNTS,
    EVENTS,
    INPUT_GUESS,
    LATENCY,
    MESSAGE,
    Caller,
    Rig,
    cut,
    held_disk,
)
from tests.support.waiting import eventually, soon, turns


@pytest.mark.parametrize("reach", PHASES)
async def test_a_client_that_leaves_ends_its_request_at_once_in_any_phase(
    rig: Rig, listener: Listener, reach: Reach
) -> None:
    """The upstream is let go at once; what was used until then is recorded."""
    phase = await reach(rig, listener)
    phase.caller.leave()
    assert await cut(phase.serving) is Cut.CLIENT_GONE
    record = await rig.record()
    assert record.status == (200 if reach is ending else 499)
    assert record.latency_ms == (None if reach in UNSENT else LATENCY)
    told = 11 if reach in (streaming, ending) else 0
    # An answer that has not begun tells nothing; one that begins as an error costs nothing.
    assert record.tokens.input == (INPUT_GUESS if reach is waiting else told)
    if phase.connected is not None:
        assert await phase.peer.closed()
    await eventually(lambda: rig.upstreams[0].pool.open_connections == 0)
    assert rig.exchanges.running == 0
    assert rig.states == [UpstreamState.OK if reach is ending else UpstreamState.UNUSED]


async def test_a_client_that_is_gone_already_is_recorded_and_nothing_is_sent(
    rig: Rig, listener: Listener, caller: Caller
) -> None:
    rig.upstream(listener.port)
    caller.gone = True
    assert await cut(rig.serve(caller)) is Cut.CLIENT_GONE
    record = await rig.record()
    assert (record.status, record.latency_ms) == (499, None)
    assert listener.accept_now() is None


async def test_nothing_is_sent_for_a_client_that_leaves_when_its_body_has_come(
    rig: Rig, listener: Listener
) -> None:
    """Nothing is sent for it any more, not even on a connection that is there."""
    rig.upstream(listener.port)
    first = rig.serve(rig.caller())
    peer = await rig.arrived(listener)
    peer.send(answer(MESSAGE))
    await soon(first)

    class Leaving(Caller):
        async def read_body(self) -> Buffer:
            body = await super().read_body()
            self.leave()
            return body

    assert await cut(rig.serve(Leaving(rig.credential))) is Cut.CLIENT_GONE
    assert [record.status for record in await rig.records()] == [200, 499]
    assert rig.upstreams[0].pool.idle_connections == 1


@pytest.mark.parametrize("whole", [False, True])
async def test_a_client_that_leaves_while_its_record_is_written_was_served(
    rig: Rig, listener: Listener, whole: bool
) -> None:
    phase = await waiting(rig, listener)
    with held_disk(rig.storage):
        wire = [STREAM_HEAD, *map(chunk, EVENTS), LAST_CHUNK]
        await phase.peer.send_apart(*([b"".join(wire)] if whole else wire))
        await turns(50)
        phase.caller.leave()
        assert not phase.serving.done()
    await asyncio.wait([phase.serving])
    assert rig.exchanges.running == 0
    record = await rig.record()
    assert (record.status, record.tokens) == (200, COUNTS)
    error = phase.serving.exception()
    assert error is None or isinstance(error, ExchangeCut)


async def test_a_client_that_is_gone_when_its_answer_begins_is_recorded_as_such(
    rig: Rig, listener: Listener, caller: Caller
) -> None:
    rig.upstream(listener.port)
    serving = rig.serve(caller)
    peer = await rig.arrived(listener)
    caller.gone = True
    peer.send(STREAM_HEAD, chunk(EVENTS[0]))
    assert await cut(serving) is Cut.CLIENT_GONE
    assert (await rig.record()).status == 499
    assert await peer.closed()
