"""What goes over a connection to an upstream: a request, an answer, or a failure."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from opuslive.dialects import Buffer


class FailureKind(enum.Enum):
    """How an exchange with an upstream can fail. ``UNREACHABLE``: nothing was sent."""

    UNREACHABLE = "could not be reached"
    BROKEN = "broke the connection off"
    MALFORMED = "sent something that is not HTTP"
    REDIRECTED = "redirects to another place, which is never followed"
    COMPRESSED = "compressed its answer, though asked not to"
    HEAD_TIMEOUT = "sent no answer in time"
    IDLE_TIMEOUT = "stopped in the middle of its answer"
    GAVE_UP = "reported an error in the middle of its answer"


class UpstreamError(Exception):
    """The upstream did not deliver."""

    def __init__(self, kind: FailureKind) -> None:
        super().__init__(kind.value)
        self.kind = kind


class _Unshown(msgspec.Struct, frozen=True, gc=False):
    """Holds credentials and content: its repr tells nothing of them."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class UpstreamRequest(_Unshown, frozen=True, gc=False):
    """A request ready for the wire. ``head`` ends with the empty line; ``body`` comes in pieces."""

    method: str
    head: bytes
    body: Sequence[Buffer] = ()


class AnswerHead(_Unshown, frozen=True, gc=False):
    """Status and headers of an answer, as they came; ``length`` is its body's in bytes, if told.

    What its body is, the parser notes when it reads the head: so nobody looks for it again.
    """

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    length: int | None
    is_event_stream: bool = False
    is_compressed: bool = False


class AnswerSink(Protocol):
    """Who listens to an answer. The calls come from the event loop's read callback: be quick."""

    def on_head(self, head: AnswerHead) -> None: ...

    def on_body(self, chunk: bytes) -> None: ...

    def on_end(self) -> None: ...

    def on_failure(self, error: UpstreamError) -> None: ...


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to connect, until the answer's head, and between two reads of its body."""

    connect: float
    first_byte: float
    idle: float
