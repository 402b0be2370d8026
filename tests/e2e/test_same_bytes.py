"""A stream through the gateway is the stream without it, byte for byte, in either dialect."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support import anthropic_streams, openai_streams
from tests.support.openai_streams import DONE, content, delta, response, response_usage, usage
from tests.support.provider import (
    LAST_CHUNK,
    STREAM_HEAD,
    Request,
    Script,
    ScriptedUpstream,
    anthropic_call,
    anthropic_events,
    chunk,
)
from tests.support.server import CREDENTIAL, Server
from tests.support.wire import Wire, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")

MESSAGE = {"model": "claude-test-1", "max_tokens": 99, "messages": []}
CHAT = {"model": "gpt-5-mini", "max_tokens": 99, "messages": []}
RESPONSE = {"model": "gpt-5-mini", "max_output_tokens": 99, "input": "Hello"}
TELL = {"stream_options": {"include_usage": True}}

#: It looks like the end of a stream, like its usage, and like nothing that an encoder would write.
HOSTILE = 'é \\u00e9 "usage":null event: message_stop data: [DONE] {"usage":{"output_tokens":9}}'


@pytest.fixture(scope="module")
def sections(provider: ScriptedUpstream) -> dict[str, Any]:
    """One provider for both dialects."""
    common = {"base_url": provider.base_url, "api_key": CREDENTIAL}
    claude = common | {"name": "a", "dialect": "anthropic", "models": ["claude-*"]}
    gpt = common | {"name": "b", "dialect": "openai", "models": ["gpt-*"]}
    return {"upstreams": [claude, gpt]}


def message(*, end: str) -> bytes:
    """Anthropic's events: text, a tool's input, comments, pings and an unknown kind."""
    said = anthropic_events(HOSTILE, input_tokens=11, output_tokens=7)[:-2]
    called = anthropic_call("weather", ['{"usage":', '"message_stop"}'], output_tokens=7)[1:]
    strange = anthropic_streams.event({"type": "unknown", "usage": {"output_tokens": 99}})
    whole = b"".join((b": a comment\n\n", *said, strange, *called, b": after all\n\n"))
    return whole.replace(b"\n", end.encode())


def completion(told: bool, *, end: str, tight: bool) -> bytes:
    """OpenAI's chunks, with usage where the request asks for it, as OpenAI has it then."""
    chunks: list[dict[str, Any]] = [content(word) for word in HOSTILE.split(" ")]
    call = {"index": 0, "id": "call_1", "function": {"name": "f", "arguments": HOSTILE}}
    chunks.append(openai_streams.chunk({"tool_calls": [call]}))
    if told:
        chunks = [each | {"usage": None} for each in chunks]
        chunks.append(openai_streams.chunk(usage=usage()))
    events = [openai_streams.event(each, end=end, tight=tight) for each in chunks]
    return b"".join((*events, DONE.replace(b"\n", end.encode())))


def responses(*, end: str, tight: bool) -> bytes:
    item = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": HOSTILE}
    events = [
        response("created", instructions=HOSTILE, usage=None),
        *(delta(word) for word in HOSTILE.split(" ")),
        delta(HOSTILE, "function_call_arguments"),
        response("completed", output=[item], instructions=HOSTILE, usage=response_usage()),
    ]
    return b"".join(openai_streams.event(each, end=end, tight=tight) for each in events)


def provider_that_says(size: int, *, end: str, tight: bool) -> Any:
    """It sends pieces of this size, wherever they end."""

    def answer(request: Request) -> Script:
        match request.path:
            case "/v1/messages":
                said = message(end=end)
            case "/v1/chat/completions":
                asked = json.loads(request.body).get("stream_options") or {}
                said = completion(asked.get("include_usage", False), end=end, tight=tight)
            case _:
                said = responses(end=end, tight=tight)
        pieces = [said[start : start + size] for start in range(0, len(said), size)]
        return [STREAM_HEAD, *map(chunk, pieces), LAST_CHUNK]

    return answer


@pytest.mark.parametrize("size", [1, 7, 64, 2**20])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("tight", [True, False])
@pytest.mark.parametrize(
    ("path", "asked"),
    [
        pytest.param("/v1/messages", MESSAGE, id="message"),
        pytest.param("/v1/chat/completions", CHAT, id="completion"),
        pytest.param("/v1/chat/completions", CHAT | TELL, id="completion with usage"),
        pytest.param("/v1/responses", RESPONSE, id="response"),
    ],
)
async def test_no_byte_of_a_stream_differs(
    gateway: Server,
    upstream: ScriptedUpstream,
    key: str,
    path: str,
    asked: dict[str, Any],
    size: int,
    end: str,
    tight: bool,
) -> None:
    upstream.always(provider_that_says(size, end=end, tight=tight))
    body = json.dumps(asked | {"stream": True}).encode()
    alone, through = [
        await answered(port, path, key, body) for port in (upstream.port, gateway.port)
    ]
    assert through == alone
    assert len(upstream.inferences) == 2
    (record,) = await gateway.records(key)
    assert (record["input_tokens"], record["output_tokens"]) == (11, 7)


async def answered(port: int, path: str, key: str, body: bytes) -> bytes:
    async with await Wire.connect(port) as wire:
        await wire.send(request_bytes("POST", path, key=key, body=body))
        return (await wire.answer()).body
