"""What usage means: counts never fall, and each iteration counts once, for its own model.

What belongs to the kind of *zeros that erase*: a zero, a null or a member left out, of the input,
the cache and its division by lifetime, the output; in a later event, or under a name that stands
twice. To that of *written otherwise*: ``15.0``, ``1.5e1``; not strings, fractions, infinities.
To that of *tokens of a second model*: iterations that a tool or a fallback makes, with and without
a model of their own, in a body and in a stream, in the end and at each event.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from opuslive.dialects.anthropic.meter import BodyMeter
from opuslive.dialects.anthropic.reported import MAX_OTHERS
from opuslive.dialects.documents import MAX_COUNT
from opuslive.usage import ModelTokens, TokenCounts
from tests.support.anthropic_streams import STOP, delta, event, metered, start, stream, text

SONNET, OPUS, FABLE = "claude-sonnet-5", "claude-opus-4-8", "claude-fable-5"


def body_of(usage: dict[str, Any], model: str = SONNET) -> BodyMeter:
    meter = BodyMeter()
    meter.feed(json.dumps({"type": "message", "model": model, "usage": usage}).encode())
    assert meter.end()
    return meter


def iteration(kind: str | None, model: str | None, *counts: int) -> dict[str, Any]:
    """One with its input, output, cache read and cache write."""
    names = ("input_tokens", "output_tokens", "cache_read_input_tokens")
    entry: dict[str, Any] = dict(zip((*names, "cache_creation_input_tokens"), counts, strict=False))
    return {**entry, **({"type": kind} if kind else {}), **({"model": model} if model else {})}


@pytest.mark.parametrize(
    ("before", "after", "counts"),
    [
        (
            {"input_tokens": 15, "cache_read_input_tokens": 100, "output_tokens": 1},
            {"input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 40},
            TokenCounts(15, 40, 100),
        ),
        (
            {"input_tokens": 15, "cache_creation_input_tokens": 30, "output_tokens": 1},
            {"input_tokens": 2, "cache_creation_input_tokens": 0, "output_tokens": 0},
            TokenCounts(15, 1, cache_write_5m=30),
        ),
        (
            {
                "cache_creation_input_tokens": 30,
                "cache_creation": {
                    "ephemeral_5m_input_tokens": 10,
                    "ephemeral_1h_input_tokens": 20,
                },
            },
            {
                "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
                "output_tokens": 4,
            },
            TokenCounts(output=4, cache_write_5m=10, cache_write_1h=20),
        ),
        (
            {"cache_creation": {"ephemeral_1h_input_tokens": 20}},
            {"cache_creation": {"ephemeral_5m_input_tokens": 3}, "output_tokens": 4},
            TokenCounts(output=4, cache_write_5m=3, cache_write_1h=20),
        ),
        (
            {"input_tokens": 5, "output_tokens": 9},
            {"input_tokens": None, "output_tokens": 3},
            TokenCounts(5, 9),
        ),
    ],
)
def test_no_count_falls(before: dict[str, Any], after: dict[str, Any], counts: TokenCounts) -> None:
    meter = metered(stream(start(**before), delta(**after), STOP))
    assert meter.counts() == counts
    assert (
        metered(stream(start(**before), delta(**after), delta(**before), STOP)).counts() == counts
    )


@pytest.mark.parametrize(
    "usage",
    [
        b'{"input_tokens":5,"output_tokens":9,"output_tokens":0}',
        b'{"output_tokens":0,"input_tokens":0,"output_tokens":9,"input_tokens":5}',
        b'{"input_tokens":5},"usage":{"output_tokens":9}',
        b'{"input_tokens":5,"output_tokens":9},"usage":{"input_tokens":0,"output_tokens":0}',
        b'{"input_tokens":5,"output_tokens":9},"usage":null',
    ],
)
def test_the_larger_of_two_counts_of_one_name_counts(usage: bytes) -> None:
    meter = BodyMeter()
    meter.feed(b'{"content":[],"usage":%b}' % usage)
    meter.end()
    assert meter.counts() == TokenCounts(5, 9)


@pytest.mark.parametrize(
    ("number", "count"),
    [
        (b"15", 15),
        (b"15.0", 15),
        (b"15.000", 15),
        (b"1.5e1", 15),
        (b"150E-1", 15),
        (b"0.0", 0),
        (b"-0.0", 0),
        (b"1" + b"0" * 30, MAX_COUNT),
        (b"15.5", None),
        (b"-15.0", None),
        (b'"15"', None),
        (b"true", None),
        (b"NaN", None),
        (b"Infinity", None),
        (b"1e400", None),
        (b"1e30", None),
        (b"9" * 5_000, None),
        (b"15x", None),
    ],
)
def test_a_whole_number_is_a_count_however_it_is_written(number: bytes, count: int | None) -> None:
    meter = BodyMeter()
    meter.feed(b'{"usage":{"input_tokens":7,"output_tokens":%b}}' % number)
    meter.end()
    assert meter.counts().input == 7
    if count is not None:
        assert meter.counts().output == count
    assert meter.output_told == (count is not None)


# The second models.

ADVICE = iteration("advisor_message", OPUS, 159_419, 7_805)
DECLINED = iteration("message", FABLE, 2, 578, 72_769, 10_421)
ANSWERED = iteration("fallback_message", OPUS, 2, 13_658, 79_214, 0)
DECLINED_TOKENS = ModelTokens(FABLE, TokenCounts(2, 578, 72_769, 10_421))


@pytest.mark.parametrize(
    ("iterations", "counts", "parts"),
    [
        # The turns of the answering model are in the sums.
        ([iteration("message", SONNET, 1, 200), iteration("message", None, 1, 291)], (2, 491), []),
        # An advisor is not.
        (
            [iteration("message", SONNET, 2, 491), ADVICE],
            (2, 491),
            [ModelTokens(OPUS, TokenCounts(159_419, 7_805))],
        ),
        (
            [ADVICE, ADVICE, iteration("advisor_message", FABLE, 3, 4)],
            (2, 491),
            [
                ModelTokens(OPUS, TokenCounts(318_838, 15_610)),
                ModelTokens(FABLE, TokenCounts(3, 4)),
            ],
        ),
        # One that is the answering model, or that names none, counts for the answering model.
        ([iteration("advisor_message", SONNET, 10, 20)], (12, 511), []),
        ([iteration("advisor_message", None, 10, 20)], (12, 511), []),
        ([iteration("compaction", None, 10, 20)], (12, 511), []),
        # Nobody knows what comes: no other model's tokens are in the sums.
        ([iteration("future", OPUS, 3, 4)], (2, 491), [ModelTokens(OPUS, TokenCounts(3, 4))]),
        ([iteration("future", SONNET, 3, 4), iteration("future", None, 3, 4)], (2, 491), []),
        ([iteration(None, OPUS, 3, 4)], (2, 491), []),
        ([iteration("advisor_message", OPUS)], (2, 491), []),
    ],
)
def test_what_the_top_level_does_not_contain_is_added_for_its_own_model(
    iterations: list[dict[str, Any]], counts: tuple[int, int], parts: list[ModelTokens]
) -> None:
    usage = {"input_tokens": 2, "output_tokens": 491, "iterations": iterations}
    message = start(input_tokens=2, output_tokens=1)
    message["message"]["model"] = SONNET
    for meter in (body_of(usage), metered(stream(message, delta(**usage), STOP))):
        assert meter.counts() == TokenCounts(*counts)
        assert meter.parts() == parts
        assert meter.model is None


def test_a_list_of_iterations_that_grows_counts_once() -> None:
    more = {"output_tokens": 9, "iterations": [ADVICE, ADVICE]}
    meter = metered(
        stream(
            start(input_tokens=2, iterations=[ADVICE]),
            delta(**more),
            delta(iterations=[]),
            delta(iterations=None),
            STOP,
        )
    )
    assert meter.parts() == [ModelTokens(OPUS, TokenCounts(318_838, 15_610))]


@pytest.mark.parametrize(
    "top",
    [
        {"input_tokens": 2, "output_tokens": 13_658, "cache_read_input_tokens": 79_214},
        {"input_tokens": 0, "output_tokens": 0, "cache_read_input_tokens": 0},
        {"output_tokens": 13_658},
    ],
    ids=["whole", "zeros", "output only"],
)
def test_after_a_fallback_each_model_counts_what_it_used(top: dict[str, Any]) -> None:
    """The top level is the answering model's alone; ``message_start`` told of the other."""
    usage = {**top, "iterations": [DECLINED, ANSWERED]}
    begin = start(
        input_tokens=2,
        cache_read_input_tokens=72_769,
        cache_creation_input_tokens=10_421,
        output_tokens=1,
    )
    begin["message"]["model"] = FABLE
    meters = (
        body_of(usage, OPUS),
        metered(stream(begin, delta(**usage), STOP)),
        metered(stream(begin, text("x" * 400), HOP, text("x"), delta(**usage), STOP)),
    )
    for meter in meters:
        assert meter.counts() == TokenCounts(2, 13_658, 79_214)
        assert meter.parts() == [DECLINED_TOKENS]
        assert meter.model == OPUS
        assert meter.output_told


