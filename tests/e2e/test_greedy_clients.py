"""Clients of one key that ask as fast as they can: others are served, and no disk fills."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest

from tests.support.limited import Gated, statuses
from tests.support.provider import LAST_CHUNK, ScriptedUpstream, json_answer
from tests.support.server import Server
from tests.support.waiting import soon
from tests.support.wire import Wire, message_body

pytestmark = pytest.mark.asyncio(loop_scope="module")

MESSAGE = message_body()
#: What the clients of two keys write, by which the provider tells them apart.
GREEDY, MODEST = 7, 8
#: The default limit of requests.
MOST = 20


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    return {
        "limits": {"gateway": ["1 concurrent"], "max_wait": "20s"},
        "keys": {"default_request_limit": f"{MOST} requests/1h"},
    }


async def test_forty_greedy_clients_of_a_key_leave_another_key_every_second_turn(
    gateway: Server, upstream: ScriptedUpstream
) -> None:
    greedy, modest = await gateway.holder(), await gateway.holder()
    gated = Gated(upstream)
    async with contextlib.AsyncExitStack() as stack:

        async def ask(key: str, max_tokens: int) -> Wire:
            body = message_body(stream=True, max_tokens=max_tokens)
            return await stack.enter_async_context(gateway.asking(key, body))

        first = await ask(greedy, GREEDY)
        await first.head()
        asked = [await ask(greedy, GREEDY) for _ in range(39)]
        await statuses(gateway, greedy)  # By now they wait.
        asked += [await ask(modest, MODEST) for _ in range(5)]
        await statuses(gateway, modest)
        gated.open.set()
        await first.until(LAST_CHUNK)
        for answer in await soon(asyncio.gather(*(wire.answer() for wire in asked))):
            assert answer.status == 200
    order = [json.loads(request.body)["max_tokens"] for request in upstream.inferences]
    assert order == [GREEDY, *[GREEDY, MODEST] * 5, *[GREEDY] * 34]


async def test_a_key_whose_requests_the_provider_refuses_is_held_to_the_default_limit(
    gateway: Server, upstream: ScriptedUpstream
) -> None:
    """Though its limit of tokens has all its room; the refusals are recorded once a second."""
    refusal = {"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}
    upstream.always(lambda request: json_answer(refusal, status=400))
    key = await gateway.holder(limits=["1M tokens/1h"])
    answers = [await gateway.messages(key, MESSAGE) for _ in range(2 * MOST)]
    assert [answer.status for answer in answers] == [400] * MOST + [429] * MOST
    assert f"The limit of this API key, {MOST} requests/1h" in answers[-1].message
    assert len(upstream.inferences) == MOST
    # Not even on a machine on which each of them takes half a second.
    assert 1 <= len(await gateway.records(key)) < MOST
    assert set(await statuses(gateway, key)) == {"1M tokens/1h"}
    for answer in answers:
        assert answer.header("anthropic-ratelimit-requests-limit") is None


async def test_a_key_without_any_limit_has_none_by_default(
    gateway: Server, upstream: ScriptedUpstream
) -> None:
    key = await gateway.holder()
    for _ in range(MOST + 5):
        assert (await gateway.messages(key, MESSAGE)).status == 200
    assert len(await gateway.records(key)) == MOST + 5
