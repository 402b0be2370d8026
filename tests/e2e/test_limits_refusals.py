"""What a client is told when there is no room, and what clients make of it."""

from __future__ import annotations

import asyncio
import math
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import anthropic
import pytest

from tests.support import sdk_session
from tests.support.limited import Gated, limit_status, nothing_reserved, statuses
from tests.support.provider import LAST_CHUNK, ScriptedUpstream
from tests.support.server import Server
from tests.support.wire import Answer, message_body

pytestmark = pytest.mark.asyncio(loop_scope="module")

MESSAGE = message_body()
STREAM = message_body(stream=True)


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    """Nobody waits here."""
    return {
        "limits": {"max_wait": "0s"},
        "limits.groups": {"friends": ["3 requests/5h"], "few": ["1 concurrent"]},
        "admin": {"contact": "ops@example.com"},
    }


def retry_after(answer: Answer) -> int:
    value = answer.header("retry-after")
    assert value is not None
    assert value.isdecimal()
    return int(value)


def the_sentence(answer: Answer, limit: str) -> str:
    """The message, which is one sentence that names the limit and whom to ask."""
    message = answer.message
    assert limit in message
    assert message.endswith("ask ops@example.com for more.")
    assert not re.search(r"[.!?] ", message)
    return message


class TestShape:
    async def test_a_refusal_by_what_frees_soon_says_when_to_come_back(
        self, gateway: Server, upstream: ScriptedUpstream
    ) -> None:
        key = await gateway.holder(limits=["2 requests/1m", "1M tokens/5h"])
        for _ in range(2):
            assert (await gateway.messages(key, MESSAGE)).status == 200
        refused = await gateway.messages(key, MESSAGE)
        assert refused.error == (429, "rate_limit_error")
        assert 50 <= retry_after(refused) <= 60
        assert refused.header("x-should-retry") is None
        message = the_sentence(refused, "2 requests/1m")
        assert "2 used" in message
        frees_at = (await statuses(gateway, key))["2 requests/1m"]["frees_at"]
        assert f"frees at {frees_at}" in message
        assert refused.header("anthropic-ratelimit-requests-reset") is not None
        assert len(upstream.inferences) == 2

    async def test_a_refusal_by_what_frees_later_tells_clients_not_to_retry(
        self, gateway: Server, upstream: ScriptedUpstream
    ) -> None:
        key = await gateway.holder(limits=["10 output_tokens/5h", "100 requests/1m"])
        for _ in range(2):
            assert (await gateway.messages(key, message_body(max_tokens=3))).status == 200
        refused = await gateway.messages(key, message_body(max_tokens=3))
        assert refused.error == (429, "billing_error")
        assert refused.header("x-should-retry") == "false"
        message = the_sentence(refused, "10 output_tokens/5h")
        assert "14 used" in message
        frees_at = (await statuses(gateway, key))["10 output_tokens/5h"]["frees_at"]
        assert f"frees at {frees_at}" in message
        seconds = (datetime.fromisoformat(frees_at) - datetime.now(UTC)).total_seconds()
        # Both are rounded up, and time passes between the two.
        assert math.floor(seconds) - 1 <= retry_after(refused)
        assert 5 * 3600 - 1 <= retry_after(refused) <= 5 * 3600 + 301
        assert len(upstream.inferences) == 2

    async def test_a_refusal_by_what_never_frees_says_so(self, gateway: Server) -> None:
        key = await gateway.holder(limits=["1 requests/total"])
        assert (await gateway.messages(key, MESSAGE)).status == 200
        refused = await gateway.messages(key, MESSAGE)
        assert refused.error == (429, "billing_error")
        assert refused.header("x-should-retry") == "false"
        assert refused.header("retry-after") is None
        assert "never" in the_sentence(refused, "1 requests/total")
        limit = await limit_status(gateway, key)
        assert (limit["frees_at"], limit["window_seconds"], limit["remaining"]) == (None, None, 0)

    @pytest.mark.parametrize("limit", ["1 concurrent", "300 output_tokens/7d", "310 tokens/total"])
    async def test_a_refusal_by_what_others_hold_may_be_retried_soon(
        self, gateway: Server, upstream: ScriptedUpstream, limit: str
    ) -> None:
        """However long the window is: it may well come back at once."""
        key = await gateway.holder(limits=[limit])
        gated = Gated(upstream)
        asked = message_body(stream=True, max_tokens=300)
        async with gateway.asking(key, asked) as running:
            await running.head()
            refused = await gateway.messages(key, asked)
            assert refused.error == (429, "rate_limit_error")
            assert 1 <= retry_after(refused) <= 60
            assert refused.header("x-should-retry") is None
            assert "reserved" in the_sentence(refused, limit)
            gated.open.set()
            await running.until(LAST_CHUNK)
        assert gated.begun == 1
        assert (await gateway.messages(key, message_body(max_tokens=200))).status == 200

    async def test_of_several_the_one_that_is_full_for_longest(self, gateway: Server) -> None:
        limits = ["1 requests/1m", "1 requests/7d", "1 requests/5h"]
        key = await gateway.holder(limits=limits)
        assert (await gateway.messages(key, MESSAGE)).status == 200
        refused = await gateway.messages(key, MESSAGE)
        assert refused.error == (429, "billing_error")
        the_sentence(refused, "1 requests/7d")

    async def test_what_others_use_is_theirs_to_know(self, gateway: Server) -> None:
        """Of a limit that keys share, no figures; and not in ``/v1/usage`` either."""
        mine, theirs = [await gateway.holder(group="friends") for _ in range(2)]
        for key in (mine, theirs, theirs):
            assert (await gateway.messages(key, MESSAGE)).status == 200
        refused = await gateway.messages(mine, MESSAGE)
        assert refused.error == (429, "billing_error")
        message = the_sentence(refused, "3 requests/5h")
        assert "group" in message
        assert "used" not in message
        assert "reserved" not in message
        # A key without limits of its own has no standing to tell; that it is refused is told.
        assert set(limit_headers(refused)) == {"unified-status", "unified-overage-disabled-reason"}
        assert await statuses(gateway, mine) == {}
        # Keys that are not in the group go on.
        assert (await gateway.messages(await gateway.holder(), MESSAGE)).status == 200

    async def test_a_slot_of_the_group_is_shared(
        self, gateway: Server, upstream: ScriptedUpstream
    ) -> None:
        mine, theirs = [await gateway.holder(group="few") for _ in range(2)]
        gated = Gated(upstream)
        async with gateway.asking(theirs, STREAM) as running:
            await running.head()
            refused = await gateway.messages(mine, STREAM)
            assert refused.error == (429, "rate_limit_error")
            gated.open.set()
            await running.until(LAST_CHUNK)
        assert (await gateway.messages(mine, STREAM)).status == 200


