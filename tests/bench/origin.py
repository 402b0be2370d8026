"""The model provider of the benchmark: as little work as possible for a given answer.

Run as ``python -m tests.bench.origin PORT [SECONDS [TLS_PORT PEM]]``. A request for a stream gets
``max_tokens`` events, one each ``top_k`` ms (one each ``PACE_SECONDS`` without it); any other
request gets one small JSON message, after so many seconds. ``PEM`` is the file of a certificate.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from functools import partial
from typing import cast

import uvloop

from tests.support.provider import (
    LAST_CHUNK,
    STREAM_HEAD,
    anthropic_events,
    anthropic_message,
    chunk,
)
from tests.support.provider import json_answer as _json_answer

PACE_SECONDS = 0.002

_START, _BLOCK, _PING, *_, _BLOCK_STOP, _DELTA, _STOP = anthropic_events(
    "word", input_tokens=260, output_tokens=9
)
_WORD = anthropic_events("word")[3]
_MESSAGE = cast(
    bytes, next(iter(_json_answer(anthropic_message("Hi", input_tokens=260, output_tokens=9))))
)
_MODELS = cast(bytes, next(iter(_json_answer({"data": [{"id": "claude-test-1"}]}))))


class Origin(asyncio.Protocol):
    """One connection; a request is taken to arrive whole, with a body that ends it."""

    def __init__(self, thinks: float) -> None:
        self._thinks = thinks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        lowered = head.lower()
        if lowered.startswith(b"get"):
            self._received = b""
            self._transport.write(_MODELS)
            return
        length = int(lowered.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        self._received = b""
        if b'"stream": true' in body:
            asked = json.loads(body)
            self._pace = asked.get("top_k", PACE_SECONDS * 1000) / 1000
            self._transport.write(STREAM_HEAD + chunk(_START) + chunk(_BLOCK) + chunk(_PING))
            self._then(asked["max_tokens"])
        elif self._thinks:
            asyncio.get_running_loop().call_later(self._thinks, self._answer)
        else:
            self._answer()

    def _answer(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(_MESSAGE)

    def _then(self, left: int) -> None:
        asyncio.get_running_loop().call_later(self._pace, self._next_event, left)

    def _next_event(self, left: int) -> None:
        if self._transport.is_closing():
            return
        if left:
            self._transport.write(chunk(_WORD))
            self._then(left - 1)
        else:
            self._transport.write(chunk(_BLOCK_STOP) + chunk(_DELTA) + chunk(_STOP) + LAST_CHUNK)


async def _serve(port: int, thinks: float, secure: tuple[int, str] | None) -> None:
    make, loop = partial(Origin, thinks), asyncio.get_running_loop()
    server = await loop.create_server(make, "127.0.0.1", port, backlog=10_000)
    if secure is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(secure[1])
        await loop.create_server(make, "127.0.0.1", secure[0], ssl=context)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        given = sys.argv[1:]
        secure = (int(given[2]), given[3]) if len(given) > 3 else None
        runner.run(_serve(int(given[0]), float(given[1]) if len(given) > 1 else 0.0, secure))
