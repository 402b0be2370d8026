"""Defects of the gateway and a full disk cost no record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from opuslive.gateway.alerts.alerts import Message
from opuslive.gateway.holder import Cut
from opuslive.gateway.upstreams.wire import AnswerHead
from opuslive.storage import StorageUnavailable, open_storage
from tests.support.listener import Listener, answer
from tests.support.phases import streaming, waiting
from tests.support.provider import LAST_CHUNK, STREAM_HEAD, chunk
from tests.support.rig import COUNTING, COUNTS, EVENTS, MESSAGE, Caller, Rig, cut
from tests.support.stores import full_disk
from tests.support.waiting import soon


def undeliverable(message: Message) -> None:
    raise ZeroDivisionError(message)


async def test_an_alert_that_fails_costs_neither_the_request_nor_its_record(
    rig: Rig, listener: Listener, caller: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    rig.deliver = undeliverable
    await rig.limit("10 tokens/total")
    rig.upstream(listener.port)
    serving = rig.serve(caller)
    (await rig.arrived(listener)).send(answer(MESSAGE))
    await soon(serving)
    assert caller.written == MESSAGE
    assert (await rig.record()).status == 200
    assert caplog.messages[-1] == "an alert of a limit failed (ZeroDivisionError)"


async def test_a_defect_is_recorded_raised_and_resets_the_client(
    rig: Rig, listener: Listener, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def start_answer(_: AnswerHead, begun: bytes) -> tuple[Callable[[bytes], object], bool]:
        raise ZeroDivisionError

    monkeypatch.setattr(caller, "start_answer", start_answer)
    rig.upstream(listener.port)
    serving = rig.serve(caller)
    peer = await rig.arrived(listener)
    peer.send(STREAM_HEAD, chunk(EVENTS[0]))
    with pytest.raises(ZeroDivisionError):
        await soon(serving)
    assert caller.resets == 1
    assert (await rig.record()).status == 500
    assert await peer.closed()


async def test_a_full_disk_before_an_answer_denies_it_and_the_record_is_written_later(
    rig: Rig, listener: Listener, caller: Caller, tmp_path: Path
) -> None:
    """The client gets a 503; the record is written when the disk is well."""
    rig.upstream(listener.port)
    serving = rig.serve(caller)
    peer = await rig.arrived(listener)
    with full_disk():
        peer.send(answer(MESSAGE))
        with pytest.raises(StorageUnavailable):
            await soon(serving)
    assert (caller.head, caller.writes) == (None, [])
    with pytest.raises(StorageUnavailable):
        await soon(rig.serve(rig.caller()))  # until the disk has taken something
    assert listener.accept_now() is None
    await rig.storage.close()
    storage = await open_storage(f"sqlite://{tmp_path / 'opuslive.db'}")
    records, _ = await storage.records(rig.key.id)
    assert [(record.status, record.tokens) for record in records] == [(200, COUNTS)]
    await storage.close()


async def test_a_full_disk_after_an_answer_has_begun_keeps_its_end_from_the_client(
    rig: Rig, listener: Listener
) -> None:
    phase = await streaming(rig, listener)
    with full_disk():
        phase.peer.send(*map(chunk, EVENTS[1:]), LAST_CHUNK)
        assert await cut(phase.serving) is Cut.UPSTREAM_GONE
    assert phase.caller.resets == 1
    assert EVENTS[-1] not in phase.caller.written
    record = await rig.record()
    assert (record.status, record.tokens) == (200, COUNTS)


async def test_counting_tokens_goes_on_while_the_disk_is_full(rig: Rig, listener: Listener) -> None:
    phase = await waiting(rig, listener)
    with full_disk():
        phase.peer.send(answer(MESSAGE))
        with pytest.raises(StorageUnavailable):
            await soon(phase.serving)
    caller = rig.caller()
    serving = rig.serve(caller, COUNTING)
    await phase.peer.request()
    phase.peer.send(answer(b"5"))
    await soon(serving)
    assert caller.written == b"5"
