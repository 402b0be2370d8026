"""What Claude Code asks for beside messages: how much is left, and settings that nobody manages."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from tests.support.app import App
from tests.support.provider import ScriptedUpstream, anthropic_message, json_answer
from tests.support.server import Server
from tests.support.wire import Answer, message_body, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")

MESSAGE = message_body()
UNIFIED = "anthropic-ratelimit-unified-"


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    return {
        "limits": {"max_wait": "0s", "gateway": ["1M requests/5h"]},
        "limits.groups": {"friends": ["4 requests/5h"]},
    }


def unified(answer: Answer) -> dict[str, str]:
    return {
        name.removeprefix(UNIFIED): value
        for name, value in answer.headers
        if name.startswith(UNIFIED)
    }


async def asked(gateway: Server, key: str, count: int) -> Answer:
    """The last of so many answers."""
    for _ in range(count):
        answer = await gateway.messages(key, MESSAGE)
    return answer


async def bar(gateway: Server, key: str) -> Any:
    answer = await gateway.request(
        "GET", "/api/oauth/usage", headers=[("Authorization", f"Bearer {key}")]
    )
    assert answer.status == 200
    assert answer.header("cache-control") == "no-store"
    return answer.json()


class TestHeaders:
    async def test_say_how_full_the_fullest_limit_is(
        self, gateway: App, upstream: ScriptedUpstream
    ) -> None:
        key = await gateway.holder(limits=["4 requests/month", "100 requests/day"])
        assert unified(await asked(gateway, key, 2))["overage-utilization"] == "0.50"
        found = unified(await asked(gateway, key, 1))
        assert found.pop("overage-reset").isdecimal()
        assert found == {"overage-utilization": "0.75", "overage-surpassed-threshold": "0.75"}
        # The last one that passes.
        found = unified(await asked(gateway, key, 1))
        assert found["overage-utilization"] == "0.99"
        assert found["overage-surpassed-threshold"] == "0.95"

    async def test_name_the_windows_that_the_client_knows(
        self, gateway: App, upstream: ScriptedUpstream
    ) -> None:
        key = await gateway.holder(limits=["4 requests/5h", "20 requests/7d"])
        found = unified(await asked(gateway, key, 3))
        assert (found["5h-utilization"], found["5h-surpassed-threshold"]) == ("0.75", "0.75")
        assert "7d-utilization" not in found

    async def test_count_what_the_answer_itself_used(
        self, gateway: App, upstream: ScriptedUpstream
    ) -> None:
        key = await gateway.holder(limits=["1000 tokens/day"])
        upstream.will(json_answer(anthropic_message("x", input_tokens=700, output_tokens=70)))
        assert unified(await asked(gateway, key, 1))["overage-utilization"] == "0.77"

    async def test_tell_nothing_of_limits_that_others_share(
        self, gateway: App, upstream: ScriptedUpstream
    ) -> None:
        key = await gateway.holder(group="friends")
        assert unified(await asked(gateway, key, 3)) == {}
        document = await bar(gateway, key)
        assert document["limits"] == []

    async def test_take_the_place_of_the_providers_own(
        self, gateway: App, upstream: ScriptedUpstream
    ) -> None:
        key = await gateway.holder(limits=["4 requests/month"])
        head = "".join(
            f"{UNIFIED}{name}: x\r\n"
            for name in ("status", "representative-claim", "5h-utilization", "overage-utilization")
        )
        upstream.will([f"HTTP/1.1 200 OK\r\n{head}content-length: 2\r\n\r\n{{}}".encode()])
        found = unified(await asked(gateway, key, 1))
        assert set(found) == {"overage-utilization", "overage-reset"}
        assert found["overage-utilization"] == "0.25"


class TestRefusals:
    async def test_by_a_budget_show_their_own_sentence(
        self, gateway: App, upstream: ScriptedUpstream
    ) -> None:
        for limit in ("1 requests/month", "1 requests/total"):
            key = await gateway.holder(limits=[limit])
            refused = await asked(gateway, key, 2)
            assert refused.error == (429, "billing_error")
            assert refused.header("x-should-retry") == "false"
            found = unified(refused)
            assert found["status"] == "rejected"
            assert found["overage-disabled-reason"] == "org_spend_cap_reached"
            assert "representative-claim" not in found

    async def test_that_pass_soon_are_the_clients_to_repeat(
        self, gateway: App, upstream: ScriptedUpstream
    ) -> None:
        key = await gateway.holder(limits=["1 requests/1m"])
        refused = await asked(gateway, key, 2)
        assert refused.error == (429, "rate_limit_error")
        assert "status" not in unified(refused)

    @pytest.mark.parametrize("state", ["unknown", "disabled", "none"])
    async def test_of_a_key_name_no_header_that_the_client_would_hide_them_for(
        self, gateway: App, state: str
    ) -> None:
        key: str | None = "sk-ant-ol-abcdefgh-" + "0" * 40
        if state == "disabled":
            key = await gateway.holder(name="switched off", enabled=False)
        elif state == "none":
            key = None
        for target in ("/v1/messages", "/v1/messages/count_tokens", "/api/oauth/usage"):
            method = "GET" if target.startswith("/api") else "POST"
            answer = await gateway.request(method, target, key=key, body=MESSAGE)
            if state == "disabled" and method == "GET":
                assert answer.status == 200
                continue
            assert answer.error == (401, "authentication_error")
            assert answer.header("x-should-retry") == "false"
            assert "x-api-key" not in answer.message.lower()


class TestBar:
    async def test_is_that_of_the_fullest_limit(
        self, gateway: App, upstream: ScriptedUpstream
    ) -> None:
        key = await gateway.holder(limits=["4 requests/day", "100 requests/month"])
        await asked(gateway, key, 3)
        document = await bar(gateway, key)
        assert document["extra_usage"] == {
            "is_enabled": True,
            "monthly_limit": 400,
            "used_credits": 300,
            "utilization": 75,
            "currency": "REQ",
        }
        (limit,) = document["limits"]
        assert datetime.fromisoformat(limit.pop("resets_at")).hour == 0
        assert limit == {
            "kind": "spend",
            "group": "daily",
            "percent": 75,
            "severity": "warning",
            "is_active": True,
        }

    async def test_is_shown_for_a_key_that_may_not_be_used(self, gateway: App) -> None:
        key = await gateway.holder(name="off", enabled=False, limits=["5 usd/month"])
        assert (await bar(gateway, key))["extra_usage"]["monthly_limit"] == 500

    async def test_is_not_refused_when_the_limit_is_full(
        self, gateway: App, upstream: ScriptedUpstream
    ) -> None:
        key = await gateway.holder(limits=["1 requests/day"])
        await asked(gateway, key, 2)
        assert (await bar(gateway, key))["limits"][0]["severity"] == "critical"

    async def test_takes_no_other_method(self, gateway: App, key: str) -> None:
        answer = await gateway.request("POST", "/api/oauth/usage", key=key, body=b"{}")
        assert (answer.status, answer.header("allow")) == (405, "GET,HEAD")


class TestManagedSettings:
    @pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
    @pytest.mark.parametrize("draining", [False, True])
    @pytest.mark.parametrize("query", ["", "?version=1"])
    async def test_are_not_found_whoever_asks_and_however(
        self, gateway: App, key: str, method: str, draining: bool, query: str
    ) -> None:
        gateway.gateway.exchanges.draining = draining
        try:
            for host in ("gateway.localhost", "evil.example:1"):
                for sent in (None, key, "sk-ant-ol-wrong"):
                    async with await gateway.connect() as wire:
                        target = f"/managed/settings{query}"
                        accept = [("Accept", "text/html, */*")]
                        request = request_bytes(method, target, key=sent, headers=accept)
                        await wire.send(request.replace(b"gateway.localhost", host.encode()))
                        answer = await wire.answer(head_only=method == "HEAD")
                        assert answer.status == 404
                        assert (answer.header("connection") == "close") is draining
        finally:
            gateway.gateway.exchanges.draining = False

    async def test_are_not_found_before_a_body_has_come(self, gateway: App) -> None:
        async with await gateway.connect() as wire:
            length = [("Content-Length", "1000000"), ("Expect", "100-continue")]
            await wire.send(request_bytes("POST", "/managed/settings", headers=length))
            answer = await wire.answer()
            assert (answer.status, answer.header("connection")) == (404, "close")
