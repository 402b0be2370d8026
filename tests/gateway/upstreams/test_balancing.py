"""Which of several upstreams is asked next: health first, then priority, then the share of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opuslive.gateway.upstreams.balancing import MAX_SETS, Balancer, conversation_id
from opuslive.gateway.upstreams.health import DOWN_FAILURES
from opuslive.gateway.upstreams.upstream import Upstream
from tests.support.clock import NOW
from tests.support.upstreams import upstream

WEIGHTS = st.lists(st.integers(1, 20), min_size=2, max_size=6)


def weighted(weights: Sequence[int]) -> list[Upstream]:
    return [upstream(f"u{number}", weight=weight) for number, weight in enumerate(weights)]


def conversations(count: int) -> list[bytes]:
    return [conversation_id("key00001", b"%d" % number) for number in range(count)]


class At:
    """A balancer at a time that a test sets."""

    def __init__(self) -> None:
        self.now = NOW
        self.balancer = Balancer(lambda: self.now)

    def names(self, upstreams: Sequence[Upstream], count: int = 1) -> list[str]:
        """The next ones, for requests without a conversation."""
        return [self.balancer.pick(upstreams, None).name for _ in range(count)]


@pytest.fixture
def at() -> At:
    return At()


class TestTurns:
    async def test_three_to_one_means_three_of_each_four(self, at: At) -> None:
        assert at.names(weighted([3, 1]), 8) == ["u0", "u0", "u1", "u0"] * 2

    @given(WEIGHTS)
    async def test_each_round_holds_the_weights_and_no_stretch_is_far_from_them(
        self, weights: list[int]
    ) -> None:
        upstreams, total = weighted(weights), sum(weights)
        picked = At().names(upstreams, 3 * total)
        for start in range(0, 3 * total, total):
            counted = Counter(picked[start : start + total])
            assert [counted[each.name] for each in upstreams] == weights
        for end in range(1, total + 1):
            counted = Counter(picked[:end])
            for each in upstreams:
                assert abs(counted[each.name] - end * each.weight / total) < len(weights)

    async def test_each_set_of_equals_has_turns_of_its_own(self, at: At) -> None:
        one, two, three = weighted([1, 1, 1])
        assert at.names([one, two]) == ["u0"]
        assert at.names([one, three]) == ["u0"]
        assert at.names([one, two]) == ["u1"]

    async def test_sets_are_forgotten_when_there_are_too_many(self, at: At) -> None:
        one = upstream()
        for number in range(3 * MAX_SETS):
            at.names([one, upstream(f"other {number}")])
            assert len(at.balancer._turns) <= MAX_SETS


class TestConversations:
    async def test_a_conversation_stays_where_it_is(self, at: At) -> None:
        upstreams = weighted([1, 2, 3])
        for conversation in conversations(50):
            homes = {at.balancer.pick(upstreams, conversation) for _ in range(3)}
            assert len(homes) == 1
            # Another process, and another order in the configuration.
            assert {At().balancer.pick(upstreams[::-1], conversation)} == homes

    async def test_the_same_name_is_another_conversation_under_another_key(self) -> None:
        assert conversation_id("key00001", b"a") != conversation_id("key00002", b"a")
        assert conversation_id("key", b"1a") != conversation_id("key1", b"a")

    async def test_the_weights_hold(self, at: At) -> None:
        upstreams = weighted([1, 3, 6])
        counted = Counter(at.balancer.pick(upstreams, each).weight for each in conversations(5_000))
        for weight, count in counted.items():
            # Five standard deviations of the share at most.
            assert abs(count / 5_000 - weight / 10) < 5 * (0.25 / 5_000) ** 0.5

    @given(WEIGHTS, st.data())
    async def test_only_the_conversations_of_an_upstream_that_is_aside_move(
        self, weights: list[int], data: st.DataObject
    ) -> None:
        at, upstreams = At(), weighted(weights)
        gone = data.draw(st.sampled_from(upstreams))
        homes = {each: at.balancer.pick(upstreams, each) for each in conversations(30)}
        gone.health.rate_limited(60, NOW)
        for conversation, home in homes.items():
            now = at.balancer.pick(upstreams, conversation)
            assert now is not gone
            assert home in (now, gone)
        at.now += 60_000
        assert homes == {each: at.balancer.pick(upstreams, each) for each in homes}


class TestOrder:
    async def test_a_lower_priority_comes_first_whatever_the_weights(self, at: At) -> None:
        upstreams = [upstream("first", priority=-1), upstream("heavy", weight=99)]
        assert set(at.names(upstreams, 200)) == {"first"}
        assert {at.balancer.pick(upstreams, each).name for each in conversations(50)} == {"first"}

    async def test_one_that_is_aside_comes_behind_every_priority(self, at: At) -> None:
        first, second, last = (upstream(str(number), priority=number) for number in range(3))
        first.health.rate_limited(60, NOW)
        assert at.names([first, second, last]) == ["1"]
        second.health.refused(NOW)
        assert at.names([first, second, last]) == ["2"]

    async def test_of_those_aside_the_one_that_is_back_first_comes_first(self, at: At) -> None:
        upstreams = weighted([9, 1])
        upstreams[0].health.rate_limited(60, NOW)
        upstreams[1].health.rate_limited(59, NOW)
        assert at.names(upstreams, 3) == ["u1"] * 3

    async def test_of_many_requests_at_once_one_is_the_probe(self, at: At) -> None:
        upstreams = [upstream("first"), upstream("second", priority=1)]
        for _ in range(DOWN_FAILURES):
            upstreams[0].health.failed(503, NOW)
        at.now = upstreams[0].health.aside_until(NOW)
        assert Counter(at.names(upstreams, 200)) == {"first": 1, "second": 199}

    async def test_the_only_one_is_asked_however_it_is(self, at: At) -> None:
        only = upstream()
        only.health.refused(NOW)
        for _ in range(DOWN_FAILURES):
            only.health.failed(503, NOW)
        until = only.health.aside_until(NOW)
        assert at.names([only], 3) == ["one"] * 3
        assert only.health.aside_until(NOW) == until
