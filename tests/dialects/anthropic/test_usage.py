from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from opuslive.dialects.anthropic.meter import (
    MAX_KEPT,
    MAX_TOLD,
    BodyMeter,
)
from opuslive.dialects.anthropic.relayed import BYTES_PER_TOKEN
from opuslive.dialects.documents import MAX_COUNT
from opuslive.usage import TokenCounts
from tests.support.anthropic_streams import (
    BLOCK_START,
    ERROR,
    PING,
    STOP,
    TRANSCRIPT,
    TRANSCRIPT_COUNTS,
    delta,
    event,
    finished,
    metered,
    start,
    stream,
    text,
    tool,
)
from tests.support.event_streams import pieces


def test_the_usage_of_a_stream_is_as_documented() -> None:
    meter = metered(TRANSCRIPT)
    assert meter.counts() == TRANSCRIPT_COUNTS
    assert finished(meter)
    assert not meter.failed
    assert meter.end()


@pytest.mark.parametrize(
    ("usages", "counts"),
    [
        # Cumulative: what is named replaces less, what is null or missing stays.
        ([{"input_tokens": 5, "output_tokens": 1}, {"output_tokens": 9}], TokenCounts(5, 9)),
        ([{"input_tokens": 5}, {"output_tokens": 3}, {"output_tokens": 9}], TokenCounts(5, 9)),
        ([{"input_tokens": 5}, {"input_tokens": 7, "output_tokens": 9}], TokenCounts(7, 9)),
        ([{"input_tokens": 5}, {"input_tokens": None, "output_tokens": 9}], TokenCounts(5, 9)),
        ([{"input_tokens": 5}, {"output_tokens": 9}, {"output_tokens": None}], TokenCounts(5, 9)),
        ([{"input_tokens": 5}, {"output_tokens": 0}], TokenCounts(5, 0)),
        # The cache: the division by lifetime wins; the rest of the sum was for five minutes.
        (
            [{"cache_read_input_tokens": 4, "cache_creation_input_tokens": 8}],
            TokenCounts(cache_read=4, cache_write_5m=8),
        ),
        (
            [
                {
                    "cache_creation_input_tokens": 8,
                    "cache_creation": {"ephemeral_1h_input_tokens": 5},
                }
            ],
            TokenCounts(cache_write_5m=3, cache_write_1h=5),
        ),
        (
            [
                {
                    "cache_creation_input_tokens": 1,
                    "cache_creation": {
                        "ephemeral_5m_input_tokens": 2,
                        "ephemeral_1h_input_tokens": 5,
                    },
                }
            ],
            TokenCounts(cache_write_5m=2, cache_write_1h=5),
        ),
        (
            [{"cache_creation": {"ephemeral_1h_input_tokens": 5}}, {"cache_creation": None}],
            TokenCounts(cache_write_1h=5),
        ),
        (
            [
                {"cache_creation": {"ephemeral_1h_input_tokens": 5}},
                {"cache_creation_input_tokens": 9},
            ],
            TokenCounts(cache_write_5m=4, cache_write_1h=5),
        ),
        # Compaction comes on top, from the latest list; other iterations are in the sums.
        (
            [
                {"input_tokens": 10, "iterations": [{"type": "compaction", "input_tokens": 999}]},
                {
                    "output_tokens": 7,
                    "iterations": [
                        {
                            "type": "compaction",
                            "input_tokens": 100,
                            "output_tokens": 20,
                            "cache_read_input_tokens": 3,
                            "cache_creation": {"ephemeral_1h_input_tokens": 2},
                            "cache_creation_input_tokens": 6,
                            "iterations": [{"type": "compaction", "input_tokens": 1}],
                        },
                        {"type": "compaction", "input_tokens": 1000, "output_tokens": None},
                        {"type": "message", "input_tokens": 10, "output_tokens": 7},
                        {"type": "compaction", "input_tokens": "7"},
                        {"type": ["compaction"], "input_tokens": 7},
                        {"input_tokens": 7},
                        7,
                        None,
                    ],
                },
                {"iterations": None},
            ],
            TokenCounts(1110, 27, 3, 4, 2),
        ),
        # Values that are no counts are as good as missing.
        *(
            ([{"input_tokens": 5, "output_tokens": 6}, {"input_tokens": bad}], TokenCounts(5, 6))
            for bad in (-1, True, 7.5, 1e300, "7", "7.0", [7], {"a": 7}, False)
        ),
        ([{"input_tokens": 10**30, "output_tokens": 1}], TokenCounts(MAX_COUNT, 1)),
        (
            [
                {
                    "input_tokens": 2**60,
                    "output_tokens": 1,
                    "iterations": [{"type": "compaction", "input_tokens": 2**60}],
                }
            ],
            TokenCounts(MAX_COUNT, 1),
        ),
    ],
)
def test_usage_is_counted_from_the_events_that_tell_it(
    usages: list[dict[str, Any]], counts: TokenCounts
) -> None:
    events = [start(**usages[0]), *(delta(**usage) for usage in usages[1:]), STOP]
    assert metered(stream(*events)).counts() == counts


