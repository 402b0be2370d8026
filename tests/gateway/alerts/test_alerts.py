"""Alerts: what is told of limits and credentials, in which words, and how often."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from opuslive.gateway.alerts.alerts import REJECTION_PAUSE_MS, Alerts
from opuslive.gateway.holder import Holder
from opuslive.gateway.upstreams.failures import FailureLog
from opuslive.gateway.upstreams.monitor import Monitor
from opuslive.times import DAY_MS, HOUR_MS
from tests.support.clock import Machine
from tests.support.limiting import Limiting, MakeLimiting, tokens
from tests.support.upstreams import upstream


class Told:
    """Alerts, and what they said."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.messages: list[Any] = []
        self.alerts = Alerts(self.machine.clock.steady_ms, self.messages.append)

    @property
    def monitor(self) -> Monitor:
        """What hears of every refusal, and calls the alerts."""
        clock = self.machine.clock
        return Monitor(FailureLog(clock.elapsed_ms), self.alerts.account_rejected, clock.steady_ms)


@pytest.fixture
def told() -> Told:
    return Told()


def told_of_limits(limiting: Limiting) -> list[Any]:
    """What was said since the last time."""
    messages = list(limiting.messages)
    limiting.messages.clear()
    return messages


def levels(limiting: Limiting) -> list[tuple[str | None, int, str]]:
    """Whose limits were passed, to which level, and which."""
    messages = told_of_limits(limiting)
    return [(one["key"] or one["group"], one["level"], one["limit"]) for one in messages]


class TestLimits:
    async def test_the_alert_of_a_key_says_limit_usage_and_when_it_frees(
        self, limiting: Limiting, caplog: pytest.LogCaptureFixture
    ) -> None:
        key = await limiting.key("2k tokens/5h")
        await limiting.use(key, tokens(1_700))
        text = (
            "The limit of the key key00001, 2k tokens/5h, is used to 80 %: 1,700 of 2,000; more "
            "frees from 2026-11-23T20:05:00Z on."
        )
        (message,) = told_of_limits(limiting)
        assert json.loads(json.dumps(message)) == {
            "event": "limit",
            "level": 80,
            "scope": "key",
            "key": "key00001",
            "group": None,
            "limit": "2k tokens/5h",
            "used": 1700,
            "amount": 2000,
            "frees_at": "2026-11-23T20:05:00Z",
            "time": "2026-11-23T15:04:05Z",
            "text": text,
        }
        assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
            (logging.WARNING, text)
        ]

    async def test_the_alerts_of_a_group_and_of_the_gateway_name_their_scope(
        self, make_limiting: MakeLimiting
    ) -> None:
        limiting = make_limiting(
            groups={"friends": ["100 tokens/total"]}, gateway=["0.001 usd/month"]
        )
        key = await limiting.key(group="friends")
        await limiting.use(key, tokens(100))
        group, gateway = told_of_limits(limiting)
        assert (group["scope"], group["key"], group["group"]) == ("group", None, "friends")
        assert (group["level"], group["frees_at"]) == (100, None)
        assert group["text"] == (
            "The limit of the group friends, 100 tokens/total, is used up: 100 of 100; it never "
            "frees."
        )
        assert (gateway["scope"], gateway["key"], gateway["group"]) == ("gateway", None, None)
        assert (gateway["level"], gateway["used"], gateway["amount"]) == (100, 0.0015, 0.001)
        assert gateway["frees_at"] == "2026-12-01T00:00:00Z"

    async def test_a_limit_is_logged_where_there_is_no_webhook(
        self, limiting: Limiting, caplog: pytest.LogCaptureFixture
    ) -> None:
        limiting.deliver = None
        await limiting.restart()
        key = await limiting.key("10 tokens/5h")
        await limiting.use(key, tokens(10))
        assert "10 tokens/5h, is used up" in caplog.text

    async def test_a_restart_repeats_no_alert(self, make_limiting: MakeLimiting) -> None:
        limiting = make_limiting(groups={"friends": ["90 tokens/1h"]}, gateway=["100 tokens/day"])
        key = await limiting.key("100 tokens/7d", "95 tokens/1h", group="friends")
        await limiting.use(key, tokens(85))
        assert levels(limiting) == [
            (key.id, 80, "100 tokens/7d"),
            (key.id, 80, "95 tokens/1h"),
            ("friends", 80, "90 tokens/1h"),
            (None, 80, "100 tokens/day"),
        ]
        await limiting.restart()
        await limiting.use(key, tokens(1))
        assert levels(limiting) == []
        await limiting.use(key, tokens(4))
        assert levels(limiting) == [("friends", 100, "90 tokens/1h")]

    async def test_a_new_limit_that_is_passed_already_is_not_told(self, limiting: Limiting) -> None:
        key = await limiting.key("1k tokens/day")
        await limiting.use(key, tokens(90))
        await limiting.change(key, "1k tokens/day", "100 tokens/1h")
        await limiting.use(key, tokens(0))
        assert levels(limiting) == []
        await limiting.change(key, "1k tokens/day", "101 tokens/1h")
        running = limiting.admit(key)
        running.settle(tokens(11), limiting.now)
        assert levels(limiting) == [(key.id, 100, "101 tokens/1h")]

    async def test_no_alert_comes_of_a_deleted_key(self, make_limiting: MakeLimiting) -> None:
        limiting = make_limiting(gateway=["100 tokens/day"])
        key = await limiting.key("100 tokens/day")
        during, after = limiting.admit(key), limiting.admit(key)
        limiting.holders.remove(limiting.holder(key))
        during.settle(tokens(80), limiting.now)
        after.settle(tokens(20), limiting.now)
        gateway = [(None, level, "100 tokens/day") for level in (80, 100)]
        assert levels(limiting) == gateway
        # Nothing is left of it that another with its id would inherit.
        limiting.now += DAY_MS
        limiting.holders.add(Holder(key, limiting.now))
        limiting.admit(key).settle(tokens(100), limiting.now)
        assert levels(limiting)[0] == (key.id, 100, "100 tokens/day")

    async def test_alerts_go_on_for_a_key_that_could_not_be_deleted(
        self, limiting: Limiting
    ) -> None:
        key = await limiting.key("100 tokens/day")
        holder = limiting.holder(key)
        limiting.holders.remove(holder)
        limiting.holders.add(holder)
        limiting.admit(key).settle(tokens(100), limiting.now)
        assert levels(limiting) == [(key.id, 100, "100 tokens/day")]


