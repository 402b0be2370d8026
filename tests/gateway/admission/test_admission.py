"""Who may go on and who is refused, and what they are told."""

from __future__ import annotations

import pytest
from msgspec import structs

from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.admission.admission import Admitted
from opuslive.limits.estimates import UNBOUNDED_OUTPUT
from opuslive.limits.grammar import Metric
from tests.support.clock import NOW
from tests.support.limiting import (
    Limiting,
    MakeLimiting,
    demand,
    outcome,
    tokens,
)


class TestAdmit:
    async def test_reserves_at_once_and_settles_once(self, limiting: Limiting) -> None:
        key = await limiting.key("100 tokens/1h", "5 requests/1h", "2 concurrent")
        admitted = limiting.admit(key, demand(40, guess=20))
        assert admitted.time == NOW
        by_metric = {s.limit.metric: s for s in limiting.admission.statuses(key.id)}
        assert by_metric[Metric.TOKENS].reserved == 60
        assert by_metric[Metric.REQUESTS].used == 1
        assert by_metric[Metric.CONCURRENT].reserved == 1
        for used in (7, 99):
            admitted.settle(tokens(used, 20), NOW + 1)
        assert limiting.used(key) == {"100 tokens/1h": 27, "5 requests/1h": 1, "2 concurrent": 0}
        not_sent = limiting.admit(key)
        not_sent.settle(None, NOW + 2)
        assert limiting.used(key) == {"100 tokens/1h": 27, "5 requests/1h": 1, "2 concurrent": 0}

    async def test_learns_from_whole_answers_alone(self, limiting: Limiting) -> None:
        key = await limiting.key("1M output_tokens/1h")
        for whole in (False, True):
            limiting.admit(key, demand(50_000)).settle(tokens(100), NOW, whole=whole)
            probe = limiting.admit(key, demand(50_000))
            assert (limiting.status(key).reserved == 4_096) is not whole
            probe.settle(None, NOW)
        assert limiting.status(key).used == 200

    async def test_a_reservation_does_not_age(self, limiting: Limiting) -> None:
        """A stream of three minutes does not slip out of a window of one."""
        key = await limiting.key("100 output_tokens/1m")
        admitted = limiting.admit(key, demand(100))
        limiting.now += 180_000
        assert limiting.status(key).reserved == 100
        admitted.settle(tokens(100), limiting.now)
        assert limiting.refused(key, demand(1)).code is Code.RATE_LIMITED
        limiting.now += 61_000
        limiting.admit(key, demand(100)).settle(None, limiting.now)

    async def test_a_clock_that_goes_back_frees_and_blocks_nothing(
        self, limiting: Limiting
    ) -> None:
        key = await limiting.key("2 requests/1m")
        limiting.admit(key).settle(tokens(1), NOW)
        limiting.now -= 7_200_000
        second = limiting.admit(key)
        assert second.time == NOW
        second.settle(tokens(1), limiting.now)
        assert limiting.status(key).remaining == 0
        limiting.refused(key)
        limiting.now = NOW + 61_000
        limiting.admit(key).settle(None, limiting.now)

    async def test_under_adaptive_the_limit_caps_the_reservation(self, limiting: Limiting) -> None:
        key = await limiting.key("1k tokens/1h")
        admitted = limiting.admit(key, demand(64_000, guess=500))
        assert limiting.status(key).reserved == 1_000
        waiting = await limiting.wait(key, demand(64_000))
        admitted.settle(tokens(0), NOW)
        other = await outcome(waiting)
        assert isinstance(other, Admitted)
        other.settle(tokens(5_000), NOW)
        assert (limiting.status(key).used, limiting.status(key).remaining) == (5_000, 0)

    async def test_under_max_tokens_a_request_has_to_say_how_much_it_may_use(
        self, make_limiting: MakeLimiting
    ) -> None:
        limiting = make_limiting(mode="max_tokens")
        key = await limiting.key()
        error = limiting.refused(key, structs.replace(demand(None), bound="max_output_tokens"))
        assert error.code is Code.INVALID_REQUEST
        assert "say how much in 'max_output_tokens'." in error.message
        limiting.admit(key, demand(0)).settle(None, NOW)

    async def test_the_largest_that_fits_is_that_of_one_of_several_answers(
        self, make_limiting: MakeLimiting
    ) -> None:
        limiting = make_limiting(mode="max_tokens")
        key = await limiting.key("1k tokens/1h")
        three = structs.replace(demand(3_000, guess=300), bound="max_completion_tokens", answers=3)
        error = limiting.refused(key, three)
        assert error.message.endswith("the largest max_completion_tokens that fits is 233.")

    async def test_several_answers_without_a_bound_may_use_as_much_each(
        self, limiting: Limiting
    ) -> None:
        """The fifth request beside others holds all that it may use."""
        key = await limiting.key("10M tokens/1h")
        running = [limiting.admit(key, demand(0, guess=0)) for _ in range(4)]
        running.append(limiting.admit(key, structs.replace(demand(None, guess=0), answers=3)))
        assert limiting.status(key).reserved == 3 * UNBOUNDED_OUTPUT
        for admitted in running:
            admitted.settle(None, NOW)

    async def test_under_max_tokens_the_largest_that_fits_is_named(
        self, make_limiting: MakeLimiting
    ) -> None:
        limiting = make_limiting(mode="max_tokens", groups={"friends": ["900 tokens/1h"]})
        key = await limiting.key("1k tokens/1h", group="friends")
        error = limiting.refused(key, demand(64_000, guess=300))
        assert error.code is Code.INVALID_REQUEST
        assert "group, 900 tokens/1h" in error.message or "key, 1k tokens/1h" in error.message
        assert error.message.endswith("the largest max_tokens that fits is 600.")
        limiting.admit(key, demand(600, guess=300)).settle(None, NOW)
        assert limiting.refused(key, demand(601, guess=300)).code is Code.INVALID_REQUEST
        too_much_input = limiting.refused(key, demand(1, guess=900))
        assert too_much_input.message.endswith("send less input.")

    async def test_money_needs_a_price(self, make_limiting: MakeLimiting) -> None:
        limiting = make_limiting(groups={"friends": ["5 usd/month"]})
        mine, free = await limiting.key("1 usd/day"), await limiting.key()
        friend = await limiting.key(group="friends")
        unpriced = demand(model="claude-of-my-own")
        for key, whose in ((mine, "on this API key,"), (friend, "on this API key's group,")):
            error = limiting.refused(key, unpriced)
            assert error.code is Code.INVALID_REQUEST
            assert whose in error.message
            assert "claude-of-my-own" not in error.message
            limiting.admit(key).settle(tokens(10), NOW)
        limiting.admit(free, unpriced).settle(tokens(1), NOW)
        assert limiting.used(mine) == {"1 usd/day": 150}

    async def test_a_request_is_reserved_in_all_accounts_or_in_none(
        self, make_limiting: MakeLimiting
    ) -> None:
        limiting = make_limiting(
            max_wait=0, gateway=["3 requests/7d"], groups={"friends": ["2 requests/5h"]}
        )
        first, second = [await limiting.key("9 requests/1h", group="friends") for _ in range(2)]
        other = await limiting.key("9 requests/1h")
        for key in (first, second):
            limiting.admit(key).settle(tokens(1), NOW)
        error = limiting.refused(first)
        assert error.code is Code.QUOTA_EXHAUSTED
        assert "group, 2 requests/5h" in error.message
        assert "used" not in error.message
        # Neither the key's window nor the gateway's knows of it.
        assert limiting.used(first) == {"9 requests/1h": 1}
        limiting.admit(other).settle(tokens(1), NOW)
        error = limiting.refused(other)
        assert "gateway, 3 requests/7d" in error.message
        assert limiting.used(other) == {"9 requests/1h": 1}

    async def test_a_key_that_was_deleted_meanwhile_is_invalid(self, limiting: Limiting) -> None:
        key = await limiting.key("1 concurrent")
        running = limiting.admit(key)
        holder = limiting.holder(key)
        limiting.holders.remove(holder)
        with pytest.raises(OpusLiveError) as raised:
            limiting.admission.enter(holder, demand())
        assert raised.value.code is Code.INVALID_KEY
        running.settle(tokens(1), NOW, whole=True)
        assert limiting.admission.statuses(key.id) == ()


