"""The health of one upstream: what puts it aside, for how long, and what brings it back."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from opuslive.gateway.upstreams.health import (
    ACCOUNT_PROBE_MS,
    DOWN_FAILURES,
    DOWN_MS,
    MAX_DOWN_MS,
    PROBE_MS,
    RATE_LIMIT_SECONDS,
    UpstreamHealth,
    UpstreamState,
)
from opuslive.gateway.upstreams.wire import FailureKind
from opuslive.times import DAY_MS, HOUR_MS
from tests.support.clock import NOW


def failing(times: int = DOWN_FAILURES, now: int = NOW) -> UpstreamHealth:
    health = UpstreamHealth()
    for _ in range(times):
        health.failed(FailureKind.UNREACHABLE, now)
    return health


def test_failures_are_counted_until_the_next_success() -> None:
    health = UpstreamHealth()
    assert (health.state(NOW), health.failures_in_a_row) == (UpstreamState.UNUSED, 0)
    health.failed(FailureKind.HEAD_TIMEOUT, NOW)
    health.failed(529, NOW + 5)
    assert (health.state(NOW + 5), health.failures_in_a_row) == (UpstreamState.FAILING, 2)
    assert (health.failure_text, health.last_failure_at) == ("answered with status 529", NOW + 5)
    assert health.since(NOW + 5) == NOW
    health.succeeded(NOW + 10)
    assert (health.state(NOW + 10), health.failures_in_a_row) == (UpstreamState.OK, 0)
    assert (health.last_success_at, health.last_failure_at) == (NOW + 10, NOW + 5)
    assert health.since(NOW + 10) is None


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (None, None),
        (503, "answered with status 503"),
        (FailureKind.UNREACHABLE, FailureKind.UNREACHABLE.value),
    ],
)
def test_the_last_failure_in_words(failure: FailureKind | int | None, said: str | None) -> None:
    assert UpstreamHealth(last_failure=failure).failure_text == said


class TestCircuit:
    def test_it_opens_after_so_many_failures_in_a_row(self) -> None:
        health = failing(DOWN_FAILURES - 1)
        assert (health.aside_until(NOW), health.state(NOW)) == (0, UpstreamState.FAILING)
        assert health.failed(503, NOW + 7)
        assert health.aside_until(NOW + 7) == NOW + 7 + DOWN_MS
        assert (health.state(NOW + 7), health.since(NOW + 7)) == (UpstreamState.OUT, NOW + 7)

    def test_a_success_between_failures_keeps_it_closed(self) -> None:
        health = failing(DOWN_FAILURES - 1)
        health.succeeded(NOW)
        assert not any(health.failed(503, NOW) for _ in range(DOWN_FAILURES - 1))

    def test_a_burst_of_failures_opens_it_once(self) -> None:
        health = failing(200)
        assert (health.trips, health.aside_until(NOW)) == (1, NOW + DOWN_MS)

    def test_failures_of_requests_from_before_keep_it_open_for_no_longer(self) -> None:
        health = failing()
        for late in range(0, DOWN_MS, 1_000):
            assert not health.failed(FailureKind.BROKEN, NOW + late)
        assert health.aside_until(NOW + DOWN_MS - 1) == NOW + DOWN_MS
        assert health.aside_until(NOW + DOWN_MS) == 0

    def test_one_request_probes_it_and_a_success_closes_it(self) -> None:
        health = failing()
        now = NOW + DOWN_MS
        health.asked(now)
        assert health.aside_until(now) == now + PROBE_MS
        health.succeeded(now + 1)
        assert (health.aside_until(now + 1), health.state(now + 1)) == (0, UpstreamState.OK)
        health.asked(now + 2)
        assert health.aside_until(now + 2) == 0

    def test_a_probe_of_which_nothing_comes_makes_room_for_another(self) -> None:
        health = failing()
        now = NOW + DOWN_MS
        health.asked(now)
        assert health.aside_until(now + PROBE_MS - 1)
        assert not health.aside_until(now + PROBE_MS)

    def test_each_probe_that_fails_opens_it_for_longer_up_to_a_bound(self) -> None:
        health, now, spans = failing(), NOW, []
        for _ in range(30):
            now = health.aside_until(now)
            health.asked(now)
            assert health.failed(FailureKind.UNREACHABLE, now)
            spans.append(health.aside_until(now) - now)
        assert spans[:3] == [2 * DOWN_MS, 3 * DOWN_MS, 4 * DOWN_MS]
        assert spans == sorted(spans)
        assert spans[-1] == MAX_DOWN_MS
        health.succeeded(now)
        for _ in range(DOWN_FAILURES):
            health.failed(503, now)
        assert health.aside_until(now) == now + DOWN_MS

    def test_a_failure_of_the_last_resort_after_its_time_opens_it_again(self) -> None:
        """Where no other upstream serves the model, requests are no probes."""
        health = failing()
        assert health.failed(503, NOW + DOWN_MS)
        assert health.aside_until(NOW + DOWN_MS) == NOW + 3 * DOWN_MS

    def test_an_upstream_is_down_for_a_short_time_after_each_failure(self) -> None:
        """However long the circuit is open: who is sent no request finds nothing out."""
        health = failing()
        health.trips = 9
        later = NOW + DOWN_MS
        health.failed(503, later)
        assert health.aside_until(later + DOWN_MS) > 0
        assert [health.is_down(later + ms) for ms in (0, DOWN_MS - 1, DOWN_MS)] == [
            True,
            True,
            False,
        ]
        assert not failing(DOWN_FAILURES - 1).is_down(NOW)


class TestRateLimit:
    @pytest.mark.parametrize(
        ("seconds", "aside"),
        [
            (17, 17),
            (0, 1),
            (None, RATE_LIMIT_SECONDS),
            (3_600, 3_600),
            (86_400, 3_600),
        ],
    )
    def test_it_puts_aside_for_as_long_as_is_said(self, seconds: int | None, aside: int) -> None:
        health = UpstreamHealth()
        health.rate_limited(seconds, NOW)
        assert health.aside_until(NOW) == NOW + 1_000 * aside
        assert (health.state(NOW), health.since(NOW)) == (UpstreamState.RATE_LIMITED, NOW)
        assert health.aside_until(NOW + 1_000 * aside) == 0
        assert health.state(NOW + 1_000 * aside) is UpstreamState.UNUSED

    def test_a_shorter_wait_does_not_shorten_a_longer_one(self) -> None:
        health = UpstreamHealth()
        health.rate_limited(60, NOW)
        health.rate_limited(1, NOW + 1)
        assert health.aside_until(NOW + 1) == NOW + 60_000
        assert health.since(NOW + 1) == NOW

    def test_it_is_no_failure_and_an_answer_from_before_does_not_end_it(self) -> None:
        health = failing(DOWN_FAILURES - 1)
        health.rate_limited(60, NOW)
        assert health.failures_in_a_row == DOWN_FAILURES - 1
        health.succeeded(NOW + 1)
        assert health.state(NOW + 1) is UpstreamState.RATE_LIMITED


class TestAccount:
    def test_a_refused_one_puts_aside_until_it_works(self) -> None:
        health = UpstreamHealth()
        health.refused(NOW)
        health.succeeded(NOW)  # a 400, say: nobody looked at the credential
        assert health.aside_until(NOW) == NOW + ACCOUNT_PROBE_MS
        assert health.state(NOW) is UpstreamState.CREDENTIAL_REFUSED
        # It stays refused when it is time to see whether it is.
        assert health.state(NOW + ACCOUNT_PROBE_MS) is UpstreamState.CREDENTIAL_REFUSED
        health.accepted()
        assert (health.aside_until(NOW), health.state(NOW)) == (0, UpstreamState.OK)

    def test_one_request_in_a_while_probes_it(self) -> None:
        health = UpstreamHealth()
        health.refused(NOW)
        now = NOW + ACCOUNT_PROBE_MS
        assert not health.aside_until(now)
        health.asked(now)
        assert health.aside_until(now) == now + ACCOUNT_PROBE_MS
        health.refused(now + 5)
        assert health.aside_until(now + 5) == now + 5 + ACCOUNT_PROBE_MS
        assert health.since(now) == NOW

    def test_a_list_of_models_tells_of_it_only_where_that_was_refused(self) -> None:
        """A provider gives its list to accounts without credit, and some to anybody."""
        health = UpstreamHealth()
        health.refused(NOW)
        health.list_given()
        assert health.state(NOW) is UpstreamState.CREDENTIAL_REFUSED
        health.refused(NOW, of_list=True)
        health.list_given()
        assert health.state(NOW) is UpstreamState.UNUSED
        health.refused(NOW)
        health.list_given()
        assert health.state(NOW) is UpstreamState.CREDENTIAL_REFUSED

    def test_a_list_that_is_refused_again_and_again_holds_up_no_probe(self) -> None:
        health = UpstreamHealth()
        for minute in range(5):
            health.refused(NOW + 60_000 * minute, of_list=True)
        assert not health.aside_until(NOW + ACCOUNT_PROBE_MS)
        health.accepted()
        assert health.account_worked
        health.refused(NOW)
        assert not health.account_worked


def circuit_open(health: UpstreamHealth) -> None:
    for _ in range(DOWN_FAILURES):
        health.failed(503, NOW)


@pytest.mark.parametrize("delta", [3 * DAY_MS, -3 * DAY_MS])
@pytest.mark.parametrize(
    "happens",
    [
        circuit_open,
        lambda health: health.refused(NOW),
        lambda health: health.rate_limited(60, NOW),
        lambda health: health.succeeded(NOW),
        lambda health: None,
    ],
)
def test_a_moved_date_changes_no_state(
    happens: Callable[[UpstreamHealth], object], delta: int
) -> None:
    health, moved = UpstreamHealth(), UpstreamHealth()
    for each in (health, moved):
        happens(each)
    moved.shift(delta)
    for now in range(NOW, NOW + HOUR_MS, 10_000):
        assert moved.state(now + delta) is health.state(now)
        assert moved.is_down(now + delta) is health.is_down(now)
        until, since = health.aside_until(now), health.since(now)
        assert moved.aside_until(now + delta) == (until + delta if until else 0)
        assert moved.since(now + delta) == (None if since is None else since + delta)
