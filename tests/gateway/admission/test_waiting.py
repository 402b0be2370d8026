"""Who waits for room, in which order, how long; and that nothing is left when all have gone."""

from __future__ import annotations

import asyncio

import pytest

from opuslive.errors import Code
from opuslive.gateway.admission.admission import Admitted
from opuslive.gateway.admission.queues import MAX_WAITING
from tests.support.clock import NOW
from tests.support.limiting import Limiting, MakeLimiting, demand, outcome, tokens
from tests.support.waiting import PATIENCE, turns


async def test_requests_of_a_queue_are_served_in_their_order(limiting: Limiting) -> None:
    key = await limiting.key("1 concurrent")
    running = limiting.admit(key)
    waiting = [await limiting.wait(key) for _ in range(5)]
    for number, task in enumerate(waiting):
        assert [other.done() for other in waiting[number:]] == [False] * (5 - number)
        running.settle(tokens(1), NOW)
        await turns()
        running = task.result()
    running.settle(tokens(1), NOW)


async def test_a_later_request_does_not_overtake_one_that_waits(limiting: Limiting) -> None:
    """Not even in the moment in which room has come, and who waits has not been told."""
    key = await limiting.key("1 concurrent")
    running = limiting.admit(key)
    first = await limiting.wait(key)
    running.settle(tokens(1), NOW)
    second, third = [limiting.waiting(key) for _ in range(2)]
    await turns()
    assert [task.done() for task in (first, second, third)] == [True, False, False]
    for task in (first, second, third):
        (await task).settle(None, NOW)


async def test_one_that_has_asked_is_before_those_that_ask_later_in_the_same_turn(
    limiting: Limiting,
) -> None:
    """Also where there is room for the later one: nothing lies between asking and queueing."""
    key = await limiting.key("100 output_tokens/1h")
    running = limiting.admit(key, demand(50))
    large = limiting.waiting(key, demand(100))
    small = limiting.waiting(key, demand(1))
    assert limiting.status(key).reserved == 50
    running.settle(None, NOW)
    await turns()
    assert (large.done(), small.done()) == (True, False)
    for task in (large, small):
        (await task).settle(None, NOW)


async def test_no_more_than_so_many_queue_within_one_turn(limiting: Limiting) -> None:
    key = await limiting.key("1 concurrent")
    running = limiting.admit(key)
    waiting = [limiting.waiting(key) for _ in range(MAX_WAITING)]
    assert limiting.refused(key).code is Code.RATE_LIMITED
    for task in waiting:
        task.cancel()
    running.settle(None, NOW)


async def test_small_ones_do_not_starve_a_large_one(limiting: Limiting) -> None:
    key = await limiting.key("100 output_tokens/1h")
    running = [limiting.admit(key, demand(10)) for _ in range(10)]
    large = await limiting.wait(key, demand(100))
    small = [await limiting.wait(key, demand(10)) for _ in range(3)]
    for one in running:
        assert not large.done()
        one.settle(tokens(0), NOW)
        await turns()
    assert not any(task.done() for task in small)
    (await large).settle(tokens(0), NOW)
    for task in small:
        (await task).settle(tokens(0), NOW)


async def test_keys_do_not_wait_for_each_other(make_limiting: MakeLimiting) -> None:
    """But who shares a limit gets what others free."""
    limiting = make_limiting(groups={"friends": ["1 concurrent"]})
    one, other = [await limiting.key(group="friends") for _ in range(2)]
    alone = await limiting.key()
    running = limiting.admit(one)
    waiting = await limiting.wait(other)
    limiting.admit(alone).settle(None, NOW)
    running.settle(tokens(1), NOW)
    (await waiting).settle(tokens(1), NOW)


async def test_no_more_than_max_waiting_requests_of_a_key_wait(limiting: Limiting) -> None:
    key = await limiting.key("1 concurrent")
    running = limiting.admit(key)
    waiting = [await limiting.wait(key) for _ in range(MAX_WAITING)]
    assert limiting.refused(key).code is Code.RATE_LIMITED
    waiting[50].cancel()
    await turns()
    waiting[50] = await limiting.wait(key)
    assert limiting.refused(key).code is Code.RATE_LIMITED
    waiting.append(waiting.pop(50))
    for task in waiting:
        running.settle(None, NOW)
        running = await task
    running.settle(None, NOW)


async def test_no_more_of_them_though_there_is_room_for_small_ones(limiting: Limiting) -> None:
    key = await limiting.key("100 output_tokens/1h")
    running = limiting.admit(key, demand(50))
    large = await limiting.wait(key, demand(100))
    small = [await limiting.wait(key, demand(1)) for _ in range(MAX_WAITING - 1)]
    error = limiting.refused(key, demand(1))
    assert (error.code, error.retry_after) == (Code.RATE_LIMITED, 5)
    large.cancel()
    for task in small:
        (await task).settle(None, NOW)
    running.settle(None, NOW)


async def test_a_request_waits_no_longer_than_max_wait(make_limiting: MakeLimiting) -> None:
    limiting = make_limiting(max_wait=0.02)
    key = await limiting.key("100 output_tokens/1h")
    running = limiting.admit(key, demand(50))
    large = await limiting.wait(key, demand(100))
    # There would be room for it, but it is not its turn.
    small = await limiting.wait(key, demand(1))
    assert await outcome(large) is Code.RATE_LIMITED
    refused_or_not = await outcome(small)
    if isinstance(refused_or_not, Admitted):  # the head had gone a moment before
        refused_or_not.settle(None, NOW)
    else:
        assert refused_or_not is Code.RATE_LIMITED
    running.settle(None, NOW)


