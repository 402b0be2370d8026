"""A request that runs while the date is moved bears the new date and its true latency."""

from __future__ import annotations

import pytest

from opuslive.gateway.admission.admission import Admitted
from opuslive.limits.estimates import Demand
from opuslive.times import DAY_MS
from opuslive.usage import UsageRecord
from tests.support.clock import NOW
from tests.support.listener import Listener
from tests.support.provider import LAST_CHUNK, STREAM_HEAD, chunk
from tests.support.rig import COUNTS, EVENTS, LATENCY, Caller, Rig, denied
from tests.support.waiting import eventually, soon

pytestmark = pytest.mark.parametrize("delta", [3 * DAY_MS, -3 * DAY_MS])


async def set_clock(rig: Rig, delta: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock is set, and the gateway has seen it."""
    monkeypatch.setattr("opuslive.gateway.timekeeping.LOOK_SECONDS", 0.001)
    rig.machine.wall = rig.machine.elapsed + delta
    rig.timekeeper.start()
    await eventually(lambda: rig.date == rig.machine.wall)
    rig.timekeeper.stop()


async def the_record(rig: Rig) -> UsageRecord:
    await rig.storage.flush()
    (record,), _ = await rig.storage.records(rig.key.id)
    return record


async def test_a_stream_during_which_the_clock_is_set_bears_the_new_date(
    rig: Rig, listener: Listener, caller: Caller, monkeypatch: pytest.MonkeyPatch, delta: int
) -> None:
    """Also where it had an open record before: that is replaced, not doubled."""
    rig.upstream(listener.port)
    serving = rig.serve(caller)
    peer = await rig.arrived(listener)
    rig.exchanges.keep_open(NOW + 1_000)
    assert (await the_record(rig)).time == NOW
    await set_clock(rig, delta, monkeypatch)
    rig.exchanges.keep_open(NOW + delta + LATENCY)
    opened = await the_record(rig)
    assert (opened.time, opened.latency_ms, opened.status) == (NOW + delta, LATENCY, None)
    peer.send(STREAM_HEAD, *map(chunk, EVENTS), LAST_CHUNK)
    await soon(serving)
    assert await the_record(rig) == UsageRecord(
        rig.key.id, NOW + delta, "claude-known", 200, LATENCY, COUNTS
    )
    usage = await rig.storage.key_usage(rig.key.id)
    assert usage.sum.requests == 1


async def test_a_request_denied_after_it_waited_bears_the_new_date(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caller: Caller, delta: int
) -> None:
    await rig.limit("1 concurrent")
    rig.upstream(9)
    holding = rig.admission.enter(rig.holder, Demand("claude-known", 0, 1))
    assert isinstance(holding, Admitted)
    serving = rig.serve(caller)
    await eventually(lambda: rig.admission.waiting)
    await set_clock(rig, delta, monkeypatch)
    rig.exchanges.draining = True
    rig.exchanges.cut_all()
    await denied(serving)
    record = await the_record(rig)
    assert (record.time, record.latency_ms) == (NOW + delta, None)
    holding.settle(None, rig.date)
