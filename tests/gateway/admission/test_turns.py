"""Keys take turns at the room that they share, whoever asks more often, earlier or for less.

What belongs to the kind: a crowd of requests of one key, against one of another; requests that
come when room is free that others wait for; small ones against a large one; limits of the gateway
and of a group; a client that leaves and asks again. And the other way about, what must not hold up
others: a key whose own limit is full, a group whose limit is full, a large request that never gets
its room.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st

from opuslive.errors import Code
from opuslive.gateway.admission.admission import Admitted
from opuslive.gateway.admission.queues import MAX_WAITING
from opuslive.keys import Key
from opuslive.limits.grammar import Metric
from opuslive.storage import open_storage
from tests.support.clock import NOW
from tests.support.limiting import LONG, Limiting, MakeLimiting, demand, outcome, settings, tokens
from tests.support.waiting import turns

Waiting = asyncio.Task[Admitted]


async def end_all(tasks: Sequence[Waiting]) -> None:
    for task in tasks:
        (await task).settle(None, NOW)


def done(tasks: Sequence[Waiting]) -> list[bool]:
    return [task.done() for task in tasks]


async def test_a_crowd_of_one_key_leaves_another_key_every_second_turn(
    make_limiting: MakeLimiting,
) -> None:
    limiting = make_limiting(gateway=["1 concurrent"])
    greedy, modest = await limiting.key(), await limiting.key()
    running = limiting.admit(greedy)
    crowd = [await limiting.wait(greedy) for _ in range(40)]
    few = [await limiting.wait(modest) for _ in range(5)]
    served = []
    for _ in range(10):
        running.settle(None, NOW)
        await turns()
        (task,) = [task for task in (*crowd, *few) if task.done() and task not in served]
        served.append(task)
        running = task.result()
    running.settle(None, NOW)
    assert [task in few for task in served[1:]] == [True, False] * 4 + [True]
    await end_all([task for task in crowd if task not in served])


async def test_with_two_places_neither_key_has_both_while_the_other_waits(
    make_limiting: MakeLimiting,
) -> None:
    limiting = make_limiting(gateway=["2 concurrent"])
    greedy, modest = await limiting.key(), await limiting.key()
    running = [limiting.admit(greedy), limiting.admit(greedy)]
    crowd = [await limiting.wait(greedy) for _ in range(3)]
    few = [await limiting.wait(modest) for _ in range(3)]
    for one in running:
        one.settle(None, NOW)
    await turns()
    assert (sum(done(crowd)), sum(done(few))) == (1, 1)
    await end_all([task for pair in zip(crowd, few, strict=True) for task in pair])


@pytest.mark.parametrize("shared", ["gateway", "group"])
async def test_a_request_that_comes_as_room_frees_does_not_pass_those_that_wait_for_it(
    make_limiting: MakeLimiting, shared: str
) -> None:
    limit = ["1 concurrent"]
    limiting = make_limiting(
        **{"gateway": limit} if shared == "gateway" else {"groups": {"g": limit}}
    )
    first, waits, comes = [await limiting.key(group="g") for _ in range(3)]
    running = limiting.admit(first)
    waiting = await limiting.wait(waits)
    running.settle(None, NOW)
    coming = [limiting.waiting(comes), limiting.waiting(first)]
    await turns()
    assert (waiting.done(), done(coming)) == (True, [False, False])
    await end_all([waiting, *coming])


async def test_small_ones_of_other_keys_do_not_starve_a_large_one(
    make_limiting: MakeLimiting,
) -> None:
    limiting = make_limiting(gateway=["100 output_tokens/1h"])
    others = [await limiting.key() for _ in range(5)]
    running = [limiting.admit(key, demand(20)) for key in others]
    large = await limiting.wait(await limiting.key(), demand(100))
    small = []
    for one, key in zip(running, others, strict=True):
        assert not large.done()
        one.settle(None, NOW)
        small.append(await limiting.wait(key, demand(20)))
    assert (large.done(), done(small)) == (True, [False] * 5)
    await end_all([large, *small])


async def test_a_large_one_that_never_gets_room_holds_up_others_for_max_wait_at_most(
    make_limiting: MakeLimiting,
) -> None:
    """Its key loses its turn then, also if one request after the other asks in vain."""
    limiting = make_limiting(gateway=["100 output_tokens/1h"])
    busy, brief, greedy, modest = [await limiting.key() for _ in range(4)]
    long = limiting.admit(busy, demand(60))
    short = [limiting.admit(brief, demand(1)) for _ in range(3)]
    large = [await limiting.wait(greedy, demand(90)) for _ in range(4)]
    small = [await limiting.wait(modest, demand(5)) for _ in range(2)]

    async def after(ms: float) -> tuple[bool, list[bool]]:
        limiting.now += round(ms)
        large.pop(0).cancel()
        short.pop().settle(None, NOW)
        await turns()
        return any(done(large)), done(small)

    assert await after(LONG * 500) == (False, [False, False])
    assert await after(LONG * 500) == (False, [True, False])
    # Both had their turn, and so it begins anew.
    assert await after(LONG * 1000) == (False, [True, True])
    large.pop().cancel()
    await turns()
    long.settle(None, NOW)
    await end_all(small)


async def test_who_was_held_up_is_let_in_when_the_one_ahead_has_waited_for_max_wait(
    make_limiting: MakeLimiting,
) -> None:
    """Also if it came in the same moment, and so has waited as long by then."""
    limiting = make_limiting(gateway=["100 output_tokens/1h"], max_wait=0.02)
    busy, greedy, modest = [await limiting.key() for _ in range(3)]
    running = limiting.admit(busy, demand(60))
    large = limiting.waiting(greedy, demand(90))
    small = limiting.waiting(modest, demand(5))
    assert await outcome(large) is Code.RATE_LIMITED
    await end_all([small])
    running.settle(None, NOW)


async def test_a_key_that_waits_for_a_limit_of_its_own_holds_up_nobody(
    make_limiting: MakeLimiting,
) -> None:
    """Also where the shared limit has no room for it either."""
    limiting = make_limiting(gateway=["2 concurrent"], groups={"g": ["9 concurrent"]})
    slow = await limiting.key("1 concurrent", group="g")
    modest = await limiting.key(group="g")
    running = limiting.admit(slow)
    beside = limiting.admit(modest)
    waiting = [await limiting.wait(slow) for _ in range(3)]
    few = await limiting.wait(modest)
    beside.settle(None, NOW)
    (await few).settle(None, NOW)
    limiting.admit(modest).settle(None, NOW)
    assert done(waiting) == [False] * 3
    running.settle(None, NOW)
    await end_all(waiting)


async def test_a_group_whose_limit_is_full_holds_up_nobody_outside(
    make_limiting: MakeLimiting,
) -> None:
    limiting = make_limiting(gateway=["3 concurrent"], groups={"g": ["1 concurrent"]})
    inside, outside = await limiting.key(group="g"), await limiting.key()
    running = limiting.admit(inside)
    waiting = [await limiting.wait(inside) for _ in range(3)]
    limiting.admit(outside).settle(None, NOW)
    assert done(waiting) == [False] * 3
    running.settle(None, NOW)
    await end_all(waiting)


async def test_who_leaves_and_asks_again_keeps_its_turn(make_limiting: MakeLimiting) -> None:
    """Else the keys that were denied in a rush would stand behind those that were served."""
    limiting = make_limiting(gateway=["1 concurrent"])
    first, served, denied = [await limiting.key() for _ in range(3)]
    running = limiting.admit(first)
    one, other = await limiting.wait(served), await limiting.wait(denied)
    running.settle(None, NOW)
    await turns()
    other.cancel()
    await turns()
    next_one, other = await limiting.wait(served), await limiting.wait(denied)
    one.result().settle(None, NOW)
    await turns()
    assert (next_one.done(), other.done()) == (False, True)
    await end_all([other, next_one])


async def test_nobody_is_held_up_by_a_key_that_waits_no_longer(make_limiting: MakeLimiting) -> None:
    limiting = make_limiting(gateway=["100 output_tokens/1h"])
    busy, greedy, modest = [await limiting.key() for _ in range(3)]
    running = limiting.admit(busy, demand(50))
    large = await limiting.wait(greedy, demand(90))
    small = await limiting.wait(modest, demand(5))
    large.cancel()
    await end_all([small])
    limiting.admit(modest, demand(5)).settle(None, NOW)
    running.settle(None, NOW)


async def test_who_is_held_up_is_denied_at_once_if_its_own_limit_is_used_up(
    make_limiting: MakeLimiting,
) -> None:
    limiting = make_limiting(gateway=["1 concurrent"])
    busy, waits = await limiting.key(), await limiting.key()
    poor = await limiting.key("1 requests/7d")
    limiting.admit(poor).settle(tokens(1), NOW)
    running = limiting.admit(busy)
    waiting = await limiting.wait(waits)
    assert limiting.refused(poor).code is Code.QUOTA_EXHAUSTED
    running.settle(None, NOW)
    await end_all([waiting])


async def test_one_more_than_may_wait_does_not_pass_the_key_that_goes_first(
    make_limiting: MakeLimiting,
) -> None:
    """There would be room for it, as there is for the head of its queue."""
    limiting = make_limiting(gateway=["100 output_tokens/1h"])
    busy, greedy, crowded = [await limiting.key() for _ in range(3)]
    running = limiting.admit(busy, demand(50))
    large = await limiting.wait(greedy, demand(90))
    small = [await limiting.wait(crowded, demand(1)) for _ in range(MAX_WAITING)]
    assert limiting.refused(crowded, demand(1)).code is Code.RATE_LIMITED
    assert not any(done(small))
    large.cancel()
    await end_all(small)
    running.settle(None, NOW)


async def test_room_that_has_just_come_is_given_by_turns_before_a_full_queue_refuses(
    make_limiting: MakeLimiting,
) -> None:
    limiting = make_limiting(gateway=["1 concurrent"])
    first, crowded = await limiting.key(), await limiting.key()
    running = limiting.admit(first)
    other = await limiting.wait(first)
    crowd = [await limiting.wait(crowded) for _ in range(MAX_WAITING)]
    running.settle(None, NOW)
    assert limiting.refused(crowded).code is Code.RATE_LIMITED
    await turns()
    assert (other.done(), any(done(crowd))) == (True, False)
    await end_all([other, *crowd])


class Turns:
    """Keys that ask and end as a test says, and who was served between whose turns."""

    def __init__(self, limiting: Limiting, keys: Sequence[Key]) -> None:
        self.limiting = limiting
        self.keys = keys
        self.running: list[Admitted] = []
        self.waiting: dict[Waiting, int] = {}
        #: A key that waits, and another one → how often the other was served meanwhile.
        self.passed: Counter[tuple[int, int]] = Counter()
        self.unfair: list[str] = []

    def ask(self, which: int, size: int) -> None:
        holder = self.limiting.holder(self.keys[which])
        asked = demand(size)
        came = self.limiting.admission.enter(holder, asked)
        if isinstance(came, Admitted):
            if any(self.contests(key) for task, key in self.waiting.items() if not task.done()):
                self.unfair.append(f"key {which} passed those that wait")
            self.running.append(came)
            return
        task = self.limiting.awaited(holder, asked, came)
        self.waiting[task] = which
        task.add_done_callback(self._done)

    def _done(self, task: Waiting) -> None:
        which = self.waiting.pop(task)
        if task.cancelled():
            return
        self.running.append(task.result())
        for other in filter(self.contests, {*self.waiting.values()} - {which}):
            self.passed[other, which] += 1
            if self.passed[other, which] > 1:
                self.unfair.append(f"key {which} was served again before key {other}")
        for pair in [pair for pair in self.passed if pair[0] == which]:
            del self.passed[pair]

    def contests(self, which: int) -> bool:
        """Whether the key waits for what others hold, and not for its own share of it."""
        held = self.limiting.holder(self.keys[which]).account._shared
        return not any(window.limit.metric is Metric.OUTPUT_TOKENS for window in held)

    def leave(self, which: int) -> None:
        if self.waiting:
            [*self.waiting][which % len(self.waiting)].cancel()

    def end(self, which: int) -> None:
        if self.running:
            self.running.pop(which % len(self.running)).settle(None, NOW)

    async def settle_down(self) -> None:
        """What was noted of a key counts only while it waits."""
        await turns(6)
        still = {*self.waiting.values()}
        for pair in [pair for pair in self.passed if pair[0] not in still]:
            del self.passed[pair]


_step = st.one_of(
    st.tuples(st.just("ask"), st.integers(0, 3), st.integers(1, 60)),
    st.tuples(st.just("ask"), st.integers(0, 3), st.integers(1, 60)),
    st.tuples(st.just("end"), st.integers(0, 9)),
    st.tuples(st.just("end"), st.integers(0, 9)),
    st.tuples(st.just("leave"), st.integers(0, 9)),
)


@how(max_examples=60)
@given(
    st.lists(
        st.sampled_from(["1 concurrent", "3 concurrent", "70 output_tokens/1h"]),
        min_size=1,
        max_size=2,
        unique_by=lambda text: text.split()[1],
    ),
    st.lists(_step, max_size=60),
)
def test_between_two_services_of_a_key_that_waits_no_other_is_served_twice(
    limits: list[str], steps: list[tuple[Any, ...]]
) -> None:
    async def play() -> None:
        with tempfile.TemporaryDirectory() as folder:
            storage = await open_storage(f"sqlite://{Path(folder) / 'opuslive.db'}")
            try:
                limiting = Limiting(storage, settings(gateway=limits))
                played = Turns(limiting, [await limiting.key() for _ in range(4)])
                for name, *arguments in steps:
                    getattr(played, name)(*arguments)
                    await played.settle_down()
                while played.running or played.waiting:
                    played.end(0)
                    await played.settle_down()
                assert played.unfair == []
                limiting.assert_nothing_left()
            finally:
                await storage.close()

    asyncio.run(play())


async def test_who_waits_for_its_own_share_holds_up_nobody(make_limiting: MakeLimiting) -> None:
    """Its running request has all but the last bit of the limit; a second one can't get in."""
    limiting = make_limiting(gateway=["100 output_tokens/1h"])
    squatter, other = await limiting.key(), await limiting.key()
    running = limiting.admit(squatter, demand(90))
    waiting = await limiting.wait(squatter, demand(20))
    limiting.admit(other, demand(10)).settle(None, NOW)
    running.settle(None, NOW)
    await end_all([waiting])
