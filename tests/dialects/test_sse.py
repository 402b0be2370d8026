"""Event streams are cut into events."""

from __future__ import annotations

import pytest
from hypothesis import given

from opuslive.dialects.sse import HEAD, MAX_EVENT, Framer, Overlong, parse_event
from tests.support.event_streams import CUTS, STREAMS, events, pieces


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
def test_the_fields_of_an_event_are_read(event: bytes, expected: tuple[str, bytes | None]) -> None:
    assert parse_event(event) == expected
