"""What was used goes on counting: after a change of the limits, after a kill and a restart."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.support.limited import Gated, limit_status, nothing_reserved, statuses, usage
from tests.support.provider import LAST_CHUNK, Request, Script, ScriptedUpstream, anthropic_answer
from tests.support.server import Server, Servers
from tests.support.wire import message_body

pytestmark = pytest.mark.asyncio(loop_scope="module")

EVERY_KIND = [
    "1k requests/1m",
    "1k requests/day",
    "1k requests/total",
    "8 concurrent",
    "1M tokens/5h",
    "1M tokens/7d",
    "1M tokens/30d",
    "1M tokens/month",
    "1M input_tokens/1h",
    "1M input_tokens/week",
    "1M output_tokens/total",
    "1M output_tokens/59h",
    "100 usd/1h",
    "100 usd/month",
    "100 usd/total",
]


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    return {"limits": {"max_wait": "0s"}}


def numbered(request: Request) -> Script:
    """Answer with as many tokens as the prompt says; part of them from a cache."""
    asked = json.loads(request.body)
    number = int(asked["messages"][0]["content"])
    return anthropic_answer(
        asked,
        input_tokens=number,
        output_tokens=7 * number,
        cache_read_input_tokens=100 * number,
        cache_creation_input_tokens=12 * number,
    )


def body(number: int, model: str = "claude-sonnet-4-5") -> bytes:
    messages = [{"role": "user", "content": str(number)}]
    return message_body(model, stream=number % 2 == 0, messages=messages)


class TestRestart:
    async def test_each_limit_stands_as_before_a_kill(
        self, servers: Servers, provider: ScriptedUpstream, upstream: ScriptedUpstream
    ) -> None:
        server = await servers.start(
            provider.base_url, limits={"max_wait": "0s", "cache_read_weight": 0.1}
        )
        upstream.always(numbered)
        key = await server.holder(limits=EVERY_KIND)
        models = ["claude-sonnet-4-5", "claude-opus-4-5", "claude-sonnet-4-5-20250929"]
        for number in range(1, 31):
            answer = await server.messages(key, body(number, models[number % 3]))
            assert answer.status == 200
        for refused in (b"not JSON", message_body("claude-without-a-price")):
            assert (await server.messages(key, refused)).status == 400
        gated = Gated(upstream)
        async with server.asking(key, message_body("claude-opus-4-5", stream=True)) as wire:
            await wire.head()
            await wire.chunk()
        await server.records(key, 32)  # 30, one that was cut, and one refusal of two in a second
        assert gated.begun == 31
        await nothing_reserved(server, key)
        before = await statuses(server, key)
        assert before["1k requests/1m"]["used"] == 31
        assert all(limit["used"] for limit in before.values() if limit["metric"] != "concurrent")

        # One is on its way when the process dies: it can't have been recorded.
        async with server.asking(key, message_body("claude-opus-4-5", stream=True)) as wire:
            await wire.head()
            await server.kill()
            await server.start()
        after = await statuses(server, key)
        assert list(after) == EVERY_KIND
        for name, limit in after.items():
            assert limit["reserved"] == 0
            assert limit["used"] == pytest.approx(before[name]["used"], abs=31e-6), name
            if limit["metric"] != "usd":
                assert limit["used"] == before[name]["used"], name
            if limit["window"] in ("1m", "1h", "5h", "59h", "day", "month", "total"):
                assert limit["frees_at"] == before[name]["frees_at"], name

    async def test_what_keys_share_stands_as_before(
        self, servers: Servers, provider: ScriptedUpstream, upstream: ScriptedUpstream
    ) -> None:
        limits = {"max_wait": "0s", "gateway": ["5 requests/7d"]}
        groups = {"friends": ["4 requests/5h"]}
        server = await servers.start(
            provider.base_url, limits=limits, **{"limits.groups": groups, "admin": {}}
        )
        friends = [await server.holder(group="friends") for _ in range(2)]
        other = await server.holder()
        for key in friends * 2:
            assert (await server.messages(key, message_body())).status == 200
        for _ in range(2):
            refused = await server.messages(friends[0], message_body())
            assert refused.error == (429, "billing_error")
            assert "group, 4 requests/5h" in refused.message
            await server.kill()
            await server.start()
        assert (await server.messages(other, message_body())).status == 200
        for _ in range(2):
            refused = await server.messages(other, message_body())
            assert refused.error == (429, "billing_error")
            assert "this gateway, 5 requests/7d" in refused.message
            await server.kill()
            await server.start()


class TestChange:
    async def test_a_single_limit_is_changed_from_the_next_request_on(
        self, gateway: Server, upstream: ScriptedUpstream
    ) -> None:
        """By the commands, as an administrator makes it; it holds with the next request."""
        upstream.always(numbered)
        made = await gateway.create_key("changed", "--limit", "2 requests/5h")
        key = made["key"]
        for number in (1, 2):
            assert (await gateway.messages(key, body(number))).status == 200
        assert (await gateway.messages(key, body(3))).error == (429, "billing_error")

        changed = await gateway.json("keys", "update", "changed", "--add-limit", "3 requests/5h")
        assert changed["limits"] == ["3 requests/5h"]
        assert (await limit_status(gateway, key))["used"] == 2
        assert (await gateway.messages(key, body(3))).status == 200
        assert (await gateway.messages(key, body(3))).error == (429, "billing_error")

        # A new one knows what was used before there was it.
        await gateway.json("keys", "update", "changed", "--add-limit", "60 output_tokens/7d")
        limits = await statuses(gateway, key)
        assert limits["60 output_tokens/7d"]["used"] == 7 + 14 + 21
        removed = ["--remove-limit", "3 requests/5h"]
        changed = await gateway.json("keys", "update", "changed", *removed)
        assert changed["limits"] == ["60 output_tokens/7d"]
        answer = await gateway.messages(key, message_body(max_tokens=18, messages=[{"content": 1}]))
        assert answer.status == 200
        refused = await gateway.messages(key, message_body(max_tokens=18))
        assert "60 output_tokens/7d" in refused.message

        outcome = await gateway.run("keys", "update", "changed", *removed)
        assert "60 output_tokens/7d" in outcome.complaint

    async def test_new_limits_count_what_was_used_before(
        self, gateway: Server, upstream: ScriptedUpstream
    ) -> None:
        upstream.always(numbered)
        made = await gateway.create_key("replaced", "--limit", "9 requests/5h")
        key = made["key"]
        for number in (1, 2):
            assert (await gateway.messages(key, body(number))).status == 200
        options = ["--limit", "2 requests/total", "--limit", "1M tokens/month"]
        changed = await gateway.json("keys", "update", "replaced", *options)
        assert changed["limits"] == ["2 requests/total", "1M tokens/month"]
        limits = await statuses(gateway, key)
        assert [limit["used"] for limit in limits.values()] == [2, 3 + 3 * 12 + 3 * 7]
        assert (await gateway.messages(key, body(3))).error == (429, "billing_error")
        await gateway.json("keys", "update", "replaced", "--no-limits")
        assert (await usage(gateway, key))["limits"] == []
        assert (await gateway.messages(key, body(3))).status == 200

    async def test_requests_that_run_count_once_in_new_limits(
        self, gateway: Server, upstream: ScriptedUpstream
    ) -> None:
        """They count in the new limits, while they run and when they end; once."""
        made = await gateway.admin("POST", "keys", name="running", limits=["9 requests/1h"])
        key = made["key"]
        gated = Gated(upstream)
        async with gateway.asking(key, message_body(stream=True)) as running:
            await running.head()
            new = ["1 concurrent", "1M tokens/7d", "5 requests/5h"]
            await gateway.admin("PATCH", "keys", "running", add_limits=new)
            limits = await statuses(gateway, key)
            assert limits["1 concurrent"]["reserved"] == 1
            assert limits["1M tokens/7d"]["reserved"] > 0
            assert limits["5 requests/5h"]["used"] == 1
            refused = await gateway.messages(key, message_body())
            assert refused.error == (429, "rate_limit_error")
            gated.open.set()
            await running.until(LAST_CHUNK)
        await nothing_reserved(gateway, key)
        limits = await statuses(gateway, key)
        assert [limit["used"] for limit in limits.values()] == [1, 0, 18, 1]
        # And once more, from what is stored.
        await gateway.admin("PATCH", "keys", "running", limits=[])
        await gateway.admin("PATCH", "keys", "running", limits=list(limits))
        again = await statuses(gateway, key)
        assert [limit["used"] for limit in again.values()] == [1, 0, 18, 1]

    async def test_limits_that_change_under_load_count_each_request_once(
        self, gateway: Server, upstream: ScriptedUpstream
    ) -> None:
        """Limits come and go, too; none is counted twice, and none is forgotten."""
        made = await gateway.admin("POST", "keys", name="busy", limits=["1k requests/total"])
        key = made["key"]
        texts = ["1k requests/1h", "1M tokens/5h", "1M output_tokens/7d", "1M input_tokens/total"]

        async def change() -> None:
            for number in range(24):
                part = {texts[number % 4], texts[number * 7 % 3]}
                await gateway.admin("PATCH", "keys", "busy", limits=["1k requests/total", *part])

        async def use() -> None:
            for _ in range(25):
                assert (await gateway.messages(key, message_body())).status == 200

        await asyncio.gather(change(), *(use() for _ in range(8)))
        await gateway.admin("PATCH", "keys", "busy", limits=["1k requests/total", *texts])
        await nothing_reserved(gateway, key)
        limits = await statuses(gateway, key)
        used = [limit["used"] for limit in limits.values()]
        assert used == [200, 200, 200 * 18, 200 * 7, 200 * 11]
