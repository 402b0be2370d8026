"""Admission when the date is moved, ahead and back: requests that run or wait, and changes of keys
that are under way. The windows themselves: ``limits/test_shift``."""

from __future__ import annotations

from dataclasses import replace

import pytest

from opuslive.times import DAY_MS
from tests.support.clock import NOW
from tests.support.limiting import Limiting, MakeLimiting, demand, tokens
from tests.support.waiting import turns

pytestmark = pytest.mark.parametrize("delta", [3 * DAY_MS, -3 * DAY_MS])


def move(limiting: Limiting, delta: int) -> None:
    limiting.admission.shift(delta)
    limiting.now += delta


async def test_a_request_that_runs_is_settled_by_the_new_date(
    limiting: Limiting, delta: int
) -> None:
    key = await limiting.key("100 tokens/1h", "100 tokens/day", "5 requests/1h", "2 concurrent")
    admitted = limiting.admit(key, demand(40))
    limiting.now += 1_000
    move(limiting, delta)
    assert admitted.time == NOW + delta
    assert limiting.admission.statuses(key.id)[0].reserved == 40
    limiting.now += 500
    assert admitted.settle(tokens(7), limiting.now) == NOW + delta + 1_500
    expected = {"100 tokens/1h": 7, "100 tokens/day": 7, "5 requests/1h": 1, "2 concurrent": 0}
    assert limiting.used(key) == expected
    midnight = (limiting.now // DAY_MS + 1) * DAY_MS
    statuses = limiting.admission.statuses(key.id)
    assert statuses[1].resets_at == midnight


async def test_after_a_change_of_limits_requests_end_when_they_do(
    limiting: Limiting, delta: int
) -> None:
    """The moment from which a new limit counts is moved, too."""
    key = await limiting.key("100 tokens/1h")
    admitted = limiting.admit(key)
    await limiting.change(key, "100 tokens/1h", "9 requests/1m")
    move(limiting, delta)
    limiting.now += 500
    assert admitted.settle(tokens(7), limiting.now) == limiting.now
    assert limiting.used(key) == {"100 tokens/1h": 7, "9 requests/1m": 1}


async def test_a_change_of_group_that_is_being_stored_lets_requests_in_at_the_new_date(
    limiting: Limiting, delta: int
) -> None:
    key = await limiting.key("100 tokens/1h")
    holder = limiting.holder(key)
    changed = replace(key, group="friends")
    change = await limiting.admission.prepare(holder, changed)
    move(limiting, delta)
    limiting.holders.change(holder, changed)
    limiting.admission.apply(change)
    admitted = limiting.admit(key)
    assert admitted.time - limiting.now in (0, 1)
    admitted.settle(None, limiting.now)


async def test_a_key_whose_deletion_fails_counts_by_the_new_date(
    limiting: Limiting, delta: int
) -> None:
    key = await limiting.key("1 requests/1m")
    limiting.admit(key).settle(tokens(1), NOW)
    holder = limiting.holder(key)
    limiting.holders.remove(holder)
    move(limiting, delta)
    limiting.holders.add(holder)
    limiting.refused(key)
    limiting.now += 62_000
    admitted = limiting.admit(key)
    assert admitted.time == limiting.now
    admitted.settle(None, limiting.now)


async def test_a_request_that_waits_gets_its_room(limiting: Limiting, delta: int) -> None:
    key = await limiting.key("1 concurrent")
    running = limiting.admit(key)
    waiting = limiting.waiting(key)
    move(limiting, delta)
    await turns()
    assert not waiting.done()
    running.settle(tokens(1), limiting.now)
    admitted = await waiting
    assert admitted.time == limiting.now
    admitted.settle(None, limiting.now)


async def test_limits_that_keys_share_move_along(make_limiting: MakeLimiting, delta: int) -> None:
    limiting = make_limiting(gateway=["9 requests/1m"], groups={"friends": ["9 requests/day"]})
    key = await limiting.key(group="friends")
    limiting.admit(key).settle(tokens(1), NOW)
    limiting.now += 30_000
    move(limiting, delta)
    shared = limiting.admission.shared_limits()
    (gateway,), (group,) = shared.gateway, shared.groups["friends"]
    assert gateway.frees_at is not None
    assert 30_000 <= gateway.frees_at - limiting.now <= 31_000
    assert group.frees_at == (limiting.now // DAY_MS + 1) * DAY_MS
    assert (gateway.used, group.used) == (1, 1)
