"""Answers in one piece, and which of the two an answer is."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from opuslive.dialects import RequestMembers
from opuslive.dialects.openai.meter import MAX_KEPT, ErrorMeter, answer_meter
from opuslive.dialects.sniffing import SniffingMeter
from opuslive.usage import TokenCounts
from tests.support.event_streams import pieces
from tests.support.openai_streams import (
    ASKING,
    DONE,
    HIDING,
    Passage,
    chunk,
    content,
    event,
    joined,
    response_usage,
    usage,
)

EMBEDDING = RequestMembers("e", 0)


def metered(body: bytes, request: RequestMembers = ASKING, *cuts: int) -> SniffingMeter:
    meter = answer_meter(request, stream=False)
    for piece in pieces(body, cuts):
        assert meter.feed(piece) == piece
    assert meter.end()
    return meter


def encoded(**members: Any) -> bytes:
    return json.dumps(members).encode()


@pytest.mark.parametrize(
    "body",
    [
        encoded(choices=[{"message": {"content": '"usage":{"prompt_tokens":0}'}}], usage=usage()),
        encoded(usage=usage(), object="response", output=[{"usage": {"output_tokens": 0}}]),
        encoded(object="response", usage=response_usage()),
        b"\n" + json.dumps({"usage": usage()}, indent=2).encode() + b"\r\n",
        b'{"a":"\\ud800","usage":{"prompt_tokens":11,"completion_tokens":7}}',
    ],
)
def test_a_body_tells_its_usage_at_its_top_level(body: bytes) -> None:
    for cuts in ((), (2, 9), tuple(range(2, len(body)))):
        meter = metered(body, ASKING, *cuts)
        assert (meter.input_told, meter.output_told) == (True, True)
        assert meter.counts() == TokenCounts(11, 7)
        assert meter.held == 0
        assert meter.release() == b""


def test_embeddings_have_no_output() -> None:
    vectors = [{"embedding": "AAAA" * 4000}]
    meter = metered(
        encoded(data=vectors, usage={"prompt_tokens": 11, "total_tokens": 11}), EMBEDDING
    )
    assert (meter.input_told, meter.output_told) == (True, True)
    assert meter.counts() == TokenCounts(11)
    meter = metered(encoded(data=vectors), EMBEDDING)
    assert (meter.input_told, meter.output_told) == (False, False)
    assert meter.counts() == TokenCounts()


@pytest.mark.parametrize("told", [b"", b',"usage":null', b',"usage":{"prompt_tokens":0}'])
def test_a_body_that_tells_no_usage_is_estimated_by_its_size(told: bytes) -> None:
    body = b'{"text":"%b"%b}' % (b"x" * 4000, told)
    meter = metered(body)
    assert (meter.input_told, meter.output_told) == (False, False)
    assert meter.counts() == TokenCounts(0, (len(body) - 400) // 4)


def test_a_long_body_is_metered_and_not_kept() -> None:
    vectors = b'{"data":[%b"usage"],"usage":{"prompt_tokens":11},"model":"e"}' % (
        b"0.5," * 4_000_000
    )
    meter = answer_meter(EMBEDDING, stream=False)
    chunks = pieces(vectors, range(2, len(vectors), 60_000))
    tracemalloc.start()
    for piece in chunks:
        meter.feed(piece)
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert kept < 2 * MAX_KEPT
    assert meter.end()
    assert (meter.output_told, meter.counts()) == (True, TokenCounts(11))


def test_a_body_that_broke_off_behind_its_usage_told_it() -> None:
    meter = answer_meter(ASKING, stream=False)
    meter.feed(encoded(choices=[], usage=usage()))
    assert meter.input_told
    assert not meter.output_told
    assert meter.ends_soon
    assert not meter.unseen_output
    assert meter.counts() == TokenCounts(11, 7)


def test_the_model_that_took_the_place_of_another_is_named() -> None:
    request = RequestMembers("gpt", other_models=("claude",))
    for model, named in (("gpt", None), ("claude", "claude"), ("anything", None)):
        assert metered(encoded(model=model, usage=usage()), request).model == named


STREAM = joined([content("a", usage=None), chunk(usage=usage())]) + DONE
SHOWN = joined([content("a")]) + DONE


@pytest.mark.parametrize("declared", [True, False])
def test_the_first_bytes_say_whether_it_is_a_stream(declared: bool) -> None:
    for cuts in ((), (1,), (2, 3), range(len(STREAM))):
        passage = Passage(HIDING, stream=declared).feed(*pieces(STREAM, cuts))
        assert passage.meter.finished
        assert passage.meter.counts() == TokenCounts(11, 7)
        assert passage.all() == SHOWN
    body = encoded(usage=usage())
    passage = Passage(HIDING, stream=declared).feed(*pieces(body, (0, 1, 2)))
    assert passage.meter.end()
    assert passage.meter.counts() == TokenCounts(11, 7)
    assert passage.all() == body


@pytest.mark.parametrize("beginning", [b"", b"d", b"\n", b"data"])
@pytest.mark.parametrize("declared", [True, False])
def test_an_answer_that_ends_before_it_tells_is_what_it_was_declared(
    beginning: bytes, declared: bool
) -> None:
    passage = Passage(stream=declared).feed(*pieces(beginning, (1, 2)))
    assert passage.meter.end() is not declared
    assert passage.all() == beginning


def test_what_waits_at_the_beginning_is_held() -> None:
    passage = Passage().feed(b"dat")
    assert (passage.seen, passage.meter.held) == (b"", 3)
    assert passage.feed(event("a")[3:]).seen == event("a")


def test_an_error_costs_what_it_tells() -> None:
    for body, tokens in (
        (encoded(error={"message": "x" * 900}), TokenCounts()),
        (encoded(error={}, usage=usage()), TokenCounts(11, 7)),
        (b"<html>" + b"x" * 900, TokenCounts()),
    ):
        meter = ErrorMeter()
        assert meter.feed(body) == body
        assert meter.end()
        assert (meter.input_told, meter.output_told) == (True, True)
        assert not meter.ends_soon
        assert meter.counts() == tokens