class TestCredentials:
    def test_the_alert_of_a_credential_names_its_upstream(self, told: Told) -> None:
        told.alerts.account_rejected("anthropic")
        text = (
            "The upstream anthropic refuses this gateway's account: check its credential and its "
            "credit."
        )
        assert told.messages == [
            {
                "event": "credential",
                "upstream": "anthropic",
                "time": "2026-11-23T15:04:05Z",
                "text": text,
            }
        ]

    async def test_a_rejected_credential_is_told_once_until_it_has_worked(self, told: Told) -> None:
        monitor, a, b = told.monitor, upstream("a"), upstream("b")
        for _ in range(3):
            monitor.account_rejected(a, 401)
            told.machine.elapsed += DAY_MS
        monitor.account_rejected(b, 401)
        assert [message["upstream"] for message in told.messages] == ["a", "b"]
        monitor.answering(a, 200)
        monitor.account_rejected(b, 401)
        monitor.account_rejected(a, 401)
        assert [message["upstream"] for message in told.messages] == ["a", "b", "a"]

    async def test_a_rejected_credential_is_told_once_an_hour_at_most(self, told: Told) -> None:
        assert REJECTION_PAUSE_MS == HOUR_MS
        monitor, a = told.monitor, upstream("a")
        rang = []
        for minute in range(180):
            monitor.account_rejected(a, 401)
            monitor.answering(a, 200)
            if told.messages:
                rang.append(minute)
                told.messages.clear()
            told.machine.elapsed += 60_000
        assert rang == [0, 60, 120]

    async def test_a_credential_that_is_still_rejected_after_the_hour_is_told_then(
        self, told: Told
    ) -> None:
        monitor, a = told.monitor, upstream("a")
        monitor.account_rejected(a, 401)
        monitor.answering(a, 200)
        told.machine.elapsed += HOUR_MS - 1
        monitor.account_rejected(a, 401)
        assert len(told.messages) == 1
        told.machine.elapsed += 1
        monitor.account_rejected(a, 401)
        monitor.account_rejected(a, 401)
        assert len(told.messages) == 2
