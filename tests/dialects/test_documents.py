"""The outermost layer of a document is read whatever the rest of it holds.

What belongs to the kind: escapes of half a surrogate pair or of nothing, bytes that are not UTF-8,
raw control characters, numbers that JSON does not have or that no reader takes, a nesting deeper
than any reader goes, a byte order mark, something behind the end, no end, a name twice, a name
written with escapes.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opuslive.dialects.documents import _scan, elements, members, read_string
from tests.support.odd_json import ODD, VALUES


@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
def test_a_member_is_found_beside_what_is_no_json(value: bytes) -> None:
    for document in (
        b'{"odd":' + value + b',"usage":{"a":1}}',
        b'{"usage":{"a":1},"odd":' + value + b"}",
        b'{"odd":[' + value + b'],"usage":{"a":1},"more":{"x":' + value + b"}}",
    ):
        assert members(document, "usage") == [("usage", b'{"a":1}')]
    assert elements(b"[1, " + value + b" ,2]") == [b"1", value, b"2"]


@pytest.mark.parametrize(
    ("document", "values"),
    [
        (b'\xef\xbb\xbf{"usage":1}', [b"1"]),
        (b' \r\n\t{ "usage" : 1 } ', [b"1"]),
        (b'{"usage":1} trailing', [b"1"]),
        (b'{"usage":1}{"usage":2}', [b"1"]),
        (b'{"usage":1', [b"1"]),
        (b'{"usage":{"a":1},"content":["cut', [b'{"a":1}']),
        (b'{"usage":{"a":1', []),
        (b'{"usage":1,"usage":2}', [b"1", b"2"]),
        (b'{"usage":1,"usage":NaN}', [b"1", b"NaN"]),
        (rb'{"us\u0061ge":1,"odd":NaN}', [b"1"]),
        (rb'{"us\u0061ge":1}', [b"1"]),
        (rb'{"\ud800":1,"usage":2}', [b"2"]),
        (b'{"x":{"usage":1}}', []),
        (b'{"x":"\\"usage\\":1"}', []),
        (b'[{"usage":1}]', []),
        (b'"usage"', []),
        (b"{usage:1}", []),
        (b'{"usage":}', []),
        (b'{"usage"', []),
        (b"{", []),
        (b"", []),
        (b"oops", []),
    ],
)
def test_the_members_of_a_document_are_found_in_their_order(
    document: bytes, values: list[bytes]
) -> None:
    assert members(document, "usage") == [("usage", value) for value in values]


@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_the_scan_reads_what_a_json_reader_does(
    value: Any, escaped: bool, indent: int | None
) -> None:
    document = json.dumps(value, ensure_ascii=escaped, indent=indent).encode()
    if isinstance(value, dict):
        found = members(document, *value)
        assert {name: json.loads(each) for name, each in found} == value
        scanned = [(read_string(name), each) for name, each in _scan(document, b"{")]
        assert scanned == found
    elif isinstance(value, list):
        assert [json.loads(each) for each in elements(document)] == value
        assert [each for _, each in _scan(document, b"[")] == elements(document)
    else:
        assert (members(document, "usage"), elements(document)) == ([], [])


@given(st.lists(st.sampled_from(b'{}[]",:\\ \nu0\xff')).map(bytes))
def test_no_bytes_make_it_fail(data: bytes) -> None:
    for document in (data, b"{" + data, b'{"usage":' + data, b"[" + data):
        members(document, "usage")
        elements(document)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b'"a"', "a"),
        (rb'"\u0061\n"', "a\n"),
        (b'"\xff"', "\ufffd"),
        (rb'"\x"', None),
        (b"7", None),
        (b'"a" ', None),
        (b'"', None),
    ],
)
def test_a_string_is_read_if_it_is_one(value: bytes, text: str | None) -> None:
    assert read_string(value) == text
