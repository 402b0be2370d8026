"""Clients for Node: Anthropic's and OpenAI's own SDKs, and the AI SDK with both providers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.answering import PLACE, answer
from tests.support.npm import NpmClients
from tests.support.provider import ScriptedUpstream
from tests.support.server import CREDENTIAL, Server
from tests.support.wire import message_body

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

TEXT = "Hello from the tests"


@pytest.fixture(scope="module")
def sections(provider: ScriptedUpstream) -> dict[str, Any]:
    """One provider for both dialects. The prices of a model that nobody knows don't matter."""
    common = {"base_url": provider.base_url, "api_key": CREDENTIAL}
    claude = common | {"name": "a", "dialect": "anthropic", "models": ["claude-*"]}
    gpt = common | {"name": "b", "dialect": "openai", "models": ["gpt-*"]}
    return {"upstreams": [claude, gpt]}


async def used_up(gateway: Server) -> str:
    """A key without room, and none to come."""
    key = await gateway.holder(limits=["1 requests/total"])
    assert (await gateway.messages(key, message_body())).status == 200
    return key


async def tokens(gateway: Server, key: str) -> list[tuple[int, int, int]]:
    """Input, output and cached tokens of each answer that was whole, the first one first."""
    names = ("input_tokens", "output_tokens", "cache_read_tokens")
    records = [r for r in await gateway.records(key) if r["status"] == 200]
    return [tuple(record[name] for name in names) for record in records]


async def test_anthropics_sdk(
    npm_clients: NpmClients, gateway: Server, upstream: ScriptedUpstream, key: str
) -> None:
    upstream.always(answer)
    full = await used_up(gateway)
    base_url = f"http://127.0.0.1:{gateway.port}"
    seen = json.loads(await npm_clients.run("anthropic.mjs", base_url, key, full))
    assert (seen["created"], seen["streamed"]) == (TEXT, f"{TEXT} ")
    assert seen["usage"] == [11, 7]
    assert seen["call"] == PLACE
    assert seen["models"] == ["claude-test-1", "claude-test-2"]
    assert (seen["unknown"]["kind"], seen["unknown"]["status"]) == ("NotFoundError", 404)
    assert seen["cut"]["status"] is None
    assert (seen["wrongKey"]["kind"], seen["wrongKey"]["status"]) == ("AuthenticationError", 401)
    assert (seen["usedUp"]["kind"], seen["usedUp"]["status"]) == ("RateLimitError", 429)
    assert "1 requests/total" in seen["usedUp"]["message"]
    refused = ("unknown", "wrongKey", "usedUp")
    assert all(seen[name]["requestId"].startswith("req_") for name in refused)
    assert await tokens(gateway, key) == [(11, 7, 0)] * 3


async def test_openais_sdk(
    npm_clients: NpmClients, gateway: Server, upstream: ScriptedUpstream, key: str
) -> None:
    """It is told of no usage that it did not ask for, which is counted all the same."""
    upstream.always(answer)
    full = await used_up(gateway)
    base_url = f"http://127.0.0.1:{gateway.port}/v1"
    seen = json.loads(await npm_clients.run("openai.mjs", base_url, key, full))
    assert (seen["created"], seen["streamed"], seen["response"]) == (TEXT, TEXT, TEXT)
    assert seen["usages"] == 0
    assert json.loads(seen["call"]) == PLACE
    assert seen["events"][0] == "response.created"
    assert seen["events"][-1] == "response.completed"
    assert seen["models"] == ["claude-test-1", "claude-test-2"]
    assert (seen["unknown"]["status"], seen["unknown"]["code"]) == (404, "model_not_found")
    assert seen["cut"]["status"] is None
    assert (seen["wrongKey"]["status"], seen["wrongKey"]["code"]) == (401, "invalid_api_key")
    assert (seen["usedUp"]["status"], seen["usedUp"]["code"]) == (429, "insufficient_quota")
    # Of a response's input four tokens were cached.
    assert await tokens(gateway, key) == [(11, 7, 0)] * 3 + [(7, 7, 4)] * 2


@pytest.mark.parametrize("dialect", ["anthropic", "openai"])
async def test_the_ai_sdk(
    npm_clients: NpmClients, gateway: Server, upstream: ScriptedUpstream, key: str, dialect: str
) -> None:
    upstream.always(answer)
    full = await used_up(gateway)
    base_url = f"http://127.0.0.1:{gateway.port}/v1"
    seen = json.loads(await npm_clients.run("ai.mjs", dialect, base_url, key, full))
    assert (seen["text"].strip(), seen["usage"]) == (TEXT, [11, 7])
    assert seen["calls"] == [PLACE]
    assert seen["after"] == TEXT
    failures = [seen[name]["status"] for name in ("unknown", "wrongKey", "usedUp")]
    assert failures == [404, 401, 429]
    assert "1 requests/total" in seen["usedUp"]["message"]
    counted = (11, 7, 0) if dialect == "anthropic" else (7, 7, 4)
    assert await tokens(gateway, key) == [counted] * 3
