"""A request in which several models take part: who may ask for it, what it costs, what is kept.

Members of the kind: a model that a tool asks, beside the one that answers; a fallback that answers
in the place of the one asked for, which had declined; parts whose model has no price, or no name
that is kept; each in limits of tokens and of dollars, in the record, in one that is open, in the
log. And every place where a request may name a model, with keys that may use it or not.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from opuslive.dialects import Meter, NoUsage, RequestMembers
from opuslive.dialects.anthropic.dialect import AnthropicDialect
from opuslive.errors import Code
from opuslive.pricing.prices import Prices
from opuslive.usage import ModelTokens, TokenCounts, UsagePart, UsageRecord
from tests.support.clock import NOW
from tests.support.listener import Listener, answer
from tests.support.provider import LAST_CHUNK, STREAM_HEAD, chunk
from tests.support.rig import COUNTING, LATENCY, MESSAGES, Rig, denied
from tests.support.waiting import eventually, soon

HAIKU, OPUS, SONNET = "claude-haiku-4-5", "claude-opus-4-8", "claude-sonnet-4-5"
OWN = TokenCounts(2, 491)
ADVICE = TokenCounts(159_419, 7_805)
ADVISOR = {"type": "advisor_20260301", "name": "advisor", "model": OPUS}


class Told(NoUsage):
    """A meter that was told all at once."""

    input_told = output_told = True

    def __init__(
        self, tokens: TokenCounts, parts: Sequence[ModelTokens], model: str | None
    ) -> None:
        self._tokens = tokens
        self._parts = parts
        self.model = model

    def counts(self) -> TokenCounts:
        return self._tokens

    def parts(self) -> Sequence[ModelTokens]:
        return self._parts


class Telling(AnthropicDialect):
    """A dialect whose answers tell this."""

    def __init__(
        self,
        *parts: ModelTokens,
        tokens: TokenCounts = OWN,
        model: str | None = None,
    ) -> None:
        self._told = tokens, parts, model

    def meter(self, members: RequestMembers | None = None, *, stream: bool) -> Meter:
        return Told(*self._told)


def body(model: str = HAIKU, **members: Any) -> bytes:
    return json.dumps({"model": model, "max_tokens": 9, **members}).encode()


async def serve(rig: Rig, listener: Listener, dialect: AnthropicDialect) -> UsageRecord:
    rig.upstream(listener.port, dialect=dialect)
    serving = rig.serve(rig.caller(body()), MESSAGES, dialect)
    (await rig.arrived(listener)).send(answer(b"{}"))
    await soon(serving)
    return await rig.record()


def cost(*used: tuple[str, TokenCounts]) -> int:
    """In micro-dollars."""
    return sum(Prices({}).cost(model, tokens, NOW) or 0 for model, tokens in used)


async def test_a_second_model_is_a_part_of_the_one_record(rig: Rig, listener: Listener) -> None:
    await rig.limit("1M tokens/total", "99 usd/total", "9 requests/1m", "1M output_tokens/1h")
    record = await serve(rig, listener, Telling(ModelTokens(OPUS, ADVICE)))
    parts = (UsagePart(OPUS, ADVICE),)
    assert record == UsageRecord(rig.key.id, NOW, HAIKU, 200, LATENCY, OWN, parts=parts)
    used = [status.used for status in rig.admission.statuses(rig.key.id)]
    assert used == [
        OWN.total + ADVICE.total,
        cost((HAIKU, OWN), (OPUS, ADVICE)),
        1,
        OWN.output + ADVICE.output,
    ]
    usage = (await rig.storage.key_usage(rig.key.id)).sum
    assert (usage.requests, usage.tokens.total) == (1, OWN.total + ADVICE.total)


async def test_a_fallback_that_answered_is_the_model_of_the_record(
    rig: Rig, listener: Listener
) -> None:
    await rig.limit("99 usd/total")
    declined = ModelTokens(HAIKU, TokenCounts(1_000, 3))
    record = await serve(rig, listener, Telling(declined, model=OPUS))
    assert (record.model, record.tokens) == (OPUS, OWN)
    assert record.parts == (UsagePart(HAIKU, TokenCounts(1_000, 3)),)
    (limit,) = rig.admission.statuses(rig.key.id)
    assert limit.used == cost((OPUS, OWN), (HAIKU, declined.tokens))


async def test_a_name_that_the_gateway_does_not_know_is_not_kept(
    rig: Rig, listener: Listener
) -> None:
    await rig.limit("1M tokens/total")
    dialect = Telling(
        ModelTokens("claude-dear-diary", TokenCounts(5)),
        ModelTokens(None, TokenCounts(6)),
        ModelTokens(f"{OPUS}-20260601", TokenCounts(7)),
        model="claude-other-diary",
    )
    record = await serve(rig, listener, dialect)
    assert record.model is None
    assert [(part.model, part.tokens.input) for part in record.parts] == [
        (None, 5),
        (HAIKU, 6),  # the answer does not say which
        (OPUS, 7),
    ]
    (limit,) = rig.admission.statuses(rig.key.id)
    assert limit.used == OWN.total + 18


async def test_each_part_is_in_the_tier_of_its_own_size(rig: Rig, listener: Listener) -> None:
    large = TokenCounts(250_000)
    await rig.limit("99 usd/total")
    await serve(rig, listener, Telling(ModelTokens(SONNET, large), ModelTokens(SONNET, OWN)))
    sums = await rig.storage.sums(rig.key.id, since=0, until=2 * NOW, by="model")
    tiers = {(each.model, each.tier): each.sum.tokens.input for each in sums}
    assert tiers == {(HAIKU, 0): OWN.input, (SONNET, 1): large.input, (SONNET, 0): OWN.input}
    (limit,) = rig.admission.statuses(rig.key.id)
    assert limit.used == cost((HAIKU, OWN), (SONNET, large), (SONNET, OWN))


async def test_an_open_record_has_what_is_known_of_its_parts(rig: Rig, listener: Listener) -> None:
    dialect = Telling(ModelTokens(OPUS, ADVICE))
    rig.upstream(listener.port, dialect=dialect)
    caller = rig.caller(body())
    serving = rig.serve(caller, MESSAGES, dialect)
    peer = await rig.arrived(listener)
    peer.send(STREAM_HEAD, chunk(b": wait\n\n"))
    await eventually(lambda: caller.written)
    rig.exchanges.keep_open(NOW + 1_000)
    await rig.storage.flush()
    (record,) = await rig.records()
    assert (record.status, record.parts) == (None, (UsagePart(OPUS, ADVICE),))
    peer.send(LAST_CHUNK)
    await soon(serving)
    assert (await rig.record()) == structs.replace(record, status=200, latency_ms=LATENCY)


async def test_the_log_has_one_line_with_the_tokens_of_all(
    rig: Rig, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "opuslive.access"):
        await serve(rig, listener, Telling(ModelTokens(OPUS, ADVICE)))
    (line,) = (record for record in caplog.records if record.name == "opuslive.access")
    fields = line.__dict__["fields"]
    assert (fields["model"], fields["latency_ms"]) == (HAIKU, LATENCY)
    assert (fields["input_tokens"], fields["output_tokens"]) == (159_421, 8_296)


#: Where a request names a model beside its own.
PLACES: list[dict[str, Any]] = [
    {"tools": [ADVISOR]},
    {"fallbacks": [{"model": OPUS}]},
    {"fallbacks": [{"model": HAIKU}, {"model": OPUS}]},
    {
        "messages": [
            {"content": [{"tool": {"definition": ADVISOR}, "type": "tool_addition"}]},
        ]
    },
]
DEFAULT = {"fallbacks": "default"}


async def let_in(rig: Rig, listener: Listener, members: dict[str, Any]) -> bytes:
    """The request is served; what went upstream."""
    sent = body(**members)
    rig.upstream(listener.port)
    serving = rig.serve(rig.caller(sent))
    peer = await listener.accept()
    await peer.request()
    arrived = await peer.exactly(len(sent))
    peer.send(answer(b"{}"))
    await soon(serving)
    return arrived


async def restrict(rig: Rig, *globs: str) -> None:
    rig._key = replace(rig._key, models=globs)
    await rig.storage.update_key(rig._key, at=NOW)


@pytest.mark.parametrize("operation", [MESSAGES, COUNTING])
@pytest.mark.parametrize("members", [*PLACES, DEFAULT])
async def test_a_key_does_not_get_another_model_by_a_side_door(
    rig: Rig, listener: Listener, members: dict[str, Any], operation: Any
) -> None:
    await restrict(rig, "claude-haiku-*")
    rig.upstream(listener.port)
    error = await denied(rig.serve(rig.caller(body(**members)), operation))
    assert error.code is Code.MODEL_NOT_FOUND
    assert listener.accept_now() is None


@pytest.mark.parametrize("globs", [(), ("claude-haiku-*", "claude-opus-*"), ("**",)])
@pytest.mark.parametrize("members", PLACES)
async def test_a_key_gets_the_models_that_it_may_use(
    rig: Rig, listener: Listener, members: dict[str, Any], globs: tuple[str, ...]
) -> None:
    await restrict(rig, *globs)
    assert await let_in(rig, listener, members) == body(**members)


@pytest.mark.parametrize("globs", [(), ("*",), ("claude-haiku-*", "**")])
async def test_a_choice_of_the_provider_needs_every_model(
    rig: Rig, listener: Listener, globs: tuple[str, ...]
) -> None:
    await restrict(rig, *globs)
    assert await let_in(rig, listener, DEFAULT) == body(**DEFAULT)


async def test_models_beginning_with_anything_are_not_every_model(
    rig: Rig, listener: Listener
) -> None:
    await restrict(rig, "claude-*")
    rig.upstream(listener.port)
    error = await denied(rig.serve(rig.caller(body(**DEFAULT))))
    assert error.code is Code.MODEL_NOT_FOUND


async def test_an_upstream_that_does_not_serve_all_models_is_not_asked(
    rig: Rig, listener: Listener
) -> None:
    rig.upstream(listener.port)
    error = await denied(rig.serve(rig.caller(body(tools=[ADVISOR | {"model": "gpt-5"}]))))
    assert error.code is Code.MODEL_NOT_FOUND


@pytest.mark.parametrize("globs", [(), ("claude-haiku-*",)])
async def test_an_alias_of_another_model_is_refused_with_the_remedy(
    rig: Rig, listener: Listener, globs: tuple[str, ...]
) -> None:
    await restrict(rig, *globs)
    rig.upstream(listener.port)
    error = await denied(rig.serve(rig.caller(body(fallbacks=[{"model": "known"}]))))
    assert error.code is Code.INVALID_REQUEST
    assert "full name" in error.message


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"tools": [ADVISOR | {"model": "claude-unpriced"}]}, "no price is known"),
        ({"fallbacks": [{"model": OPUS}, {"model": "claude-unpriced"}]}, "no price is known"),
        (DEFAULT, "name them"),
    ],
)
async def test_a_limit_in_dollars_needs_a_price_for_each_model(
    rig: Rig, listener: Listener, members: dict[str, Any], says: str
) -> None:
    await rig.limit("1 usd/total")
    rig.upstream(listener.port)
    error = await denied(rig.serve(rig.caller(body(**members))))
    assert error.code is Code.INVALID_REQUEST
    assert says in error.message


async def test_the_dearest_model_is_reserved_for(rig: Rig, listener: Listener) -> None:
    await rig.limit("1 usd/total")
    rig.upstream(listener.port)
    cases: list[dict[str, Any]] = [{}, {"tools": [ADVISOR]}, {"fallbacks": [{"model": OPUS}]}]
    reserved = []
    for members in cases:
        padding = "x" * (200 - len(json.dumps(members)))
        serving = rig.serve(rig.caller(body(metadata={"user_id": padding}, **members)))
        peer = await rig.arrived(listener)
        (limit,) = rig.admission.statuses(rig.key.id)
        reserved.append(limit.reserved)
        peer.send(answer(b"{}", b"connection: close", status=400))
        await soon(serving)
    haiku, advised, fallen_back = reserved
    assert 4 * haiku < advised < 6 * haiku
    assert abs(fallen_back - advised) <= 30  # one token more or less


async def test_no_output_is_reserved_where_none_is_asked_for(rig: Rig, listener: Listener) -> None:
    await rig.limit("5000 output_tokens/total")
    rig.upstream(listener.port)
    for max_tokens, reserved in ((0, 0), (None, 4_096)):
        members = {} if max_tokens is None else {"max_tokens": max_tokens}
        sent = json.dumps({"model": HAIKU, **members}).encode()
        serving = rig.serve(rig.caller(sent))
        peer = await rig.arrived(listener)
        (limit,) = rig.admission.statuses(rig.key.id)
        # The one without teaches nothing of what others use.
        assert limit.reserved == reserved
        peer.send(answer(b'{"usage":{"input_tokens":9,"output_tokens":0}}'))
        await soon(serving)
        peer.close()


async def test_counting_takes_a_bound_of_nothing(rig: Rig, listener: Listener) -> None:
    rig.upstream(listener.port)
    sent = json.dumps({"model": HAIKU, "max_tokens": 0}).encode()
    serving = rig.serve(rig.caller(sent), COUNTING)
    (await rig.arrived(listener)).send(answer(b'{"input_tokens":5}'))
    await soon(serving)


async def test_an_advisor_in_the_providers_answer_is_counted_at_its_own_price(
    rig: Rig, listener: Listener
) -> None:
    await rig.limit("99 usd/total", "1M tokens/total")
    usage = {
        "input_tokens": 2,
        "output_tokens": 491,
        "iterations": [
            {"type": "message", "input_tokens": 2, "output_tokens": 491},
            {
                "type": "advisor_message",
                "model": OPUS,
                "input_tokens": 159_419,
                "output_tokens": 7_805,
            },
        ],
    }
    rig.upstream(listener.port)
    serving = rig.serve(rig.caller(body(tools=[ADVISOR])))
    message = {"type": "message", "model": HAIKU, "content": [], "usage": usage}
    (await rig.arrived(listener)).send(answer(json.dumps(message).encode()))
    await soon(serving)
    record = await rig.record()
    assert (record.model, record.tokens) == (HAIKU, OWN)
    assert record.parts == (UsagePart(OPUS, ADVICE),)
    used = [status.used for status in rig.admission.statuses(rig.key.id)]
    assert used == [cost((HAIKU, OWN), (OPUS, ADVICE)), OWN.total + ADVICE.total]


async def test_a_fallback_in_the_providers_answer_is_the_model_of_the_record(
    rig: Rig, listener: Listener
) -> None:
    await rig.limit("99 usd/total")
    usage = {
        "input_tokens": 2,
        "output_tokens": 491,
        "iterations": [
            {"type": "message", "model": HAIKU, "input_tokens": 1_000, "output_tokens": 3},
            {"type": "fallback_message", "model": OPUS, "input_tokens": 2, "output_tokens": 491},
        ],
    }
    rig.upstream(listener.port)
    serving = rig.serve(rig.caller(body(fallbacks=[{"model": OPUS}])))
    message = {"type": "message", "model": OPUS, "content": [], "usage": usage}
    (await rig.arrived(listener)).send(answer(json.dumps(message).encode()))
    await soon(serving)
    record = await rig.record()
    assert (record.model, record.tokens) == (OPUS, OWN)
    assert record.parts == (UsagePart(HAIKU, TokenCounts(1_000, 3)),)
    (limit,) = rig.admission.statuses(rig.key.id)
    assert limit.used == cost((OPUS, OWN), (HAIKU, TokenCounts(1_000, 3)))