@pytest.mark.parametrize("bad", [None, 7, "x", [], [{"output_tokens": 7}], {"usage": {}}])
def test_usage_of_the_wrong_type_is_ignored(bad: object) -> None:
    odd_start = {"type": "message_start", "message": bad}
    odd_usage = {"type": "message_start", "message": {"usage": bad}}
    odd_delta = {"type": "message_delta", "usage": bad}
    odd_division = delta(cache_creation=bad, iterations=bad)
    events = [start(input_tokens=5), odd_start, odd_usage, odd_delta, odd_division, STOP]
    assert metered(stream(*events)).counts() == TokenCounts(5)


@pytest.mark.parametrize(
    "broken",
    [
        b"event: message_delta\ndata: {\n\n",
        b"event: message_delta\n\n",
        b"event: message_delta\ndata:\n\n",
        b"event: message_delta\ndata: []\n\n",
        b'event: message_delta\ndata: "message_delta"\n\n',
        b'event: message_delta\ndata: {"type":"message_delta\xff","usage":{"output_tokens":7}}\n\n',
        b'event: message_delta\ndata: {"type":7,"usage":{"output_tokens":7}}\n\n',
        b'event: message_delta\ndata: {"usage":{"output_tokens":7}}\n\n',
        b'event: message_delta\ndata: {"type":"message_delta","x":' + b"[" * 9999 + b"\n\n",
        b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":'
        + b"9" * 9999
        + b"}}\n\n",
        # The name and the type have to agree.
        b'event: ping\ndata: {"type":"message_delta","usage":{"output_tokens":7}}\n\n',
        b'event: message_delta\ndata: {"type":"ping","usage":{"output_tokens":7}}\n\n',
        b'event: message_delta\ndata: {"type":"message_start","usage":{"output_tokens":7}}\n\n',
        b'event: message_start\ndata: {"type":"message_start","usage":{"output_tokens":7}}\n\n',
        b'event: message_delta\ndata: {"type":"message_delta","x":{"usage":{"output_tokens":7}}}'
        b"\n\n",
        b'event: message_stop\ndata: {"type":"message_delta","usage":{"output_tokens":7}}\n\n',
        b'event: message_stop\ndata: {"type":"error"}\n\n',
        b'event: error\ndata: {"type":"message_stop"}\n\n',
        b'event: message_stop\ndata: {"type":"ping"}\n\n',
        b'event: ping\nevent: message_stop\ndata: {"type":"ping"}\n\n',
        b'Event: message_stop\nxdata: {"type":"message_stop"}\n\n',
        b': data: {"type":"message_stop"}\n\n',
    ],
)
def test_broken_or_contradictory_events_mean_nothing(broken: bytes) -> None:
    before = stream(start(input_tokens=5, output_tokens=1))
    after = stream(delta(output_tokens=9), STOP)
    meter = metered(before, broken)
    assert not finished(meter)
    assert meter.counts() == TokenCounts(5, 1)
    meter.feed(after)
    assert finished(meter)
    assert meter.counts() == TokenCounts(5, 9)


def test_nothing_counts_after_the_end() -> None:
    meter = metered(stream(start(input_tokens=5), delta(output_tokens=9), STOP))
    assert meter.feed(stream(delta(output_tokens=999))) == b""
    assert meter.counts() == TokenCounts(5, 9)
    assert meter.feed(event(text("x" * 400))) == b""
    assert metered(TRANSCRIPT + stream(delta(output_tokens=999))).counts() == TRANSCRIPT_COUNTS


