"""An event that has to be whole before it goes on: it is waited for, and its memory counts.

What belongs to the kind: the end of a response, which repeats the request and the output; any
event that a meter may have to change or to drop; with memory for it, and without; a client that
leaves meanwhile.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from opuslive.dialects import Dialect
from opuslive.dialects.openai.dialect import OpenAIDialect
from opuslive.dialects.openai.requests import CHAT, RESPONSES
from opuslive.errors import Code
from opuslive.gateway.holder import Cut
from opuslive.gateway.relay import HIGH_WATER
from opuslive.gateway.upstreams.wire import AnswerHead
from opuslive.usage import TokenCounts
from tests.support.listener import Listener, Peer
from tests.support.openai_streams import (
    DONE,
    content,
    delta,
    event,
    response,
    response_usage,
)
from tests.support.provider import LAST_CHUNK, STREAM_HEAD, chunk
from tests.support.rig import Caller, Rig, cut
from tests.support.waiting import eventually, soon, turns

OPENAI: Dialect = OpenAIDialect()
BODY = json.dumps({"model": "claude-known", "stream": True, "input": "Hello"}).encode()
TEXT = event(delta("x" * 400))
LAST = event(response("completed", instructions="x" * (8 << 20), usage=response_usage()))
#: What is left of the last event's memory uncounted, at most.
SLACK = 2 * HIGH_WATER


async def send(peer: Peer, data: bytes) -> None:
    """Send more than the gateway's socket holds."""
    while data:
        data = data[peer.stuff(data) :]
        await asyncio.sleep(0)


async def begun(rig: Rig, listener: Listener, caller: Caller) -> tuple[asyncio.Task[None], Peer]:
    """A response of which the client has the first words."""
    rig.upstream(listener.port, dialect=OPENAI)
    serving = rig.serve(caller, RESPONSES, OPENAI)
    peer = await rig.arrived(listener)
    peer.send(STREAM_HEAD, chunk(TEXT))
    await eventually(lambda: caller.written == TEXT)
    return serving, peer


async def test_the_end_of_a_response_is_held_whole_and_its_memory_counts(
    rig: Rig, listener: Listener
) -> None:
    caller = rig.caller(BODY)
    serving, peer = await begun(rig, listener, caller)
    head, tail = LAST[:-100], LAST[-100:]
    await send(peer, chunk(head))
    await eventually(lambda: caller.holding >= len(head) - SLACK)
    assert caller.written == TEXT
    await send(peer, chunk(tail) + LAST_CHUNK)
    await soon(serving)
    assert caller.written == TEXT + LAST
    assert caller.holding <= len(LAST)
    record = await rig.record()
    assert (record.status, record.tokens) == (200, TokenCounts(11, 7))


class Slow(Caller):
    """It takes nothing of what is large for now."""

    async def start_answer(
        self, head: AnswerHead, begun: bytes
    ) -> tuple[Callable[[bytes], object], bool]:
        await super().start_answer(head, begun)

        def write(data: bytes) -> None:
            self.writes.append(data)
            if len(data) > HIGH_WATER:
                assert self.exchange is not None
                self.exchange.client_full()

        return write, False


async def test_the_memory_counts_until_a_slow_client_has_taken_it(
    rig: Rig, listener: Listener
) -> None:
    caller = Slow(rig.credential, BODY)
    serving, peer = await begun(rig, listener, caller)
    await send(peer, chunk(LAST) + LAST_CHUNK)
    await eventually(lambda: caller.written == TEXT + LAST)
    await turns()
    assert not serving.done()
    assert caller.exchange is not None
    caller.exchange.client_drained()
    await soon(serving)


async def test_a_slow_client_that_leaves_was_served(rig: Rig, listener: Listener) -> None:
    caller = Slow(rig.credential, BODY)
    serving, peer = await begun(rig, listener, caller)
    await send(peer, chunk(LAST) + LAST_CHUNK)
    await eventually(lambda: caller.written == TEXT + LAST)
    caller.leave()
    assert await cut(serving) is Cut.CLIENT_GONE
    assert (await rig.record()).status == 200


@pytest.mark.parametrize("why", [Code.OVERLOADED, Code.RATE_LIMITED])
async def test_without_memory_for_it_the_answer_is_broken_off_and_recorded(
    rig: Rig, listener: Listener, why: Code
) -> None:
    caller = rig.caller(BODY)
    caller.memory, caller.no_memory = 4 << 20, why
    serving, peer = await begun(rig, listener, caller)
    sending = asyncio.ensure_future(send(peer, chunk(LAST)))
    assert await cut(serving) is Cut.UPSTREAM_GONE
    sending.cancel()
    assert (caller.resets, caller.written) == (1, TEXT)
    record = await rig.record()
    assert (record.status, record.tokens.output) == (503, 100)


async def test_who_leaves_while_the_end_is_held_is_recorded(rig: Rig, listener: Listener) -> None:
    caller = rig.caller(BODY)
    serving, peer = await begun(rig, listener, caller)
    await send(peer, chunk(LAST[: 2 << 20]))
    await eventually(lambda: caller.holding >= (2 << 20) - SLACK)
    caller.leave()
    assert await cut(serving) is Cut.CLIENT_GONE
    record = await rig.record()
    assert (record.status, record.tokens.output) == (499, 100)


@pytest.mark.parametrize("size", [HIGH_WATER - 1000, 3 * HIGH_WATER, 900_000])
async def test_a_chunk_of_a_completion_that_waits_for_its_end_gets_it(
    rig: Rig, listener: Listener, size: int
) -> None:
    large = event(content("x" * size, usage=None))
    caller = rig.caller(BODY)
    rig.upstream(listener.port, dialect=OPENAI)
    serving = rig.serve(caller, CHAT, OPENAI)
    peer = await rig.arrived(listener)
    await send(peer, STREAM_HEAD + chunk(large) + chunk(DONE) + LAST_CHUNK)
    await soon(serving)
    assert caller.written == event(content("x" * size)) + DONE
    assert caller.holding <= len(large)
