"""From a request to an answer: which upstream is asked next, and what the head of its answer means.

The upstreams that serve a model are tried in the router's order. The next one is tried only if no
byte of the request was written to the one before. What an upstream does wrong is noted here: for
its health, and in the log.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from opuslive.dialects import Buffer, Dialect, Meter, RawHeaders
from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.cutting import Cutter
from opuslive.gateway.relay import HIGH_WATER, Relay
from opuslive.gateway.upstreams.answers import check_passable, reason_of
from opuslive.gateway.upstreams.connection import UpstreamConnection
from opuslive.gateway.upstreams.failures import LONG_PAUSE_MS, FailureLog
from opuslive.gateway.upstreams.monitor import Monitor
from opuslive.gateway.upstreams.upstream import Upstream
from opuslive.gateway.upstreams.wire import AnswerHead, FailureKind, UpstreamError

log = logging.getLogger(__name__)

#: What an id of a request looks like.
_REQUEST_ID = re.compile(rb"[A-Za-z0-9_-]{1,64}")


@dataclass(slots=True)
class ForwardedRequest:
    """A client's request as it goes upstream. ``id`` is the gateway's own; ``upstreams`` are those
    to try, in order."""

    id: str
    dialect: Dialect
    upstreams: Sequence[Upstream]
    path: str
    query: bytes = field(repr=False)
    headers: RawHeaders = field(repr=False)
    body: Sequence[Buffer] = field(repr=False)


class Forwarder:
    """Sends requests to upstreams, and judges what comes back.

    ``wall_ms`` is the wall clock in ms since the epoch.
    """

    def __init__(self, monitor: Monitor, failures: FailureLog, wall_ms: Callable[[], int]) -> None:
        self._monitor = monitor
        self._failures = failures
        self._wall_ms = wall_ms

    async def send(self, request: ForwardedRequest, cutter: Cutter) -> Relay:
        """Send the request; return the relay of its answer. Bytes of the request were written.

        Raises OpusLiveError if no upstream could be reached; ExchangeCut.
        """
        for upstream in request.upstreams:
            cutter.check()
            try:
                return await self._send(request, upstream, cutter)
            except UpstreamError as error:
                self._monitor.failed(upstream, error.kind, f": {reason_of(error)}")
        raise unanswered(UpstreamError(FailureKind.UNREACHABLE))

    def broken_off(self, upstream: Upstream, error: UpstreamError) -> None:
        """An upstream failed after the request was sent to it."""
        self._monitor.failed(upstream, error.kind)

    def usage_untold(self, upstream: Upstream) -> None:
        """A whole answer of an upstream did not tell what it used."""
        self._failures.warning(
            upstream.name,
            "does not say how many tokens its answers use: they are estimated",
            pause_ms=LONG_PAUSE_MS,
        )

    def answered(self, upstream: Upstream, status: int, *, gave_up: bool) -> int:
        """The last word of an answer has come; return the status that its record gets.

        ``gave_up`` says that the answer itself reports a failure of the provider.
        """
        if gave_up:
            self._monitor.failed(upstream, FailureKind.GAVE_UP)
            return Code.UPSTREAM_UNREACHABLE.status
        self._monitor.answered(upstream, status)
        return status

    async def _send(self, request: ForwardedRequest, upstream: Upstream, cutter: Cutter) -> Relay:
        """Raises UpstreamError if nothing of the request was written."""
        on_wire = upstream.request(
            "POST", request.path, request.query, request.headers, request.body
        )
        connection = upstream.pool.take()
        if connection is None:
            connection = await cutter.wait(upstream.pool.connect(), UpstreamConnection.abandon)
        relay = Relay(connection, upstream, asyncio.get_running_loop())
        connection.send(on_wire, relay)
        return relay

    async def check(
        self, relay: Relay, head: AnswerHead, request: ForwardedRequest, meter: Meter
    ) -> None:
        """See whether an answer may go on to the client.

        Raises OpusLiveError for one that the client must not see, for it speaks of the gateway's
        own account with the provider; ``meter`` has read it then. Raises UpstreamError for one that
        can't go on, or if the upstream fails.
        """
        if log.isEnabledFor(logging.DEBUG):
            _tie_ids(relay.upstream.name, head, request)
        check_passable(head)
        dialect = request.dialect
        if head.status in dialect.account_statuses:
            body = await relay.whole_body(HIGH_WATER)
            account_error = dialect.account_error(
                head.status, head.headers, body or b"", self._wall_ms()
            )
            if account_error is not None:
                meter.feed(body or b"")
                meter.end()
                if account_error.code is Code.UPSTREAM_ACCOUNT:
                    self._monitor.account_rejected(relay.upstream, head.status)
                raise account_error
        self._monitor.answering(relay.upstream, head.status)


def _tie_ids(upstream_name: str, head: AnswerHead, request: ForwardedRequest) -> None:
    """Log which id the provider gave a request: its errors name that id, in the body.

    Nothing else may come into the log this way. So the id has to look like one, and must not be a
    header of the client's that the upstream sent back.
    """
    for name, value in head.headers:
        if name.lower() != b"request-id" or _REQUEST_ID.fullmatch(value) is None:
            continue
        if not any(value in sent for _, sent in request.headers):
            log.debug(
                "upstream %s answered the request %s with status %d; its own id of it is %s",
                upstream_name,
                request.id,
                head.status,
                value.decode("ascii"),
            )
        return


def unanswered(error: UpstreamError) -> OpusLiveError:
    """What a client is told of an upstream that did not answer."""
    if error.kind is FailureKind.HEAD_TIMEOUT:
        return OpusLiveError(
            Code.UPSTREAM_TIMEOUT, "The model provider did not answer in time; try again."
        )
    return OpusLiveError(
        Code.UPSTREAM_UNREACHABLE, "The model provider could not be reached; try again shortly."
    )