class TestHeaders:
    async def test_report_the_tightest_limit_of_each_kind(
        self, gateway: Server, upstream: ScriptedUpstream
    ) -> None:
        key = await gateway.holder(
            limits=["9 requests/1h", "3 requests/1m", "1M tokens/5h", "500k input_tokens/total"]
        )
        answer = await gateway.messages(key, MESSAGE)
        assert answer.status == 200
        found = limit_headers(answer)
        assert (found["requests-limit"], found["requests-remaining"]) == ("3", "2")
        reset = datetime.fromisoformat(found["requests-reset"])
        assert timedelta(seconds=55) < reset - datetime.now(UTC) <= timedelta(seconds=62)
        assert found["tokens-limit"] == "1000000"
        # While it runs it counts as what it may use.
        assert 999_000 < int(found["tokens-remaining"]) < 1_000_000
        assert found["input-tokens-limit"] == "500000"
        assert "input-tokens-reset" not in found
        assert not any(name.startswith("output-tokens") for name in found)

    async def test_limit_headers_stand_on_errors_too(
        self, gateway: Server, upstream: ScriptedUpstream
    ) -> None:
        key = await gateway.holder(limits=["1 requests/1m"])
        upstream.will([b"HTTP/1.1 500 Error\r\ncontent-length: 2\r\n\r\n{}"])
        upstream.will([b"HTTP/1.1 429 No\r\ncontent-length: 2\r\n\r\n{}"])
        for body, status in ((b"not JSON", 400), (message_body("gpt-4"), 404), (MESSAGE, 500)):
            answer = await gateway.messages(key, body)
            assert answer.status == status
            assert limit_headers(answer)["requests-limit"] == "1"
        refused = limit_headers(await gateway.messages(key, MESSAGE))
        assert (refused["requests-limit"], refused["requests-remaining"]) == ("1", "0")
        assert limit_headers(await gateway.messages("sk-ant-ol-wrong", MESSAGE)) == {}
        unlimited = await gateway.holder()
        answer = await gateway.messages(unlimited, MESSAGE)
        assert (answer.status, limit_headers(answer)) == (429, {})

    async def test_the_upstreams_own_are_not_passed_on(
        self, gateway: Server, upstream: ScriptedUpstream
    ) -> None:
        key = await gateway.holder(limits=["5 requests/1m"])
        upstream.will(
            [
                b"HTTP/1.1 200 OK\r\nanthropic-ratelimit-requests-limit: 4000\r\n"
                b"anthropic-ratelimit-tokens-remaining: 77\r\ncontent-length: 2\r\n\r\n{}"
            ]
        )
        found = limit_headers(await gateway.messages(key, MESSAGE))
        assert found["requests-limit"] == "5"
        assert "tokens-remaining" not in found


def limit_headers(answer: Answer) -> dict[str, str]:
    prefix = "anthropic-ratelimit-"
    found = [(name, value) for name, value in answer.headers if name.startswith(prefix)]
    assert len(found) == len(dict(found))
    return {name.removeprefix(prefix): value for name, value in found}


