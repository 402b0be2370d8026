"""Passing an event stream on: what has to wait is held, what nobody asked for is dropped.

A meter reads each event and returns its ``Verdict``; ``EventFilter`` does what the verdict says.
An answer must not be complete before its usage is on disk, so the last event and all after it are
held until ``release``.

While an event is not whole, nobody can tell its verdict. An event that contains a *suspect*, a
word that the last event and dropped ones always contain, waits for its end. That delays nothing
for the client, which can't use half an event either. An event without a suspect so far goes on at
once; when it turns out to be the last one, its rest is held, so that the client never has all
of it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence

from opuslive.dialects.sse import Event, Framer

#: Bytes of an event that waits for its end because it may be the last; real ones have 0.2 KB.
MAX_HELD = 4096


class Verdict(enum.Enum):
    """What becomes of an event."""

    PASS = enum.auto()
    #: The client never sees the event. (A client that has a part of it already gets the rest.)
    DROP = enum.auto()
    #: The event and all that follow it wait for ``release``.
    LAST = enum.auto()


# A member that is looked up in its class costs as much as a call does.
_PASS, _LAST = Verdict.PASS, Verdict.LAST


class EventFilter:
    """Passes an event stream on, less what has to wait and what is dropped.

    An event with another verdict than PASS contains one of the ``suspects`` from early on; other
    events may contain them as well.
    """

    __slots__ = ("_framer", "_held", "_suspects", "_torn", "finished", "idle")

    def __init__(self, suspects: Sequence[bytes]) -> None:
        self._suspects = suspects
        self._framer = Framer()
        #: The held bytes: of the event that is not whole yet, or from the last event on.
        self._held = bytearray()
        #: Whether a part of the event that is not whole yet went on already.
        self._torn = False
        #: Whether the last event was seen.
        self.finished = False
        #: Whether the next byte begins an event, nothing is held, and lines end with LF. A chunk
        #: that is one whole event with the verdict PASS may then go on without being fed.
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

    def feed(self, chunk: bytes, read: Callable[[Event], Verdict]) -> bytes:
        """Take the next bytes, have each whole event ``read``, return the bytes that may go now.

        Returns ``chunk`` itself if all of it may go and nothing was held.
        """
        if self.finished:
            self._held += chunk
            return b""
        framer = self._framer
        passed: list[bytes] = []
        done = 0  # bytes of the chunk that were passed or dropped
        for event in framer.feed(chunk):
            verdict = read(event)
            if verdict is _PASS:
                continue
            if verdict is _LAST:
                self.finished = True
                self.idle = False
                self._hold(chunk, done, framer.start, passed)
                return b"".join(passed)
            if framer.start >= 0:
                self._pass(chunk, done, framer.start, passed)
                done = framer.stop
            elif not self._torn:
                self._held.clear()
                done = framer.stop
        if self._may_be_other_than_passed():
            self.idle = False
            self._hold(chunk, done, framer.unfinished_at, passed)
            return b"".join(passed)
        self._torn = framer.unfinished_length > 0
        self.idle = not (self._torn or framer.any_line_end)
        if not (done or self._held):
            return chunk
        self._pass(chunk, done, len(chunk), passed)
        return b"".join(passed)

    def release(self) -> bytes:
        """Give up what is held. Nothing may be fed any more."""
        held = bytes(self._held)
        self._held.clear()
        return held

    def _may_be_other_than_passed(self) -> bool:
        """Whether the event that is not whole yet has to wait for its end."""
        framer = self._framer
        return framer.unfinished_length < MAX_HELD and framer.unfinished_mentions(self._suspects)

    def _pass(self, chunk: bytes, done: int, until: int, passed: list[bytes]) -> None:
        """Pass what is held, and the chunk from ``done`` up to ``until``."""
        if self._held:
            passed.append(bytes(self._held))
            self._held.clear()
        passed.append(chunk[done:until])

    def _hold(self, chunk: bytes, done: int, start: int, passed: list[bytes]) -> None:
        """Hold an event that begins at ``start``, and all after it; pass what is before it."""
        if start > 0:
            self._pass(chunk, done, start, passed)
            self._torn = False
            done = start
        # Otherwise what is held already belongs to this event.
        self._held += memoryview(chunk)[done:]
