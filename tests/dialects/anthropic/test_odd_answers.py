"""Answers that a strict reader gives up on, or that come under another name, are metered.

What belongs to the kind of *an answer that the meter can't read*: whatever a body or an event may
hold beside its usage that is no JSON (``test_documents`` has it all). To that of *a stream under
another name*: a stream that is declared to be text, JSON or nothing; a document that is declared to
be a stream; a byte order mark, blank lines, a comment or an id at the beginning.
"""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opuslive.dialects.anthropic.meter import BodyMeter, answer_meter
from opuslive.dialects.sse import is_stream
from opuslive.usage import TokenCounts
from tests.support.anthropic_streams import (
    STOP,
    TRANSCRIPT,
    TRANSCRIPT_COUNTS,
    Case,
    cuts,
    delta,
    event,
    finished,
    metered,
    streams,
    text,
)
from tests.support.event_streams import pieces
from tests.support.odd_json import ODD

BODY = b'{"type":"message","content":[{"type":"text","text":"hi"}],"usage":%b}'
USAGE = b'{"input_tokens":15.0,"odd":%b,"output_tokens":7}'


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_the_usage_of_a_body_is_found_whatever_else_the_body_holds(odd: bytes) -> None:
    usage = USAGE % odd
    for body in (
        b'{"content":[{"type":"tool_use","input":{"x":' + odd + b'}}],"usage":' + usage + b"}",
        b'{"usage":' + usage + b',"content":' + odd + b"}",
        b'\xef\xbb\xbf{"a":' + odd + b',"usage":' + usage + b"} trailing",
    ):
        meter = BodyMeter()
        meter.feed(body)
        assert meter.end()
        assert meter.counts() == TokenCounts(15, 7)
        assert (meter.input_told, meter.output_told) == (True, True)


@pytest.mark.parametrize("odd", [value for value in ODD.values() if b"\n" not in value])
def test_the_usage_of_a_stream_is_found_whatever_else_its_events_hold(odd: bytes) -> None:
    usage = USAGE % odd
    first = b'{"type":"message_start","odd":%b,"message":{"odd":%b,"usage":%b}}' % (odd, odd, usage)
    last = b'{"type":"message_delta","odd":%b,"usage":{"output_tokens":63.0}}' % odd
    stop = b'{"odd":%b,"type":"message_stop"}' % odd
    wire = b"".join(b"data: %b\n\n" % data for data in (first, last, stop))
    for meter in (metered(wire), metered(*pieces(wire, range(0, len(wire), 997)))):
        assert finished(meter)
        assert meter.counts() == TokenCounts(15, 63)
        assert meter.output_told


@pytest.mark.parametrize(
    "usage",
    [b"null", b"{}", b"[5]", b'{"input_tokens":"5"}', b'{"input_tokens":0,"output_tokens":0}'],
)
def test_an_answer_that_does_not_tell_its_usage_says_so_and_is_estimated(usage: bytes) -> None:
    body = BODY % usage + b" " * 4_000
    meter = BodyMeter()
    meter.feed(body)
    meter.end()
    assert (meter.input_told, meter.output_told) == (False, False)
    assert meter.counts() == TokenCounts(output=(len(body) - 400) // 4)
    wire = b'data: {"type":"message_start","message":{"usage":%b}}\n\n' % usage
    wire += event(text("x" * 400))
    wire += b'data: {"type":"message_delta","usage":%b}\n\n' % usage + event(STOP)
    stream = metered(wire)
    assert (stream.input_told, stream.output_told) == (False, False)
    assert stream.counts() == TokenCounts(output=100)


@pytest.mark.parametrize("usage", [b'{"input_tokens":0,"output_tokens":1}', b'{"input_tokens":0}'])
def test_an_input_of_zero_is_believed_at_the_end_only(usage: bytes) -> None:
    """Servers that count in the end begin with it."""
    begun = b'data: {"type":"message_start","message":{"usage":%b}}\n\n' % usage
    assert not metered(begun).input_told
    ended = metered(begun, event(delta(output_tokens=7)), event(STOP))
    assert (ended.input_told, ended.output_told) == (True, True)
    counted = metered(begun, event(delta(input_tokens=9, output_tokens=7)), event(STOP))
    assert (counted.input_told, counted.counts()) == (True, TokenCounts(9, 7))


# Under another name.


@given(streams(), cuts, st.booleans())
def test_a_stream_is_metered_and_held_under_any_name(
    case: Case, where: list[int], declared: bool
) -> None:
    body, terminal, counts = case
    data = body + terminal
    for chunks in (pieces(data, where), pieces(data, range(len(data))), [data]):
        meter = answer_meter(stream=declared)
        seen = b"".join(meter.feed(chunk) for chunk in chunks)
        assert meter.finished
        assert b"message_stop" not in seen[len(body) :].replace(b": event: message_stop", b"")
        assert seen + meter.release() == data
        assert meter.end()
        assert meter.counts() == counts


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize(
    "before", [b"", b"\xef\xbb\xbf", b"\n \r\n", b"\xef\xbb\xbf\n" + b" " * 900]
)
def test_the_first_bytes_say_what_an_answer_is(before: bytes, declared: bool) -> None:
    document = before + BODY % b'{"input_tokens":5,"output_tokens":7}'
    for data, counts in (
        (document, TokenCounts(5, 7)),
        (before.replace(b" ", b"") + TRANSCRIPT, TRANSCRIPT_COUNTS),
        (before.replace(b" ", b"") + b": hello\n\n" + TRANSCRIPT, TRANSCRIPT_COUNTS),
        (before.replace(b" ", b"") + b"id:7\n" + TRANSCRIPT, TRANSCRIPT_COUNTS),
    ):
        for size in (1, 2, 5, len(data)):
            meter = answer_meter(stream=declared)
            chunks = [data[at : at + size] for at in range(0, len(data), size)]
            seen = b"".join(meter.feed(chunk) for chunk in chunks)
            assert meter.end()
            assert meter.counts() == counts
            assert seen + meter.release() == data


@pytest.mark.parametrize(
    "data", [b"", b"\n\n", b"eve", b"oops", b"ouch: 1020", b"identity", b'"x"']
)
def test_what_is_neither_is_what_it_is_declared_to_be(data: bytes) -> None:
    for declared, size in itertools.product((True, False), (1, 100)):
        meter = answer_meter(stream=declared)
        for at in range(0, len(data), size):
            assert meter.feed(data[at : at + size]) == data[at : at + size]
        assert meter.end() == (not declared)
        assert (meter.input_told, meter.output_told) == (False, False)


BEGINNINGS = [b"\xef\xbb\xbf", b"\n", b" ", b"event:", b"data:", b":", b"{", b"x"]


@given(st.lists(st.sampled_from(BEGINNINGS)))
def test_more_bytes_change_no_answer(parts: list[bytes]) -> None:
    data = b"".join(parts) * 100
    for declared in (True, False):
        answers = [is_stream(data[:end], declared=declared) for end in range(min(len(data), 1_500))]
        first = next((answer for answer in answers if answer is not None), None)
        settled = answers.index(first) if first is not None else len(answers)
        assert set(answers[settled:]) <= {first}
        assert is_stream(b" " * 1_024, declared=declared) is declared


def test_a_delta_costs_no_detour() -> None:
    """Once the kind of the answer is known, chunks go straight to its meter."""
    meter = answer_meter(stream=True)
    meter.feed(TRANSCRIPT[:30])
    assert meter.feed == meter._meter.feed