async def test_counting_tokens_uses_up_nothing(gateway: Server, upstream: ScriptedUpstream) -> None:
    """Nor is it refused: Claude Code asks for dozens at once."""
    key = await gateway.holder(limits=["1 requests/5h", "1 concurrent", "1 tokens/total"])
    assert (await gateway.messages(key, MESSAGE)).status == 200
    target = "/v1/messages/count_tokens"
    answers = await asyncio.gather(
        *(gateway.request("POST", target, key=key, body=MESSAGE) for _ in range(30))
    )
    assert {answer.status for answer in answers} == {200}
    assert (await gateway.request("GET", "/v1/models", key=key)).status == 200
    limits = await statuses(gateway, key)
    assert limits["1 requests/5h"]["used"] == 1
    assert len(await gateway.records(key)) == 1


async def test_refusals_that_come_thick_and_fast_are_not_recorded_each(
    gateway: Server, upstream: ScriptedUpstream
) -> None:
    key = await gateway.holder(limits=["1 requests/5h"])
    assert (await gateway.messages(key, MESSAGE)).status == 200
    for _ in range(4):
        answers = await asyncio.gather(*(gateway.messages(key, MESSAGE) for _ in range(50)))
        assert {answer.error for answer in answers} == {(429, "billing_error")}
    sent, *refusals = await gateway.records(key)
    assert sent["latency_ms"] is not None
    assert {(refusal["status"], refusal["latency_ms"]) for refusal in refusals} == {(429, None)}
    seconds = [refusal["time"][:19] for refusal in refusals]
    assert len(seconds) == len(set(seconds)) < 100
    assert (await limit_status(gateway, key))["used"] == 1


class TestSDK:
    """The current SDK with its usual two retries."""

    async def ask(self, gateway: Server, key: str) -> tuple[int, BaseException | None]:
        """How many requests it sent, and what it raised in the end."""
        sent = 0

        async def count(_: object) -> None:
            nonlocal sent
            sent += 1

        base_url = f"http://127.0.0.1:{gateway.port}"
        http = anthropic.DefaultAsyncHttpxClient(event_hooks={"request": [count]})
        async with anthropic.AsyncAnthropic(
            base_url=base_url, api_key=key, http_client=http
        ) as client:
            try:
                await client.messages.create(**sdk_session.MESSAGE)
            except anthropic.APIStatusError as error:
                return sent, error
        return sent, None

    @pytest.mark.parametrize("limit", ["1 requests/5h", "1 requests/total"])
    async def test_the_sdk_shows_at_once_what_frees_later(
        self, gateway: Server, upstream: ScriptedUpstream, limit: str
    ) -> None:
        key = await gateway.holder(limits=[limit])
        assert await self.ask(gateway, key) == (1, None)
        sent, error = await self.ask(gateway, key)
        assert sent == 1
        assert isinstance(error, anthropic.RateLimitError)
        assert limit in error.message
        assert "ops@example.com" in error.message
        assert error.response.headers["anthropic-ratelimit-unified-status"] == "rejected"

    async def test_the_sdk_comes_back_for_what_frees_soon(
        self, gateway: Server, upstream: ScriptedUpstream
    ) -> None:
        key = await gateway.holder(limits=["1 requests/1s"])
        assert (await gateway.messages(key, MESSAGE)).status == 200
        sent, error = await self.ask(gateway, key)
        assert error is None
        assert sent <= 2
        assert len(upstream.inferences) == 2

    async def test_is_told_at_once_what_can_not_be(
        self, gateway: Server, upstream: ScriptedUpstream
    ) -> None:
        """A model without a price, where money is limited."""
        key = await gateway.holder(limits=["5 usd/month"])
        sent, error = await self.ask(gateway, key)
        assert sent == 1
        assert isinstance(error, anthropic.BadRequestError)
        assert upstream.inferences == []


async def test_a_limit_in_dollars_counts_cost_and_refuses_when_used_up(
    gateway: Server, upstream: ScriptedUpstream
) -> None:
    """11 tokens in at 3 USD a million and 7 out at 15 USD."""
    key = await gateway.holder(limits=["0.001 usd/7d"])
    priced = message_body("claude-sonnet-4-5", max_tokens=10)
    for number in range(1, 6):
        assert (await gateway.messages(key, priced)).status == 200
        await nothing_reserved(gateway, key)
        limit = await limit_status(gateway, key)
        assert limit["used"] == pytest.approx(number * 0.000138)
        assert limit["max"] == 0.001
    while (answer := await gateway.messages(key, priced)).status == 200:
        assert len(upstream.inferences) < 10
    assert answer.error == (429, "billing_error")
    assert "0.00 usd used" not in answer.message
    the_sentence(answer, "0.001 usd/7d")
    unpriced = await gateway.messages(key, message_body("claude-of-my-own"))
    assert unpriced.error == (400, "invalid_request_error")
    assert unpriced.header("x-should-retry") == "false"
    assert "price" in unpriced.message
