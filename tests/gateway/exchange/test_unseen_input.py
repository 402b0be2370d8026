"""What the provider fetches for a request is reserved for, and what has no price is refused.

Members of the kind "input that does not stand in the body": a document or an image by its address
or as a file, a tool of the provider's that brings something in; and "text that looks like no text".
In both modes of reserving, one after the other and at once, after requests that taught otherwise.
Of the kind "no price": a limit in dollars of the key, of its group, of the gateway, or none.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from opuslive.dialects.anthropic.content import CONTEXT_TOKENS
from opuslive.dialects.anthropic.surcharges import RESULT_TOKENS
from opuslive.errors import Code
from opuslive.limits.estimates import Demand
from opuslive.usage import TokenCounts
from tests.support.limiting import MODEL, Limiting, MakeLimiting
from tests.support.listener import Listener, answer
from tests.support.provider import STREAM_HEAD
from tests.support.rig import COUNTING, MESSAGE, Rig, cut, denied
from tests.support.waiting import eventually, soon, turns

DOCUMENT = {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}}
FILE = {"type": "document", "source": {"type": "file", "file_id": "file_1"}}
IMITATION = {"type": "tool_use", "name": "f", "input": {"data": "A" * 1_000_000}}
FETCH = {"type": "web_fetch_20250910", "name": "web_fetch"}
SEARCH = {"type": "web_search_20250305", "name": "web_search"}


def body(*blocks: object, **members: Any) -> bytes:
    messages = [{"role": "user", "content": blocks}]
    return json.dumps(
        {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": messages, **members}
    ).encode()


@pytest.mark.parametrize(
    ("sent", "tokens"),
    [
        (body(DOCUMENT), CONTEXT_TOKENS),
        (body(FILE, DOCUMENT), CONTEXT_TOKENS),
        (body(IMITATION), 250_000),
        (body(tools=[FETCH]), RESULT_TOKENS),
    ],
)
async def test_input_that_can_not_be_seen_is_reserved(
    rig: Rig, listener: Listener, sent: bytes, tokens: int
) -> None:
    """And stays used if the request is sent and its answer tells nothing."""
    await rig.limit("9M input_tokens/total")
    rig.upstream(listener.port)
    caller = rig.caller(sent)
    serving = rig.serve(caller)
    await rig.arrived(listener)
    (limit,) = rig.admission.statuses(rig.key.id)
    assert tokens <= limit.reserved < tokens + 200
    caller.leave()
    await cut(serving)
    (limit,) = rig.admission.statuses(rig.key.id)
    assert tokens <= limit.used < tokens + 200


@pytest.mark.parametrize("begun", [b"", STREAM_HEAD])
async def test_a_failure_of_the_upstream_does_not_cost_what_nobody_saw(
    rig: Rig, listener: Listener, begun: bytes
) -> None:
    """The client may ask again: it did nothing wrong."""
    await rig.limit("2M input_tokens/total")
    rig.upstream(listener.port)
    caller = rig.caller(body(DOCUMENT))
    serving = rig.serve(caller)
    peer = await rig.arrived(listener)
    peer.send(begun)
    await turns()
    peer.reset()
    if begun:
        await cut(serving)
    else:
        await denied(serving)
    (limit,) = rig.admission.statuses(rig.key.id)
    assert 0 < limit.used < 200


async def test_a_refusal_says_why_a_small_request_is_large(make_limiting: MakeLimiting) -> None:
    limiting: Limiting = make_limiting(max_wait=0)
    key = await limiting.key("2M input_tokens/total")
    asked = Demand(MODEL, 100, 9, unseen_input=CONTEXT_TOKENS)
    limiting.admit(key, asked).settle(TokenCounts(1_100_000, 5), limiting.now)
    assert "counts as 1,000,000 input tokens until" in limiting.refused(key, asked).message
    assert "until" not in limiting.refused(key, Demand(MODEL, 1_000_000, 9)).message


async def test_what_a_document_really_has_takes_the_place_of_what_it_might(
    rig: Rig, listener: Listener
) -> None:
    await rig.limit("1500k tokens/total")
    rig.upstream(listener.port)
    for _ in range(3):
        serving = rig.serve(rig.caller(body(DOCUMENT)))
        (await rig.arrived(listener)).send(answer(MESSAGE, b"connection: close"))
        await soon(serving)
    (limit,) = rig.admission.statuses(rig.key.id)
    assert (limit.used, limit.reserved) == (3 * 18, 0)


@pytest.mark.parametrize("mode", ["adaptive", "max_tokens"])
async def test_forty_documents_at_once_do_not_pass_a_limit_that_one_fills(
    make_limiting: MakeLimiting, mode: str
) -> None:
    limiting: Limiting = make_limiting(mode=mode, max_wait=0)
    key = await limiting.key("1500k tokens/1h")
    asked = Demand(MODEL, 100, 9, unseen_input=CONTEXT_TOKENS)
    admitted = limiting.admit(key, asked)
    for _ in range(39):
        assert limiting.refused(key, asked).code is Code.RATE_LIMITED
    admitted.settle(TokenCounts(900_000, 5), limiting.now, whole=True)
    assert limiting.status(key).used == 900_005


async def test_a_document_has_a_limit_to_itself_that_is_smaller(
    make_limiting: MakeLimiting,
) -> None:
    """So no more than one overshoots it."""
    asked = Demand(MODEL, 100, 9, unseen_input=CONTEXT_TOKENS)
    limiting: Limiting = make_limiting(max_wait=0)
    key = await limiting.key("100k tokens/1h")
    admitted = limiting.admit(key, asked)
    assert {limiting.refused(key, asked).code for _ in range(39)} == {Code.RATE_LIMITED}
    admitted.settle(TokenCounts(900_000, 5), limiting.now, whole=True)
    assert limiting.refused(key, asked).code is Code.QUOTA_EXHAUSTED


async def test_a_document_is_not_let_in_where_no_limit_may_be_overshot(
    make_limiting: MakeLimiting,
) -> None:
    limiting: Limiting = make_limiting(mode="max_tokens")
    key = await limiting.key("100k tokens/1h")
    error = limiting.refused(key, Demand(MODEL, 100, 9, unseen_input=CONTEXT_TOKENS))
    assert error.code is Code.INVALID_REQUEST
    assert "send less input. What the provider fetches" in error.message


@pytest.mark.parametrize("mode", ["adaptive", "max_tokens"])
async def test_small_documents_do_not_teach_that_input_is_small(
    make_limiting: MakeLimiting, mode: str
) -> None:
    limiting: Limiting = make_limiting(mode=mode)
    key = await limiting.key("9M tokens/1h")
    asked = Demand(MODEL, 10_000, 0, unseen_input=CONTEXT_TOKENS)
    for _ in range(30):
        limiting.admit(key, asked).settle(TokenCounts(10), limiting.now, whole=True)
    running = [limiting.admit(key, asked)]
    assert limiting.status(key).reserved == 10_000 + CONTEXT_TOKENS
    running.append(limiting.admit(key, Demand(MODEL, 10_000, 0)))
    assert limiting.status(key).reserved == 20_000 + CONTEXT_TOKENS
    for each in running:
        each.settle(None, limiting.now)


UNPRICED: list[tuple[dict[str, Any], str]] = [
    ({"speed": "fast"}, "'speed'"),
    ({"service_tier": "priority"}, "'service_tier'"),
    ({"inference_geo": "us"}, "'inference_geo'"),
    ({"tools": [SEARCH]}, "'web_search'"),
    ({"tools": [{"type": "code_execution_20250825"}]}, "'code_execution'"),
]


@pytest.mark.parametrize(("members", "named"), UNPRICED)
async def test_a_limit_in_dollars_refuses_what_has_no_price(
    rig: Rig, listener: Listener, members: dict[str, Any], named: str
) -> None:
    await rig.limit("1M tokens/total", "99 usd/total")
    rig.upstream(listener.port)
    error = await denied(rig.serve(rig.caller(body(**members))))
    assert error.code is Code.INVALID_REQUEST
    assert error.message.startswith("There is a limit in USD on this API key, and no price")
    assert named in error.message
    assert "leave it out" in error.message
    assert listener.accept_now() is None


@pytest.mark.parametrize("members", [members for members, _ in UNPRICED])
async def test_without_a_limit_in_dollars_nothing_is_refused(
    rig: Rig, listener: Listener, members: dict[str, Any]
) -> None:
    await rig.limit("1M tokens/total")
    rig.upstream(listener.port)
    caller = rig.caller(body(**members))
    serving = rig.serve(caller)
    (await rig.arrived(listener)).send(STREAM_HEAD)
    await eventually(lambda: caller.head)
    serving.cancel()


async def test_counting_tokens_has_no_price_to_know(rig: Rig, listener: Listener) -> None:
    await rig.limit("99 usd/total")
    rig.upstream(listener.port)
    serving = rig.serve(rig.caller(body(tools=[SEARCH], speed="fast")), COUNTING)
    (await rig.arrived(listener)).send(answer(b'{"input_tokens":5}'))
    await soon(serving)


@pytest.mark.parametrize(
    ("how", "whose"),
    [
        ({"gateway": ["99 usd/month"]}, "this gateway"),
        ({"groups": {"friends": ["99 usd/month"]}}, "this API key's group"),
    ],
)
async def test_shared_limits_in_dollars_refuse_it_too(
    make_limiting: MakeLimiting, how: dict[str, Any], whose: str
) -> None:
    limiting: Limiting = make_limiting(**how)
    key = await limiting.key(group="friends")
    error = limiting.refused(key, Demand(MODEL, 1, 1, unpriced="it is dear"))
    assert error.code is Code.INVALID_REQUEST
    assert error.message == f"There is a limit in USD on {whose}, and it is dear."