def test_turns_of_the_answering_model_are_in_its_sums_after_a_fallback_too() -> None:
    """And a model may ask another for advice, and be compacted."""
    meter = body_of(
        {
            "input_tokens": 30,
            "output_tokens": 300,
            "iterations": [
                iteration("message", SONNET, 5, 6),
                DECLINED,
                iteration("message", OPUS, 10, 100),
                iteration("fallback_message", OPUS, 20, 200),
                iteration("advisor_message", FABLE, 1, 1),
                iteration("compaction", None, 7, 8),
            ],
        }
    )
    assert meter.counts() == TokenCounts(37, 308)
    assert meter.parts() == [
        ModelTokens(SONNET, TokenCounts(5, 6)),
        ModelTokens(FABLE, TokenCounts(3, 579, 72_769, 10_421)),
    ]
    assert meter.model == OPUS


def test_where_every_model_declines_each_counts_what_it_used() -> None:
    meter = body_of(
        {
            "input_tokens": 2,
            "output_tokens": 3,
            "iterations": [DECLINED, iteration("message", OPUS, 2, 3)],
        }
    )
    assert (meter.counts(), meter.parts()) == (TokenCounts(2, 3), [DECLINED_TOKENS])
    assert meter.model == OPUS


HOP = {
    "type": "content_block_start",
    "index": 1,
    "content_block": {"type": "fallback", "from": {"model": FABLE}, "to": {"model": OPUS}},
}


