"""What of an event stream goes on, what waits, and what is dropped."""

from __future__ import annotations

import pytest
from hypothesis import given

from opuslive.dialects.holding import MAX_HELD, EventFilter, Verdict
from opuslive.dialects.sse import Event
from tests.support.event_streams import CUTS, STREAMS, events, pieces


def judge(event: Event) -> Verdict:
    if not isinstance(event, bytes):
        return Verdict.PASS
    return {b"data: DONE": Verdict.LAST, b"data: no": Verdict.DROP}.get(event, Verdict.PASS)


SUSPECTS = (b"data: DONE", b"data: no")


def filtered(*chunks: bytes) -> tuple[bytes, bytes]:
    """What an ``EventFilter`` passes of the chunks, and what it holds in the end."""
    gate = EventFilter(SUSPECTS)
    passed = b""
    for chunk in chunks:
        passed += gate.feed(chunk, judge)
        assert gate.idle <= (gate.held == 0)
    held = gate.held
    rest = gate.release()
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
    gate = EventFilter(SUSPECTS)
    for chunk in (b"a\n\n", b"b", b"c\n\nd\n\n", b"\n", b"e\r\n\r\n"):
        assert gate.feed(chunk, judge) is chunk


def test_a_suspect_waits_up_to_a_bound() -> None:
    gate = EventFilter(SUSPECTS)
    chunk = b"data: DONE" + b"x" * (MAX_HELD - 11)
    assert gate.feed(chunk, judge) == b""
    assert gate.held == MAX_HELD - 1
    assert gate.feed(b"x", judge) == chunk + b"x"
    assert gate.held == 0


def test_all_that_follows_the_last_event_is_held() -> None:
    gate = EventFilter(SUSPECTS)
    assert gate.feed(b"a\n\ndata: DONE\n\nb", judge) == b"a\n\n"
    assert gate.finished
    assert gate.feed(b"c\n\n", judge) == b""
    assert gate.release() == b"data: DONE\n\nbc\n\n"
    assert gate.held == 0