def test_an_event_is_judged_whole_even_if_it_looks_like_a_delta() -> None:
    # Of several names the last one counts; a CR ends a line, too.
    odd = b'event: content_block_delta\ndata: {\rdata: "type":"message_stop"}\revent: message_stop'
    for line_ends in (odd, odd.replace(b"\r", b"\n")):
        assert finished(metered(line_ends + b"\n\n"))
        assert finished(metered(*pieces(line_ends + b"\n\n", range(len(line_ends)))))
    # A chunk may look like a whole delta and yet belong to an event that began before it.
    meter = metered(b'data: {"type":"message_stop"}\n', event(text("x")), b"\n")
    assert not finished(meter)


def test_the_output_of_a_stream_cut_short_is_estimated_from_its_text() -> None:
    words = [event(text("word " * 8)) for _ in range(100)]
    meter = metered(event(start(input_tokens=5, output_tokens=1)), *words)
    assert meter.counts() == TokenCounts(5, 100 * 40 // BYTES_PER_TOKEN)
    meter.feed(event(tool("1234" * 10)))
    assert 1010 <= meter.counts().output <= 1015


def test_framing_and_pings_are_not_taken_for_output() -> None:
    empty = [event(text(""))] * 50 + [event(PING)] * 50 + [event(BLOCK_START)] * 50
    assert metered(event(start(input_tokens=5, output_tokens=1)), *empty).counts() == TokenCounts(
        5, 1
    )


def test_an_error_makes_every_report_a_floor() -> None:
    body = stream(start(input_tokens=5), delta(output_tokens=7), text("x" * 400), ERROR)
    assert metered(body).counts() == TokenCounts(5, 107)


def test_a_reported_output_is_a_floor_of_the_estimate() -> None:
    body = stream(start(input_tokens=5), text("x" * 40), delta(output_tokens=50))
    assert metered(body).counts() == TokenCounts(5, 50)
    assert metered(body, event(text("x" * 4000))).counts().output == 1050


def test_after_the_end_only_reports_count() -> None:
    body = stream(start(input_tokens=5), text("x" * 4000), delta(output_tokens=50), STOP)
    assert metered(body).counts() == TokenCounts(5, 50)


def test_a_stream_that_ended_without_telling_its_output_is_estimated() -> None:
    # What message_start says of the output is a floor of it and nothing more.
    body = stream(start(input_tokens=5, output_tokens=1), text("x" * 4000), STOP)
    assert metered(body).counts() == TokenCounts(5, 1000)


def test_half_a_delta_is_relayed_text_too() -> None:
    assert metered(event(text("x" * 4000))[:-10]).counts().output >= 990


def body_metered(*chunks: bytes) -> BodyMeter:
    meter = BodyMeter()
    for chunk in chunks:
        assert meter.feed(chunk) is chunk
    assert not finished(meter)
    assert not meter.failed
    assert meter.end()
    assert finished(meter)
    assert (meter.held, meter.release()) == (0, b"")
    return meter


@pytest.mark.parametrize(
    ("body", "counts"),
    [
        (
            {
                "type": "message",
                "content": [{"type": "tool_use", "input": {"usage": {"input_tokens": 99}}}],
                "usage": {
                    "input_tokens": 5,
                    "output_tokens": 6,
                    "cache_read_input_tokens": 1,
                    "cache_creation_input_tokens": 9,
                    "cache_creation": {"ephemeral_1h_input_tokens": 7},
                    "iterations": [{"type": "compaction", "output_tokens": 100}],
                },
            },
            TokenCounts(5, 106, 1, 2, 7),
        ),
        ({"input_tokens": 55}, TokenCounts()),
        ({"usage": None}, TokenCounts()),
        ({"usage": [5]}, TokenCounts()),
        ({"message": {"usage": {"input_tokens": 5}}}, TokenCounts()),
        ({"type": "error", "error": {"type": "api_error", "message": "x"}}, TokenCounts()),
        ([{"usage": {"input_tokens": 5}}], TokenCounts()),
    ],
)
def test_a_body_tells_its_usage_at_its_top_level(body: object, counts: TokenCounts) -> None:
    data = json.dumps(body).encode()
    assert body_metered(data).counts() == counts
    assert body_metered(*pieces(data, range(len(data)))).counts() == counts


@pytest.mark.parametrize(
    ("data", "counts"),
    [
        (b"", TokenCounts()),
        (b"oops", TokenCounts()),
        (b"\xff", TokenCounts()),
        (b"[" * 8400, TokenCounts(output=2000)),
        (b'{"usage":{"input_tokens":5}', TokenCounts(5)),
        (b'{"usage":{"input_tokens":5', TokenCounts()),
    ],
)
def test_a_body_that_is_no_json_tells_what_is_whole_in_it(data: bytes, counts: TokenCounts) -> None:
    meter = body_metered(data)
    assert meter.counts() == counts
    assert (meter.input_told, meter.output_told) == (counts.input > 0, False)


def test_a_body_cut_short_is_estimated_from_its_size() -> None:
    meter = BodyMeter()
    meter.feed(b'{"content":[{"type":"text","text":"' + b"x" * 4000)
    assert not finished(meter)
    assert 900 <= meter.counts().output <= 1010
    assert meter.counts().input == 0


LONG = b'{"id":"msg_1","model":"claude-test-1","content":[{"text":"%b"}],"usage":{%b}}'


@pytest.mark.parametrize("length", [MAX_KEPT - 100, MAX_KEPT, MAX_KEPT + 1, 3 * MAX_KEPT, 17 << 20])
@pytest.mark.parametrize("step", [4_096, 65_536, 1 << 30])
def test_the_usage_of_a_body_of_any_length_is_read(length: int, step: int) -> None:
    text = (b'He said \\"usage\\":{\\"input_tokens\\":9} ' * (length // 42 + 1))[:length]
    text = text.rstrip(b"\\")
    meter = BodyMeter()
    data = LONG % (text, b'"input_tokens":5,"output_tokens":7')
    for at in range(0, len(data), step):
        chunk = data[at : at + step]
        assert meter.feed(chunk) is chunk
    assert meter.counts() == TokenCounts(5, 7)
    assert meter.end()
    assert (meter.counts(), meter.input_told, meter.output_told) == (TokenCounts(5, 7), True, True)


def test_iterations_of_a_long_body_are_attributed_as_those_of_a_short_one() -> None:
    """The model may be named behind the usage, and the usage stand twice."""
    usage = {
        "input_tokens": 5,
        "output_tokens": 7,
        "iterations": [
            {"type": "message", "model": "claude-test-1", "input_tokens": 5, "output_tokens": 7},
            {"type": "advisor_message", "model": "claude-test-2", "output_tokens": 9},
        ],
    }
    told = json.dumps(usage).encode()
    found = []
    for padding in (0, 2 * MAX_KEPT):
        content = b'{"content":"%b","usage":{"input_tokens":1},"usage":%b,"model":"claude-test-1"}'
        meter = body_metered(content % (b"x" * padding, told))
        found.append((meter.counts(), meter.parts(), meter.model))
    assert found[0] == found[1]
    assert found[0][0] == TokenCounts(5, 7)


def test_an_open_body_costs_a_bounded_memory() -> None:
    """Whatever it is full of: its text, its usage, members of that name without number."""
    for begins, goes_on in (
        (b'{"content":"', b"x" * 65_536),
        (b'{"usage":{"iterations":[', b"{}," * 20_000),
        (b"{", b'"usage":{},' * 6_000),
    ):
        meter = BodyMeter()
        tracemalloc.start()
        meter.feed(begins)
        for _ in range(20):
            meter.feed(goes_on)
            meter.counts()
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held < 2 * MAX_TOLD


def test_a_usage_too_long_to_keep_is_estimated() -> None:
    iterations = b",".join([b'{"type":"message"}'] * (MAX_TOLD // 10))
    meter = body_metered(LONG % (b"x", b'"output_tokens":7,"iterations":[%b]' % iterations))
    assert (meter.input_told, meter.output_told) == (False, False)
    assert meter.counts().output > len(iterations) // BYTES_PER_TOKEN - 100
