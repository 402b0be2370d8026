"""Usage in OpenAI's answers in one piece, and which meter an answer gets.

A body tells its usage in the top-level ``usage``; one that does not is estimated by its size.
Embeddings have no output. Whether an answer is a stream, its first bytes say: some servers send one
under another type, or none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from opuslive.dialects import RequestMembers
from opuslive.dialects.documents import members, read_string
from opuslive.dialects.openai.reported import ReportedUsage
from opuslive.dialects.openai.stream import StreamMeter
from opuslive.dialects.openai.written import BYTES_PER_TOKEN
from opuslive.dialects.scanning import MemberScanner
from opuslive.dialects.sse import is_stream
from opuslive.usage import ModelTokens, TokenCounts

#: Bytes of a JSON answer that are kept to be read, at most: of a longer one only the members that
#: tell its usage are, in so many bytes.
MAX_KEPT = 256 * 1024
MAX_TOLD = 64 * 1024
_MEMBERS = ("usage", "model")
#: Bytes of a JSON answer without its text.
_BODY_FRAMING = 400
#: How an object ends.
_OBJECT_END = b"}"
_BLANKS = b" \t\r\n"


class BodyMeter:
    """Reads the usage of an answer in one piece. A ``Meter`` that holds nothing."""

    __slots__ = ("_body", "_request", "_scanner", "_size", "_usage", "finished", "model")

    failed = False
    held = 0
    unseen_output = False

    def __init__(self, request: RequestMembers) -> None:
        #: Whether the body has ended.
        self.finished = False
        self.model: str | None = None
        self._request = request
        self._body = bytearray()
        #: What reads a body that is too long to be kept.
        self._scanner: MemberScanner | None = None
        self._size = 0  # bytes seen
        self._usage = ReportedUsage()

    def feed(self, chunk: bytes) -> bytes:
        self._size += len(chunk)
        if self._scanner is None and self._size > MAX_KEPT:
            self._scanner = MemberScanner(_MEMBERS, MAX_TOLD)
            self._scanner.feed(bytes(self._body))
            self._body.clear()
        if self._scanner is None:
            self._body += chunk
        else:
            self._scanner.feed(chunk)
        return chunk

    def end(self) -> bool:
        self._look()
        self.finished = True
        return True

    def release(self) -> bytes:
        return b""

    @property
    def input_told(self) -> bool:
        self._look()
        return self._usage.tells_input or self._tells_all

    @property
    def output_told(self) -> bool:
        self._look()
        return self.finished and (self._usage.tells_output or self._tells_all)

    @property
    def ends_soon(self) -> bool:
        """The provider has written it whole before its first byte."""
        return self._size > 0 and not self.finished

    def counts(self) -> TokenCounts:
        """The output is estimated from the size while it is not told."""
        self._look()
        output = self._usage.output
        if not self._usage.tells_output and self._has_output:
            output = max(output, (self._size - _BODY_FRAMING) // BYTES_PER_TOKEN)
        return self._usage.counts(output=output)

    def parts(self) -> Sequence[ModelTokens]:
        return ()

    @property
    def _has_output(self) -> bool:
        return self._request.max_tokens != 0

    @property
    def _tells_all(self) -> bool:
        """Whether the input was told of what has no output."""
        return self._usage.told and not self._has_output

    def _look(self) -> None:
        """Read the usage once the whole document is there, whether the body has ended or not."""
        body = self._body
        if self._scanner is not None:
            found = self._scanner.found
        elif body.rstrip(_BLANKS).endswith(_OBJECT_END):
            found = members(bytes(body), *_MEMBERS)
        else:
            return
        for name, value in found:
            if name == "usage":
                self._usage.update(value)
            elif self._request.other_models:
                model = read_string(value)
                if model in self._request.other_models and model != self._request.model:
                    self.model = model


class AnswerMeter:
    """The meter of a successful answer: a stream's or a body's, as its first bytes say."""

    __slots__ = ("_beginning", "_declared", "_meter", "_request", "_rest", "feed")

    #: The chosen meter's own method, once a meter is chosen: chunks pass nothing else.
    feed: Callable[[bytes], bytes]

    def __init__(self, request: RequestMembers, *, stream: bool) -> None:
        """``stream``: whether the answer is declared to be an event stream."""
        self._request = request
        self._declared = stream
        #: The first bytes, while they are too few to tell; and what came of them at the end.
        self._beginning = self._rest = b""
        self._meter = self._of(stream)
        self.feed = self._feed_first

    def _of(self, stream: bool) -> StreamMeter | BodyMeter:
        return StreamMeter(self._request) if stream else BodyMeter(self._request)

    def _feed_first(self, chunk: bytes) -> bytes:
        # What comes back is the chunk itself where that is all.
        beginning = self._beginning + chunk if self._beginning else chunk
        stream = is_stream(beginning, declared=self._declared)
        if stream is None:
            self._beginning = beginning
            return b""
        if stream is not self._declared:
            self._meter = self._of(stream)
        self._beginning = b""
        self.feed = self._meter.feed
        return self._meter.feed(beginning)

    def end(self) -> bool:
        if self._beginning:
            self._rest = self._meter.feed(self._beginning)
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
        return len(self._beginning) + len(self._rest) + self._meter.held

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
        return ()


class ErrorMeter(BodyMeter):
    """The meter of an error: what it does not tell was not used."""

    __slots__ = ()

    ends_soon = False

    def __init__(self) -> None:
        super().__init__(RequestMembers("", 0))

    @property
    def input_told(self) -> bool:
        return True

    @property
    def output_told(self) -> bool:
        return True
