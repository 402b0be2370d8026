"""Who leaves just before the usage is told pays no less for it.

Members of the kind: a client that leaves behind the last block, between blocks, within a block
behind thinking or the results of tools, in the midst of a body; the usage comes then, or does not;
the upstream goes on writing, falls silent or breaks off; the process ends or the key is deleted
meanwhile; the connection is told to be gone twice. Not: one that leaves in the midst of what can be
seen, or before the answer has begun.
"""

from __future__ import annotations

from typing import Any

import pytest

from opuslive.gateway import exchange
from opuslive.gateway.holder import Cut
from opuslive.gateway.upstreams.health import UpstreamState
from opuslive.usage import TokenCounts
from tests.support.anthropic_streams import delta, event, start, stream, text
from tests.support.clock import NOW
from tests.support.documents import page
from tests.support.listener import Listener, Peer, answer
from tests.support.provider import LAST_CHUNK, STREAM_HEAD, chunk
from tests.support.rig import COUNTS, MESSAGE, Caller, Rig, cut
from tests.support.waiting import eventually, turns


def block(kind: str, **members: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": 0, "content_block": {"type": kind, **members}}


STOP_BLOCK = {"type": "content_block_stop", "index": 0}
TEXT = [block("text", text=""), text("The answer is 7. END")]
THINKING = [block("thinking", thinking="", signature=""), STOP_BLOCK]
RESULTS = [block("web_search_tool_result", content=["x" * 40_000]), STOP_BLOCK]
TOLD = [delta(input_tokens=90_000, output_tokens=30_000), {"type": "message_stop"}]

NEAR = pytest.mark.parametrize(
    "events",
    [
        pytest.param([*TEXT, STOP_BLOCK], id="behind the text"),
        pytest.param([*THINKING, *TEXT], id="in the text behind thinking"),
        pytest.param([*RESULTS, *TEXT], id="in the text behind results"),
        pytest.param(THINKING, id="between blocks"),
    ],
)


async def left(rig: Rig, listener: Listener, *wire: bytes) -> tuple[Caller, Peer, Any]:
    """A client that has read this much of its answer, and left."""
    rig.upstream(listener.port)
    caller = rig.caller()
    serving = rig.serve(caller)
    peer = await rig.arrived(listener)
    peer.send(*wire)
    await eventually(lambda: caller.writes)
    await turns()
    caller.leave()
    return caller, peer, serving


def streaming(*events: dict[str, Any]) -> bytes:
    return STREAM_HEAD + chunk(event(start(input_tokens=11, output_tokens=1)) + stream(*events))


@NEAR
async def test_the_usage_that_comes_then_is_what_it_costs(
    rig: Rig, listener: Listener, events: list[dict[str, Any]]
) -> None:
    """Nothing is sent to who is gone, and nothing is learnt from it."""
    caller, peer, serving = await left(rig, listener, streaming(*events))
    seen = caller.written
    assert not serving.done()
    peer.send(chunk(stream(*TOLD)), LAST_CHUNK)
    assert await cut(serving) is Cut.CLIENT_GONE
    record = await rig.record()
    assert (record.status, record.tokens) == (499, TokenCounts(90_000, 30_000))
    assert caller.written == seen
    assert rig.holder.experience.output("claude-known", None, "adaptive") == 4_096
    assert rig.states == [UpstreamState.UNUSED]


async def test_the_rest_of_a_body_tells_what_it_costs(rig: Rig, listener: Listener) -> None:
    caller, peer, serving = await left(rig, listener, answer(MESSAGE)[:-20])
    seen = caller.written
    peer.send(answer(MESSAGE)[-20:])
    assert await cut(serving) is Cut.CLIENT_GONE
    record = await rig.record()
    assert (record.status, record.tokens) == (499, COUNTS)
    assert caller.written == seen


async def test_an_upstream_that_falls_silent_is_let_go_within_a_second(
    rig: Rig, listener: Listener
) -> None:
    """What can't be seen then costs what was reserved, which is 9 tokens of output here."""
    assert exchange.READ_ON_SECONDS < 1
    _, peer, serving = await left(rig, listener, streaming(*THINKING))
    assert await cut(serving) is Cut.CLIENT_GONE
    assert await peer.closed()
    record = await rig.record()
    assert (record.status, record.tokens) == (499, TokenCounts(11, 9))


async def test_an_upstream_that_was_paused_for_a_slow_client_is_read_on(
    rig: Rig, listener: Listener
) -> None:
    """Also if the rest is more than would wait for a client."""
    rig.upstream(listener.port)
    caller = rig.caller()
    serving = rig.serve(caller)
    peer = await rig.arrived(listener)
    peer.send(streaming(*TEXT, STOP_BLOCK))
    await eventually(lambda: caller.writes)
    await turns()
    assert caller.exchange is not None
    caller.exchange.client_full()
    caller.leave()
    await peer.send_apart(chunk(event(text("x" * 200_000))), chunk(stream(*TOLD)), LAST_CHUNK)
    assert await cut(serving) is Cut.CLIENT_GONE
    assert (await rig.record()).tokens == TokenCounts(90_000, 30_000)


@pytest.mark.parametrize(
    "events", [[], TEXT, [*THINKING[:1]], [*TEXT, STOP_BLOCK, block("thinking", thinking="")]]
)
async def test_who_leaves_in_the_midst_stops_the_upstream_at_once(
    rig: Rig, listener: Listener, events: list[dict[str, Any]]
) -> None:
    _, peer, serving = await left(rig, listener, streaming(*events))
    await turns()
    assert serving.done()
    assert await cut(serving) is Cut.CLIENT_GONE
    assert await peer.closed()
    assert (await rig.record()).tokens.input == 11


@pytest.mark.parametrize("reserved", [0, 9, 5_000])
async def test_thinking_costs_what_was_reserved_for_it_or_more(
    rig: Rig, listener: Listener, reserved: int
) -> None:
    body = b'{"model":"claude-known","max_tokens":%d,"stream":true}' % reserved
    rig.upstream(listener.port)
    caller = rig.caller(body)
    serving = rig.serve(caller)
    peer = await listener.accept()
    await peer.request()
    await peer.exactly(len(body))
    peer.send(streaming(*THINKING[:1], text("x" * 400)))
    await eventually(lambda: caller.writes)
    await turns()
    caller.leave()
    await cut(serving)
    assert (await rig.record()).tokens.output == max(100, min(reserved, 4_096))


@pytest.mark.parametrize(("max_tokens", "output"), [(64_000, 3_000), (700, 700)])
async def test_long_thinking_costs_its_time_however_the_guess_was_trained(
    rig: Rig, listener: Listener, max_tokens: int, output: int
) -> None:
    """50 tokens a second, but no more than was asked for."""
    rig.upstream(listener.port)
    for _ in range(50):
        rig.holder.experience.learn("claude-known", 0, 0, 1)
    caller = rig.caller(b'{"model":"claude-known","max_tokens":%d,"stream":true}' % max_tokens)
    serving = rig.serve(caller)
    peer = await rig.arrived(listener)
    peer.send(streaming(*THINKING[:1]))
    await eventually(lambda: caller.writes)
    rig.machine.elapsed = NOW + 60_000
    caller.leave()
    await cut(serving)
    await rig.storage.flush()
    records, _ = await rig.storage.records(rig.key.id)
    assert [record.tokens.output for record in records] == [output]


async def test_a_failure_of_the_upstream_does_not_cost_the_thinking_that_nobody_saw(
    rig: Rig, listener: Listener
) -> None:
    rig.upstream(listener.port)
    caller = rig.caller()
    serving = rig.serve(caller)
    peer = await rig.arrived(listener)
    peer.send(streaming(*THINKING[:1], text("x" * 400)))
    await eventually(lambda: caller.writes)
    peer.reset()
    await cut(serving)
    assert (await rig.record()).tokens.output == 100


async def test_what_can_be_seen_costs_what_is_seen(rig: Rig, listener: Listener) -> None:
    await left(rig, listener, streaming(*TEXT))
    record = await rig.record()
    assert record.tokens.output < 9


async def test_results_of_tools_cost_input(rig: Rig, listener: Listener) -> None:
    _, _, serving = await left(rig, listener, streaming(*RESULTS, *THINKING[:1]))
    assert await cut(serving) is Cut.CLIENT_GONE
    assert (await rig.record()).tokens.input == pytest.approx(11 + 7_500, rel=0.01)


async def test_a_client_that_is_told_to_be_gone_twice_is_read_on_for_once(
    rig: Rig, listener: Listener
) -> None:
    caller, peer, serving = await left(rig, listener, streaming(*TEXT, STOP_BLOCK))
    caller.leave()
    await turns()
    assert not serving.done()
    peer.send(chunk(stream(*TOLD)), LAST_CHUNK)
    assert await cut(serving) is Cut.CLIENT_GONE
    assert (await rig.record()).tokens == TokenCounts(90_000, 30_000)


async def test_the_end_of_the_process_ends_the_reading_on_at_once(
    rig: Rig, listener: Listener
) -> None:
    _, peer, serving = await left(rig, listener, streaming(*TEXT, STOP_BLOCK))
    rig.exchanges.cut_all()
    await turns()
    assert serving.done()
    await cut(serving)
    assert (await rig.record()).status == 499
    assert await peer.closed()


async def test_the_deletion_of_the_key_ends_the_reading_on_at_once(
    rig: Rig, listener: Listener
) -> None:
    _, peer, serving = await left(rig, listener, streaming(*TEXT, STOP_BLOCK))
    await rig.administration.delete(rig.key.id)
    await cut(serving)
    assert await peer.closed()
    records, _ = await rig.storage.records("key00001")
    assert list(records) == []


async def test_an_upstream_that_breaks_off_then_is_recorded_as_such(
    rig: Rig, listener: Listener
) -> None:
    caller, peer, serving = await left(rig, listener, streaming(*TEXT, STOP_BLOCK))
    peer.reset()
    await cut(serving)
    assert (await rig.record()).status == 502
    assert caller.resets == 1


def test_the_page_of_limits_tells_for_how_long() -> None:
    assert f"for up to {exchange.READ_ON_SECONDS} s" in " ".join(page("limits").split())
