"""Usage in OpenAI's answers in one piece, and which meter an answer gets.

A body tells its usage in the top-level ``usage``; one that does not is estimated by its size.
Embeddings have no output. Whether an answer is a stream, its first bytes say: some servers send one
under another type, or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from opuslive.dialects import Meter, RequestMembers
from opuslive.dialects.documents import members, read_string
from opuslive.dialects.openai.reported import ReportedUsage
from opuslive.dialects.openai.stream import StreamMeter
from opuslive.dialects.openai.written import BYTES_PER_TOKEN
from opuslive.dialects.scanning import MemberScanner
from opuslive.dialects.sniffing import SniffingMeter
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


def answer_meter(request: RequestMembers, *, stream: bool) -> SniffingMeter:
    """The meter of a successful answer; ``stream``: it is declared to be an event stream."""
    return SniffingMeter(partial(_meter, request), stream=stream, holds=True)


def _meter(request: RequestMembers, stream: bool) -> Meter:
    return StreamMeter(request) if stream else BodyMeter(request)


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
