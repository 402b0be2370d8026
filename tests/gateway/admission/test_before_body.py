"""Who is refused before the body has come: whoever would be, whatever the body says.

Of the kind is every limit of which a request uses up something in any case: requests, tokens,
input tokens, dollars and concurrency, of the key, its group and the gateway, in windows of each
sort. Not of it is one that a body may get around, or that waiting may help.
"""

from __future__ import annotations

import pytest

from opuslive.config.sections import PriceConfig
from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.admission.queues import MAX_WAITING
from opuslive.gateway.holder import Holder
from tests.support.clock import NOW
from tests.support.limiting import Limiting, MakeLimiting, demand, tokens
from tests.support.waiting import turns


def refused_unread(limiting: Limiting, holder: Holder) -> OpusLiveError:
    with pytest.raises(OpusLiveError) as raised:
        limiting.admission.check(holder)
    return raised.value


USED = tokens(50, 50)


@pytest.mark.parametrize(
    ("limit", "code"),
    [
        ("1 requests/1h", Code.QUOTA_EXHAUSTED),
        ("1 requests/1m", Code.RATE_LIMITED),
        ("1 requests/total", Code.QUOTA_EXHAUSTED),
        ("100 tokens/day", Code.QUOTA_EXHAUSTED),
        ("100 tokens/total", Code.QUOTA_EXHAUSTED),
        ("50 input_tokens/5h", Code.QUOTA_EXHAUSTED),
        ("0.0001 usd/month", Code.QUOTA_EXHAUSTED),
    ],
)
@pytest.mark.parametrize("whose", ["key", "group", "gateway"])
async def test_a_limit_that_is_used_up_refuses_as_it_does_with_the_body(
    make_limiting: MakeLimiting, limit: str, code: Code, whose: str
) -> None:
    limiting = make_limiting(
        max_wait=5.0,
        groups={"team": [limit] if whose == "group" else []},
        gateway=[limit] if whose == "gateway" else [],
    )
    key = await limiting.key(*([limit] if whose == "key" else []), group="team")
    holder = limiting.holder(key)
    limiting.admission.check(holder)
    await limiting.use(key, USED)
    error = refused_unread(limiting, holder)
    with_body = limiting.refused(key, demand(1, guess=1))
    assert error.code is with_body.code is code
    assert error.message == with_body.message
    assert error.retry_after == with_body.retry_after


async def test_a_full_concurrency_limit_refuses_if_nothing_may_wait(
    make_limiting: MakeLimiting,
) -> None:
    limiting = make_limiting(max_wait=0.0)
    key = await limiting.key("1 concurrent")
    running = limiting.admit(key)
    assert refused_unread(limiting, limiting.holder(key)).code is Code.RATE_LIMITED
    running.settle(None, NOW)
    limiting.admission.check(limiting.holder(key))


async def test_a_full_concurrency_limit_refuses_once_too_many_wait(limiting: Limiting) -> None:
    key = await limiting.key("1 concurrent")
    running = limiting.admit(key)
    for _ in range(MAX_WAITING):
        limiting.admission.check(limiting.holder(key))
        limiting.waiting(key)
    assert refused_unread(limiting, limiting.holder(key)).code is Code.RATE_LIMITED
    queue = limiting.holder(key).queue
    for waiting in tuple(queue):
        waiting.outcome.cancel()
    await turns()
    limiting.admission.check(limiting.holder(key))
    running.settle(None, NOW)


async def test_a_limit_that_frees_within_the_wait_refuses_nothing(
    make_limiting: MakeLimiting,
) -> None:
    limiting = make_limiting(max_wait=5.0)
    key = await limiting.key("1 requests/10s")
    await limiting.use(key, USED)
    refused_unread(limiting, limiting.holder(key))
    limiting.now += 6_000
    limiting.admission.check(limiting.holder(key))


async def test_a_limit_of_output_refuses_nothing_for_a_request_may_ask_for_none(
    limiting: Limiting,
) -> None:
    key = await limiting.key("50 output_tokens/total")
    await limiting.use(key, USED)
    limiting.admission.check(limiting.holder(key))
    limiting.admit(key, demand(0)).settle(None, NOW)


async def test_a_limit_in_dollars_refuses_nothing_where_a_model_is_free(
    make_limiting: MakeLimiting,
) -> None:
    limiting = make_limiting(prices={"claude-own": PriceConfig(input=0.0, output=0.0)})
    key = await limiting.key("0.0001 usd/total")
    await limiting.use(key, USED)
    limiting.admission.check(limiting.holder(key))
    limiting.admit(key, demand(model="claude-own")).settle(None, NOW)


async def test_nothing_is_refused_while_a_change_of_the_group_is_stored(
    limiting: Limiting,
) -> None:
    key = await limiting.key("1 requests/total")
    await limiting.use(key, USED)
    holder = limiting.holder(key)
    holder.changing_group = True
    limiting.admission.check(holder)
    holder.changing_group = False
    refused_unread(limiting, holder)


async def test_looking_uses_up_and_reserves_nothing(limiting: Limiting) -> None:
    key = await limiting.key("5 requests/1h", "100 tokens/1h", "2 concurrent")
    for _ in range(10):
        limiting.admission.check(limiting.holder(key))
    assert set(limiting.used(key).values()) == {0}
    assert {status.reserved for status in limiting.admission.statuses(key.id)} == {0}
