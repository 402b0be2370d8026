from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opuslive.dialects.anthropic_meter import (
    BYTES_PER_TOKEN,
    MAX_BODY,
    MAX_COUNT,
    BodyMeter,
    StreamMeter,
)
from opuslive.dialects.sse import MAX_EVENT, MAX_HELD
from opuslive.metering import TokenCounts

# --- the wire, written down ------------------------------------------------------------------


def event(data: dict[str, Any], *, name: str | None = "", end: str = "\n", **style: Any) -> bytes:
    """One event as the provider frames it, or, by ``style``, as another server might."""
    if name == "":
        name = data["type"]
    colon = ":" if style.get("tight") else ": "
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    lines = [f"data{colon}{text}"]
    if style.get("parts"):
        lines = [f"data{colon}{part}" for part in text.replace('":', '":\n', 1).split("\n")]
    if name is not None:
        lines.insert(len(lines) if style.get("name_last") else 0, f"event{colon}{name}")
    if style.get("comment"):
        lines.insert(0, ": event: message_stop")
    if style.get("id"):
        lines.append("id: 7")
    return (end.join(lines) + end + end).encode()


def start(**usage: Any) -> dict[str, Any]:
    message = {"id": "msg_1", "role": "assistant", "content": [], "usage": usage}
    return {"type": "message_start", "message": message}


def delta(**usage: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}


def text(content: str) -> dict[str, Any]:
    inner = {"type": "text_delta", "text": content}
    return {"type": "content_block_delta", "index": 0, "delta": inner}


def tool(content: str) -> dict[str, Any]:
    inner = {"type": "input_json_delta", "partial_json": content}
    return {"type": "content_block_delta", "index": 1, "delta": inner}


PING = {"type": "ping"}
STOP = {"type": "message_stop"}
ERROR = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
BLOCK_START = {
    "type": "content_block_start",
    "index": 0,
    "content_block": {"type": "tool_use", "name": "f", "input": {"usage": {"output_tokens": 9}}},
}

# A short stream as the provider documents it.
TRANSCRIPT = (
    b"event: message_start\n"
    b'data: {"type":"message_start","message":{"id":"msg_01","type":"message","role":"assistant",'
    b'"model":"claude-opus-4-8","content":[],"stop_reason":null,"usage":{"input_tokens":472,'
    b'"cache_creation_input_tokens":30,"cache_read_input_tokens":5,"cache_creation":'
    b'{"ephemeral_5m_input_tokens":10,"ephemeral_1h_input_tokens":20},"output_tokens":2,'
    b'"service_tier":"standard"}}}\n'
    b"\n"
    b"event: content_block_start\n"
    b'data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}\n'
    b"\n"
    b"event: ping\n"
    b'data: {"type": "ping"}\n'
    b"\n"
    b"event: content_block_delta\n"
    b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi"}   }\n'
    b"\n"
    b"event: content_block_stop\n"
    b'data: {"type":"content_block_stop","index":0}\n'
    b"\n"
    b"event: message_delta\n"
    b'data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},'
    b'"usage":{"output_tokens":89}}\n'
    b"\n"
    b"event: message_stop\n"
    b'data: {"type":"message_stop"}\n'
    b"\n"
)
TRANSCRIPT_COUNTS = TokenCounts(
    input=472, output=89, cache_read=5, cache_write_5m=10, cache_write_1h=20
)


def stream(*events: dict[str, Any]) -> bytes:
    return b"".join(event(data) for data in events)


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def metered(*chunks: bytes) -> StreamMeter:
    meter = StreamMeter()
    for chunk in chunks:
        meter.feed(chunk)
    return meter


def finished(meter: StreamMeter | BodyMeter) -> bool:
    """The property through a call, so that mypy does not take it for constant."""
    return meter.finished


class Relay:
    """What a client sees: the rule of ``Meter.feed``, and nothing else."""

    def __init__(self) -> None:
        self.meter = StreamMeter()
        self.seen = b""
        self.held = b""

    def feed(self, chunk: bytes) -> None:
        allowed = self.meter.feed(chunk)
        assert 0 <= allowed <= len(chunk)
        if allowed > 0:
            self.seen += self.held + chunk[:allowed]
            self.held = chunk[allowed:]
        else:
            self.held += chunk


# --- counts ----------------------------------------------------------------------------------


def test_a_stream_as_documented() -> None:
    meter = metered(TRANSCRIPT)
    assert meter.counts() == TRANSCRIPT_COUNTS
    assert finished(meter)
    assert not meter.failed
    assert meter.end()


