"""The key's holder has what runs cut: it is recorded as if the client had left."""

from __future__ import annotations

import pytest

from opuslive.errors import Code
from opuslive.gateway.holder import Cut
from tests.support.listener import Listener, answer
from tests.support.phases import PHASES, Reach, ending, streaming
from tests.support.rig import MESSAGE, Rig, cut, denied
from tests.support.waiting import soon


@pytest.mark.parametrize("reach", PHASES)
async def test_a_cut_request_ends_in_any_phase_and_is_recorded(
    rig: Rig, listener: Listener, reach: Reach
) -> None:
    phase = await reach(rig, listener)
    assert rig.holder.cut(Cut.HOLDER_ASKED) == 1
    if reach in (streaming, ending):
        assert await cut(phase.serving) is Cut.HOLDER_ASKED
        assert phase.caller.resets >= 1
    else:
        error = await denied(phase.serving)
        # A client must not try again by itself.
        assert (error.code, error.code.should_retry) == (Code.CONFLICT, False)
    if phase.connected is not None:
        assert await phase.peer.closed()
    # Once the client has its last event the record is on disk.
    assert (await rig.record()).status == (200 if reach is ending else 499)
    assert not rig.holder.running


async def test_what_it_had_used_counts_as_for_a_client_that_leaves(
    rig: Rig, listener: Listener
) -> None:
    phase = await streaming(rig, listener)
    rig.holder.cut(Cut.HOLDER_ASKED)
    await cut(phase.serving)
    record = await rig.record()
    assert record.tokens.input == 11
    assert record.tokens.output > 0


async def test_the_key_goes_on_working(rig: Rig, listener: Listener) -> None:
    phase = await streaming(rig, listener)
    rig.holder.cut(Cut.HOLDER_ASKED)
    await cut(phase.serving)
    assert rig.holder.cut(Cut.HOLDER_ASKED) == 0
    serving = rig.serve(rig.caller())
    (await rig.arrived(listener)).send(answer(MESSAGE))
    await soon(serving)
