from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opuslive.dialects.sse import (
    HEAD,
    MAX_EVENT,
    MAX_HELD,
    Event,
    EventFilter,
    Framer,
    Overlong,
    Verdict,
    parse_event,
)


def events(*chunks: bytes) -> list[Event]:
    framer = Framer()
    return [event for chunk in chunks for event in framer.feed(chunk)]


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"\n\n\n", []),
        (b"a\n", []),
        (b"a\n\n", [b"a"]),
        (b"a\n\n\nb\n\n", [b"a", b"b"]),
        (b"\n\na\nb\n\n\n\nc\n\n", [b"a\nb", b"c"]),
        (b"a\r\n\r\nb\r\n\r\n", [b"a", b"b"]),
        (b"a\r\n\r", [b"a"]),
        (b"a\r\rb\r\r", [b"a", b"b"]),
        (b"a\rb\r\r\n\nc\n\r\n", [b"a\rb", b"c"]),
        (b"a\n\nb\r\nc\r\n\r\nd\n\n", [b"a", b"b\r\nc", b"d"]),
        (b"a\r\nb\r\n", []),
        (b"a\n\ndata: DONE\n\nb\n\n", [b"a", b"data: DONE", b"b"]),
    ],
)
def test_events_are_cut_at_blank_lines(data: bytes, expected: list[bytes]) -> None:
    assert events(data) == expected
    assert events(*(data[i : i + 1] for i in range(len(data)))) == expected
    for cut in range(len(data)):
        assert events(data[:cut], data[cut:]) == expected


STREAMS = st.lists(
    st.sampled_from(
        [b"a", b"\n", b"\r", b"\r\n", b"data: DONE", b"data: no", b"\n\n", b"\r\n\r\n"]
    ),
    max_size=20,
).map(b"".join)
CUTS = st.sets(st.integers(0, 90))


@given(STREAMS, CUTS)
def test_splits_do_not_matter_to_the_events(data: bytes, cuts: set[int]) -> None:
    assert events(*pieces(data, cuts)) == events(data)


@given(STREAMS, CUTS)
def test_an_event_is_found_at_its_place_in_the_chunk(data: bytes, cuts: set[int]) -> None:
    framer, fed = Framer(), b""
    for chunk in pieces(data, cuts):
        before, fed = len(fed), fed + chunk
        for event in framer.feed(chunk):
            start, stop = before + framer.start, before + framer.stop
            assert isinstance(event, bytes)
            assert data[start:stop].rstrip(b"\r\n") == event.rstrip(b"\r\n")
            assert 0 < framer.stop <= len(chunk)
        unfinished = fed[len(fed) - framer.unfinished_length :]
        assert framer.unfinished_head == unfinished[:HEAD]
        assert framer.unfinished_at == max(0, len(chunk) - len(unfinished))


def test_an_event_too_long_to_keep_is_told_by_its_beginning_and_its_length() -> None:
    text = b"data: " + b"x" * MAX_EVENT
    for chunks in ([text + b"\n\n"], [text[:5], text[5:], b"\n", b"\n"]):
        assert events(b"a\n\n", *chunks, b"b\n\n") == [b"a", Overlong(text[:HEAD], len(text)), b"b"]


def judge(event: Event) -> Verdict:
    if not isinstance(event, bytes):
        return Verdict.PASS
    return {b"data: DONE": Verdict.LAST, b"data: no": Verdict.DROP}.get(event, Verdict.PASS)


SUSPECTS = (b"data: DONE", b"data: no")


def filtered(*chunks: bytes) -> tuple[bytes, bytes]:
    """What an ``EventFilter`` passes of the chunks, and what it holds in the end."""
    events = EventFilter(SUSPECTS)
    passed = b""
    for chunk in chunks:
        passed += events.feed(chunk, judge)
        assert events.idle <= (events.held == 0)
    held = events.held
    rest = events.release()
    assert len(rest) == held
    return passed, rest


DROPPED = b"data: no"


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize(
    "lines",
    [
        [DROPPED],
        [b"a", DROPPED, b"b"],
        [DROPPED, DROPPED, b"b"],
        [b"a", DROPPED, b"data: DONE"],
        [b"a", b"data: not", b"b"],
    ],
)
def test_a_dropped_event_never_shows_and_its_neighbours_do(lines: list[bytes], end: bytes) -> None:
    data = b"".join(line + end + end for line in lines)
    kept = [line for line in lines if line != DROPPED]
    for cut in range(len(data) + 1):
        begun = data[:cut].rpartition(end)[2]
        if begun and begun != DROPPED and DROPPED.startswith(begun):
            continue  # A part of the event has gone before anything could tell.
        passed, held = filtered(data[:cut], data[cut:])
        assert events(passed + held) == kept, cut


def test_an_event_that_began_to_show_is_not_dropped_half_way() -> None:
    assert filtered(b"a\n\nda", b"ta: no\n\nb\n\n") == (b"a\n\ndata: no\n\nb\n\n", b"")


@given(STREAMS, CUTS)
def test_a_filter_passes_or_holds_every_byte_and_never_a_whole_last_event(
    data: bytes, cuts: set[int]
) -> None:
    data = data.replace(b"data: no", b"data: ok")
    for chunks in (pieces(data, cuts), pieces(data, range(len(data))), [data]):
        passed, held = filtered(*chunks)
        assert passed + held == data
        assert b"data: DONE" not in events(passed + b"\n\n")


def test_a_chunk_of_which_all_may_go_is_passed_itself() -> None:
    events = EventFilter(SUSPECTS)
    for chunk in (b"a\n\n", b"b", b"c\n\nd\n\n", b"\n", b"e\r\n\r\n"):
        assert events.feed(chunk, judge) is chunk


def test_a_suspect_waits_up_to_a_bound() -> None:
    events = EventFilter(SUSPECTS)
    chunk = b"data: DONE" + b"x" * (MAX_HELD - 11)
    assert events.feed(chunk, judge) == b""
    assert events.held == MAX_HELD - 1
    assert events.feed(b"x", judge) == chunk + b"x"
    assert events.held == 0


def test_all_that_follows_the_last_event_is_held() -> None:
    events = EventFilter(SUSPECTS)
    assert events.feed(b"a\n\ndata: DONE\n\nb", judge) == b"a\n\n"
    assert events.finished
    assert events.feed(b"c\n\n", judge) == b""
    assert events.release() == b"data: DONE\n\nbc\n\n"
    assert events.held == 0


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (b"event: a\ndata: b", ("a", b"b")),
        (b"event:a\ndata:b", ("a", b"b")),
        (b"data:  b\nevent:  a", (" a", b" b")),
        (b"data: b\ndata\ndata: c", ("", b"b\n\nc")),
        (b"data: b:c", ("", b"b:c")),
        (b"data", ("", b"")),
        (b"event: a\nevent: b\n: comment\nid: 7\nretry: 1", ("b", None)),
        (b"event: a\nevent", ("", None)),
        (b"\xef\xbb\xbfevent: a", ("a", None)),
        (b" event: a\nDATA: b\ndata : c", ("", None)),
        (b"event: a\rdata: b\r\ndata: c\ndata: d", ("a", b"b\nc\nd")),
        (b"event: \xff", ("\ufffd", None)),
    ],
)
def test_the_fields_of_an_event(event: bytes, expected: tuple[str, bytes | None]) -> None:
    assert parse_event(event) == expected
