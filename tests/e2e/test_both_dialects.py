"""A client of OpenAI's and one of Anthropic's share a key, and with it its budgets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import openai
import pytest

from tests.support.answering import answer
from tests.support.limited import Gated, limit_status, nothing_reserved
from tests.support.provider import LAST_CHUNK, ScriptedUpstream
from tests.support.server import CREDENTIAL, Server
from tests.support.wire import message_body

pytestmark = pytest.mark.asyncio(loop_scope="module")

HELLO = [{"role": "user", "content": "Hello"}]
MESSAGE: Any = {"model": "claude-test-1", "max_tokens": 7, "messages": HELLO}
CHAT: Any = {"model": "gpt-5-mini", "max_completion_tokens": 7, "messages": HELLO}


@pytest.fixture(scope="module")
def sections(provider: ScriptedUpstream) -> dict[str, Any]:
    """One provider for both dialects, at a dollar for a million tokens. Nobody waits here."""
    price = {"input": 1.0, "output": 1.0}
    common = {"base_url": provider.base_url, "api_key": CREDENTIAL}
    claude = common | {"name": "a", "dialect": "anthropic", "models": ["claude-*"]}
    gpt = common | {"name": "b", "dialect": "openai", "models": ["gpt-*"]}
    return {
        "upstreams": [claude, gpt],
        "limits": {"max_wait": "0s"},
        "prices.claude-test-1": price,
        "prices.gpt-5-mini": price,
    }


class Clients:
    """Both of them, with one key."""

    def __init__(self, claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI) -> None:
        self._claude = claude
        self._gpt = gpt

    async def claude(self) -> None:
        await self._claude.messages.create(**MESSAGE)

    async def gpt(self) -> None:
        await self._gpt.chat.completions.create(**CHAT)

    async def streamed(self) -> None:
        async with self._claude.messages.stream(**MESSAGE) as stream:
            await stream.until_done()
        async for _ in await self._gpt.chat.completions.create(**CHAT, stream=True):
            pass

    async def refused(self) -> tuple[anthropic.RateLimitError, openai.RateLimitError]:
        """Both are; each in its own terms."""
        with pytest.raises(anthropic.RateLimitError) as claude:
            await self.claude()
        with pytest.raises(openai.RateLimitError) as gpt:
            await self.gpt()
        return claude.value, gpt.value


@asynccontextmanager
async def clients(gateway: Server, key: str) -> AsyncIterator[Clients]:
    base_url = f"http://127.0.0.1:{gateway.port}"
    async with (
        anthropic.AsyncAnthropic(base_url=base_url, api_key=key, max_retries=0) as claude,
        openai.AsyncOpenAI(base_url=f"{base_url}/v1", api_key=key, max_retries=0) as gpt,
    ):
        yield Clients(claude, gpt)


async def test_requests_of_both_count(gateway: Server, upstream: ScriptedUpstream) -> None:
    upstream.always(answer)
    key = await gateway.holder(limits=["4 requests/7d"])
    async with clients(gateway, key) as both:
        await both.claude()
        await both.gpt()
        await both.streamed()
        claude, gpt = await both.refused()
    assert "4 requests/7d" in str(claude)
    assert "4 requests/7d" in str(gpt)
    assert gpt.code == "insufficient_quota"
    assert claude.response.headers["x-should-retry"] == "false"
    assert gpt.response.headers["x-should-retry"] == "false"
    assert len(upstream.inferences) == 4


@pytest.mark.parametrize(
    ("limit", "used"), [("88 tokens/7d", 4 * 18), ("28 output_tokens/day", 4 * 7)]
)
async def test_tokens_of_both_count(
    gateway: Server, upstream: ScriptedUpstream, limit: str, used: int
) -> None:
    """Each answer costs 11 tokens of input and 7 of output."""
    upstream.always(answer)
    key = await gateway.holder(limits=[limit])
    async with clients(gateway, key) as both:
        await both.streamed()
        await both.claude()
        await both.gpt()
        await both.refused()
    assert (await limit_status(gateway, key))["used"] == used


async def test_money_of_both_counts(gateway: Server, upstream: ScriptedUpstream) -> None:
    upstream.always(answer)
    key = await gateway.holder(limits=["0.01 usd/month"])
    async with clients(gateway, key) as both:
        await both.claude()
        alone = (await limit_status(gateway, key))["used"]
        await both.gpt()
    assert (alone, (await limit_status(gateway, key))["used"]) == (18e-6, 36e-6)


async def test_one_runs_while_the_other_waits(gateway: Server, upstream: ScriptedUpstream) -> None:
    gated = Gated(upstream)
    key = await gateway.holder(limits=["1 concurrent"])
    async with clients(gateway, key) as both:
        async with gateway.asking(key, message_body(stream=True)) as running:
            await running.head()
            _, gpt = await both.refused()
            assert gpt.code == "rate_limit_exceeded"
            gated.open.set()
            await running.until(LAST_CHUNK)
        await nothing_reserved(gateway, key)
        upstream.always(answer)
        await both.gpt()


async def test_the_records_name_the_models_of_both(
    gateway: Server, upstream: ScriptedUpstream
) -> None:
    upstream.always(answer)
    key = await gateway.holder()
    async with clients(gateway, key) as both:
        await both.claude()
        await both.gpt()
    models = {record["model"] for record in await gateway.records(key)}
    assert models == {"claude-test-1", "gpt-5-mini"}
