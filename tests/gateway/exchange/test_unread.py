"""Requests that are refused before their body has come: as they would be with it, and sooner.

Of the kind is whatever denies any request of the key: ``admission/test_before_body.py`` has the
limits, and a disabled or expired key proves nothing (``test_authenticator.py``).
"""

from __future__ import annotations

from opuslive.errors import Code
from opuslive.usage import UsageRecord
from tests.support.clock import NOW
from tests.support.listener import Listener, answer
from tests.support.rig import COUNTING, LATENCY, MESSAGE, Rig, denied
from tests.support.waiting import eventually, soon, turns


async def use_up(rig: Rig, listener: Listener) -> None:
    rig.upstream(listener.port)
    await rig.limit("1 requests/total")
    serving = rig.serve(rig.caller())
    (await rig.arrived(listener)).send(answer(MESSAGE))
    await soon(serving)


async def test_a_used_up_key_is_refused_unread_and_the_refusal_recorded(
    rig: Rig, listener: Listener
) -> None:
    await use_up(rig, listener)
    unread = rig.caller(None)
    error = await denied(rig.serve(unread))
    with_body = await denied(rig.serve(rig.caller()))
    assert error.code is with_body.code is Code.QUOTA_EXHAUSTED
    assert error.message == with_body.message
    assert (unread.head, unread.resets) == (None, 0)
    _, refusal = await rig.records()
    assert refusal == UsageRecord(rig.key.id, NOW + LATENCY, None, 429, None)


async def test_one_refusal_a_second_is_recorded_whether_read_or_not(
    rig: Rig, listener: Listener
) -> None:
    await use_up(rig, listener)
    for body in (None, None):
        await denied(rig.serve(rig.caller(body)))
    await denied(rig.serve(rig.caller()))
    assert [record.status for record in await rig.records()] == [200, 429]
    assert rig.exchanges.unrecorded_denials == 2


async def test_a_key_with_room_may_send_its_body(rig: Rig, listener: Listener) -> None:
    rig.upstream(listener.port)
    await rig.limit("1 requests/total", "100k tokens/total", "1 concurrent")
    caller = rig.caller(None)
    serving = rig.serve(caller)
    await eventually(lambda: caller.exchange)
    await turns()
    assert not serving.done()


async def test_counting_on_a_used_up_key_may_send_its_body(rig: Rig, listener: Listener) -> None:
    await use_up(rig, listener)
    caller = rig.caller(None)
    serving = rig.serve(caller, COUNTING)
    await eventually(lambda: caller.exchange)
    await turns()
    assert not serving.done()
