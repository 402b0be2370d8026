"""Messages to a webhook: to a receiver that speaks over a socket, and has every fault."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trustme

from opuslive.gateway.alerts.delivery import ATTEMPTS, MAX_QUEUED, Delivery
from opuslive.gateway.alerts.webhook import Webhook
from tests.support.provider import RESET, STALL, Request, ScriptedUpstream, json_answer
from tests.support.waiting import eventually

TOKEN = "T0K3N"

MakeWebhook = Callable[..., Delivery]


class Sleeps:
    """Time that is only noted down."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await asyncio.sleep(0)


@pytest.fixture
def sleeps() -> Sleeps:
    return Sleeps()


@pytest.fixture
async def make(
    upstream: ScriptedUpstream, sleeps: Sleeps, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[MakeWebhook]:
    """Makes webhooks of the receiver, running; of none the address is told to the log."""
    caplog.set_level(logging.DEBUG)
    made: list[Delivery] = []
    upstream.always(lambda request: json_answer({}))

    def make(url: str | None = None, **how: Any) -> Delivery:
        webhook = Webhook(url or f"{upstream.base_url}/hook%2Fa?token={TOKEN}", **how)
        made.append(Delivery(webhook, sleep=sleeps, jitter=lambda: 1.0))
        made[-1].start()
        return made[-1]

    yield make
    for webhook in made:
        await webhook.close()
        assert TOKEN not in repr(webhook.channel)
    assert TOKEN not in caplog.text
    assert "127.0.0.1" not in caplog.text


def bodies(upstream: ScriptedUpstream) -> list[Any]:
    return [json.loads(request.body) for request in upstream.inferences]


async def received(upstream: ScriptedUpstream, number: int) -> None:
    await eventually(lambda: len(upstream.inferences) >= number)


async def test_a_message_is_posted_as_json(make: MakeWebhook, upstream: ScriptedUpstream) -> None:
    make().send({"text": "über 80 %", "key": None})
    request = await upstream.request()
    assert request.line == f"POST /hook%2Fa?token={TOKEN} HTTP/1.1"
    assert request.header("content-type") == "application/json"
    assert request.header("user-agent") == "OpusLive"
    assert json.loads(request.body) == {"text": "über 80 %", "key": None}


async def test_it_is_tried_again_later_and_later(
    make: MakeWebhook, upstream: ScriptedUpstream, sleeps: Sleeps
) -> None:
    upstream.will(json_answer({}, status=503), json_answer({}, status=503))
    webhook = make()
    webhook.send({"n": 1})
    webhook.send({"n": 2})
    await received(upstream, 4)
    assert bodies(upstream) == [{"n": 1}, {"n": 1}, {"n": 1}, {"n": 2}]
    assert sleeps.seconds == [1.0, 2.0]


async def test_it_is_given_up_in_the_end(
    make: MakeWebhook,
    upstream: ScriptedUpstream,
    sleeps: Sleeps,
    caplog: pytest.LogCaptureFixture,
) -> None:
    upstream.will(*[[RESET] if number % 2 else json_answer({}, status=500) for number in range(5)])
    webhook = make()
    webhook.send({"n": 1})
    webhook.send({"n": 2})
    await received(upstream, ATTEMPTS + 1)
    assert bodies(upstream) == [{"n": 1}] * ATTEMPTS + [{"n": 2}]
    assert sleeps.seconds == [1.0, 2.0, 4.0, 8.0]
    assert [record.getMessage() for record in caplog.records if record.name[:8] == "opuslive"] == [
        "the alert webhook was not told of an alert: it answers with status 500"
    ]


@pytest.mark.parametrize(
    ("asked", "waits"), [("7", 7.0), ("0", 1.0), ("3600", 60.0), ("Wed, 21 Oct 2026", 1.0)]
)
async def test_the_receiver_may_ask_for_patience(
    make: MakeWebhook, upstream: ScriptedUpstream, sleeps: Sleeps, asked: str, waits: float
) -> None:
    upstream.will(json_answer({}, status=429, headers=[("retry-after", asked)]))
    make().send({})
    await received(upstream, 2)
    assert sleeps.seconds == [waits]


@pytest.mark.parametrize("status", [301, 307, 400, 401, 404, 410])
async def test_what_would_stay_wrong_is_given_up_at_once(
    make: MakeWebhook,
    upstream: ScriptedUpstream,
    sleeps: Sleeps,
    caplog: pytest.LogCaptureFixture,
    status: int,
) -> None:
    elsewhere = [("location", f"{upstream.base_url}/elsewhere")]
    upstream.will(json_answer({}, status=status, headers=elsewhere))
    webhook = make()
    webhook.send({"n": 1})
    webhook.send({"n": 2})
    await received(upstream, 2)
    assert bodies(upstream) == [{"n": 1}, {"n": 2}]
    assert {request.path for request in upstream.requests} == {f"/hook%2Fa?token={TOKEN}"}
    assert sleeps.seconds == []
    assert caplog.text.count(f"it answers with status {status}") == 1


async def test_one_that_never_answers_is_tried_again(
    make: MakeWebhook, upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.will([STALL])
    make(timeout_seconds=0.1).send({"n": 1})
    await received(upstream, 2)
    assert bodies(upstream) == [{"n": 1}, {"n": 1}]


async def test_a_receiver_that_cannot_be_reached_is_logged(
    make: MakeWebhook, upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"{upstream.base_url}/{TOKEN}"
    await upstream.close()
    make(url).send({})
    await eventually(lambda: "it can't be reached (ClientConnectorError)" in caplog.text)


async def test_the_receivers_certificate_is_verified(
    make: MakeWebhook, authority: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    server = ScriptedUpstream(_context(authority))
    await server.start()
    make(server.base_url).send({})
    await eventually(lambda: "it can't be reached (ClientConnectorCert" in caplog.text)
    assert server.requests == []
    await server.close()


def _context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


async def test_no_proxy_hears_of_a_message(
    make: MakeWebhook, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = ScriptedUpstream()
    await proxy.start()
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.base_url)
    make().send({})
    await received(upstream, 1)
    assert proxy.connections == 0
    await proxy.close()


async def test_a_flood_is_bounded_and_counted(
    make: MakeWebhook, upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    free = asyncio.Event()

    def held(request: Request) -> Any:
        return [free, *json_answer({})]

    upstream.will(held)
    webhook = make()
    webhook.send({"n": -1})
    await received(upstream, 1)
    for number in range(10 * MAX_QUEUED):
        webhook.send({"n": number})
    assert len(webhook._queue) == MAX_QUEUED
    free.set()
    await received(upstream, 1 + MAX_QUEUED)
    newest = range(9 * MAX_QUEUED, 10 * MAX_QUEUED)
    assert [body["n"] for body in bodies(upstream)] == [-1, *newest]
    assert caplog.text.count(f"the oldest {9 * MAX_QUEUED} alerts were dropped") == 1


async def test_a_webhook_ends_though_its_receiver_hangs(
    make: MakeWebhook, upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.will([STALL])
    webhook = make()
    webhook.send({"n": 1})
    webhook.send({"n": 2})
    request = await upstream.request()
    async with asyncio.timeout(20):
        await webhook.close()
        await request.gone.wait()
    assert "was not told of 2 alerts before the end" in caplog.text


async def test_what_can_be_told_before_the_end_is(
    make: MakeWebhook, upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    webhook = make()
    webhook.send({"n": 1})
    webhook.send({"n": 2})
    await webhook.close()
    assert bodies(upstream) == [{"n": 1}, {"n": 2}]
    assert "not told" not in caplog.text


async def test_what_waits_and_what_is_tried_again_goes_to_a_new_address(
    make: MakeWebhook, upstream: ScriptedUpstream
) -> None:
    free, other = asyncio.Event(), ScriptedUpstream()
    await other.start()
    other.always(lambda request: json_answer({}))
    upstream.will([free, *json_answer({}, status=503)])
    webhook = make()
    webhook.send({"n": 1})
    webhook.send({"n": 2})
    await received(upstream, 1)
    webhook.use(Webhook(f"{other.base_url}/{TOKEN}"))
    webhook.send({"n": 3})
    free.set()
    await received(other, 3)
    assert bodies(other) == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert bodies(upstream) == [{"n": 1}]
    await other.close()


async def test_without_an_address_what_waits_is_dropped_and_counted(
    make: MakeWebhook, upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    free = asyncio.Event()
    upstream.will([free, *json_answer({}, status=503)])
    webhook = make()
    for number in range(3):
        webhook.send({"n": number})
    await received(upstream, 1)
    webhook.use(None)
    webhook.send({"n": 4})
    assert "2 alerts were not told" in caplog.text
    free.set()
    await eventually(lambda: "not told of an alert: it was switched off" in caplog.text)
    webhook.use(Webhook(upstream.base_url))
    webhook.send({"n": 5})
    await received(upstream, 2)
    assert bodies(upstream) == [{"n": 0}, {"n": 5}]


async def test_an_address_may_come_and_go_before_anything_is_delivered(
    make: MakeWebhook, upstream: ScriptedUpstream
) -> None:
    webhook = make()
    webhook.send({"n": 1})
    channel = webhook.channel
    webhook.use(None)
    webhook.use(channel)
    webhook.send({"n": 2})
    await received(upstream, 1)
    assert bodies(upstream) == [{"n": 2}]
