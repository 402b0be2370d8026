"""``opuslive alerts test``: what every channel answers, with a server and without one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.support.mail import MailServer
from tests.support.provider import ScriptedUpstream, json_answer
from tests.support.server import Server, Servers

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKEN = "T0K3N"


@pytest_asyncio.fixture(loop_scope="module")
async def receiver() -> AsyncIterator[ScriptedUpstream]:
    receiver = ScriptedUpstream()
    await receiver.start()
    receiver.always(lambda request: json_answer({"message": f"hook of {request.path}"}))
    yield receiver
    await receiver.close()


@pytest_asyncio.fixture(loop_scope="module")
async def mail() -> AsyncIterator[MailServer]:
    mail = MailServer()
    await mail.start()
    yield mail
    await mail.close()


def alerting(
    servers: Servers, upstream: ScriptedUpstream, receiver: ScriptedUpstream, mail: MailServer
) -> Server:
    return servers.make(
        upstream.base_url,
        alerts={
            "webhook": f"{receiver.base_url}/{TOKEN}",
            "format": "discord",
            "smtp": {
                "host": "localhost",
                "port": mail.port,
                "tls": "none",
                "from": "gateway@example.com",
                "to": "ops@example.com",
            },
        },
    )


@pytest.mark.parametrize("serving", [True, False], ids=["with a server", "without"])
async def test_each_channel_gets_one_message_and_its_answer_is_shown(
    servers: Servers,
    upstream: ScriptedUpstream,
    receiver: ScriptedUpstream,
    mail: MailServer,
    serving: bool,
) -> None:
    server = alerting(servers, upstream, receiver, mail)
    if serving:
        await server.start()
    shown = await server.run("alerts", "test")
    assert (shown.status, shown.err) == (0, "")
    assert [line.split(maxsplit=2) for line in map(str.rstrip, shown.out.splitlines())] == [
        ["channel", "result", "answer"],
        ["webhook", "ok", '200 {"message": "hook of …"}'],
        ["mail", "ok", "2.0.0 queued"],
    ]
    (request,), (sent,) = receiver.inferences, mail.mails
    assert json.loads(request.body)["content"].startswith("This is a test")
    assert sent["Subject"] == "OpusLive: a test"
    if serving:
        assert await server.stop() == 0
        assert TOKEN not in server.log


async def test_a_channel_that_fails_is_told_with_its_answer_and_status_1(
    servers: Servers, upstream: ScriptedUpstream, receiver: ScriptedUpstream, mail: MailServer
) -> None:
    server = alerting(servers, upstream, receiver, mail)
    receiver.will(json_answer({"code": 10015, "message": f"Unknown /{TOKEN}"}, status=404))
    mail.answers = {"RCPT ops@example.com": "550 5.1.1 nobody here"}
    outcome = await server.run("alerts", "test", "--json")
    assert outcome.status == 1
    channels: list[dict[str, Any]] = json.loads(outcome.out)["channels"]
    assert [(each["channel"], each["ok"], each["problem"]) for each in channels] == [
        ("webhook", False, "it answers with status 404"),
        ("mail", False, "it answers with 550"),
    ]
    assert channels[0]["answer"] == '404 {"code": 10015, "message": "Unknown …"}'
    assert channels[1]["answer"] == "550 5.1.1 nobody here"
    assert TOKEN not in outcome.out


async def test_without_a_channel_the_remedy_is_named(
    servers: Servers, upstream: ScriptedUpstream
) -> None:
    outcome = await servers.make(upstream.base_url).run("alerts", "test")
    assert "set webhook in [alerts], or write [alerts.smtp]" in outcome.complaint
