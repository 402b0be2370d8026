"""Codex itself through the gateway: OpenAI's Responses API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.answering import answer
from tests.support.codex import MODEL, Codex
from tests.support.npm import NpmClients
from tests.support.openai_streams import delta, event, response, response_usage
from tests.support.provider import ScriptedUpstream, stream_answer
from tests.support.server import CREDENTIAL, Server
from tests.support.waiting import soon

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(300),
    pytest.mark.long,
]

#: Those of its own that a provider may want to see.
ITS_OWN = ("originator", "session-id", "thread-id", "x-client-request-id", "user-agent")


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    return {"upstream": {"dialect": "openai", "models": ["gpt-*"]}}


@pytest.fixture
def codex(sealed: None, all_npm_clients: NpmClients, tmp_path: Path) -> Codex:
    return Codex(all_npm_clients.codex, tmp_path / "codex")


async def test_a_turn(codex: Codex, gateway: Server, upstream: ScriptedUpstream, key: str) -> None:
    text = {"type": "output_text", "text": "Good morning", "annotations": []}
    item = {"type": "message", "id": "msg_1", "role": "assistant", "content": [text]}
    said = [
        response("created"),
        {"type": "response.output_item.added", "output_index": 0, "item": item | {"content": []}},
        delta("Good morning"),
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        response("completed", status="completed", output=[item], usage=response_usage()),
    ]
    upstream.will(stream_answer([event(each) for each in said]))
    turn = await codex.ask(gateway.port, key, "Say good morning")
    assert (turn.status, turn.out.strip(), turn.requests) == (0, "Good morning", 1)
    received = await soon(upstream.request())
    assert received.line == "POST /v1/responses HTTP/1.1"
    assert "Say good morning" in str(json.loads(received.body)["input"])
    assert received.header("authorization") == f"Bearer {CREDENTIAL}"
    assert all(received.header(name) for name in ITS_OWN)
    assert any(name.startswith("x-codex-") for name, _ in received.headers)
    (record,) = await gateway.records(key)
    assert (record["model"], record["input_tokens"], record["output_tokens"]) == (MODEL, 11, 7)


async def test_a_limit_that_is_used_up_is_asked_for_once(
    codex: Codex, gateway: Server, upstream: ScriptedUpstream
) -> None:
    upstream.always(answer)
    key = await gateway.holder(limits=["1 requests/7d"])
    body = json.dumps({"model": MODEL, "input": "Hello", "max_output_tokens": 9}).encode()
    assert (await gateway.request("POST", "/v1/responses", key=key, body=body)).status == 200
    turn = await codex.ask(gateway.port, key, "Say good morning")
    assert (turn.status, turn.requests) == (1, 1)
    assert "Quota exceeded" in turn.err


async def test_a_wrong_key_is_told_in_the_gateways_words(codex: Codex, gateway: Server) -> None:
    turn = await codex.ask(gateway.port, "sk-ant-ol-nonsense", "Say good morning")
    assert turn.status == 1
    assert "401 Unauthorized: Invalid API key" in turn.err


async def test_a_model_that_is_not_served(
    codex: Codex, gateway: Server, upstream: ScriptedUpstream
) -> None:
    key = await gateway.holder(models=["gpt-5"])
    turn = await codex.ask(gateway.port, key, "Say good morning")
    assert (turn.status, turn.requests) == (1, 1)
    assert "This model does not exist here" in turn.err
    assert upstream.inferences == []
