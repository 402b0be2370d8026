"""Requests that the provider refuses at no cost are recorded once a second, as refusals are.

What belongs to the kind: every 4xx, those that speak of the gateway's account as well, however the
exchange ends. And what does not, and so has its record always: a 4xx that cost tokens, a success,
a 5xx, a request that has an open record.
"""

from __future__ import annotations

import contextlib

import pytest

from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.cutting import ExchangeCut
from opuslive.usage import TokenCounts
from tests.support.listener import Listener, answer
from tests.support.rig import COUNTING, LATENCY, MESSAGE, Rig, denied
from tests.support.waiting import eventually, soon

REFUSAL = b'{"type":"error","error":{"type":"x","message":"no"}}'
COSTLY = b'{"type":"error","usage":{"input_tokens":9}}'


async def refused(rig: Rig, listener: Listener, status: int, body: bytes = REFUSAL) -> None:
    """One request that is answered so, within the same second as the one before."""
    serving = rig.serve(rig.caller())
    peer = await listener.accept()
    await peer.request()
    peer.send(answer(body, b"connection: close", status=status))
    with contextlib.suppress(OpusLiveError):  # where it speaks of the gateway's account
        await soon(serving)


async def statuses(rig: Rig) -> list[int | None]:
    return [record.status for record in await rig.records()]


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422, 429, 499])
async def test_one_of_a_second_is_recorded_and_the_others_are_counted(
    rig: Rig, listener: Listener, status: int
) -> None:
    rig.upstream(listener.port)
    for _ in range(3):
        await refused(rig, listener, status)
    assert len(await statuses(rig)) == 1
    assert rig.exchanges.unrecorded_denials == 2
    rig.machine.pass_time(LATENCY)
    await refused(rig, listener, status)
    assert len(await statuses(rig)) == 2


@pytest.mark.parametrize("how", ["broken off", "left"])
async def test_one_of_a_second_is_recorded_however_it_ends(
    rig: Rig, listener: Listener, how: str
) -> None:
    rig.upstream(listener.port)
    await refused(rig, listener, 404)
    caller = rig.caller()
    serving = rig.serve(caller)
    peer = await listener.accept()
    await peer.request()
    peer.send(answer(REFUSAL, b"connection: close", status=404)[:-9])
    await eventually(lambda: caller.head)
    peer.close() if how == "broken off" else caller.leave()
    with pytest.raises(ExchangeCut):
        await soon(serving)
    assert await statuses(rig) == [404]
    assert rig.exchanges.unrecorded_denials == 1


async def test_the_gateways_own_refusals_and_the_providers_share_the_second(
    rig: Rig, listener: Listener
) -> None:
    rig.upstream(listener.port)
    await denied(rig.serve(rig.caller(b"not JSON")))
    await refused(rig, listener, 404)
    assert await statuses(rig) == [400]
    assert rig.exchanges.unrecorded_denials == 1


@pytest.mark.parametrize(
    ("status", "body"), [(200, MESSAGE), (500, REFUSAL), (529, REFUSAL), (400, COSTLY)]
)
async def test_what_is_no_refusal_or_cost_tokens_is_always_recorded(
    rig: Rig, listener: Listener, status: int, body: bytes
) -> None:
    rig.upstream(listener.port)
    await refused(rig, listener, 404)
    for _ in range(3):
        await refused(rig, listener, status, body)
    assert await statuses(rig) == [404, status, status, status]
    assert rig.exchanges.unrecorded_denials == 0


async def test_one_that_has_an_open_record_has_it_closed(rig: Rig, listener: Listener) -> None:
    """Else the next start would take it for one that was cut short, and estimate its cost."""
    rig.upstream(listener.port)
    await refused(rig, listener, 404)
    serving = rig.serve(rig.caller())
    peer = await listener.accept()
    await peer.request()
    rig.exchanges.keep_open(rig.machine.elapsed + 1_000)
    peer.send(answer(REFUSAL, status=400))
    await soon(serving)
    assert await statuses(rig) == [404, 400]
    assert (await rig.records())[-1].tokens == TokenCounts()


async def test_one_without_a_record_counts_in_limits_of_requests(
    rig: Rig, listener: Listener
) -> None:
    await rig.limit("3 requests/1h")
    rig.upstream(listener.port)
    for _ in range(3):
        await refused(rig, listener, 404)
    error = await denied(rig.serve(rig.caller()))
    assert error.code in (Code.RATE_LIMITED, Code.QUOTA_EXHAUSTED)


async def test_counting_tokens_leaves_no_record_and_takes_nobodys_place(
    rig: Rig, listener: Listener
) -> None:
    rig.upstream(listener.port)
    serving = rig.serve(rig.caller(), COUNTING)
    peer = await listener.accept()
    await peer.request()
    peer.send(answer(REFUSAL, b"connection: close", status=404))
    await soon(serving)
    await refused(rig, listener, 404)
    assert await statuses(rig) == [404]