def test_a_stream_cut_after_a_fallback_counts_both_models() -> None:
    """The second one has told nothing yet: neither its input nor its output."""
    before = stream(start(input_tokens=2, cache_read_input_tokens=9), text("x" * 400), HOP)
    meter = metered(before, event(text("x" * 4_000)))
    assert meter.parts() == [ModelTokens(FABLE, TokenCounts(2, 100, 9))]
    assert (meter.model, meter.counts(), meter.input_told) == (OPUS, TokenCounts(0, 1_000), False)


def test_no_content_makes_a_fallback() -> None:
    tool = {"type": "tool_use", "input": {"type": "fallback", "to": {"model": OPUS}}}
    block = {"type": "content_block_start", "index": 0, "content_block": tool}
    meter = metered(
        stream(start(input_tokens=5), block, text(json.dumps(HOP)), delta(output_tokens=2), STOP)
    )
    assert (meter.counts(), meter.parts(), meter.model) == (TokenCounts(5, 2), [], None)


@pytest.mark.parametrize("odd", [7, "x", None, [], [7, None, "x", []], {"type": "advisor_message"}])
def test_iterations_of_the_wrong_type_are_ignored(odd: object) -> None:
    meter = body_of({"input_tokens": 5, "output_tokens": 6, "iterations": odd})
    assert (meter.counts(), meter.parts(), meter.model) == (TokenCounts(5, 6), [], None)


MANY = 10 * MAX_OTHERS


def test_iterations_of_too_many_models_are_counted_all_the_same() -> None:
    """In one report, and in several that name other models each."""
    advice = [iteration("advisor_message", f"claude-test-{n}", 1, 2) for n in range(MANY)]
    at_once = body_of({"input_tokens": 5, "output_tokens": 7, "iterations": advice})
    assert len(at_once.parts()) <= MAX_OTHERS
    tokens = [at_once.counts(), *(part.tokens for part in at_once.parts())]
    assert sum(each.input for each in tokens) == 5 + MANY
    assert sum(each.output for each in tokens) == 7 + 2 * MANY
    deltas = [delta(output_tokens=n + 1, iterations=[each]) for n, each in enumerate(advice)]
    one_by_one = metered(stream(start(input_tokens=5), *deltas, STOP))
    assert len(one_by_one.parts()) <= MAX_OTHERS
    assert one_by_one.counts().input > 5


def test_fallbacks_without_end_are_counted_and_cost_a_bounded_memory() -> None:
    events = [start(input_tokens=5)]
    for number in range(MANY):
        hop = {"from": {"model": f"claude-test-{number}"}, "to": {"model": SONNET}}
        block = {"type": "fallback", **hop}
        events += [
            {"type": "content_block_start", "index": 0, "content_block": block},
            delta(input_tokens=3, output_tokens=2),
        ]
    meter = metered(stream(*events, STOP))
    assert len(meter.parts()) <= MAX_OTHERS
    tokens = [meter.counts(), *(part.tokens for part in meter.parts())]
    assert sum(each.input for each in tokens) == 5 + 3 * MANY
    assert sum(each.output for each in tokens) >= 2 * MANY
