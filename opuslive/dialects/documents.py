"""Reading the JSON of a provider, which may turn out to be anything.

``read_json`` decodes a document whole, or not at all. ``members`` and ``elements`` take the
outermost layer of a document apart and decode nothing else, so that a part of it can be read
whatever the rest holds: half a surrogate pair, a nesting of any depth, ``NaN``, bytes that are not
UTF-8, a byte order mark, something behind its end, no end at all. msgspec does it in C for what it
takes for JSON; a scan that knows strings and brackets, and no more of JSON, does it for the rest.

A name that stands twice is handed over twice: readers differ in which one they take.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import TypeVar

import msgspec

from opuslive.dialects import Buffer

T = TypeVar("T")

#: Tokens: what a count is cut to; the largest integer that JSON readers agree on.
MAX_COUNT = 2**53
#: Bytes, exclusive, of a number that is surely below MAX_COUNT if it has digits only.
_PLAIN = 16
# What has more digits than that is no figure that anybody meant.
_INTEGER = re.compile(rb"-?[0-9]{1,100}")
_NUMBER = re.compile(rb"-?[0-9]{1,100}(?:\.[0-9]{1,100})?(?:[eE][+-]?[0-9]{1,3})?")

# ValueError covers strings that are not UTF-8 and integers with too many digits.
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)

_BLANK = re.compile(rb"[ \t\r\n]*+")
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
#: Up to the next bracket outside of a string, or to a string without an end.
_FLAT = re.compile(rb'(?:[^"\[\]{}]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+', re.DOTALL)
BRACKETS = re.compile(rb"(?P<opening>[\[{]++)|[\]}]++")
#: A number or a word, or what stands in the place of one.
SCALAR = re.compile(rb"[^ \t\r\n,\[\]{}\"]++")


class _Name:
    """The name of a member; compared by identity, so that no two are merged."""

    __slots__ = ("text",)

    def __init__(self, _type: type, text: str) -> None:
        self.text = text


# The class is the hook itself: a function more would cost as much as the rest of a member.
_MEMBERS = msgspec.json.Decoder(dict[_Name, msgspec.Raw], dec_hook=_Name)
_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])


def read_json(decoder: msgspec.json.Decoder[T], document: Buffer) -> T | None:
    """The decoded document; None if it is not JSON, or not of the decoder's type."""
    try:
        return decoder.decode(document)
    except _UNREADABLE:
        return None


def members(document: bytes, *names: str) -> list[tuple[str, bytes]]:
    """The members of an object that have one of these names, in order, each value as it stands.

    Where the document can't be read on, those before. None of what is no object.
    """
    found = read_json(_MEMBERS, document)
    if found is None:
        return [
            (text, value)
            for name, value in _scan(document, b"{")
            if (text := read_string(name)) in names and text is not None
        ]
    return [(name.text, bytes(value)) for name, value in found.items() if name.text in names]


def elements(document: bytes) -> list[bytes]:
    """The elements of an array, as they stand. Where it can't be read on, those before."""
    found = read_json(_ELEMENTS, document)
    if found is None:
        return [value for _, value in _scan(document, b"[")]
    return [bytes(value) for value in found]


def read_string(value: bytes) -> str | None:
    """The text of a JSON string; None for anything else."""
    if not _STRING.fullmatch(value):
        return None
    text = value.decode("utf-8", "replace")
    if "\\" not in text:
        return text[1:-1]
    try:
        return str(json.loads(text, strict=False))
    except ValueError:  # An escape that JSON does not have.
        return None


def read_count(value: bytes) -> int | None:
    """A number of tokens, at most MAX_COUNT; None for what is not a whole number, or negative."""
    if len(value) < _PLAIN and value.isdigit():
        return int(value)
    if _INTEGER.fullmatch(value):
        count = int(value)
    elif _NUMBER.fullmatch(value):
        number = float(value)
        # Beyond that no float has a fraction.
        if not number.is_integer() or number > MAX_COUNT:
            return None
        count = int(number)
    else:
        return None
    return min(count, MAX_COUNT) if count >= 0 else None


def _scan(data: bytes, opening: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and value of what an object or an array holds; names in an array are empty."""
    at = past_blank(data, len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0)
    if data[at : at + 1] != opening:
        return
    following = b","
    while following == b",":
        at = past_blank(data, at + 1)
        name = b""
        if opening == b"{":
            key = _STRING.match(data, at)
            if key is None:
                return
            name = key.group()
            at = past_blank(data, key.end())
            if data[at : at + 1] != b":":
                return
            at = past_blank(data, at + 1)
        end = _end_of_value(data, at)
        if end < 0:
            return
        yield name, data[at:end]
        at = past_blank(data, end)
        following = data[at : at + 1]


def past_blank(data: bytes, at: int) -> int:
    """Where the first byte from there on stands that is no white space."""
    match = _BLANK.match(data, at)
    assert match is not None
    return match.end()


def _end_of_value(data: bytes, at: int) -> int:
    """Where the value ends that begins there; negative if it has no end, or is none."""
    first = data[at : at + 1]
    if first not in (b"{", b"["):
        match = (_STRING if first == b'"' else SCALAR).match(data, at)
        return -1 if match is None else match.end()
    depth = 0
    while brackets := BRACKETS.match(data, at):
        run = brackets.group()
        if brackets.lastgroup == "opening":
            depth += len(run)
        elif len(run) < depth:
            depth -= len(run)
        else:
            return at + depth
        flat = _FLAT.match(data, brackets.end())
        assert flat is not None
        at = flat.end()
    return -1
