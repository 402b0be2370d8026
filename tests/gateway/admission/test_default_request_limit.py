"""A key that has limits, but none of requests, is held to a default one.

What belongs to the kind: keys with limits of tokens, of input, of output and of money; with several
of them; keys that come to such limits by a change. And what does not: keys with a limit of requests
or of concurrent ones, and keys without any limit.
"""

from __future__ import annotations

import pytest

from opuslive.errors import Code
from tests.support.clock import NOW
from tests.support.limiting import Limiting, MakeLimiting, demand, tokens

DEFAULT = "3 requests/1m"


@pytest.fixture
async def limiting(make_limiting: MakeLimiting) -> Limiting:
    return make_limiting(default_request_limit=DEFAULT, max_wait=0)


@pytest.mark.parametrize(
    "limits",
    [
        ["9M tokens/5h"],
        ["9M input_tokens/day"],
        ["9M output_tokens/total"],
        ["9 usd/month"],
        ["9M tokens/5h", "9 usd/month"],
    ],
)
async def test_binds_keys_with_limits_of_what_requests_cost(
    limiting: Limiting, limits: list[str]
) -> None:
    key, other = [await limiting.key(*limits) for _ in range(2)]
    for _ in range(3):
        limiting.admit(key).settle(tokens(0), NOW)
    error = limiting.refused(key)
    assert error.code is Code.RATE_LIMITED
    assert error.message.startswith("The limit of this API key, 3 requests/1m, has no room")
    limiting.admit(other).settle(None, NOW)


@pytest.mark.parametrize(
    "limits", [[], ["9 requests/1m", "9M tokens/5h"], ["9 concurrent", "9 usd/month"]]
)
async def test_binds_no_other_keys(limiting: Limiting, limits: list[str]) -> None:
    key = await limiting.key(*limits)
    for _ in range(5):
        limiting.admit(key).settle(tokens(0), NOW)


async def test_binds_nobody_where_it_is_switched_off(make_limiting: MakeLimiting) -> None:
    limiting = make_limiting(default_request_limit=None)
    key = await limiting.key("9M tokens/5h")
    for _ in range(5):
        limiting.admit(key).settle(tokens(0), NOW)
    assert limiting.holder(key).default_account is None


async def test_is_shown_in_no_list_of_the_limits_of_a_key(limiting: Limiting) -> None:
    key = await limiting.key("9M tokens/5h")
    limiting.admit(key).settle(tokens(5), NOW)
    assert limiting.used(key) == {"9M tokens/5h": 5}
    assert [str(each.limit) for each in limiting.admission.own_limits(limiting.holder(key))] == [
        "9M tokens/5h"
    ]


async def test_a_request_that_was_not_sent_is_taken_back(limiting: Limiting) -> None:
    key = await limiting.key("9M tokens/5h")
    for _ in range(5):
        limiting.admit(key).settle(None, NOW)
    running = [limiting.admit(key) for _ in range(3)]
    limiting.refused(key)
    for admitted in running:
        admitted.settle(None, NOW)


async def test_frees_as_time_passes(limiting: Limiting) -> None:
    key = await limiting.key("9M tokens/5h")
    for _ in range(3):
        limiting.admit(key).settle(tokens(0), NOW)
    limiting.refused(key)
    limiting.now += 61_000
    limiting.admit(key).settle(None, limiting.now)


async def test_frees_when_it_would_have_though_the_date_is_moved(limiting: Limiting) -> None:
    key = await limiting.key("9M tokens/5h")
    for _ in range(3):
        limiting.admit(key).settle(tokens(0), NOW)
    day = 86_400_000
    limiting.admission.shift(day)
    limiting.machine.clock.move(day)
    limiting.refused(key)
    limiting.now += 61_000
    limiting.admit(key).settle(None, limiting.now)


async def test_outlives_changes_of_the_limits_of_a_key(limiting: Limiting) -> None:
    """One that is changed to and fro would have it begin anew else."""
    key = await limiting.key("9M tokens/5h")
    for _ in range(3):
        limiting.admit(key).settle(tokens(0), NOW)
    for limits in (["8M tokens/5h"], ["9 usd/day"], ["9 requests/1m"], [], ["9M tokens/5h"]):
        await limiting.change(key, *limits)
        if limits in ([], ["9 requests/1m"]):
            limiting.admit(key).settle(tokens(0), NOW)
        else:
            limiting.refused(key)


async def test_takes_memory_only_for_keys_that_it_bound(limiting: Limiting) -> None:
    key, idle = [await limiting.key("9M tokens/5h") for _ in range(2)]
    free = await limiting.key()
    for each in (key, free):
        limiting.admit(each).settle(None, NOW)
    holders = [limiting.holder(each) for each in (key, idle, free)]
    assert [holder.default_account is None for holder in holders] == [False, True, True]


async def test_a_key_that_waits_for_it_holds_up_nobody(make_limiting: MakeLimiting) -> None:
    limiting = make_limiting(default_request_limit="1 requests/5s", gateway=["9 concurrent"])
    key, other = await limiting.key("9M tokens/5h"), await limiting.key()
    limiting.admit(key).settle(tokens(0), NOW)
    waiting = await limiting.wait(key, demand(1))
    limiting.admit(other).settle(None, NOW)
    waiting.cancel()
