"""Event streams: cutting them into events.

An event stream (text/event-stream, WHATWG HTML 9.2) is lines, each a field; a blank line
ends an event. Chunks come cut anywhere. ``Framer`` finds the blank lines. It yields each event
when the event is whole, and keeps nothing but the event that is not whole yet.

*Line ends* may be LF, CRLF or CR. JSON holds neither of these bytes raw, so a stream
without a CR has only LF, and blank lines are found with ``find``. The first CR switches to
a regular expression for the rest of the stream. In ``\\r\\n\\r\\n`` the blank line is known
one byte before its end, as a client's reader knows it; line ends between two
events mean nothing, so the last one, whenever it comes, is skipped.

*Bounds.* Beyond ``MAX_EVENT`` bytes an event is not kept; only its length and its beginning
are. Such an event can neither count nor end the stream, however it was cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

#: Bytes of an event that is kept, at most. The largest known ones, tool inputs, have 0.1 MB.
MAX_EVENT = 1 << 20
#: Bytes at the beginning of an event that tell its kind.
HEAD = 256

_BLANK_LINE = re.compile(rb"(?:\r\n|\n|\r(?!\n))[\r\n]")
_LINE_ENDS = re.compile(rb"[\r\n]+")
_LINE_END = re.compile(rb"\r\n|\r|\n")
#: Bytes: a blank line that lacks its last byte begins at most this far from the end (CR LF).
_OVERLAP = 2
_BOM = b"\xef\xbb\xbf"
#: What the first line of a stream begins with; a comment begins with its colon.
_FIELDS = (b":", b"event:", b"data:", b"id:", b"retry:")
_BLANKS = b" \t\r\n"
#: Bytes that are looked at to tell a stream from something else.
_SNIFFED = 1024


class Overlong(NamedTuple):
    """An event that was too long to be kept: its first HEAD bytes, and its length in bytes."""

    head: bytes
    length: int


#: A whole event, without its blank line.
Event = bytes | Overlong


class Framer:
    """Cuts a stream of chunks into events.

    ``start`` and ``stop`` are the place of the event that was yielded last, in bytes from the
    beginning of the chunk: negative if that event began in an earlier chunk. ``stop`` is behind the
    line ends.
    """

    __slots__ = ("_dropped", "_head", "_pending", "any_line_end", "start", "stop", "unfinished_at")

    def __init__(self) -> None:
        #: The event that is not whole yet; of an overlong one, its last bytes.
        self._pending = bytearray()
        #: Bytes of an overlong event that are no longer in ``_pending``, and how it begins.
        self._dropped = 0
        self._head = b""
        #: Whether the stream has a CR, so that its lines may end in other ways than with LF.
        self.any_line_end = False
        self.start = self.stop = 0
        #: Where the event that is not whole yet begins in the last chunk; 0 if before it.
        self.unfinished_at = 0

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Take the next bytes; yield the events that are whole now.

        The iterator has to be exhausted before the next call.
        """
        if not self.any_line_end and b"\r" in chunk:
            self.any_line_end = True
        pending = self._pending
        known = len(pending)
        data: bytes | bytearray = chunk
        if known:
            pending += chunk
            data = pending
        # What was searched before is not searched again.
        position = max(0, known - _OVERLAP)
        start = 0 if known else _skip_line_ends(data, 0)
        size = len(data)
        while start < size:
            if self.any_line_end:
                match = _BLANK_LINE.search(data, max(start, position))
                end, after = match.span() if match else (-1, -1)
            else:
                end = data.find(b"\n\n", start if start > position else position)
                after = end + 2
            if end < 0:
                break
            stop = _skip_line_ends(data, after)
            self.start = start - known
            self.stop = stop - known
            yield self._event(data, start, end)
            start = stop
        if data is chunk:
            pending += memoryview(chunk)[start:]
        else:
            del pending[:start]
        self.unfinished_at = max(0, start - known)
        self._forget_overlong()

    @property
    def unfinished_length(self) -> int:
        """Bytes so far of the event that is not whole yet."""
        return self._dropped + len(self._pending)

    @property
    def unfinished_head(self) -> bytes:
        """The first bytes, at most HEAD, of the event that is not whole yet."""
        return self._head if self._dropped else bytes(self._pending[:HEAD])

    def unfinished_mentions(self, words: Sequence[bytes]) -> bool:
        """Whether one of the words stands in the event that is not whole yet."""
        return any(word in self._pending for word in words)

    def _event(self, data: bytes | bytearray, start: int, end: int) -> Event:
        length = self._dropped + end - start
        if length <= MAX_EVENT:
            return bytes(data[start:end])
        head = self._head if self._dropped else bytes(data[start : start + HEAD])
        self._dropped = 0
        return Overlong(head, length)

    def _forget_overlong(self) -> None:
        """Give up keeping the event that is not whole yet if it is too long already."""
        pending = self._pending
        # The last two bytes may belong to a line end: only beyond them it is surely too long.
        if self._dropped or len(pending) > MAX_EVENT + _OVERLAP:
            if not self._dropped:
                self._head = bytes(pending[:HEAD])
            dropped = max(0, len(pending) - _OVERLAP)
            self._dropped += dropped
            del pending[:dropped]


def is_stream(beginning: bytes, *, declared: bool) -> bool | None:
    """Whether what begins so is an event stream, by its first bytes; None if they are too few.

    A JSON document is none. What looks like neither is what it was ``declared`` to be. More
    bytes change no answer but None.
    """
    sniffed = beginning[:_SNIFFED]
    begun = sniffed.removeprefix(_BOM).lstrip(_BLANKS)
    if begun[:1] in (b"{", b"["):
        return False
    if begun.startswith(_FIELDS):
        return True
    too_few = _BOM.startswith(sniffed) or any(field.startswith(begun) for field in _FIELDS)
    return None if too_few and len(sniffed) < _SNIFFED else declared


def parse_event(event: bytes) -> tuple[str, bytes | None]:
    """The name and the data of one event: its fields, without its blank line.

    The name is empty where none is given. The data is None where there is none; several
    data lines are joined with a line feed. Comments and unknown fields mean nothing.
    """
    name = b""
    data: list[bytes] = []
    for line in _LINE_END.split(event.removeprefix(_BOM)):
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ")
    return name.decode("utf-8", "replace"), b"\n".join(data) if data else None


def _skip_line_ends(data: bytes | bytearray, position: int) -> int:
    """Where the next event begins: line ends before it mean nothing."""
    if position < len(data) and data[position] in b"\r\n":
        match = _LINE_ENDS.match(data, position)
        assert match is not None
        return match.end()
    return position
