"""The process ends while requests run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from opuslive.errors import Code
from opuslive.gateway.exchange import Exchange
from opuslive.gateway.holder import Cut
from tests.support.listener import Listener, answer
from tests.support.phases import PHASES, UNSENT, Reach, ending, streaming, waiting
from tests.support.rig import LATENCY, MESSAGE, Caller, Rig, cut, denied, held_disk
from tests.support.waiting import PATIENCE, eventually, soon, turns


@pytest.mark.parametrize("reach", PHASES)
async def test_a_shutdown_ends_and_records_requests_in_any_phase(
    rig: Rig, listener: Listener, reach: Reach
) -> None:
    phase = await reach(rig, listener)
    rig.exchanges.cut_all()
    if reach in (streaming, ending):
        assert await cut(phase.serving) is Cut.SHUTDOWN
        assert phase.caller.resets == 1
    else:
        error = await denied(phase.serving)
        assert (error.code, error.retry_after) == (Code.OVERLOADED, 5)
    await soon(asyncio.ensure_future(rig.exchanges.wait_idle()))
    record = await rig.record()
    assert record.status == (200 if reach is ending else 503)
    assert record.latency_ms == (None if reach in UNSENT else LATENCY)


@pytest.mark.parametrize("reach", PHASES)
async def test_cancelling_ends_and_records_a_request_in_any_phase(
    rig: Rig, listener: Listener, reach: Reach
) -> None:
    phase = await reach(rig, listener)
    phase.serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await phase.serving
    assert phase.caller.resets == 1
    assert (await rig.record()).status == (200 if reach is ending else 503)
    await eventually(lambda: rig.upstreams[0].pool.open_connections == 0)


async def test_cancelling_while_a_record_is_written_leaves_others_waiting_for_it(
    rig: Rig, listener: Listener
) -> None:
    """Whoever else waits for the disk waits on."""
    phase = await waiting(rig, listener)
    with held_disk(rig.storage):
        phase.peer.send(answer(MESSAGE))
        await eventually(lambda: phase.caller.body_is_sent)
        await turns()
        flushing = asyncio.ensure_future(rig.storage.flush())
        await turns()
        assert not flushing.done()
        phase.serving.cancel()
        await turns()
    await soon(flushing)
    assert (await rig.record()).status == 200


async def test_cancelling_in_the_moment_of_admission_gives_the_reservation_back(
    rig: Rig, listener: Listener
) -> None:
    """Nobody holds the place that it was given and could not take."""
    await rig.limit("1 concurrent")
    first = await waiting(rig, listener)
    caller = rig.caller()
    second = rig.serve(caller)
    admitting = await waited_for(caller)
    first.caller.leave()
    await in_the_turn_of(admitting, second.cancel)
    assert not admitting.cancelled()
    with pytest.raises(asyncio.CancelledError):
        await second
    (limit_status,) = rig.admission.statuses(rig.key.id)
    assert (limit_status.used, limit_status.reserved) == (0, 0)


async def test_cancelling_in_the_moment_of_connection_closes_the_connection(
    rig: Rig, listener: Listener, caller: Caller
) -> None:
    """Nobody would ever close the connection."""
    rig.upstream(listener.port)
    serving = rig.serve(caller)
    connecting = await waited_for(caller)
    await in_the_turn_of(connecting, serving.cancel)
    assert not connecting.cancelled()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert await (await listener.accept()).closed()
    await eventually(lambda: rig.upstreams[0].pool.open_connections == 0)


async def waited_for(caller: Caller) -> asyncio.Future[Any]:
    """What the caller's exchange waits for before it sends its request."""

    def waiting() -> asyncio.Future[Any] | None:
        assert caller.exchange is None or isinstance(caller.exchange, Exchange)
        return None if caller.exchange is None else caller.exchange._cutter._waiting_for

    while (found := waiting()) is None:
        await asyncio.sleep(0)
    return found


async def in_the_turn_of(future: asyncio.Future[Any], act: Callable[[], object]) -> None:
    """Act when the future is done, before whoever waits for it has heard of that."""
    async with asyncio.timeout(PATIENCE):
        while not future.done():
            await asyncio.sleep(0)
    act()