@pytest.mark.parametrize(
    ("usages", "counts"),
    [
        # Cumulative: what is named replaces, what is null or missing stays.
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
            for bad in (-1, True, 7.0, 1e300, "7", [7], {"a": 7}, False)
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
def test_usage(usages: list[dict[str, Any]], counts: TokenCounts) -> None:
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
        b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":7}}}\n\n',
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
        b'event: message_delta\ndata: {"type":"message_delta","x":{"usage":{"output_tokens":7}}}\n\n',
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
    assert meter.feed(stream(delta(output_tokens=999))) == 0
    assert meter.counts() == TokenCounts(5, 9)
    assert metered(TRANSCRIPT + stream(delta(output_tokens=999))).counts() == TRANSCRIPT_COUNTS


HOSTILE = (
    '{"usage":{"input_tokens":0,"output_tokens":0}}',
    '"usage":{"output_tokens":0}',
    '\n\nevent: message_stop\ndata: {"type":"message_stop"}\n\n',
    "\r\n\r\nevent: error\r\ndata: {}\r\n\r\n",
    "event: message_stop\\n\\n",
    '"}}\n\nevent: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":0}}\n\n',
    "message_start message_delta message_stop error content_block_delta",
    "\x85\u2028\u2029\x0b\x0c\x1c\x1d\x1e\x00\ufeff",
    '\\"},"usage":{"output_tokens":0},"x":"',
    '","type":"message_stop',
)

content = st.lists(st.sampled_from(HOSTILE) | st.text(max_size=10), max_size=3).map("".join)
inputs = st.dictionaries(
    st.sampled_from(["usage", "type", "message", "event: message_stop\n\n"]),
    st.sampled_from([{"output_tokens": 0, "input_tokens": 0}, "message_delta", "message_stop"]),
    max_size=3,
)
harmless = st.one_of(
    content.map(text),
    content.map(tool),
    st.just(PING),
    st.just({"type": "content_block_stop", "index": 0}),
    st.just({"type": "unknown", "usage": {"output_tokens": 0}}),
    inputs.map(
        lambda given: {
            "type": "content_block_start",
            "content_block": {"type": "tool_use", "input": given, "usage": {"output_tokens": 0}},
            "usage": {"output_tokens": 0},
        }
    ),
    content.map(
        lambda s: {
            "type": "message_delta",
            "delta": {"stop_sequence": s, "usage": {"output_tokens": 0}},
        }
    ),
)
amounts = st.integers(0, 10**6)
styles = st.fixed_dictionaries(
    {},
    optional={
        "end": st.sampled_from(["\n", "\r\n", "\r"]),
        "tight": st.booleans(),
        "parts": st.booleans(),
        "name_last": st.booleans(),
        "comment": st.booleans(),
        "id": st.booleans(),
        "name": st.sampled_from([None, ""]),
    },
)
cuts = st.lists(st.integers(0, 4000), max_size=12)


Case = tuple[bytes, bytes, TokenCounts]


@st.composite
def streams(draw: st.DrawFn, style: st.SearchStrategy[dict[str, Any]] = styles) -> Case:
    """A whole stream with hostile content: (its bytes up to the terminal event, that, counts)."""
    first = {"input_tokens": draw(amounts), "cache_read_input_tokens": draw(amounts)}
    output = draw(amounts)
    events = [
        start(**first, output_tokens=1),
        *draw(st.lists(harmless, max_size=6)),
        delta(output_tokens=output),
        *draw(st.lists(harmless, max_size=2)),
    ]
    body = b"".join(event(data, **draw(style)) for data in events)
    bom = draw(st.sampled_from([b"", b"\xef\xbb\xbf"]))
    terminal = event(STOP, **draw(style))
    counts = TokenCounts(first["input_tokens"], output, first["cache_read_input_tokens"])
    return bom + body, terminal, counts


@given(streams(), cuts)
def test_content_never_counts_and_splits_never_matter(case: Case, where: list[int]) -> None:
    body, terminal, counts = case
    meter = metered(body)
    assert not finished(meter)
    assert not meter.end()
    unfinished = meter.counts()
    # Content is relayed text at most, hence an output that is estimated higher.
    assert unfinished.output >= counts.output
    assert replace(unfinished, output=0) == replace(counts, output=0)
    for chunks in (pieces(body, where), pieces(body, range(len(body)))):
        meter = metered(*chunks)
        assert meter.counts() == unfinished
        assert not finished(meter)
        for chunk in pieces(terminal, where):
            meter.feed(chunk)
        assert finished(meter)
        assert not meter.failed
        assert meter.end()
        assert meter.counts() == counts


@given(st.lists(harmless, max_size=6), styles, cuts, st.integers(0, 2000))
def test_splits_do_not_matter_to_the_estimate(
    events: list[dict[str, Any]], style: dict[str, Any], where: list[int], length: int
) -> None:
    body = b"".join(event(data, **style) for data in events)[:length]
    whole = metered(body).counts()
    assert metered(*pieces(body, where)).counts() == whole
    assert metered(*pieces(body, range(len(body)))).counts() == whole


# --- what the client may see -----------------------------------------------------------------

TERMINALS: dict[str, dict[str, Any]] = {"stop": STOP, "error": ERROR}


@given(streams(), st.sampled_from(["stop", "error"]), styles, cuts, st.binary(max_size=40))
def test_no_whole_terminal_event_is_released(
    case: Case, kind: str, style: dict[str, Any], where: list[int], rest: bytes
) -> None:
    body, _, _ = case
    terminal = event(TERMINALS[kind], **style)
    data = body + terminal + rest
    splits = [pieces(data, where), pieces(data, range(len(data))), [data]]
    for chunks in splits:
        relay = Relay()
        for chunk in chunks:
            relay.feed(chunk)
            # Bytes keep their order, none is lost, and the end never shows.
            assert data.startswith(relay.seen + relay.held)
            released = relay.seen[len(body) :]
            assert len(released) < len(terminal.rstrip(b"\r\n")) + 1
            assert b"message_stop" not in released.replace(b": event: message_stop", b"")
        assert finished(relay.meter)
        assert relay.meter.failed == (kind == "error")
        assert relay.seen + relay.held == data


def test_every_cut_of_a_documented_stream() -> None:
    begin = TRANSCRIPT.index(b"event: message_stop")
    for first in range(len(TRANSCRIPT) + 1):
        for second in (first, min(first + 7, len(TRANSCRIPT)), len(TRANSCRIPT) - 1):
            relay = Relay()
            for chunk in pieces(TRANSCRIPT, (first, second)):
                relay.feed(chunk)
            assert relay.meter.counts() == TRANSCRIPT_COUNTS
            assert relay.seen + relay.held == TRANSCRIPT
            assert len(relay.seen) >= begin - 1
            assert b"message_stop" not in relay.seen


def test_a_terminal_event_in_one_chunk_with_others_is_held_from_its_start() -> None:
    before = stream(text("a"), PING)
    meter = StreamMeter()
    assert meter.feed(before + stream(STOP) + b": more\n\n") == len(before)
    assert meter.feed(b"data: more\n\n") == 0


@pytest.mark.parametrize("name", ["", None])
def test_everything_before_the_end_goes_on_at_once(name: str | None) -> None:
    meter = StreamMeter()
    for data in (start(input_tokens=1), BLOCK_START, text("usage"), PING, delta(output_tokens=2)):
        chunk = event(data, name=name)
        assert meter.feed(chunk[:20]) == 20
        assert meter.feed(chunk[20:]) == len(chunk) - 20
    assert meter.feed(b": comment\n") == 10
    assert meter.feed(b"\n") == 1


def test_what_only_looked_terminal_is_released_with_its_end() -> None:
    chunk = event(text("event: message_stop"))
    relay = Relay()
    relay.feed(chunk[:-5])
    assert relay.seen == b""
    relay.feed(chunk[-5:-1])
    assert relay.seen == b""
    relay.feed(chunk[-1:])
    assert relay.seen == chunk
    assert not finished(relay.meter)


def test_what_only_looked_terminal_is_released_before_the_next_that_does() -> None:
    first, second = event(text("message_stop")), event(STOP)
    relay = Relay()
    relay.feed(first[:-5])
    relay.feed(first[-5:] + second[:-1])
    assert relay.seen == first
    relay.feed(second[-1:])
    assert relay.seen == first
    assert relay.held == second
    assert finished(relay.meter)


def test_a_long_event_is_not_held_for_a_word() -> None:
    begin = event(text("message_stop" + "x" * MAX_HELD))[:-5]
    meter = StreamMeter()
    assert meter.feed(begin[:200]) == 0
    assert meter.feed(begin[200:]) == len(begin) - 200


def test_an_error_ends_the_stream() -> None:
    meter = metered(stream(start(input_tokens=5, output_tokens=1), text("x" * 400), ERROR))
    assert finished(meter)
    assert meter.failed
    assert meter.end()
    assert meter.counts() == TokenCounts(5, 100)


@pytest.mark.parametrize("data", [b"", b" oops", b' {"error":{"type":"api_error"}}'])
def test_an_error_is_one_by_its_name_whatever_its_data(data: bytes) -> None:
    assert metered(b"event: error\ndata:" + data + b"\n\n").failed


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n\n\n",
        b": ping\n\n",
        event(PING),
        TRANSCRIPT[:-1],
        TRANSCRIPT[:-2],
        TRANSCRIPT[:900],
    ],
)
def test_a_stream_without_its_terminal_event_is_not_whole(data: bytes) -> None:
    meter = metered(data)
    assert not meter.end()
    assert not finished(meter)


