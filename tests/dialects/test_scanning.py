"""Members are found in a document that passes in pieces, and nothing else of it is kept.

What belongs to the kind: all that ``test_documents`` has, cut anywhere; a document, a name and a
value of any length; names and values without number.
"""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opuslive.dialects.documents import members
from opuslive.dialects.scanning import MemberScanner
from tests.support.event_streams import CUTS, pieces
from tests.support.odd_json import ODD, VALUES

LIMIT = 4096


def scanned(chunks: Iterable[bytes], *names: str) -> list[tuple[str, bytes]]:
    scanner = MemberScanner(names or ("usage",), LIMIT)
    for chunk in chunks:
        scanner.feed(chunk)
    return scanner.found


@given(
    st.dictionaries(st.sampled_from(["usage", "model", "a", '"', "\\", "é"]), VALUES, max_size=4),
    st.booleans(),
    st.sampled_from([None, 1]),
    CUTS,
)
def test_it_finds_what_a_reader_of_the_whole_finds(
    value: dict[str, Any], escaped: bool, indent: int | None, where: set[int]
) -> None:
    document = json.dumps(value, ensure_ascii=escaped, indent=indent).encode()
    names = ("usage", "model", "é")
    expected = members(document, *names)
    for chunks in ([document], pieces(document, where), pieces(document, range(len(document)))):
        assert scanned(chunks, *names) == expected


@given(st.lists(st.sampled_from([*(bytes([c]) for c in b'{}[]",:\\ 7\xff'), b'"usage":'])), CUTS)
def test_it_finds_as_much_of_any_bytes(parts: list[bytes], where: set[int]) -> None:
    for before in (b"", b"{", b'{"usage":', b'\xef\xbb\xbf {"a":[1,{"usage":2}],"usage":'):
        # With a blank behind, for a number at the end may have more digits.
        document = before + b"".join(parts) + b" "
        expected = members(document, "usage")
        for chunks in (pieces(document, where), pieces(document, range(len(document)))):
            assert scanned(chunks) == expected


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
@pytest.mark.parametrize("step", [1, 7, 65_536])
def test_a_member_is_found_beside_what_is_no_json(odd: bytes, step: int) -> None:
    for document in (
        b'{"odd":' + odd + b',"usage":{"a":1}}',
        b'\xef\xbb\xbf{"odd":[' + odd + b'],"usage":{"a":1},"more":{"x":' + odd + b"}}",
        rb'{"odd":%b,"\u0075sage" : {"a":1} }' % odd,
    ):
        chunks = pieces(document, range(0, len(document), step))
        assert scanned(chunks) == [("usage", b'{"a":1}')]


def test_a_number_at_the_end_of_what_has_come_waits_for_its_end() -> None:
    scanner = MemberScanner(["usage"], LIMIT)
    scanner.feed(b'{"usage":1')
    assert scanner.found == []
    scanner.feed(b"5,")
    assert scanner.found == [("usage", b"15")]


@pytest.mark.parametrize("step", [1, 100, 10**6])
def test_a_value_longer_than_the_limit_is_left_out_and_the_next_is_found(step: int) -> None:
    for long in (b'"%b"' % (b"x" * LIMIT), b'{"a":"%b"}' % (b"x" * LIMIT), b"9" * (LIMIT + 1)):
        document = b'{"usage":%b,"usage":{"a":1}}' % long
        chunks = pieces(document, range(0, len(document), step))
        assert scanned(chunks) == [("usage", b'{"a":1}')]


def _endless(kind: str) -> Iterator[bytes]:
    """What a long document begins with, and goes on with."""
    begins, goes_on = {
        "a string": (b'{"content":"', b"x" * 65_536),
        "a string of escapes": (b'{"content":"\\', b"\\\\" * 32_768),
        "a wanted string": (b'{"usage":"', b"x" * 65_536),
        "a wanted object": (b'{"usage":{"a":[', b'"x",' * 16_384),
        "a nesting": (b'{"content":', b"[" * 65_536),
        "a number": (b'{"usage":', b"7" * 65_536),
        "a name": (b'{"', b"x" * 65_536),
        "wanted members": (b"{", b'"usage":1,' * 6_500),
        "other members": (b"{", b'"x":"y",' * 8_192),
        "blanks": (b"", b" " * 65_536),
        "not a document": (b"oops", b"x" * 65_536),
    }[kind]
    yield begins
    # Members take a thousand times as long to read as the bytes of a text.
    yield from repeat(goes_on, 4 if kind.endswith("members") else 128)


@pytest.mark.parametrize(
    "kind",
    [
        "a string",
        "a string of escapes",
        "a wanted string",
        "a wanted object",
        "a nesting",
        "a number",
        "a name",
        "wanted members",
        "other members",
        "blanks",
        "not a document",
    ],
)
def test_a_document_without_end_costs_a_bounded_memory(kind: str) -> None:
    scanner = MemberScanner(["usage"], LIMIT)
    chunks = list(_endless(kind))
    tracemalloc.start()
    for chunk in chunks:
        scanner.feed(chunk)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # A piece that is looked at may be copied.
    assert peak < 3 * LIMIT + 70_000
