"""What a user of Claude Code sees of the gateway: in a terminal, with three settings."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.claude_code import MODEL, ClaudeCode
from tests.support.provider import ScriptedUpstream, anthropic_answer
from tests.support.server import Server
from tests.support.wire import message_body

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(300),
    pytest.mark.long,
]


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    return {
        "admin": {"contact": "ops@example.com"},
        f"prices.{MODEL}": {"input": 10.0, "output": 10.0},
    }


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


async def spend(gateway: Server, upstream: ScriptedUpstream, key: str, tokens: int) -> None:
    """Use so much of a key's limits, by another client."""
    upstream.will(anthropic_answer({}, input_tokens=tokens, output_tokens=0))
    assert (await gateway.messages(key, message_body(MODEL))).status == 200


@pytest.mark.parametrize(
    ("limit", "called"),
    [
        ("100M tokens/day", "usage credits"),
        ("1000 usd/month", "usage credits"),
        ("100M tokens/5h", "5-hour limit"),
        ("100M tokens/7d", "weekly limit"),
    ],
)
async def test_a_notice_is_shown_at_75_and_at_95_percent(
    claude_code: ClaudeCode,
    gateway: Server,
    upstream: ScriptedUpstream,
    limit: str,
    called: str,
) -> None:
    key = await gateway.holder(limits=[limit])
    await spend(gateway, upstream, key, 70_000_000)
    async with claude_code.opened(gateway.port, key) as terminal:
        await terminal.enter("One")
        await terminal.shows("❯ One ● Hello from the tests")
        assert not terminal.has_shown("You've used")
        await spend(gateway, upstream, key, 6_500_000)
        await terminal.enter("Two")
        await terminal.will_have_shown(f"You've used 76% of your {called} · resets")
        await terminal.shows("❯ Two ● Hello from the tests")
        # One that comes while another one stands there may be lost.
        await terminal.hides("You've used")
        await spend(gateway, upstream, key, 20_000_000)
        await terminal.enter("Three")
        await terminal.will_have_shown(f"You've used 96% of your {called} · resets")


@pytest.mark.parametrize(
    ("limit", "tokens", "shown"),
    [
        ("100M tokens/day", 76_500_000, "76% used TOK 76,500,"),
        ("100M tokens/day", 76_500_000, " / TOK 100,000,000 spent today · Resets"),
        ("10 usd/month", 760_000, "76% used $7.60 / $10.00 spent this month · Resets"),
        ("9 requests/total", 0, " / REQ 9 spent"),
    ],
)
async def test_usage_shows_a_bar_of_the_limit(
    claude_code: ClaudeCode,
    gateway: Server,
    upstream: ScriptedUpstream,
    limit: str,
    tokens: int,
    shown: str,
) -> None:
    key = await gateway.holder(limits=[limit])
    await spend(gateway, upstream, key, tokens)
    async with claude_code.opened(gateway.port, key) as terminal:
        await terminal.enter("/usage")
        await terminal.shows("Spend limit")
        await terminal.shows(shown)


async def test_a_refusal_is_told_in_its_own_words(
    claude_code: ClaudeCode, gateway: Server, upstream: ScriptedUpstream
) -> None:
    key = await gateway.holder(limits=["2M tokens/day"])
    await spend(gateway, upstream, key, 2_000_000)
    sentence = (await gateway.messages(key, message_body())).message
    upstream.forget()
    async with claude_code.opened(gateway.port, key) as terminal:
        await terminal.enter("Good morning")
        await terminal.shows(f"❯ Good morning ● {sentence}")
    assert upstream.inferences == []