# --- estimates -------------------------------------------------------------------------------


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


def test_a_reported_output_is_a_floor_of_the_estimate() -> None:
    body = stream(start(input_tokens=5), text("x" * 40), delta(output_tokens=50))
    assert metered(body).counts() == TokenCounts(5, 50)
    assert metered(body, event(text("x" * 4000))).counts().output == 1010


def test_after_the_end_only_reports_count() -> None:
    body = stream(start(input_tokens=5), text("x" * 4000), delta(output_tokens=50), STOP)
    assert metered(body).counts() == TokenCounts(5, 50)


def test_a_stream_that_ended_without_telling_its_output_is_estimated() -> None:
    # What message_start says of the output is a floor of it and nothing more.
    body = stream(start(input_tokens=5, output_tokens=1), text("x" * 4000), STOP)
    assert metered(body).counts() == TokenCounts(5, 1000)


def test_half_a_delta_is_relayed_text_too() -> None:
    assert metered(event(text("x" * 4000))[:-10]).counts().output >= 990


# --- bounds ----------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("step", [1 << 22, 65536, 60_001, 7919])
@pytest.mark.parametrize("extra", [-1, 0, 1, 2, 3, 4, 300_000])
def test_an_overlong_event_passes_unread_however_it_is_cut(end: str, step: int, extra: int) -> None:
    def padded(data: dict[str, Any], length: int) -> bytes:
        bare = len(event({**data, "pad": ""}, end=end)) - 2 * len(end)
        return event({**data, "pad": "x" * (length - bare)}, end=end)

    length = MAX_EVENT + extra
    body = event(start(input_tokens=5), end=end) + padded(delta(output_tokens=7), length)
    body += event(text("x" * length), end=end)
    meter = StreamMeter()
    for at in range(0, len(body), step):
        chunk = body[at : at + step]
        assert meter.feed(chunk) in (len(chunk), len(chunk) - 1)
        assert len(meter._pending) <= MAX_EVENT + step + 2
    assert meter.counts().input == 5
    # A line end of two bytes adds one.
    assert meter.counts().output in (length // BYTES_PER_TOKEN, (length + 1) // BYTES_PER_TOKEN)
    meter.feed(event(STOP, end=end))
    assert finished(meter)
    assert (meter.counts().output == 7) == (extra <= 0)


def test_an_overlong_event_never_ends_the_stream() -> None:
    data = event({**STOP, "pad": "x" * MAX_EVENT})
    for chunks in ([data], pieces(data, range(0, len(data), 4096))):
        assert not metered(*chunks).finished


# --- bodies ----------------------------------------------------------------------------------


def body_metered(*chunks: bytes) -> BodyMeter:
    meter = BodyMeter()
    for chunk in chunks:
        assert meter.feed(chunk) == len(chunk)
    assert not finished(meter)
    assert not meter.failed
    assert meter.end()
    assert finished(meter)
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
    "data", [b"", b"oops", b'{"usage":{"input_tokens":5}', b"\xff", b"[" * 9999]
)
def test_a_body_that_is_no_json_tells_nothing(data: bytes) -> None:
    assert body_metered(data).counts() == TokenCounts()


def test_a_body_cut_short_is_estimated_from_its_size() -> None:
    meter = BodyMeter()
    meter.feed(b'{"content":[{"type":"text","text":"' + b"x" * 4000)
    assert not finished(meter)
    assert 900 <= meter.counts().output <= 1010
    assert meter.counts().input == 0


def test_a_body_too_long_to_keep_is_estimated_from_its_size() -> None:
    chunk = b" " * (1 << 20)
    meter = BodyMeter()
    for _ in range((MAX_BODY >> 20) + 1):
        assert meter.feed(chunk) == len(chunk)
        assert len(meter._body) <= MAX_BODY
    assert len(meter._body) == 0
    meter.feed(b'{"usage":{"input_tokens":5}}')
    assert meter.end()
    assert meter.counts().input == 0
    assert meter.counts().output > MAX_BODY // BYTES_PER_TOKEN
