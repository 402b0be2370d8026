"""Alerts of the real program: in the log and at a receiver, once, and in no request's way."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.support.provider import STALL, ScriptedUpstream, anthropic_message, json_answer
from tests.support.server import Server, Servers
from tests.support.waiting import eventually
from tests.support.wire import message_body

pytestmark = pytest.mark.asyncio(loop_scope="module")

CANARY = "kanarienvogel"
TOKEN = "T0K3N"


@pytest_asyncio.fixture(loop_scope="module")
async def receiver() -> AsyncIterator[ScriptedUpstream]:
    receiver = ScriptedUpstream()
    await receiver.start()
    receiver.always(lambda request: json_answer({}))
    yield receiver
    await receiver.close()


async def alerting(servers: Servers, upstream: ScriptedUpstream, receiver: ScriptedUpstream) -> Any:
    webhook = f"{receiver.base_url}/{TOKEN}?t={TOKEN}"
    return await servers.start(upstream.base_url, alerts={"webhook": webhook})


def answer(tokens: int) -> Any:
    """An answer that used so many tokens: output, of which one was reserved."""
    return json_answer(anthropic_message(CANARY, input_tokens=0, output_tokens=tokens))


def said(receiver: ScriptedUpstream) -> list[Any]:
    return [json.loads(request.body) for request in receiver.inferences]


async def ask(server: Server, key: str) -> int:
    body = message_body(max_tokens=1, messages=[{"role": "user", "content": CANARY}])
    return (await server.messages(key, body)).status


async def test_a_limit_that_fills_up_is_told_at_each_level_once(
    servers: Servers, upstream: ScriptedUpstream, receiver: ScriptedUpstream
) -> None:
    server = await alerting(servers, upstream, receiver)
    made = await server.admin("POST", "keys", name=CANARY, limits=["1k tokens/5h"])
    upstream.will(answer(700), answer(100), answer(50), answer(150))
    assert [await ask(server, made["key"]) for _ in range(4)] == [200] * 4
    assert await ask(server, made["key"]) == 429
    await eventually(lambda: len(said(receiver)) >= 2)
    # What comes after both shows that neither came twice.
    other = await server.admin("POST", "keys", name=f"{CANARY} 2", limits=["10 tokens/total"])
    upstream.will(answer(10))
    assert await ask(server, other["key"]) == 200
    await eventually(lambda: len(said(receiver)) >= 3)
    alerts = said(receiver)
    assert [(each["key"], each["level"]) for each in alerts] == [
        (made["id"], 80),
        (made["id"], 100),
        (other["id"], 100),
    ]
    assert alerts[0].keys() == {
        *("event", "level", "scope", "key", "group", "limit", "used", "amount", "frees_at"),
        *("time", "text"),
    }
    amounts = [(each["used"], each["amount"]) for each in alerts]
    assert amounts == [(800, 1000), (1000, 1000), (10, 10)]
    assert alerts[0]["frees_at"] > alerts[0]["time"]
    assert await server.stop() == 0
    for alert in alerts:
        assert server.log.count(alert["text"]) == 1
    assert server.log.count("The limit of ") == 3
    posted = b"".join(request.body for request in receiver.requests)
    for secret in (CANARY, TOKEN, "claude", made["key"]):
        assert secret not in server.log.replace("model=claude-test-1", "")
        assert secret.encode() not in posted


async def test_a_restart_repeats_no_alert(
    servers: Servers, upstream: ScriptedUpstream, receiver: ScriptedUpstream
) -> None:
    server = await alerting(servers, upstream, receiver)
    key = await server.holder(limits=["1k tokens/5h", "2k tokens/total"])
    upstream.will(answer(850), answer(50), answer(100))
    assert await ask(server, key) == 200
    assert await server.stop() == 0
    await server.start()
    assert [await ask(server, key) for _ in range(2)] == [200, 200]
    await eventually(lambda: len(said(receiver)) >= 2)
    assert await server.stop() == 0
    assert [each["level"] for each in said(receiver)] == [80, 100]


async def test_a_credential_that_is_refused_is_told_once(
    servers: Servers, upstream: ScriptedUpstream, receiver: ScriptedUpstream
) -> None:
    server = await alerting(servers, upstream, receiver)
    key = await server.holder()
    error = {"type": "error", "error": {"type": "authentication_error", "message": CANARY}}
    upstream.will(*[json_answer(error, status=401)] * 3, answer(10), answer(10))
    assert [await ask(server, key) for _ in range(3)] == [502] * 3
    assert (await server.admin("GET", "status"))["upstreams"][0]["state"] == "credential_refused"
    assert await ask(server, key) == 200
    assert (await server.admin("GET", "status"))["upstreams"][0]["state"] == "ok"
    await eventually(lambda: len(said(receiver)) >= 1)
    assert await server.stop() == 0
    (alert,) = said(receiver)
    assert alert.keys() == {"event", "upstream", "time", "text"}
    assert (alert["event"], alert["upstream"]) == ("credential", "provider")
    assert server.log.count("refuses this gateway's account") >= 1
    assert CANARY not in server.log + alert["text"]


async def test_a_credential_that_is_refused_at_the_start(
    servers: Servers, receiver: ScriptedUpstream
) -> None:
    """The list of models is asked for before any request comes."""
    upstream = ScriptedUpstream()
    upstream.models = None
    await upstream.start()
    server = await alerting(servers, upstream, receiver)
    await eventually(lambda: len(said(receiver)) >= 1)
    assert said(receiver)[0]["event"] == "credential"
    assert (await server.admin("GET", "status"))["upstreams"][0]["state"] == "credential_refused"
    assert await ask(server, await server.holder()) == 200
    assert (await server.admin("GET", "status"))["upstreams"][0]["state"] == "ok"
    await upstream.close()


async def test_requests_go_on_while_the_receiver_hangs(
    servers: Servers, upstream: ScriptedUpstream, receiver: ScriptedUpstream
) -> None:
    receiver.always(lambda request: [STALL])
    server = await alerting(servers, upstream, receiver)
    key = await server.holder(limits=["100 tokens/total"])
    upstream.will(answer(90))
    assert await ask(server, key) == 200
    await receiver.request()
    other = await server.holder(limits=["1 requests/day"])
    assert await ask(server, other) == 200
    assert (await server.request("GET", "/readyz")).status == 200
    # The end does not wait for the receiver, either.
    assert await server.stop() == 0
    assert "was not told of 2 alerts before the end" in server.log
    assert TOKEN not in server.log


async def test_health_of_an_upstream_that_is_gone(servers: Servers) -> None:
    upstream = ScriptedUpstream()
    await upstream.start()
    server = await servers.start(upstream.base_url)
    key = await server.holder()

    async def provider() -> dict[str, Any]:
        (shown,) = (await server.admin("GET", "status"))["upstreams"]
        assert isinstance(shown, dict)
        return shown

    assert await provider() == {
        "name": "provider",
        "dialect": "anthropic",
        "priority": 0,
        "weight": 1,
        "state": "unused",
        "since": None,
        "out_until": None,
        "failures_in_a_row": 0,
        "last_failure": None,
        "last_failure_at": None,
        "last_success_at": None,
    }
    upstream.will(answer(10), json_answer({}, status=500))
    assert await ask(server, key) == 200
    shown = await provider()
    assert (shown["state"], shown["failures_in_a_row"], shown["last_failure"]) == ("ok", 0, None)
    assert shown["last_success_at"] is not None
    assert await ask(server, key) == 500
    assert (await provider())["last_failure"] == "answered with status 500"
    await upstream.close()
    assert [await ask(server, key) for _ in range(3)] == [502] * 3
    shown = await provider()
    assert (shown["state"], shown["failures_in_a_row"]) == ("failing", 4)
    assert (shown["last_failure"], shown["last_failure_at"] is None) == (
        "could not be reached",
        False,
    )
    assert (await server.request("GET", "/readyz")).status == 200
    assert await ask(server, key) == 502
    ready = await server.request("GET", "/readyz")
    none_up = {"up": 0, "configured": 1}
    assert (ready.status, ready.json()) == (503, {"status": "upstream", "upstreams": none_up})
    shown = await provider()
    assert (shown["state"], shown["failures_in_a_row"]) == ("out", 5)
    assert shown["since"] < shown["out_until"]
    assert (await server.request("GET", "/healthz")).status == 200
