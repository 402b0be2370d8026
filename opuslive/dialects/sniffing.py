"""The meter of a successful answer: that of a stream or that of a body, as its first bytes say.

Some servers send a stream as text, or name no type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from opuslive.dialects import Meter
from opuslive.dialects.sse import is_stream
from opuslive.usage import ModelTokens, TokenCounts


class SniffingMeter:
    """Finds out which of two meters an answer needs, and is that one from then on. A ``Meter``."""

    __slots__ = ("_beginning", "_declared", "_holds", "_make", "_meter", "_rest", "feed")

    #: The chosen meter's own method, once a meter is chosen: chunks pass nothing else.
    feed: Callable[[bytes], bytes]

    def __init__(self, make: Callable[[bool], Meter], *, stream: bool, holds: bool = False) -> None:
        """``make`` makes the meter of a stream (True) or of a body; ``stream`` says which of them
        the answer is declared to be. With ``holds`` the first bytes wait until it is chosen, for it
        may drop something of them; else they go at once."""
        self._make = make
        self._declared = stream
        self._holds = holds
        #: The first bytes, while they are too few to tell.
        self._beginning = b""
        #: What came of them at the end, if it has to wait.
        self._rest = b""
        self._meter = make(stream)
        self.feed = self._feed_first

    def _feed_first(self, chunk: bytes) -> bytes:
        before = self._beginning
        # What comes back is the chunk itself where that is all.
        beginning = before + chunk if before else chunk
        stream = is_stream(beginning, declared=self._declared)
        if stream is None:
            self._beginning = beginning
            return b"" if self._holds else chunk
        if stream is not self._declared:
            self._meter = self._make(stream)
        self._beginning = b""
        self.feed = self._meter.feed
        if self._holds or not before:
            return self._meter.feed(beginning)
        self._meter.feed(before)
        return self._meter.feed(chunk)

    def end(self) -> bool:
        if self._beginning:
            rest = self._meter.feed(self._beginning)
            self._rest = rest if self._holds else b""
            self._beginning = b""
        return self._meter.end()

    def release(self) -> bytes:
        rest, self._rest = self._rest, b""
        return rest + self._meter.release()

    @property
    def finished(self) -> bool:
        return self._meter.finished

    @property
    def held(self) -> int:
        waiting = len(self._beginning) if self._holds else 0
        return waiting + len(self._rest) + self._meter.held

    @property
    def failed(self) -> bool:
        return self._meter.failed

    @property
    def input_told(self) -> bool:
        return self._meter.input_told

    @property
    def output_told(self) -> bool:
        return self._meter.output_told

    @property
    def unseen_output(self) -> bool:
        return self._meter.unseen_output

    @property
    def ends_soon(self) -> bool:
        return self._meter.ends_soon

    @property
    def model(self) -> str | None:
        return self._meter.model

    def counts(self) -> TokenCounts:
        return self._meter.counts()

    def parts(self) -> Sequence[ModelTokens]:
        return self._meter.parts()
