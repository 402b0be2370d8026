"""Reading members out of a document that passes, without keeping the document.

``MemberScanner`` finds what ``documents.members`` finds, while the document comes in pieces that
are cut anywhere. It keeps a wanted value that is not whole yet, those that it found, and nothing
else: an answer of any length costs a bounded memory while it is open.

Like the scan in ``documents`` it knows strings and brackets, and no more of JSON. Where the
document can't be read on, it ends.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Collection, Mapping
from typing import TypeAlias

from opuslive.dialects.documents import BRACKETS, SCALAR, past_blank, read_string

#: The rest of a string, up to its quote, or to a backslash that the piece ends with.
_STRING_REST = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_FLAT = rb'[^"\[\]{}]++|"[^"\\]*+(?:\\.[^"\\]*+)*+"'
#: What holds so many brackets within each other, all closed, is passed over in one go: nearly all
#: that is within an answer. The next bracket behind it has to be counted.
_LEVELS = 5
_QUOTE, _COLON, _COMMA, _OPENING = b'":,{'
_BRACKETS_OPENING = b"{["


def _content(levels: int) -> bytes:
    """The pattern of what stands between brackets, with brackets in it on so many levels."""
    inner = rb"|[\[{]%b[\]}]" % _content(levels - 1) if levels else b""
    return rb"(?:%b%b)*+" % (_FLAT, inner)


_CONTENT = re.compile(_content(_LEVELS), re.DOTALL)
_Step: TypeAlias = "Callable[[MemberScanner, bytes, int], int]"
#: Bytes that a value costs beside its own.
_ENTRY = 128


class MemberScanner:
    """Finds the members of an object that have one of the ``names``.

    ``found`` has name and value of each that is whole, in order, the value as it stands; together
    at most ``limit`` bytes: what has no more room is left out.
    """

    __slots__ = (
        "_depth",
        "_escaped",
        "_in_string",
        "_kept",
        "_longest_name",
        "_mark",
        "_name",
        "_names",
        "_room",
        "_step",
        "_written",
        "found",
    )

    def __init__(self, names: Collection[str], limit: int) -> None:
        self.found: list[tuple[str, bytes]] = []
        #: What a name reads → the one copy of it that is kept.
        self._names: Mapping[str | None, str] = {name: name for name in names}
        # A character is written in six bytes at most.
        self._longest_name = max(6 * len(name) + 2 for name in names)
        self._room = limit
        #: Bytes of a byte order mark seen.
        self._mark = 0
        #: The name as it is written, as far as it is known.
        self._written = bytearray()
        #: The name, and the value as far as it is known; None for one that is not wanted.
        self._name: str | None = None
        self._kept: bytearray | None = None
        self._depth = 0
        self._in_string = False
        #: Whether the piece before ended with a backslash in a string.
        self._escaped = False
        #: The state: reads on from a place in a piece, sets the next state, returns the next place.
        #: None where the document can't be read on. (A bound method would be a cycle of references,
        #: for the garbage collector to find.)
        self._step: _Step | None = MemberScanner._begin

    def feed(self, piece: bytes) -> None:
        """Take the next bytes."""
        at, size = 0, len(piece)
        while at < size and self._step is not None:
            at = self._step(self, piece, at)

    def _begin(self, piece: bytes, at: int) -> int:
        if piece[at] == codecs.BOM_UTF8[self._mark]:
            self._mark += 1
            if self._mark == len(codecs.BOM_UTF8):
                self._step = MemberScanner._open
            return at + 1
        self._step = None if self._mark else MemberScanner._open
        return at

    def _open(self, piece: bytes, at: int) -> int:
        return self._sign(piece, at, _OPENING, MemberScanner._before_name)

    def _before_name(self, piece: bytes, at: int) -> int:
        self._written = bytearray(b'"')
        self._in_string = True
        return self._sign(piece, at, _QUOTE, MemberScanner._in_name)

    def _in_name(self, piece: bytes, at: int) -> int:
        end = self._past_string(piece, at)
        if len(self._written) <= self._longest_name:
            self._written += piece[at : min(end, at + self._longest_name)]
        if not self._in_string:
            self._step = MemberScanner._before_colon
        return end

    def _before_colon(self, piece: bytes, at: int) -> int:
        return self._sign(piece, at, _COLON, MemberScanner._before_value)

    def _before_value(self, piece: bytes, at: int) -> int:
        at = past_blank(piece, at)
        if at == len(piece):
            return at
        self._name = self._names.get(read_string(bytes(self._written)))
        self._kept = None if self._name is None else bytearray()
        if piece[at] in _BRACKETS_OPENING:
            self._depth = 0
            self._step = MemberScanner._in_brackets
        elif piece[at] == _QUOTE:
            self._in_string = True
            self._keep(piece, at, at + 1)
            self._step = MemberScanner._in_text
            return at + 1
        else:
            self._step = MemberScanner._in_scalar if SCALAR.match(piece, at) else None
        return at

    def _in_scalar(self, piece: bytes, at: int) -> int:
        match = SCALAR.match(piece, at)
        end = at if match is None else match.end()
        self._keep(piece, at, end)
        if end < len(piece):
            self._found()
        return end

    def _in_text(self, piece: bytes, at: int) -> int:
        end = self._past_string(piece, at)
        self._keep(piece, at, end)
        if not self._in_string:
            self._found()
        return end

    def _in_brackets(self, piece: bytes, start: int) -> int:
        at, size = start, len(piece)
        while at < size:
            if self._in_string:
                at = self._past_string(piece, at)
                continue
            if self._depth:
                content = _CONTENT.match(piece, at)
                assert content is not None
                at = content.end()
            brackets = BRACKETS.match(piece, at)
            if brackets is None:
                # The end of the piece, or a string that has no end in it.
                self._in_string = at < size
                at += 1
                continue
            number = brackets.end() - at
            if brackets.lastgroup == "opening":
                self._depth += number
            elif number < self._depth:
                self._depth -= number
            else:
                end = at + self._depth
                self._keep(piece, start, end)
                self._found()
                return end
            at = brackets.end()
        self._keep(piece, start, size)
        return size

    def _behind_value(self, piece: bytes, at: int) -> int:
        return self._sign(piece, at, _COMMA, MemberScanner._before_name)

    def _sign(self, piece: bytes, at: int, sign: int, step: _Step) -> int:
        """Go over to the next state if this sign comes, behind blanks."""
        at = past_blank(piece, at)
        if at == len(piece):
            return at
        self._step = step if piece[at] == sign else None
        return at + 1

    def _past_string(self, piece: bytes, at: int) -> int:
        """Where the string ends that goes on there, or the piece."""
        if self._escaped:
            self._escaped = False
            at += 1
        rest = _STRING_REST.match(piece, at)
        assert rest is not None
        at = rest.end()
        if at < len(piece):
            if piece[at] == _QUOTE:
                self._in_string = False
            else:
                self._escaped = True
            at += 1
        return at

    def _keep(self, piece: bytes, start: int, end: int) -> None:
        """Keep a part of the value, if it is wanted and has room."""
        if self._kept is not None:
            if len(self._kept) + end - start > self._room:
                self._kept = None
            else:
                self._kept += memoryview(piece)[start:end]

    def _found(self) -> None:
        """The value is whole."""
        if self._name is not None and self._kept is not None:
            self.found.append((self._name, bytes(self._kept)))
            self._room = max(0, self._room - len(self._kept) - _ENTRY)
        self._kept = None
        self._step = MemberScanner._behind_value
