"""What differs between the wire formats of model providers.

A dialect is pure: bytes in, facts or bytes out. It does no I/O and reads no clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from opuslive.errors import OpusLiveError
from opuslive.limits.grammar import Metric
from opuslive.limits.windows import LimitStatus
from opuslive.usage import TokenCounts

#: Header names and values as they stand on the wire; names in any case.
RawHeaders = Sequence[tuple[bytes, bytes]]

#: A body in memory: bytes, or a view of an anonymous mmap for a large one.
Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class RequestMembers:
    """The members of a request body that the gateway acts on. ``max_tokens`` is in tokens."""

    model: str
    max_tokens: int | None = None
    stream: bool = False


class Meter(Protocol):
    """Reads usage out of one answer. How its bytes are split makes no difference."""

    @property
    def finished(self) -> bool:
        """Whether the answer has said its last word on usage: a terminal event was seen."""

    @property
    def failed(self) -> bool:
        """Whether the answer itself reports that the provider gave up on it half-way."""

    def feed(self, chunk: bytes) -> int:
        """Take the next bytes; return how many of ``chunk`` the client may see already.

        What lies beyond that belongs to the terminal event, or to one that may turn out
        to be it; it has to wait until the usage is on disk (or for the next call, whose
        answer counts for the bytes held back as well, unless it is 0).
        """

    def end(self) -> bool:
        """The body ended. Return whether the answer is whole."""

    def counts(self) -> TokenCounts:
        """What is known by now; the output of an unfinished answer is an estimate."""


class NoUsage:
    """The meter of an answer that used nothing: an error of the upstream."""

    finished = False
    failed = False

    def feed(self, chunk: bytes) -> int:
        return len(chunk)

    def end(self) -> bool:
        return True

    def counts(self) -> TokenCounts:
        return TokenCounts()


class Dialect(Protocol):
    """One wire format."""

    @property
    def name(self) -> str:
        """As it is written in the configuration."""

    def read_request(self, body: Buffer) -> RequestMembers:
        """Read what the gateway needs of a request.

        Raises OpusLiveError (invalid_request) for a body that is not a JSON object, has no
        model, or has a member that decides the bill twice or with an impossible value.
        """

    def input_guess(self, body: Buffer) -> int:
        """Roughly how many input tokens the request has, not tokenised: see ``content``."""

    def with_model(self, body: Buffer, model: str) -> Sequence[Buffer]:
        """The same body with another model name, as pieces to send one after the other.

        Only the bytes of the name differ.
        """

    def credential_headers(self, api_key: str) -> RawHeaders:
        """The headers that authenticate the gateway to the upstream."""

    def list_headers(self) -> RawHeaders:
        """The headers without which the upstream does not list its models."""

    def meter(self, *, stream: bool) -> Meter:
        """A meter for one successful answer: of an event stream, or of a JSON body."""

    def limit_headers(self, tightest: Mapping[Metric, LimitStatus]) -> Sequence[tuple[str, str]]:
        """The headers that tell a client how its key stands: its tightest limit of each metric."""

    def error_body(self, error: OpusLiveError, request_id: str) -> bytes:
        """The error as this dialect's clients expect it. (JSON.)"""

    def upstream_refusal(
        self, status: int, headers: RawHeaders, body: bytes
    ) -> OpusLiveError | None:
        """What to tell the client instead of this answer of the upstream, if it must not see it.

        It must not where the answer is about the gateway's own account: its credential, its
        credit, its rate limits. ``None`` means that the answer goes on byte for byte.
        """
