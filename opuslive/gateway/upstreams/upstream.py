"""One account with a model provider, as requests are sent to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from opuslive.dialects import Buffer, Dialect, RawHeaders
from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.upstreams.health import UpstreamHealth
from opuslive.gateway.upstreams.pool import UpstreamPool
from opuslive.gateway.upstreams.wire import UpstreamRequest
from opuslive.quantities import matches_glob


@dataclass(frozen=True, slots=True, eq=False)
class Upstream:
    """A model provider's account, ready to be sent requests. One object for each, which lives for
    as long as a configuration has it.

    ``authority`` is the value of the Host header; ``path_prefix`` stands before ``/v1/…``.
    """

    name: str
    dialect: Dialect
    pool: UpstreamPool
    authority: bytes
    path_prefix: bytes
    credential: RawHeaders = field(repr=False)
    models: tuple[str, ...]
    priority: int
    weight: int
    health: UpstreamHealth = field(default_factory=UpstreamHealth)

    def request(
        self,
        method: str,
        path: str,
        query: bytes = b"",
        headers: RawHeaders = (),
        body: Sequence[Buffer] = (),
    ) -> UpstreamRequest:
        """Put a request together. ``headers`` are what goes on of the client's.

        Raises OpusLiveError (invalid_request) if a header could break out of its line.
        """
        target = self.path_prefix + path.encode("ascii")
        if query:
            target += b"?" + query
        lines = [b"%b %b HTTP/1.1" % (method.encode("ascii"), target), b"host: " + self.authority]
        lines += [b"%b: %b" % header for header in (*self.credential, *headers)]
        if method == "POST":
            lines.append(b"content-length: %d" % sum(len(piece) for piece in body))
        head = b"\r\n".join((*lines, b"", b""))
        ends = len(lines) + 1
        if head.count(b"\r") != ends or head.count(b"\n") != ends or b"\0" in head:
            raise OpusLiveError(
                Code.INVALID_REQUEST, "The request has a control character in its head."
            )
        return UpstreamRequest(method, head, body)

    def serves(self, model: str) -> bool:
        return any(matches_glob(glob, model) for glob in self.models)
