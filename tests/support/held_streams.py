"""Streams that stop in the middle until they are told to go on."""

from __future__ import annotations

import asyncio

from tests.support.provider import (
    LAST_CHUNK,
    STREAM_HEAD,
    Script,
    anthropic_events,
    chunk,
)
from tests.support.server import Server
from tests.support.wire import Wire, message_body, request_bytes

STREAM = message_body(stream=True)
EVENTS = anthropic_events("one two three", input_tokens=5, output_tokens=9)
BEGUN = b"".join(EVENTS[:5])


def held_until(finish: asyncio.Event) -> Script:
    return [STREAM_HEAD, *map(chunk, EVENTS[:5]), finish, *map(chunk, EVENTS[5:]), LAST_CHUNK]


async def begun(server: Server, key: str) -> Wire:
    """A stream that has begun."""
    wire = await server.connect()
    await wire.send(request_bytes("POST", "/v1/messages", key=key, body=STREAM))
    assert (await wire.head()).status == 200
    assert await wire.chunks(len(BEGUN)) == BEGUN
    return wire


async def rest_of(wire: Wire) -> bytes:
    received = b""
    while piece := await wire.chunk():
        received += piece
    return received
