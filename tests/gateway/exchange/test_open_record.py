"""A request that goes on for long has a record before its end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from opuslive.dialects import Meter, NoUsage, RequestMembers
from opuslive.dialects.anthropic.dialect import AnthropicDialect
from opuslive.usage import TokenCounts, UsageRecord
from tests.support.clock import NOW
from tests.support.listener import Listener
from tests.support.provider import LAST_CHUNK, STREAM_HEAD, chunk
from tests.support.rig import (
    BODY,
    COUNTING,
    COUNTS,
    EVENTS,
    INPUT_GUESS,
    LATENCY,
    MESSAGES,
    Caller,
    Rig,
)
from tests.support.waiting import eventually, soon, turns


class Faulty(AnthropicDialect):
    """Its meters can't say what they counted."""

    def meter(self, members: RequestMembers | None = None, *, stream: bool) -> Meter:
        return Uncountable()


class Uncountable(NoUsage):
    def counts(self) -> TokenCounts:
        raise ZeroDivisionError(BODY)


def broken() -> int:
    raise ZeroDivisionError


async def test_a_long_request_has_an_open_record_from_a_second_on_which_is_renewed(
    rig: Rig, listener: Listener, caller: Caller
) -> None:
    rig.upstream(listener.port)
    serving = rig.serve(caller)
    peer = await rig.arrived(listener)
    began = NOW
    rig.exchanges.keep_open(began + 999)
    assert await rig.records() == []
    rig.exchanges.keep_open(began + 1_000)
    await rig.storage.flush()
    (record,) = await rig.records()
    guess = TokenCounts(input=INPUT_GUESS)
    assert (record.status, record.latency_ms, record.tokens) == (None, 1_000, guess)
    rig.exchanges.keep_open(began + 1_500)
    assert await rig.records() == [record]  # Nothing is told yet.
    peer.send(STREAM_HEAD, chunk(EVENTS[0]))
    await eventually(lambda: caller.written == EVENTS[0])
    rig.exchanges.keep_open(began + 2_000)
    await rig.storage.flush()
    (record,) = await rig.records()
    assert (record.status, record.latency_ms, record.tokens.input) == (None, 2_000, 11)
    peer.send(*map(chunk, EVENTS[1:-2]))
    await eventually(lambda: caller.written == b"".join(EVENTS[:-2]))
    rig.exchanges.keep_open(began + 11_999)
    assert await rig.records() == [record]
    rig.exchanges.keep_open(began + 12_000)
    await rig.storage.flush()
    (before, (record,)) = record, await rig.records()
    assert (record.status, record.latency_ms, record.tokens.input) == (None, 12_000, 11)
    assert record.tokens.output > before.tokens.output  # an estimate, so far
    peer.send(*map(chunk, EVENTS[-2:]), LAST_CHUNK)
    await soon(serving)
    assert await rig.record() == UsageRecord(rig.key.id, NOW, "claude-known", 200, LATENCY, COUNTS)


async def test_an_open_record_is_renewed_while_nothing_is_counted(
    rig: Rig, listener: Listener, caller: Caller
) -> None:
    rig.upstream(listener.port)
    rig.serve(caller)
    await rig.arrived(listener)
    latencies = set()
    for seconds in range(1, 24):
        rig.exchanges.keep_open(NOW + seconds * 1000)
        await rig.storage.flush()
        (record,) = await rig.records()
        latencies.add(record.latency_ms)
    assert latencies == {1_000, 11_000, 21_000}


async def test_a_request_that_cannot_be_kept_open_does_not_keep_others_from_it(
    rig: Rig,
    listener: Listener,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nor itself from being tried again."""
    monkeypatch.setattr("opuslive.gateway.exchanges.CHECK_SECONDS", 0.001)
    dialect = Faulty()
    rig.upstream(listener.port)
    rig.upstream(listener.port, dialect=dialect)
    faulty, caller = rig.caller(), rig.caller()
    serving = rig.serve(faulty, MESSAGES, dialect)
    (await rig.arrived(listener)).send(STREAM_HEAD, chunk(EVENTS[0]))
    await eventually(lambda: faulty.written)
    rig.serve(caller)
    await rig.arrived(listener)
    rig.machine.elapsed += 1_000
    rig.exchanges.start()
    await eventually(lambda: len(caplog.messages) > 2)
    rig.exchanges.stop()
    assert set(caplog.messages) == {"a running request could not be kept (ZeroDivisionError)"}
    assert (await rig.record()).status is None
    serving.cancel()


async def test_open_records_are_looked_after_whatever_happens(
    rig: Rig, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opuslive.gateway.exchanges.CHECK_SECONDS", 0.001)
    reported: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context))
    rig.upstream(listener.port)
    rig.serve(rig.caller())
    await rig.arrived(listener)
    working, rig.machine.clock.elapsed_ms = rig.machine.clock.elapsed_ms, broken
    rig.exchanges.start()
    await eventually(lambda: reported)
    rig.machine.pass_time(1_000)
    rig.machine.clock.elapsed_ms = working
    assert (await rig.record()).status is None
    rig.exchanges.stop()
    assert {type(context["exception"]) for context in reported} == {ZeroDivisionError}


async def test_an_unmetered_request_has_no_open_record(
    rig: Rig, listener: Listener, caller: Caller
) -> None:
    rig.upstream(listener.port)
    rig.serve(caller, COUNTING)
    await rig.arrived(listener)
    rig.exchanges.keep_open(NOW + 60_000)
    assert await rig.records() == []


async def test_a_request_that_is_not_sent_has_no_open_record(rig: Rig) -> None:
    rig.serve(rig.caller(None))
    await turns()
    rig.exchanges.keep_open(NOW + 60_000)
    assert await rig.records() == []
