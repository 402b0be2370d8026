"""What a user of Claude Code sees of the gateway: in a terminal, with three settings."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.claude_code import ClaudeCode
from tests.support.provider import ScriptedUpstream
from tests.support.server import Server

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(300),
    pytest.mark.long,
]


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    return {"admin": {"contact": "ops@example.com"}}


async def test_a_turn(
    claude_code: ClaudeCode, gateway: Server, upstream: ScriptedUpstream, key: str
) -> None:
    async with claude_code.opened(gateway.port, key) as terminal:
        assert "Cloud gateway" in terminal.text
        await terminal.enter("Good morning")
        await terminal.shows("● Hello from the tests")
    through = sorted(request.body for request in upstream.inferences)
    upstream.forget()
    async with claude_code.opened(upstream.port, "sk-ant-api03-of-the-provider") as terminal:
        await terminal.enter("Good morning")
        await terminal.shows("● Hello from the tests")
    assert sorted(request.body for request in upstream.inferences) == through


async def test_the_models_of_the_gateway_can_be_chosen(
    claude_code: ClaudeCode, gateway: Server, upstream: ScriptedUpstream
) -> None:
    key = await gateway.holder(models=["claude-test-1"])
    discovery = {"CLAUDE_CODE_ENABLE_GATEWAY_MODEL_DISCOVERY": "1"}
    async with claude_code.opened(gateway.port, key, **discovery) as terminal:
        await terminal.enter("/model")
        await terminal.shows("Enter to save")
        assert "claude-test-1" in terminal.text
        assert "claude-test-2" not in terminal.text


async def test_the_parts_of_the_context_are_counted_at_once(
    claude_code: ClaudeCode, gateway: Server, upstream: ScriptedUpstream
) -> None:
    key = await gateway.holder(limits=["1 concurrent", "9 requests/7d"])
    async with claude_code.opened(gateway.port, key) as terminal:
        await terminal.enter("/context")
        await terminal.shows("Estimated tokens by category")
    counts = [r for r in upstream.inferences if "count_tokens" in r.path]
    assert len(counts) > 20
