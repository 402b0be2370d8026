"""Streams: nothing is held back but the end, and nothing a model writes moves the meter."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.provider import (
    LAST_CHUNK,
    STREAM_HEAD,
    Script,
    ScriptedUpstream,
    anthropic_events,
    anthropic_message,
    chunk,
    event,
    json_answer,
    stream_answer,
)
from tests.support.server import Server
from tests.support.wire import message_body, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")

STREAM = message_body(stream=True)


class Gate:
    """A script that sends a piece only when it is told to."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces
        self.open = [asyncio.Event() for _ in pieces]

    def script(self) -> Script:
        def steps() -> Iterator[bytes | asyncio.Event]:
            for piece, gate in zip(self._pieces, self.open, strict=True):
                yield gate
                yield piece

        return steps()


async def test_no_event_waits_for_the_next_one(
    gateway: Server, upstream: ScriptedUpstream, key: str
) -> None:
    events = anthropic_events("one two three", input_tokens=5, output_tokens=9)
    gate = Gate(STREAM_HEAD, *map(chunk, events), LAST_CHUNK)
    upstream.will(gate.script())
    async with gateway.asking(key, STREAM) as wire:
        gate.open[0].set()
        assert (await wire.head()).status == 200
        for sent, opened in zip(events, gate.open[1:], strict=False):
            assert not opened.is_set()
            opened.set()
            assert await wire.chunk() == sent
        # All is here but the end, and what was used is on disk already.
        assert [r["output_tokens"] for r in await gateway.records(key)] == [9]
        gate.open[-1].set()
        assert await wire.chunk() == b""


async def test_a_stream_begins_before_its_first_event(
    gateway: Server, upstream: ScriptedUpstream, key: str
) -> None:
    gate = Gate(STREAM_HEAD, b"".join(stream_answer(anthropic_events("x")))[len(STREAM_HEAD) :])  # type: ignore[arg-type]
    upstream.will(gate.script())
    async with gateway.asking(key, STREAM) as wire:
        gate.open[0].set()
        assert (await wire.head()).header("content-type") == "text/event-stream; charset=utf-8"
        gate.open[1].set()
        assert b"message_stop" in await wire.until(LAST_CHUNK)


async def test_an_event_in_pieces_arrives_whole_and_unchanged(
    gateway: Server, upstream: ScriptedUpstream, key: str
) -> None:
    events = b"".join(anthropic_events("é“”", input_tokens=5, output_tokens=9))
    gate = Gate(STREAM_HEAD, *(chunk(bytes([byte])) for byte in events), LAST_CHUNK)
    for opened in gate.open:
        opened.set()
    upstream.will(gate.script())
    async with gateway.asking(key, STREAM) as wire:
        assert (await wire.answer()).body == events
    assert [r["output_tokens"] for r in await gateway.records(key)] == [9]


async def test_many_streams_at_once_do_not_mix(
    gateway: Server, upstream: ScriptedUpstream, key: str
) -> None:
    def script(request: Any) -> Script:
        word = json.loads(request.body)["messages"][0]["content"]
        return stream_answer(anthropic_events(f"{word} " * 20, input_tokens=int(word)))

    upstream.always(script)

    async def ask(number: int) -> None:
        body = message_body(stream=True, messages=[{"role": "user", "content": str(number)}])
        answer = await gateway.messages(key, body)
        assert answer.body == b"".join(anthropic_events(f"{number} " * 20, input_tokens=number))

    await asyncio.gather(*(ask(number) for number in range(40)))
    records = await gateway.records(key)
    assert sorted(record["input_tokens"] for record in records) == list(range(40))


async def test_a_connection_serves_one_request_after_the_other(
    gateway: Server, upstream: ScriptedUpstream, key: str
) -> None:
    async with await gateway.connect() as wire:
        for number, stream in enumerate((True, False, True)):
            body = message_body(stream=stream)
            await wire.send(request_bytes("POST", "/v1/messages", key=key, body=body))
            assert (await wire.answer()).status == 200
            assert len(await gateway.records(key)) == number + 1
    assert len({request.connection for request in upstream.inferences}) == 1


FORGED = {"input_tokens": 0, "output_tokens": 0, "cache_read_input_tokens": 10**6}


class TestForgedUsage:
    """What a holder can make a model write counts for nothing."""

    async def test_in_text_and_tool_input_of_a_stream(
        self, gateway: Server, upstream: ScriptedUpstream, key: str
    ) -> None:
        forgery = event("message_delta", {"type": "message_delta", "usage": FORGED}).decode()
        start, *rest = anthropic_events("x", input_tokens=5, output_tokens=9)
        deltas: list[dict[str, Any]] = [
            {"type": "text_delta", "text": forgery},
            {"type": "text_delta", "text": '"usage":{"output_tokens":0}'},
            {"type": "input_json_delta", "partial_json": json.dumps({"usage": FORGED})},
            {"type": "other_delta", "usage": FORGED, "message": {"usage": FORGED}},
        ]
        forged = [
            event("content_block_delta", {"type": "content_block_delta", "index": 0, "delta": d})
            for d in deltas
        ]
        block = {"type": "tool_use", "input": {"usage": FORGED}, "usage": FORGED}
        forged.append(
            event(
                "content_block_start",
                {"type": "content_block_start", "content_block": block, "usage": FORGED},
            )
        )
        upstream.will(stream_answer([start, *forged, *rest]))
        answer = await gateway.messages(key, STREAM)
        assert answer.body == b"".join([start, *forged, *rest])
        await self.assert_counted(gateway, key)

    async def test_forged_usage_in_content_of_a_message_counts_nothing(
        self, gateway: Server, upstream: ScriptedUpstream, key: str
    ) -> None:
        message = anthropic_message('"usage":{"input_tokens":0}', input_tokens=5, output_tokens=9)
        message["content"].append({"type": "tool_use", "input": {"usage": FORGED}})
        message["content"].append({"usage": FORGED})
        upstream.will(json_answer(message))
        assert (await gateway.messages(key, message_body())).json() == message
        await self.assert_counted(gateway, key)

    async def assert_counted(self, gateway: Server, key: str) -> None:
        (record,) = await gateway.records(key)
        counted = {name: count for name, count in record.items() if name.endswith("_tokens")}
        assert counted == {
            "input_tokens": 5,
            "output_tokens": 9,
            "cache_read_tokens": 0,
            "cache_write_5m_tokens": 0,
            "cache_write_1h_tokens": 0,
        }


async def test_every_kind_of_token_is_recorded(
    gateway: Server, upstream: ScriptedUpstream, key: str
) -> None:
    usage = {
        "input_tokens": 1,
        "output_tokens": 20,
        "cache_read_input_tokens": 300,
        "cache_creation_input_tokens": 54_000,
        "cache_creation": {
            "ephemeral_5m_input_tokens": 4_000,
            "ephemeral_1h_input_tokens": 50_000,
        },
    }
    upstream.will(json_answer(anthropic_message("x") | {"usage": usage}))
    assert (await gateway.messages(key, message_body())).status == 200
    (record,) = await gateway.records(key)
    assert record.pop("latency_ms") >= 0
    assert record.pop("time").endswith("Z")
    assert record == {
        "model": "claude-test-1",
        "status": 200,
        "input_tokens": 1,
        "output_tokens": 20,
        "cache_read_tokens": 300,
        "cache_write_5m_tokens": 4_000,
        "cache_write_1h_tokens": 50_000,
    }
