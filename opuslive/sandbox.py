"""A simulated model provider, to try the gateway with no account.

It speaks the Anthropic Messages API as far as clients need it and answers every prompt
with the same words, at the pace at which a model would write them. It listens on
loopback, and says in each answer that it is simulated.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from aiohttp import web

#: The dialect that the provider speaks, as the configuration writes it.
DIALECT: Final = "anthropic"
MODEL = "claude-sandbox"
#: Seconds between two pieces of an answer; models write 30 to 80 tokens a second.
PACE_SECONDS = 0.04
#: Characters of English text a token, roughly.
CHARACTERS_PER_TOKEN = 4
MAX_BODY = 64 * 1024 * 1024

_TEXT = (
    "This is a simulated answer: it comes from OpusLive's sandbox, and no model has read your "
    "prompt. Everything around it is real, though. Your request carried a key, the gateway "
    "proved it, passed your words on byte by byte and forgot them, and it is streaming these "
    "words back to you as they are made. When the last one has arrived, the tokens of this "
    "answer are already on disk; ask for /v1/usage with the same key and you will see them. "
    "To talk to a real model, put your provider's API key into the configuration and start "
    "the gateway without the sandbox."
)


class SimulatedProvider:
    """The provider. ``start`` it, point an upstream at its ``base_url``, ``close`` it."""

    def __init__(self) -> None:
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_post("/v1/messages", self._messages)
        app.router.add_post("/v1/messages/count_tokens", self._count_tokens)
        app.router.add_get("/v1/models", self._models)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        self.base_url = ""

    async def start(self) -> None:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.base_url = f"http://127.0.0.1:{site.port}"

    async def close(self) -> None:
        await self._runner.cleanup()

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        wish = msgspec.json.decode(body)
        pieces = list(_pieces(wish.get("max_tokens", 1024)))
        message: dict[str, Any] = {
            "id": "msg_" + secrets.token_hex(12),
            "type": "message",
            "role": "assistant",
            "model": wish["model"],
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {
                "input_tokens": _tokens(body),
                "output_tokens": 1,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
            },
        }
        stop = "max_tokens" if len(pieces) < len(list(_pieces(len(_TEXT)))) else "end_turn"
        if not wish.get("stream"):
            await asyncio.sleep(PACE_SECONDS)
            message["content"] = [{"type": "text", "text": "".join(pieces)}]
            message["stop_reason"] = stop
            message["usage"]["output_tokens"] = len(pieces)
            return web.json_response(message)
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for event in _events(message, pieces, stop):
            await response.write(_encode(event))
            if event["type"] == "content_block_delta":
                await asyncio.sleep(PACE_SECONDS)
        return response

    async def _count_tokens(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"input_tokens": _tokens(await request.read())})

    async def _models(self, request: web.Request) -> web.StreamResponse:
        model = {
            "type": "model",
            "id": MODEL,
            "display_name": "Simulated model (OpusLive sandbox)",
            "created_at": "2026-01-01T00:00:00Z",
        }
        return web.json_response(
            {"data": [model], "has_more": False, "first_id": MODEL, "last_id": MODEL}
        )


def _pieces(max_tokens: int) -> Iterator[str]:
    """The answer's tokens: a word and the space before it each, as far as may be."""
    words = _TEXT.split(" ")
    spaced = itertools.chain(words[:1], (" " + word for word in words[1:]))
    return itertools.islice(spaced, max(1, max_tokens))


def _tokens(body: bytes) -> int:
    return max(1, len(body) // CHARACTERS_PER_TOKEN)


def _events(message: dict[str, Any], pieces: list[str], stop: str) -> Iterator[dict[str, Any]]:
    yield {"type": "message_start", "message": message}
    yield {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "text", "text": ""},
    }
    yield {"type": "ping"}
    for piece in pieces:
        yield {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": piece},
        }
    yield {"type": "content_block_stop", "index": 0}
    yield {
        "type": "message_delta",
        "delta": {"stop_reason": stop, "stop_sequence": None},
        "usage": {"output_tokens": len(pieces)},
    }
    yield {"type": "message_stop"}


def _encode(event: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), msgspec.json.encode(event))
