"""Cutting an event stream into events while it passes, and what may pass already.

An event stream (text/event-stream, WHATWG HTML 9.2) is lines, each a field; a blank line
ends an event. Chunks come cut anywhere. ``EventStreamReader`` finds the blank lines, gives
each whole event to its subclass, and keeps nothing but the event that is not whole yet.

*What may pass.* ``feed`` returns how many bytes of the chunk the client may see. An answer
must not be complete before its usage is on disk, so whatever lies from the start of the
terminal event on is held back. While an event is not whole, nobody can tell
whether it is terminal; if it contains a word that only terminal events must contain
(``SUSPECTS``) it waits for its end. That delays nothing for the client, which can't use
half an event either. An event that is not suspicious yet goes on at once; when it turns
out terminal, its rest is held, so that it is never complete at the client.

*Line ends* may be LF, CRLF or CR. JSON holds neither of these bytes raw, so a stream
without a CR has only LF, and blank lines are found with ``find``. The first CR switches to
a regular expression for the rest of the stream. In ``\\r\\n\\r\\n`` the blank line is known
one byte before its end, as a client's reader knows it; line ends between two
events mean nothing, so the last one, whenever it comes, is skipped.

*Bounds.* Beyond ``MAX_EVENT`` bytes an event is not kept; only its length and its beginning
are. It can neither count nor end the stream, however it was cut.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import ClassVar

#: Bytes of an event that is kept, at most. The largest known ones, tool inputs, have 0.1 MB.
MAX_EVENT = 1 << 20
#: Bytes of an event that waits for its end because it may be terminal; real ones have 0.2 KB.
MAX_HELD = 4096
#: Bytes at the beginning of an event that tell its kind.
HEAD = 128

_BLANK_LINE = re.compile(rb"(?:\r\n|\n|\r(?!\n))[\r\n]")
_LINE_ENDS = re.compile(rb"[\r\n]+")
_LINE_END = re.compile(rb"\r\n|\r|\n")
#: Bytes: a blank line that lacks its last byte begins at most this far from the end (CR LF).
_OVERLAP = 2
_BOM = b"\xef\xbb\xbf"


class EventStreamReader(ABC):
    """Finds the events in a stream of chunks. Subclasses say what an event means."""

    #: Each terminal event holds one of these from early on; others may as well.
    SUSPECTS: ClassVar[tuple[bytes, ...]]

    __slots__ = ("_dropped", "_finished", "_head", "_pending", "_tolerant")

    def __init__(self) -> None:
        self._pending = bytearray()  # the event that is not whole yet, or its last bytes
        self._dropped = 0  # bytes of an overlong event no longer in _pending
        self._head = b""  # the beginning of that overlong event
        self._tolerant = False  # a CR was seen
        self._finished = False  # the terminal event was seen

    @abstractmethod
    def _on_event(self, data: bytes | bytearray, start: int, end: int) -> bool:
        """A whole event is ``data[start:end]``, its blank line not included.

        Returns whether it is the terminal one. ``data`` is valid during the call only.
        """

    @abstractmethod
    def _on_overlong_event(self, head: bytes, length: int) -> None:
        """An event of ``length`` bytes passed that was too long to keep; ``head`` begins it."""

    @property
    def finished(self) -> bool:
        return self._finished

    def feed(self, chunk: bytes) -> int:
        """Take the next bytes; return how many of ``chunk`` may go on, by ``Meter.feed``."""
        if self._finished or not chunk:
            return 0
        if not self._tolerant and b"\r" in chunk:
            self._tolerant = True
        pending = self._pending
        known = len(pending)
        data: bytes | bytearray = chunk
        if known:
            pending += chunk
            data = pending
        size = len(data)
        # What was searched before is not searched again.
        position = max(0, known - _OVERLAP)
        start = 0 if known else _skip_line_ends(data, 0)
        while start < size:
            if self._tolerant:
                match = _BLANK_LINE.search(data, max(start, position))
                end, after = match.span() if match else (-1, -1)
            else:
                end = data.find(b"\n\n", start if start > position else position)
                after = end + 2
            if end < 0:
                break
            if self._close(data, start, end):
                self._finished = True
                self._pending = bytearray()
                return max(0, start - known)
            start = _skip_line_ends(data, after)
        if data is chunk:
            pending += memoryview(chunk)[start:]
        else:
            del pending[:start]
        return len(chunk) if self._may_pass() else max(0, start - known)

    def unfinished_event(self) -> tuple[bytes, int]:
        """The beginning and the length so far (bytes) of the event that is not whole yet."""
        head = self._head if self._dropped else bytes(self._pending[:HEAD])
        return head, self._dropped + len(self._pending)

    def _close(self, data: bytes | bytearray, start: int, end: int) -> bool:
        if self._dropped:
            self._on_overlong_event(self._head, self._dropped + end)
            self._dropped = 0
            return False
        if end - start > MAX_EVENT:
            self._on_overlong_event(bytes(data[start : start + HEAD]), end - start)
            return False
        return self._on_event(data, start, end)

    def _may_pass(self) -> bool:
        """Whether the event that is not whole yet may go on; gives up keeping it if overlong."""
        pending = self._pending
        size = len(pending)
        # The last two bytes may belong to a line end: only beyond them it is surely too long.
        if self._dropped or size > MAX_EVENT + 2:
            if not self._dropped:
                self._head = bytes(pending[:HEAD])
            dropped = max(0, size - _OVERLAP)
            self._dropped += dropped
            del pending[:dropped]
            return True
        return size >= MAX_HELD or not any(word in pending for word in self.SUSPECTS)


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
    match = _LINE_ENDS.match(data, position)
    return match.end() if match else position
