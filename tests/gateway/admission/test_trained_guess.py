"""Under ``adaptive`` no key passes a limit by more than two and a half of its largest requests.

What belongs to the kind: a guess of the output that small answers taught, one of the input that a
warm cache taught, one of the cost; requests that come all at once, one after the other, each when
the one before begins to answer, or out of a queue that empties in one moment; answers that use
nothing; a request that bounds its output nowhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st

from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.admission.admission import Admitted
from opuslive.keys import Key
from opuslive.limits.accounts import Account
from opuslive.limits.estimates import OVERSHOOT, UNBOUNDED_OUTPUT
from opuslive.limits.grammar import Metric
from opuslive.pricing.prices import Prices
from opuslive.storage import open_storage
from opuslive.usage import TokenCounts
from tests.support.limiting import MODEL, Limiting, MakeLimiting, demand, outcome, settings, tokens
from tests.support.waiting import turns

#: What long answers may have, in tokens.
FULL = 64_000


def train(limiting: Limiting, key: Key, times: int = 80) -> None:
    """Ask for long answers, one after the other, and use one token of each."""
    for _ in range(times):
        limiting.admit(key, demand(FULL)).settle(tokens(1), limiting.now, whole=True)


def burst(limiting: Limiting, key: Key, number: int, **asked: Any) -> Sequence[Admitted]:
    """So many requests at once; those that were let in."""
    admitted = []
    for _ in range(number):
        with contextlib.suppress(OpusLiveError):
            admitted.append(limiting.admit(key, demand(FULL, **asked)))
    return admitted


def end_all(limiting: Limiting, admitted: Sequence[Admitted], used: TokenCounts) -> None:
    for one in admitted:
        one.settle(used, limiting.now, whole=True)


def test_the_bound_is_two_and_a_half_answers() -> None:
    """What the page of limits promises."""
    assert OVERSHOOT == 2.5


@pytest.mark.parametrize(
    ("limit", "at_most"),
    [
        ("100k output_tokens/total", 100_000 + OVERSHOOT * FULL),
        ("100k tokens/1h", 100_000 + OVERSHOOT * FULL),
        # 15 USD for a million tokens of output.
        ("20 usd/month", 20_000_000 + OVERSHOOT * FULL * 15),
    ],
)
async def test_a_burst_after_small_answers_is_bounded(
    make_limiting: MakeLimiting, limit: str, at_most: float
) -> None:
    limiting = make_limiting(max_wait=0)
    key = await limiting.key(limit)
    train(limiting, key)
    end_all(limiting, burst(limiting, key, 200), tokens(FULL))
    status = limiting.status(key)
    assert status.limit.amount - FULL * 15 < status.used <= at_most


async def test_a_burst_after_a_warm_cache_is_bounded(make_limiting: MakeLimiting) -> None:
    """Inputs of 50,000 tokens, nearly all of them read from a cache; then none is cached."""
    limiting = make_limiting(max_wait=0)
    key = await limiting.key("500k input_tokens/total")
    for _ in range(80):
        one = limiting.admit(key, demand(1, guess=50_000))
        one.settle(TokenCounts(input=10, cache_read=49_990), limiting.now, whole=True)
    used = limiting.status(key).used
    end_all(limiting, burst(limiting, key, 200, guess=50_000), tokens(1, 50_000))
    assert limiting.status(key).used - used <= 500_000 + OVERSHOOT * 50_000


async def test_each_request_that_runs_beside_raises_the_guess(make_limiting: MakeLimiting) -> None:
    limiting = make_limiting()
    key = await limiting.key("100M output_tokens/total")
    train(limiting, key)
    held = [0]
    running = []
    for _ in range(7):
        running.append(limiting.admit(key, demand(FULL)))
        held.append(limiting.status(key).reserved)
    steps = [after - before for before, after in itertools.pairwise(held)]
    assert steps[0] < 10
    assert [round(step / FULL, 2) for step in steps[1:]] == [0.25, 0.5, 0.75, 1, 1, 1]
    end_all(limiting, running, tokens(1))


async def test_a_request_that_bounds_its_output_nowhere_may_use_the_most_there_is(
    make_limiting: MakeLimiting,
) -> None:
    limiting = make_limiting()
    key = await limiting.key("100M output_tokens/total")
    running = [limiting.admit(key, demand(None)) for _ in range(4)]
    before = limiting.status(key).reserved
    running.append(limiting.admit(key, demand(None)))
    assert limiting.status(key).reserved - before == UNBOUNDED_OUTPUT
    end_all(limiting, running, tokens(1))


async def test_answers_of_nothing_do_not_open_a_limit_that_is_used_up(
    make_limiting: MakeLimiting,
) -> None:
    limiting = make_limiting(max_wait=0)
    key = await limiting.key("1k output_tokens/total")
    for _ in range(80):
        limiting.admit(key, demand(FULL)).settle(tokens(0), limiting.now, whole=True)
    limiting.admit(key, demand(FULL)).settle(tokens(1_000), limiting.now, whole=False)
    assert limiting.refused(key, demand(FULL)).code is Code.QUOTA_EXHAUSTED


async def test_requests_that_waited_are_guessed_anew_when_they_are_let_in(
    make_limiting: MakeLimiting,
) -> None:
    """All of them joined the queue when nothing else ran, which lasts until one moment."""
    limiting = make_limiting()
    key = await limiting.key("1M output_tokens/total", "1 requests/1s")
    train_at_leisure = limiting.holder(key).experience
    for _ in range(80):
        train_at_leisure.learn(MODEL, 0, 0, 1)
    limiting.admit(key, demand(1)).settle(tokens(1), limiting.now)
    waiting = [limiting.waiting(key, demand(FULL)) for _ in range(20)]
    await limiting.change(key, "1M output_tokens/total")
    await turns()
    running = [task.result() for task in waiting if task.done()]
    # A whole one each, but for the first (next to nothing) and those at a quarter, half and three.
    assert len(running) == 4 + (1_000_000 - 1.5 * FULL) // FULL
    for task in waiting[len(running) :]:
        task.cancel()
    end_all(limiting, running, tokens(1))
    await turns()


async def test_a_limit_in_money_that_comes_while_a_request_without_a_price_waits_refuses_it(
    make_limiting: MakeLimiting,
) -> None:
    limiting = make_limiting()
    key = await limiting.key("1 concurrent")
    running = limiting.admit(key, demand(10, model="unpriced"))
    waiting = await limiting.wait(key, demand(10, model="unpriced"))
    await limiting.change(key, "1 concurrent", "20 usd/month")
    running.settle(tokens(1), limiting.now)
    assert await outcome(waiting) is Code.INVALID_REQUEST
    limiting.assert_nothing_left()


async def test_a_request_that_fits_once_those_beside_it_end_waits_for_them(
    make_limiting: MakeLimiting,
) -> None:
    """Alone it would be guessed to be small: nothing but what runs beside is in its way."""
    limiting = make_limiting()
    key = await limiting.key("20k output_tokens/5h")
    train(limiting, key)
    limiting.admit(key, demand(FULL)).settle(tokens(10_000), limiting.now, whole=False)
    running = limiting.admit(key, demand(FULL))
    waiting = await limiting.wait(key, demand(FULL))
    running.settle(tokens(1), limiting.now, whole=True)
    (await waiting).settle(tokens(1), limiting.now, whole=True)


async def test_who_does_not_wait_for_those_beside_is_told_to_come_again(
    make_limiting: MakeLimiting,
) -> None:
    limiting = make_limiting(max_wait=0)
    key = await limiting.key("20k output_tokens/5h")
    train(limiting, key)
    limiting.admit(key, demand(FULL)).settle(tokens(10_000), limiting.now, whole=False)
    running = limiting.admit(key, demand(FULL))
    error = limiting.refused(key, demand(FULL))
    assert error.code is Code.RATE_LIMITED
    assert "room frees as running requests end" in error.message
    running.settle(tokens(9_999), limiting.now, whole=True)
    assert limiting.refused(key, demand(FULL)).code is Code.QUOTA_EXHAUSTED


async def test_what_runs_beside_makes_no_request_cost_more(make_limiting: MakeLimiting) -> None:
    """The rise is a reserve, and no guess of what was used where nobody tells it."""
    limiting = make_limiting()
    key = await limiting.key()
    for _ in range(80):
        one = limiting.admit(key, demand(FULL, guess=50_000))
        one.settle(TokenCounts(input=5_000, output=1), limiting.now, whole=True)
    running = [limiting.admit(key, demand(FULL, guess=50_000)) for _ in range(7)]
    assert {round(one.untold_input(fetched=True), -2) for one in running} == {5_000}
    assert max(one.unseen_output(0) for one in running) < 10
    end_all(limiting, running, tokens(1))


class TestGrowth:
    """What a running request used by now, it holds."""

    async def test_what_was_relayed_is_reserved(self, make_limiting: MakeLimiting) -> None:
        limiting = make_limiting(max_wait=0)
        key = await limiting.key("10k output_tokens/total")
        train(limiting, key)
        used = limiting.status(key).used
        one = limiting.admit(key, demand(FULL))
        one.grow(tokens(5_000))
        assert limiting.status(key).reserved == 5_000
        one.grow(tokens(4_000))
        assert limiting.status(key).reserved == 5_000
        one.grow(tokens(12_000))
        assert limiting.status(key).reserved == 12_000
        assert limiting.refused(key, demand(1)).code is Code.RATE_LIMITED
        one.settle(tokens(12_001), limiting.now)
        one.grow(tokens(13_000))
        assert (limiting.status(key).used, limiting.status(key).reserved) == (used + 12_001, 0)

    async def test_what_was_relayed_is_reserved_in_money_and_in_shared_limits(
        self, make_limiting: MakeLimiting
    ) -> None:
        limiting = make_limiting(gateway=["1M tokens/day", "9 usd/day"])
        key = await limiting.key("1 usd/total", "3 concurrent", "9 requests/day")
        train(limiting, key, 1)
        one = limiting.admit(key, demand(FULL))
        one.grow(tokens(10_000, 1_000))
        own = limiting.admission.statuses(key.id)
        assert [status.reserved for status in own] == [10_000 * 15 + 1_000 * 3, 1, 0]
        gateway = limiting.admission.shared_limits().gateway
        assert [status.reserved for status in gateway] == [11_000, 153_000]
        one.settle(tokens(1), limiting.now)


# Against an adversary.

_amount = st.sampled_from([1, 10, 300, 4_000, 64_000])
_step = st.one_of(
    st.tuples(st.just("train"), st.integers(0, 2), _amount, st.integers(0, 4)),
    st.tuples(st.just("burst"), st.integers(0, 2), st.integers(1, 12), _amount, _amount),
    st.tuples(st.just("grow"), st.integers(0, 50), st.integers(0, 100)),
    st.tuples(st.just("end"), st.integers(0, 50), st.integers(0, 100), st.integers(0, 100)),
    st.tuples(st.just("end_all"), st.integers(0, 100)),
    st.tuples(st.just("pass"), st.integers(0, 90_000)),
    st.tuples(st.just("turn")),
)

OWN = ["100k output_tokens/5h", "200k tokens/total", "60k input_tokens/1m", "2 usd/month"]
SHARED = ["150k tokens/total", "1 usd/day"]


class Adversary:
    """Chooses sizes, timing and concurrency. Its inputs are guessed right, or too high."""

    def __init__(self, limiting: Limiting, keys: Sequence[Key]) -> None:
        self.limiting = limiting
        self.keys = keys
        self.running: list[tuple[Admitted, int, int]] = []
        self.waiting: list[tuple[asyncio.Task[Admitted], int, int]] = []
        #: The largest output and input asked for, in tokens.
        self.largest = (0, 0)

    def ask(self, which: int, max_tokens: int, guess: int) -> Admitted | None:
        key = self.keys[which]
        self.largest = max(self.largest[0], max_tokens), max(self.largest[1], guess)
        holder, asked = self.limiting.holder(key), demand(max_tokens, guess=guess)
        try:
            one = self.limiting.admission.enter(holder, asked)
        except OpusLiveError:
            return None
        if isinstance(one, Admitted):
            return one
        task = self.limiting.awaited(holder, asked, one)
        self.waiting.append((task, max_tokens, guess))
        return None

    async def train(self, which: int, max_tokens: int, used: int) -> None:
        for _ in range(20):
            one = self.ask(which, max_tokens, 0)
            if one is not None:
                one.settle(tokens(min(used, max_tokens)), self.limiting.now, whole=True)

    async def burst(self, which: int, number: int, max_tokens: int, guess: int) -> None:
        for _ in range(number):
            one = self.ask(which, max_tokens, guess)
            if one is not None:
                self.running.append((one, max_tokens, guess))

    async def grow(self, which: int, percent: int) -> None:
        if self.running:
            one, max_tokens, guess = self.running[which % len(self.running)]
            one.grow(tokens(max_tokens * percent // 100, guess))

    async def end(self, which: int, output: int, cached: int) -> None:
        if self.running:
            one, max_tokens, guess = self.running.pop(which % len(self.running))
            cache = guess * cached // 100
            # What is written to a cache costs most.
            counts = TokenCounts(
                output=max_tokens * output // 100, cache_read=cache, cache_write_1h=guess - cache
            )
            one.settle(counts, self.limiting.now, whole=True)

    async def end_all(self, output: int) -> None:
        while self.running:
            await self.end(0, output, 0)

    async def pass_(self, ms: int) -> None:
        self.limiting.now += ms

    async def turn(self) -> None:
        await turns(3)
        for each in tuple(self.waiting):
            task, max_tokens, guess = each
            if task.done():
                self.waiting.remove(each)
                if not task.cancelled() and task.exception() is None:
                    self.running.append((task.result(), max_tokens, guess))

    def check(self) -> None:
        for holder in self.limiting.holders:
            self.check_account(holder.account, 1)
        for account in self.limiting.accounts[len(self.keys) :]:
            self.check_account(account, len(self.keys))

    def check_account(self, account: Account, keys: int) -> None:
        output, input_ = self.largest
        price = Prices({}).price_of(MODEL, self.limiting.now)
        assert price is not None
        by_metric = {
            Metric.TOKENS: output + input_,
            Metric.OUTPUT_TOKENS: output,
            Metric.INPUT_TOKENS: input_,
            Metric.USD: price.estimate(input_, output, strict=True),
        }
        for status in account.statuses(self.limiting.now):
            largest = by_metric[status.limit.metric]
            assert status.used <= status.limit.amount + keys * OVERSHOOT * largest


async def play(steps: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        storage = await open_storage(f"sqlite://{Path(folder) / 'opuslive.db'}")
        limiting = Limiting(storage, settings(gateway=SHARED, groups={"friends": SHARED}))
        keys = [
            await limiting.key(*OWN[:2], group="friends"),
            await limiting.key(*OWN[2:], group="friends"),
            await limiting.key(group="friends"),
        ]
        adversary = Adversary(limiting, keys)
        for name, *arguments in steps:
            step: Callable[..., Awaitable[None]] = getattr(
                adversary, {"pass": "pass_"}.get(name, name)
            )
            await step(*arguments)
            adversary.check()
        await adversary.turn()
        await adversary.end_all(100)
        adversary.check()
        for task, *_ in adversary.waiting:
            task.cancel()
        await turns()
        await storage.close()


@how(max_examples=60)
@given(st.lists(_step, max_size=40))
def test_no_adversary_passes_a_limit_by_more_than_the_bound(steps: list[Any]) -> None:
    asyncio.run(play(steps))
