from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opuslive.dialects.sse import EventStreamReader, parse_event


class Recorder(EventStreamReader):
    SUSPECTS = (b"DONE",)

    def __init__(self) -> None:
        super().__init__()
        self.events: list[bytes] = []

    def _on_event(self, data: bytes | bytearray, start: int, end: int) -> bool:
        self.events.append(bytes(data[start:end]))
        return self.events[-1] == b"data: DONE"

    def _on_overlong_event(self, head: bytes, length: int) -> None:
        raise AssertionError


def events(*chunks: bytes) -> list[bytes]:
    reader = Recorder()
    for chunk in chunks:
        reader.feed(chunk)
    return reader.events


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
        (b"a\n\ndata: DONE\n\nb\n\n", [b"a", b"data: DONE"]),
    ],
)
def test_events_are_cut_at_blank_lines(data: bytes, expected: list[bytes]) -> None:
    assert events(data) == expected
    assert events(*(data[i : i + 1] for i in range(len(data)))) == expected
    for cut in range(len(data)):
        assert events(data[:cut], data[cut:]) == expected


@given(
    st.lists(st.sampled_from([b"a", b"\n", b"\r", b"\r\n", b"data: DONE", b"\n\n"]), max_size=20),
    st.sets(st.integers(0, 60)),
)
def test_splits_do_not_matter(parts: list[bytes], cuts: set[int]) -> None:
    data = b"".join(parts)
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    chunks = [data[a:b] for a, b in itertools.pairwise(edges)]
    assert events(*chunks) == events(data)


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
