"""Clients that leave, and what they send besides what is being answered."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.provider import (
    LAST_CHUNK,
    STALL,
    STREAM_HEAD,
    ScriptedUpstream,
    anthropic_events,
    chunk,
)
from tests.support.server import Server
from tests.support.waiting import soon
from tests.support.wire import Wire, message_body, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")

STREAM = message_body(stream=True)
EVENTS = anthropic_events("one two three", input_tokens=5, output_tokens=9)

LEAVING = pytest.mark.parametrize(
    "leave",
    [
        pytest.param(Wire.close, id="close"),
        pytest.param(Wire.abort, id="reset"),
        pytest.param(Wire.half_close, id="half-close"),
    ],
)


@LEAVING
async def test_leaving_mid_stream_stops_the_upstream(
    gateway: Server, upstream: ScriptedUpstream, key: str, leave: Callable[[Wire], Any]
) -> None:
    sent = b"".join(EVENTS[:5])
    upstream.will([STREAM_HEAD, *map(chunk, EVENTS[:5]), STALL])
    async with gateway.asking(key, STREAM) as wire:
        await wire.head()
        assert await wire.chunks(len(sent)) == sent
        leave(wire)
        await soon((await upstream.request()).gone.wait())
    (record,) = await gateway.records(key, 1)
    assert (record["status"], record["input_tokens"]) == (499, 5)
    assert record["output_tokens"] >= 1
    assert record["latency_ms"] is not None


@LEAVING
async def test_leaving_behind_the_last_block_is_no_way_around_the_usage(
    gateway: Server, upstream: ScriptedUpstream, key: str, leave: Callable[[Wire], Any]
) -> None:
    sent = b"".join(EVENTS[:-2])
    gone = asyncio.Event()
    upstream.will(
        [STREAM_HEAD, *map(chunk, EVENTS[:-2]), gone, *map(chunk, EVENTS[-2:]), LAST_CHUNK]
    )
    async with gateway.asking(key, STREAM) as wire:
        await wire.head()
        assert await wire.chunks(len(sent)) == sent
        leave(wire)
        for _ in range(3):  # By the last of these answers the gateway has seen it.
            assert (await gateway.request("GET", "/healthz")).status == 200
        gone.set()
        (record,) = await gateway.records(key, 1)
    assert (record["status"], record["input_tokens"], record["output_tokens"]) == (499, 5, 9)


@LEAVING
async def test_leaving_behind_the_last_block_stops_an_upstream_that_says_no_more(
    gateway: Server, upstream: ScriptedUpstream, key: str, leave: Callable[[Wire], Any]
) -> None:
    sent = b"".join(EVENTS[:-2])
    upstream.will([STREAM_HEAD, *map(chunk, EVENTS[:-2]), STALL])
    async with gateway.asking(key, STREAM) as wire:
        await wire.head()
        assert await wire.chunks(len(sent)) == sent
        leave(wire)
        await soon((await upstream.request()).gone.wait())
    (record,) = await gateway.records(key, 1)
    assert (record["status"], record["input_tokens"]) == (499, 5)


@LEAVING
async def test_leaving_before_the_answer_stops_the_upstream(
    gateway: Server, upstream: ScriptedUpstream, key: str, leave: Callable[[Wire], Any]
) -> None:
    upstream.will([STALL])
    async with gateway.asking(key, message_body()) as wire:
        request = await soon(upstream.request())
        leave(wire)
        await soon(request.gone.wait())
    (record,) = await gateway.records(key, 1)
    assert (record["status"], record["output_tokens"]) == (499, 0)


async def test_leaving_before_the_body_is_sent(
    gateway: Server, upstream: ScriptedUpstream, key: str
) -> None:
    request = request_bytes("POST", "/v1/messages", key=key, body=STREAM)
    async with await gateway.connect() as wire:
        await wire.send(request[:-10])
    (record,) = await gateway.records(key, 1)
    assert (record["status"], record["latency_ms"]) == (499, None)
    assert upstream.inferences == []


async def test_who_leaves_after_the_terminal_event_was_served(
    gateway: Server, upstream: ScriptedUpstream, key: str
) -> None:
    upstream.will([STREAM_HEAD, *map(chunk, EVENTS), STALL])
    async with gateway.asking(key, STREAM) as wire:
        await wire.until(b'"message_stop"}\n\n')
        wire.close()
        await soon((await upstream.request()).gone.wait())
    (record,) = await gateway.records(key, 1)
    assert (record["status"], record["output_tokens"]) == (200, 9)


async def test_bytes_behind_a_stream_hide_no_disconnect(
    gateway: Server, upstream: ScriptedUpstream, key: str
) -> None:
    upstream.will([STREAM_HEAD, chunk(EVENTS[0]), STALL])
    async with gateway.asking(key, STREAM) as wire:
        await wire.head()
        await wire.chunk()
        await wire.send(request_bytes("POST", "/v1/messages", key=key, body=b"x" * 1_000_000))
        wire.close()
        await soon((await upstream.request()).gone.wait())
    (record,) = await gateway.records(key, 1)
    assert record["status"] == 499


@pytest.mark.parametrize("together", [True, False])
async def test_a_request_behind_a_stream_is_not_answered(
    gateway: Server, upstream: ScriptedUpstream, key: str, together: bool
) -> None:
    finish = asyncio.Event()
    upstream.will(
        [STREAM_HEAD, *map(chunk, EVENTS[:4]), finish, *map(chunk, EVENTS[4:]), LAST_CHUNK]
    )
    first = request_bytes("POST", "/v1/messages", key=key, body=STREAM)
    second = request_bytes("GET", "/v1/usage", key=key)
    async with await gateway.connect() as wire:
        await wire.send(first + second if together else first)
        await soon(upstream.request())
        if not together:
            await wire.send(second)
        finish.set()
        answer = await wire.answer()
        assert answer.body == b"".join(EVENTS)
        assert await wire.ending() == ("closed", b"")
    assert len(await gateway.records(key)) == 1


async def test_a_hundred_requests_behind_each_other_do_no_harm(
    gateway: Server, upstream: ScriptedUpstream, key: str
) -> None:
    async with await gateway.connect() as wire:
        await wire.send(request_bytes("POST", "/v1/messages", key=key, body=STREAM) * 100)
        answer = await wire.answer()
        assert answer.status == 200
        assert b"message_stop" in answer.body
        assert (await wire.ending())[1] == b""
    assert len(upstream.inferences) == len(await gateway.records(key)) == 1


async def test_requests_behind_each_other_in_their_own_time(gateway: Server, key: str) -> None:
    async with await gateway.connect() as wire:
        for _ in range(50):
            await wire.send(request_bytes("GET", "/v1/usage", key=key))
            assert (await wire.answer()).status == 200


async def test_a_client_that_does_not_read_holds_the_upstream_up(
    gateway: Server, upstream: ScriptedUpstream, key: str
) -> None:
    events = [EVENTS[0], *[event_of(b"x" * 60_000)] * 1000, *EVENTS[-3:]]
    sent = 0

    def script() -> Iterator[bytes]:
        nonlocal sent
        yield STREAM_HEAD
        for sent, data in enumerate(events, 1):  # noqa: B007
            yield chunk(data)
        yield LAST_CHUNK

    upstream.will(script())
    async with gateway.asking(key, STREAM) as wire:
        await wire.head()
        before = -1
        while before != sent:
            before = sent
            for _ in range(10):
                assert (await gateway.request("GET", "/healthz")).status == 200
        assert sent < len(events) / 2
        received = hashlib.sha256()
        while piece := await wire.chunk():
            received.update(piece)
    assert received.digest() == hashlib.sha256(b"".join(events)).digest()
    (record,) = await gateway.records(key, 1)
    assert (record["status"], record["output_tokens"]) == (200, 9)


def event_of(text: bytes) -> bytes:
    return (
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
        b'"delta":{"type":"text_delta","text":"' + text + b'"}}\n\n'
    )