async def test_nothing_waits_where_max_wait_is_zero(make_limiting: MakeLimiting) -> None:
    limiting = make_limiting(max_wait=0)
    key = await limiting.key("1 concurrent")
    running = limiting.admit(key)
    assert limiting.refused(key).code is Code.RATE_LIMITED
    running.settle(None, NOW)


async def test_requests_whose_room_was_used_up_are_denied_at_once(limiting: Limiting) -> None:
    """What they waited for is used up by who held it: they are told so at once."""
    key = await limiting.key("100 output_tokens/7d")
    running = limiting.admit(key, demand(100))
    waiting = [await limiting.wait(key, demand(30)) for _ in range(3)]
    small = await limiting.wait(key, demand(5))
    running.settle(tokens(90), NOW)
    assert {await outcome(task) for task in waiting} == {Code.QUOTA_EXHAUSTED}
    admitted = await outcome(small)
    assert isinstance(admitted, Admitted)
    admitted.settle(None, NOW)


async def test_a_request_is_let_in_when_time_frees_its_limit(limiting: Limiting) -> None:
    """Nobody has to tell it."""
    key = await limiting.key("1 requests/1s")
    limiting.admit(key).settle(tokens(1), NOW)
    frees_at = limiting.status(key).frees_at
    assert frees_at is not None
    limiting.now = frees_at - 20
    waiting = await limiting.wait(key)
    assert not waiting.done()
    limiting.now = frees_at
    admitted = await outcome(waiting)
    assert isinstance(admitted, Admitted)
    assert admitted.time == frees_at
    admitted.settle(None, limiting.now)


async def test_requests_that_leave_the_queue_hold_nobody_up(limiting: Limiting) -> None:
    key = await limiting.key("1 concurrent")
    running = limiting.admit(key)
    first, second, third = [await limiting.wait(key) for _ in range(3)]
    second.cancel()
    await turns()
    first.cancel()
    running.settle(None, NOW)
    (await third).settle(None, NOW)
    assert first.cancelled()
    assert second.cancelled()


@pytest.mark.parametrize("loops", range(4))
async def test_who_leaves_in_the_moment_of_being_let_in(limiting: Limiting, loops: int) -> None:
    key = await limiting.key("1 concurrent", "9 requests/1h")
    running = limiting.admit(key)
    leaving, staying = [await limiting.wait(key) for _ in range(2)]
    running.settle(tokens(1), NOW)
    await turns(loops)
    if leaving.cancel():
        with pytest.raises(asyncio.CancelledError):
            await leaving
    else:
        leaving.result().settle(None, NOW)
    (await staying).settle(None, NOW)
    assert limiting.used(key)["9 requests/1h"] == 1


async def test_the_next_is_let_in_when_one_leaves_in_the_moment_of_being_let_in(
    limiting: Limiting,
) -> None:
    key = await limiting.key("1 concurrent")
    running = limiting.admit(key)
    leaving, staying = [await limiting.wait(key) for _ in range(2)]
    running.settle(None, NOW)
    await turns(1)
    leaving.cancel()
    async with asyncio.timeout(PATIENCE):
        (await staying).settle(None, NOW)


async def test_who_leaves_before_it_has_begun_to_wait(limiting: Limiting) -> None:
    key = await limiting.key("1 concurrent")
    running = limiting.admit(key)
    leaving = limiting.waiting(key)
    leaving.cancel()
    await turns()
    assert leaving.cancelled()
    running.settle(None, NOW)


async def test_requests_of_a_deleted_key_leave_the_queue(limiting: Limiting) -> None:
    """Who deletes it cuts them; that they were, and that it is gone, meet in any order."""
    key = await limiting.key("1 concurrent")
    running = limiting.admit(key)
    first, second = [await limiting.wait(key) for _ in range(2)]
    first.cancel()
    limiting.holders.remove(limiting.holder(key))
    running.settle(tokens(1), NOW, whole=True)
    second.cancel()
    await turns()
    assert first.cancelled()
    assert second.cancelled()


async def test_raising_a_limit_lets_waiting_requests_in(limiting: Limiting) -> None:
    key = await limiting.key("1 concurrent")
    running = [limiting.admit(key)]
    waiting = [await limiting.wait(key) for _ in range(3)]
    await limiting.change(key, "3 concurrent")
    running += [await task for task in waiting[:2]]
    assert not waiting[2].done()
    await limiting.change(key)
    for admitted in (*running, await waiting[2]):
        admitted.settle(None, NOW)


async def test_lowering_a_limit_denies_waiting_requests_that_can_never_fit(
    make_limiting: MakeLimiting,
) -> None:
    """What can never fit any more is refused at once, and holds nobody up."""
    limiting = make_limiting(mode="max_tokens")
    key = await limiting.key("100 output_tokens/1h")
    running = limiting.admit(key, demand(100))
    large, small = [await limiting.wait(key, demand(size)) for size in (80, 10)]
    await limiting.change(key, "50 output_tokens/1h")
    assert await outcome(large) is Code.INVALID_REQUEST
    assert not small.done()
    running.settle(tokens(40), NOW)
    (await small).settle(None, NOW)
