"""The key is deleted while its requests run: nothing is left of them."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest

from opuslive.errors import Code
from opuslive.gateway.holder import Cut, Holder
from opuslive.storage import StorageUnavailable
from tests.support.clock import NOW
from tests.support.listener import Listener, answer
from tests.support.phases import PHASES, Reach, ending, streaming
from tests.support.rig import MESSAGE, Rig, cut, denied, held_disk
from tests.support.stores import full_disk
from tests.support.waiting import PATIENCE, eventually, soon, turns


@pytest.mark.parametrize("reach", PHASES)
@pytest.mark.parametrize("gone", [False, True])
async def test_a_deleted_key_ends_its_requests_in_any_phase_and_leaves_no_record(
    rig: Rig, listener: Listener, reach: Reach, gone: bool
) -> None:
    """Nothing is left of it, though the client may go as well."""
    phase = await reach(rig, listener)
    Holder(replace(rig.key, id="key00002"), NOW).cut(Cut.KEY_DELETED)
    await turns()
    assert not phase.serving.done()
    rig.holders.remove(rig.holder)
    rig.holder.cut(Cut.KEY_DELETED)
    erasure = asyncio.ensure_future(rig.storage.delete_key(rig.key.id))
    if gone:
        phase.caller.leave()
    if reach in (streaming, ending):
        assert await cut(phase.serving) is Cut.KEY_DELETED
        assert phase.caller.resets >= 1
    else:
        assert (await denied(phase.serving)).code is Code.INVALID_KEY
    if phase.connected is not None:
        assert await phase.peer.closed()
    await erasure
    await rig.storage.flush()
    await rig.storage.add_key(rig.key)
    assert await rig.records() == []


async def test_a_deletion_ends_the_keys_requests_and_nobody_hears_of_them(
    rig: Rig, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    """Its requests end while it is being erased: nobody hears of that, nor remembers it."""
    caplog.set_level(logging.INFO, "opuslive.access")
    await rig.limit("10 tokens/total")
    unsent, sent = rig.caller(None), await streaming(rig, listener)
    refusing = rig.serve(unsent)
    await eventually(lambda: unsent.exchange)
    with held_disk(rig.storage):
        deletion = asyncio.ensure_future(rig.administration.delete(rig.key.id))
        assert await cut(sent.serving) is Cut.KEY_DELETED
        await turns()
    assert (await denied(refusing)).code is Code.INVALID_KEY
    async with asyncio.timeout(PATIENCE):
        await deletion
    assert (rig.alerts, caplog.messages) == ([], [])
    assert not rig.holder.running
    assert rig.holders.get(rig.key.id) is None


async def test_a_key_works_as_before_if_its_deletion_fails(
    rig: Rig, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "opuslive.access")
    await rig.limit("10 tokens/total")
    rig.upstream(listener.port)
    with full_disk(), pytest.raises(StorageUnavailable):
        await rig.administration.delete(rig.key.id)
    await rig.storage.update_key(rig.key, at=NOW)
    caplog.clear()
    serving = rig.serve(rig.caller())
    (await rig.arrived(listener)).send(answer(MESSAGE))
    await soon(serving)
    assert [alert["level"] for alert in rig.alerts] == [100]
    assert caplog.messages[1:] == ["request"]


async def test_what_cut_requests_used_is_recorded_if_the_deletion_fails(
    rig: Rig, listener: Listener
) -> None:
    phase = await streaming(rig, listener)
    rig.holder.cut(Cut.KEY_DELETED)
    await cut(phase.serving)
    record = await rig.record()
    assert (record.status, record.tokens.input) == (503, 11)
