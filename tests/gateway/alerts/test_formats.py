"""What each service gets: its own format, and nothing that it would make something of."""

from __future__ import annotations

import json
from typing import Any

import pytest

from opuslive.alerting import Format
from opuslive.gateway.alerts.alerts import Alerts, Message, trial_message
from opuslive.gateway.alerts.formats import MAX_DISCORD, MAX_NTFY, format_of, write
from tests.support.clock import NOW

HOSTILE = "<!channel> @everyone <@U123> *b* _i_ ~s~ `c` [x](https://evil.example) #1 :x: | > \\ &"


def alert_of(name: str) -> Message:
    told: list[Message] = []
    Alerts(lambda: NOW, told.append).account_rejected(name)
    return told[0]


def members(message: Message, form: Format) -> Any:
    written = write(message, form)
    assert written.headers == {"content-type": "application/json"}
    return json.loads(written.body)


@pytest.mark.parametrize(
    ("host", "form"),
    [
        ("hooks.slack.com", "slack"),
        ("hooks.slack-gov.com", "slack"),
        ("discord.com", "discord"),
        ("ptb.discord.com", "discord"),
        ("DiscordApp.com.", "discord"),
        ("ntfy.sh", "ntfy"),
        ("notdiscord.com", "json"),
        ("discord.com.evil.example", "json"),
        ("slack.com", "json"),
        ("chat.example.com", "json"),
        ("127.0.0.1", "json"),
    ],
)
def test_the_format_goes_by_the_host(host: str, form: str) -> None:
    assert format_of(host) == form


def test_json_is_the_message_as_it_is() -> None:
    assert members(alert_of(HOSTILE), "json") == alert_of(HOSTILE)


def test_slack_takes_no_mention_no_link_and_no_markup_from_a_name() -> None:
    sent = members(alert_of(HOSTILE), "slack")
    assert sent.keys() == {"text", "mrkdwn", "unfurl_links", "unfurl_media"}
    assert (sent["mrkdwn"], sent["unfurl_links"], sent["unfurl_media"]) == (False, False, False)
    assert "<" not in sent["text"]
    assert ">" not in sent["text"]
    assert "&lt;!channel&gt;" in sent["text"]
    assert sent["text"].endswith("credit.")


def test_discord_takes_no_mention_no_link_and_no_markup_from_a_name() -> None:
    sent = members(alert_of(HOSTILE), "discord")
    assert sent.keys() == {"content", "allowed_mentions", "flags"}
    assert (sent["allowed_mentions"], sent["flags"]) == ({"parse": []}, 4)
    content = sent["content"]
    for at, char in enumerate(content):
        if char in "*_~`|<>[]()#@:":
            assert content[at - 1] == "\\", content[at - 5 : at + 5]
    shown = "".join(
        char for at, char in enumerate(content) if not (char == "\\" and content[at + 1] != " ")
    )
    assert "@everyone" in shown


@pytest.mark.parametrize("name", ["x" * 3000, "☕" * 3000, "🐴" * 3000, "*" * 3000])
def test_a_long_name_is_shortened_to_what_the_service_takes(name: str) -> None:
    content = members(alert_of(name), "discord")["content"]
    assert len(content.encode("utf-16-le")) // 2 <= MAX_DISCORD
    assert content.endswith("…")
    body = write(alert_of(name), "ntfy").body
    assert len(body) <= MAX_NTFY
    body.decode()


def test_ntfy_gets_the_text_and_its_priority_beside_it() -> None:
    written = write(alert_of(HOSTILE + "\r\nx: y"), "ntfy")
    assert written.body.decode() == alert_of(HOSTILE + "\r\nx: y")["text"]
    assert written.headers == {
        "content-type": "text/plain; charset=utf-8",
        "title": "OpusLive",
        "priority": "high",
        "tags": "warning",
    }
    assert write(trial_message(NOW), "ntfy").headers["priority"] == "default"
