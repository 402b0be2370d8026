"""Passing an event stream on whose events may have to change, or be long and yet the last.

Each event waits for its end: that delays nothing for the client, which can't use half an event.
The reader of events decides what becomes of each: it goes on, as it was or changed; nobody sees it;
or it ends the stream, and waits with all that follows for ``release``.

*Bounds.* An event of more than ``MAX_EVENT`` bytes goes on before its end, and is not read. Only
one that begins as the last event of a response does is kept up to ``MAX_LAST``: it repeats the
instructions, the tools and the whole output. What waits is in ``held``; whoever feeds the filter
sees to it that there is memory for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from opuslive.dialects.sse import MAX_EVENT, Event, Framer, Overlong

#: Bytes of the event that ends a response, at most.
MAX_LAST = 16 << 20
# How such an event begins: with its name, or with its type. No content can begin a line.
_BEGINS_LAST = re.compile(
    rb"(?:\A|[\r\n])(?:event: ?|data: ?\{ ?\"type\" ?: ?\")"
    rb"response\.(?:completed|incomplete|failed)[\r\n\"]"
)
_LINE_ENDS = b"\r\n"
#: Bytes at the end of an unfinished event that may belong to its blank line.
_OVERLAP = 2

#: Reads an event as it stands, its line ends included. Of one that is too long come the bytes that
#: did not go on yet, and what is known of it. Returns the bytes that may go on, or None for the
#: last event.
EventReader = Callable[[bytes, Overlong | None], bytes | None]


def begins_as_last(head: bytes) -> bool:
    """Whether an event that begins so is the one that ends a response."""
    return _BEGINS_LAST.search(head) is not None


def _line_ends(event: bytes) -> bytes:
    """Those that an event has before it."""
    return event[: len(event) - len(event.lstrip(_LINE_ENDS))]


class EventGate:
    """Passes an event stream on event by event."""

    __slots__ = ("_after_dropped", "_framer", "_held", "_torn", "finished", "idle")

    def __init__(self) -> None:
        self._framer = Framer()
        #: The event that is not whole yet; or from the last event on.
        self._held = bytearray()
        #: Whether a part of the event that is not whole yet went on already.
        self._torn = False
        #: Whether the event before was dropped: then its line ends are dropped, too.
        self._after_dropped = False
        #: Whether the last event was seen.
        self.finished = False
        #: Whether the next byte begins an event, nothing is held, and lines end with LF. A chunk
        #: that is one whole event may then go on without being fed.
        self.idle = True

    @property
    def held(self) -> int:
        """Bytes that wait."""
        return len(self._held)

    @property
    def unfinished(self) -> tuple[bytes, int]:
        """The first bytes, and the length so far, of the event that is not whole yet."""
        if self.finished:
            return b"", 0
        return self._framer.unfinished_head, self._framer.unfinished_length

    def feed(self, chunk: bytes, read: EventReader) -> bytes:
        """Take the next bytes, have each whole event ``read``, return the bytes that may go now."""
        if self.finished:
            self._held += chunk
            return b""
        framer = self._framer
        passed: list[bytes] = []
        done = 0
        for event in framer.feed(chunk):
            piece = self._shown(chunk[done : framer.stop])
            done = framer.stop
            event_bytes = self._taken(piece)
            shown = read(event_bytes, self._too_long(event))
            self._torn = False
            if shown is None:
                self.finished = True
                self.idle = False
                # The iterator is not exhausted, and not needed any more.
                self._held += event_bytes
                self._held += memoryview(chunk)[done:]
                return b"".join(passed)
            self._after_dropped = not shown
            # A line end before a dropped event belongs to the event before it.
            passed.append(shown or _line_ends(event_bytes))
        self._keep(self._shown(chunk[done:]), passed)
        self.idle = not (self._held or self._torn or framer.any_line_end or self._after_dropped)
        return passed[0] if len(passed) == 1 else b"".join(passed)

    def release(self) -> bytes:
        """Give up what is held. Nothing may be fed any more."""
        held = bytes(self._held)
        self._held.clear()
        return held

    def _shown(self, piece: bytes) -> bytes:
        """The piece, less the line ends of a dropped event at its beginning."""
        if self._after_dropped and piece:
            piece = piece.lstrip(_LINE_ENDS)
            self._after_dropped = not piece
        return piece

    def _taken(self, piece: bytes) -> bytes:
        """What is held, and the piece behind it."""
        if not self._held:
            return piece
        taken = b"".join((self._held, piece))
        self._held.clear()
        return taken

    def _keep(self, rest: bytes, passed: list[bytes]) -> None:
        """Hold the beginning of the event that is not whole yet, if it is not too long."""
        framer = self._framer
        length = framer.unfinished_length
        if length and not self._torn:
            limit = MAX_LAST if begins_as_last(framer.unfinished_head) else MAX_EVENT
            if length <= limit + _OVERLAP:
                self._held += rest
                return
            self._torn = True
        if rest or self._held:
            passed.append(self._taken(rest))

    def _too_long(self, event: Event) -> Overlong | None:
        """The event, if it is not to be read."""
        if not isinstance(event, Overlong):
            return None
        kept = event.length <= MAX_LAST and begins_as_last(event.head)
        return None if kept and not self._torn else event
