from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from opuslive.dialects.anthropic.meter import (
    StreamMeter,
)
from opuslive.dialects.anthropic.relayed import BYTES_PER_TOKEN
from opuslive.dialects.holding import MAX_HELD
from opuslive.dialects.sse import MAX_EVENT
from opuslive.usage import TokenCounts
from tests.support.anthropic_streams import (
    BLOCK_START,
    ERROR,
    PING,
    STOP,
    TRANSCRIPT,
    TRANSCRIPT_COUNTS,
    Case,
    Relay,
    cuts,
    delta,
    event,
    finished,
    harmless,
    metered,
    start,
    stream,
    streams,
    styles,
    text,
)
from tests.support.event_streams import pieces


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
        assert relay.seen + relay.meter.release() == data


def test_every_cut_of_a_documented_stream_gives_the_same() -> None:
    begin = TRANSCRIPT.index(b"event: message_stop")
    for first in range(len(TRANSCRIPT) + 1):
        for second in (first, min(first + 7, len(TRANSCRIPT)), len(TRANSCRIPT) - 1):
            relay = Relay()
            for chunk in pieces(TRANSCRIPT, (first, second)):
                relay.feed(chunk)
            assert relay.meter.counts() == TRANSCRIPT_COUNTS
            assert relay.seen + relay.meter.release() == TRANSCRIPT
            assert len(relay.seen) >= begin - 1
            assert b"message_stop" not in relay.seen


def test_a_terminal_event_in_one_chunk_with_others_is_held_from_its_start() -> None:
    before = stream(text("a"), PING)
    meter = StreamMeter()
    assert meter.feed(before + stream(STOP) + b": more\n\n") == before
    assert meter.feed(b"data: more\n\n") == b""
    assert meter.release() == stream(STOP) + b": more\n\ndata: more\n\n"


@pytest.mark.parametrize("name", ["", None])
def test_everything_before_the_end_goes_on_at_once(name: str | None) -> None:
    meter = StreamMeter()
    for data in (start(input_tokens=1), BLOCK_START, text("usage"), PING, delta(output_tokens=2)):
        chunk = event(data, name=name)
        assert meter.feed(chunk[:20]) == chunk[:20]
        assert meter.feed(chunk[20:]) == chunk[20:]
    assert meter.feed(b": comment\n") == b": comment\n"
    assert meter.feed(b"\n") == b"\n"


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
    assert meter.feed(begin[:200]) == b""
    assert meter.feed(begin[200:]) == begin


def test_an_error_ends_the_stream() -> None:
    meter = metered(stream(start(input_tokens=5, output_tokens=1), text("x" * 400), ERROR))
    assert finished(meter)
    assert meter.failed
    assert meter.end()
    assert meter.counts() == TokenCounts(5, 100)


@pytest.mark.parametrize("data", [b"", b" oops", b' {"error":{"type":"api_error"}}'])
def test_an_error_is_one_by_its_name_whatever_its_data(data: bytes) -> None:
    assert metered(b"event: error\ndata:" + data + b"\n\n").failed
    assert metered(b"event: error\n\n").failed


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
        assert meter.feed(chunk) is chunk
        assert len(meter._events._framer._pending) <= MAX_EVENT + step + 2
    assert meter.counts().input == 5
    # What was told before the text comes on top of the estimate. A line end of two bytes adds one.
    told = 7 if extra <= 0 else 0
    estimate = meter.counts().output - told
    assert estimate in (length // BYTES_PER_TOKEN, (length + 1) // BYTES_PER_TOKEN)
    meter.feed(event(STOP, end=end))
    assert finished(meter)
    assert (meter.counts().output == 7) == (extra <= 0)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("extra", [-2, -1, 0, 1, 2])
def test_the_bound_is_the_same_wherever_the_last_cut_is(end: str, extra: int) -> None:
    bare = len(event({**STOP, "pad": ""}, end=end)) - 2 * len(end)
    data = event({**STOP, "pad": "x" * (MAX_EVENT + extra - bare)}, end=end)
    for rest in range(8):
        assert finished(metered(*pieces(data, [len(data) - rest]))) == (extra <= 0)


def test_an_overlong_event_never_ends_the_stream() -> None:
    data = event({**STOP, "pad": "x" * MAX_EVENT})
    for chunks in ([data], pieces(data, range(0, len(data), 4096))):
        assert not metered(*chunks).finished
