"""Alerts by mail: to a server that speaks SMTP over a socket, and has every fault."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trustme

from opuslive.errors import UsageError
from opuslive.gateway.alerts.alerts import Alerts, Message, trial_message
from opuslive.gateway.alerts.delivery import ATTEMPTS, Delivery
from opuslive.gateway.alerts.mail import Mail
from tests.support.clock import NOW
from tests.support.mail import PASSWORD, USER, MailServer
from tests.support.waiting import eventually

MakeMail = Callable[..., Mail]


@pytest.fixture
async def server() -> AsyncIterator[MailServer]:
    server = MailServer()
    yield server
    await server.close()


@pytest.fixture
def make(server: MailServer, authority: trustme.CA, caplog: pytest.LogCaptureFixture) -> MakeMail:
    """Makes channels to the server."""
    caplog.set_level(logging.DEBUG)

    def make(**how: Any) -> Mail:
        def tls() -> ssl.SSLContext:
            context = ssl.create_default_context()
            authority.configure_trust(context)
            return context

        return Mail(
            **{
                "host": "127.0.0.1",
                "port": server.port,
                "encryption": "none",
                "sender": "gateway@example.com",
                "recipients": ("ops@example.com", "other@example.com"),
                "login": lambda: None,
                "tls": tls,
                **how,
            }
        )

    return make


def server_tls(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def alert_of(group: str) -> Message:
    """An alert that names something which anybody called as they liked."""
    told: list[Message] = []
    alerts = Alerts(lambda: NOW, told.append)
    alerts.account_rejected(group)
    return told[0]


async def test_an_alert_is_a_mail_that_no_holiday_notice_answers(
    server: MailServer, make: MakeMail
) -> None:
    await server.start()
    answer = await make().deliver(trial_message(NOW))
    assert (answer.problem, answer.said) == (None, "2.0.0 queued")
    (mail,), (envelope,) = server.mails, server.envelopes
    assert envelope.mail_from == "gateway@example.com"
    assert envelope.rcpt_tos == ["ops@example.com", "other@example.com"]
    assert {name: mail[name] for name in ("From", "To", "Subject", "Date", "Auto-Submitted")} == {
        "From": "OpusLive <gateway@example.com>",
        "To": "ops@example.com, other@example.com",
        "Subject": "OpusLive: a test",
        "Date": "Mon, 23 Nov 2026 15:04:05 +0000",
        "Auto-Submitted": "auto-generated",
    }
    assert mail.get_content().splitlines() == [
        "This is a test of the alerts of OpusLive: nothing is wrong.",
        "",
        "Time: 2026-11-23T15:04:05Z",
    ]
    # Nobody learns what this machine is called.
    assert server.greetings == [("example.com", False)]
    assert mail["Message-ID"].endswith("@example.com>")


@pytest.mark.parametrize(
    "name",
    ["a\r\nBcc: evil@example.com", "b\n.\nMAIL FROM:<x>", "\r\n.\r\nQUIT", "über ☕ " * 40, "."],
)
async def test_no_name_gets_into_a_header_or_a_command(
    server: MailServer, make: MakeMail, name: str
) -> None:
    await server.start()
    message = alert_of(name)
    assert (await make().deliver(message)).problem is None
    (mail,), (envelope,) = server.mails, server.envelopes
    assert set(mail.keys()) == {
        *("From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted"),
        *("Content-Type", "Content-Transfer-Encoding", "MIME-Version"),
    }
    assert mail["Subject"] == "OpusLive: a provider refuses the credential"
    assert envelope.rcpt_tos == ["ops@example.com", "other@example.com"]
    text = str(message["text"]).replace("\r\n", "\n")
    assert text in mail.get_content().replace("\r\n", "\n")


@pytest.mark.parametrize("encryption", ["starttls", "tls"])
async def test_the_password_goes_over_an_encrypted_connection(
    server: MailServer, make: MakeMail, authority: trustme.CA, encryption: str
) -> None:
    await server.start(server_tls(authority), starttls=encryption == "starttls")
    mail = make(encryption=encryption, login=lambda: (USER, PASSWORD))
    assert (await mail.deliver(trial_message(NOW))).problem is None
    assert len(server.mails) == 1
    assert (await mail.probe()).said == "it takes the connection and the password"
    assert len(server.mails) == 1
    assert PASSWORD not in repr(mail)


@pytest.mark.parametrize("encryption", ["starttls", "tls"])
async def test_a_certificate_of_another_name_is_refused(
    server: MailServer,
    make: MakeMail,
    authority: trustme.CA,
    encryption: str,
) -> None:
    context = server_tls(authority, "mail.elsewhere.example")
    await server.start(context, starttls=encryption == "starttls")
    mail = make(encryption=encryption, login=lambda: (USER, PASSWORD))
    answer = await mail.deliver(trial_message(NOW))
    assert answer.problem is not None
    assert answer.problem.startswith("it can't be reached (")
    assert server.mails == []


async def test_a_server_without_encryption_gets_no_password_and_no_mail(
    server: MailServer, make: MakeMail
) -> None:
    await server.start()
    mail = make(encryption="starttls", login=lambda: (USER, PASSWORD))
    answer = await mail.deliver(trial_message(NOW))
    assert answer.problem == "it offers no encryption, or no way to sign in that is known here"
    assert (answer.again_after, server.mails) == (None, [])


async def test_a_wrong_password_is_told_and_not_tried_again(
    server: MailServer, make: MakeMail, authority: trustme.CA
) -> None:
    await server.start(server_tls(authority))
    mail = make(encryption="starttls", login=lambda: (USER, "wrong"))
    answer = await mail.deliver(trial_message(NOW))
    assert (answer.problem, answer.again_after) == ("it answers with 535", None)
    assert "535" in answer.said


async def test_a_password_that_cannot_be_read_is_told(server: MailServer, make: MakeMail) -> None:
    await server.start()

    def login() -> tuple[str, str]:
        raise UsageError("The password of the mail server is missing; put it into the file.")

    answer = await make(login=login).deliver(trial_message(NOW))
    assert (answer.problem, answer.again_after) == ("its password can't be read", None)
    assert server.attempts == 0


@pytest.mark.parametrize(
    ("answers", "problem", "again"),
    [
        ({"MAIL": "451 4.3.0 later"}, "it answers with 451", 0.0),
        ({"MAIL": "550 5.7.1 never"}, "it answers with 550", None),
        ({"DATA": "452 4.2.2 full"}, "it answers with 452", 0.0),
        ({"DATA": "554 5.6.0 spam"}, "it answers with 554", None),
        ({"RCPT ops@example.com": "550 5.1.1 who"}, "it refuses 1 of the recipients", None),
        (
            {
                "RCPT ops@example.com": "450 4.2.1 grey",
                "RCPT other@example.com": "450 4.2.1 grey",
            },
            "it answers with 450",
            0.0,
        ),
    ],
)
async def test_what_the_server_refuses_is_tried_again_only_if_that_may_help(
    server: MailServer,
    make: MakeMail,
    answers: dict[str, str],
    problem: str,
    again: float | None,
) -> None:
    await server.start()
    server.answers = answers
    answer = await make().deliver(trial_message(NOW))
    assert (answer.problem, answer.again_after) == (problem, again)


async def test_a_server_that_does_not_answer_costs_bounded_time(
    server: MailServer, make: MakeMail
) -> None:
    await server.start()
    server.silent = True
    answer = await make(timeout_seconds=0.2).deliver(trial_message(NOW))
    assert (answer.problem, answer.again_after) == ("it did not answer in time", 0.0)


async def test_a_server_that_is_not_there_is_told_by_its_kind(
    server: MailServer, make: MakeMail
) -> None:
    await server.start()
    mail = make()
    await server.close()
    answer = await mail.deliver(trial_message(NOW))
    assert answer.problem == "it can't be reached (ConnectionRefusedError)"
    assert answer.again_after == 0.0


async def test_it_is_tried_again_later_and_later(
    server: MailServer, make: MakeMail, caplog: pytest.LogCaptureFixture
) -> None:
    await server.start()
    server.answers = {"MAIL": "451 4.3.0 later"}
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            server.answers = {}
        await asyncio.sleep(0)

    delivery = Delivery(make(), sleep=sleep, jitter=lambda: 1.0)
    delivery.start()
    delivery.send(trial_message(NOW))
    await eventually(lambda: len(server.mails) == 1)
    assert slept == [1.0, 2.0]
    server.answers = {"MAIL": "451 4.3.0 later"}
    delivery.send(trial_message(NOW))
    await eventually(lambda: "was not told of an alert: it answers with 451" in caplog.text)
    assert server.attempts == 3 + ATTEMPTS
    await delivery.close()
    ours = [each.getMessage() for each in caplog.records if each.name.startswith("opuslive")]
    assert ours == ["the mail server of alerts was not told of an alert: it answers with 451"]


async def test_every_attempt_has_the_same_message_id(server: MailServer, make: MakeMail) -> None:
    await server.start()
    mail = make()
    for message in (trial_message(NOW), trial_message(NOW), trial_message(NOW + 1000)):
        await mail.deliver(message)
    first, second, third = (mail["Message-ID"] for mail in server.mails)
    assert first == second != third


async def test_it_ends_though_the_server_hangs(
    server: MailServer, make: MakeMail, caplog: pytest.LogCaptureFixture
) -> None:
    await server.start()
    server.silent = True
    delivery = Delivery(make())
    delivery.start()
    delivery.send(trial_message(NOW))
    await eventually(lambda: server.greetings != [])
    async with asyncio.timeout(20):
        await delivery.close()
    assert "the mail server of alerts was not told of 1 alerts before the end" in caplog.text
