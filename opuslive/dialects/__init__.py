"""What differs between the wire formats of model providers.

A dialect is pure: bytes in, facts or bytes out. It does no I/O and reads no clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from opuslive.errors import OpusLiveError
from opuslive.limits.grammar import Metric
from opuslive.limits.windows import Standing
from opuslive.metering import Buffer, Meter

#: Header names and values as they stand on the wire; names in any case.
RawHeaders = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class RequestMembers:
    """The members of a request body that the gateway acts on. ``max_tokens`` is in tokens."""

    model: str
    max_tokens: int | None = None
    stream: bool = False


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

    def standing_headers(self, tightest: Mapping[Metric, Standing]) -> Sequence[tuple[str, str]]:
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
