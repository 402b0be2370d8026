"""The health of upstreams: what counts as a failure, and when all are down."""

from __future__ import annotations

from typing import Any

import pytest

from opuslive.gateway.alerts.alerts import Alerts
from opuslive.gateway.upstreams.health import DOWN_FAILURES, DOWN_MS, Health, UpstreamState
from opuslive.gateway.upstreams.wire import FailureKind
from tests.support.clock import NOW, Machine


class Watched:
    """The health of two upstreams, at a time that a test sets."""

    def __init__(self, *names: str) -> None:
        self.machine = Machine()
        self.messages: list[Any] = []
        alerts = Alerts(self.machine.clock.steady_ms, self.messages.append)
        self.health = Health(names, alerts.account_rejected, self.machine.clock.steady_ms)

    def state(self, name: str = "a") -> tuple[UpstreamState, int]:
        upstream = self.health.upstreams[name]
        return upstream.state, upstream.failures_in_a_row

    def all_down(self) -> bool:
        return self.health.all_down

    def fail(self, name: str, times: int = 1) -> None:
        for _ in range(times):
            self.health.failed(name, FailureKind.UNREACHABLE)


@pytest.fixture
def watched() -> Watched:
    return Watched("a", "b")


def test_failures_are_counted_until_the_next_success(watched: Watched) -> None:
    assert watched.state() == (UpstreamState.UNUSED, 0)
    watched.health.failed("a", FailureKind.HEAD_TIMEOUT)
    watched.machine.elapsed += 5
    watched.health.answered("a", 529)
    assert watched.state() == (UpstreamState.FAILING, 2)
    upstream = watched.health.upstreams["a"]
    assert (upstream.last_failure, upstream.last_failure_at) == (529, NOW + 5)
    watched.machine.elapsed += 5
    watched.health.answered("a", 200)
    assert watched.state() == (UpstreamState.OK, 0)
    assert (upstream.last_success_at, upstream.last_failure_at) == (NOW + 10, NOW + 5)
    assert watched.state("b") == (UpstreamState.UNUSED, 0)


def test_a_busy_upstream_neither_fails_nor_succeeds(watched: Watched) -> None:
    watched.fail("a", 2)
    watched.health.answered("a", 429)
    assert watched.state() == (UpstreamState.FAILING, 2)
    assert watched.health.upstreams["a"].last_success_at is None


@pytest.mark.parametrize("status", [400, 404, 413])
def test_an_upstream_that_refuses_a_request_works(watched: Watched, status: int) -> None:
    watched.fail("a")
    watched.health.answered("a", status)
    assert watched.state() == (UpstreamState.OK, 0)


def test_a_refused_credential_stays_so_until_it_works(watched: Watched) -> None:
    watched.health.account_rejected("a")
    assert watched.state() == (UpstreamState.CREDENTIAL_REFUSED, 0)
    for status in (400, 429, 500):
        watched.health.answered("a", status)
        assert watched.state()[0] is UpstreamState.CREDENTIAL_REFUSED
    watched.health.account_rejected("a")
    assert len(watched.messages) == 1
    watched.health.answering("a", 400)
    assert watched.state()[0] is UpstreamState.CREDENTIAL_REFUSED
    watched.fail("a")
    watched.health.answering("a", 200)
    # It works; whether the answer will, nobody knows yet.
    assert watched.state()[0] is UpstreamState.FAILING
    watched.health.answered("a", 200)
    assert watched.state() == (UpstreamState.OK, 0)
    watched.machine.elapsed += 3_600_000
    watched.health.account_rejected("a")
    assert len(watched.messages) == 2


def test_all_are_down_when_each_failed_often_and_just_now(watched: Watched) -> None:
    watched.fail("a", DOWN_FAILURES)
    assert not watched.all_down()
    watched.fail("b", DOWN_FAILURES - 1)
    assert not watched.all_down()
    watched.fail("b")
    assert watched.all_down()
    watched.machine.elapsed += DOWN_MS - 1
    assert watched.all_down()
    watched.machine.elapsed += 1
    # Now a request may find out; if it fails, too, it is down again.
    assert not watched.all_down()
    watched.fail("a")
    watched.fail("b")
    assert watched.all_down()
    watched.health.answered("b", 200)
    assert not watched.all_down()


def test_where_there_are_none_none_is_down() -> None:
    assert not Watched().health.all_down