class TestRefusal:
    @pytest.mark.parametrize(
        ("limit", "code", "retry_after"),
        [
            ("1 requests/1m", Code.RATE_LIMITED, 60),
            ("1 requests/2s", Code.RATE_LIMITED, 2),
            ("1 requests/2m", Code.QUOTA_EXHAUSTED, 120),
            ("1 requests/day", Code.QUOTA_EXHAUSTED, 32_155),
            ("1 requests/total", Code.QUOTA_EXHAUSTED, None),
        ],
    )
    async def test_a_refusal_says_when_to_come_back(
        self, make_limiting: MakeLimiting, limit: str, code: Code, retry_after: int | None
    ) -> None:
        """Whoever comes back then, or later if told 60, finds room."""
        limiting = make_limiting(max_wait=0)
        key = await limiting.key(limit)
        limiting.admit(key).settle(tokens(1), NOW)
        error = limiting.refused(key)
        assert error.code is code
        if retry_after is None:
            assert error.retry_after is None
            assert "it never frees" in error.message
            return
        assert error.retry_after is not None
        assert 0 <= error.retry_after - retry_after <= 2
        wait = error.retry_after if code is Code.QUOTA_EXHAUSTED or retry_after < 60 else 61
        limiting.now += wait * 1000
        limiting.admit(key).settle(None, limiting.now)

    async def test_what_is_only_reserved_is_soon_back(self, make_limiting: MakeLimiting) -> None:
        """Also where some is used that does not free for days."""
        limiting = make_limiting(max_wait=0)
        key = await limiting.key("100 output_tokens/7d")
        limiting.admit(key, demand(60)).settle(tokens(60), NOW)
        running = limiting.admit(key, demand(40))
        error = limiting.refused(key, demand(10))
        assert (error.code, error.retry_after) == (Code.RATE_LIMITED, 5)
        assert "(60 used and 40 reserved)" in error.message
        running.settle(tokens(40), NOW)
        assert limiting.refused(key, demand(10)).code is Code.QUOTA_EXHAUSTED

    async def test_a_refusal_tells_money_exactly(self, make_limiting: MakeLimiting) -> None:
        limiting = make_limiting(max_wait=0)
        key = await limiting.key("0.001 usd/7d")
        limiting.admit(key, demand(1)).settle(tokens(66), NOW)
        assert "(0.00099 usd used)" in limiting.refused(key, demand(1)).message
