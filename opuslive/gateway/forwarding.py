"""From a request to an answer: which upstream is asked, what the head of its answer means, and
which answer the client gets if none may go on to it.

Before a byte went to the client another upstream that serves the model is asked if this one

* can't be connected to;
* answers with a 429 or a 5xx;
* answers about the gateway's account: that its credential is refused, its credit used up, or what
  was asked for not open to it (403).

It is not asked if bytes of the request were written and no answer came: this one may be working on
it. When all were asked, the client gets the best of their answers, by ``_rank``. What an upstream
does wrong is noted here: for its health, and in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from opuslive.dialects import Buffer, Dialect, Meter, RawHeaders
from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.cutting import Cutter
from opuslive.gateway.relay import HIGH_WATER, Relay
from opuslive.gateway.upstreams.answers import check_passable, reason_of
from opuslive.gateway.upstreams.balancing import Balancer
from opuslive.gateway.upstreams.connection import UpstreamConnection
from opuslive.gateway.upstreams.failures import LONG_PAUSE_MS, FailureLog
from opuslive.gateway.upstreams.health import RATE_LIMIT_SECONDS
from opuslive.gateway.upstreams.monitor import Monitor
from opuslive.gateway.upstreams.upstream import Upstream
from opuslive.gateway.upstreams.wire import AnswerHead, FailureKind, UpstreamError

log = logging.getLogger(__name__)

#: Seconds that the body of an answer may take that is not passed on: another upstream waits.
HEAR_OUT_SECONDS = 5.0
#: What an id of a request looks like.
_REQUEST_ID = re.compile(rb"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """An error that was read whole, for the case that no other upstream has a better answer."""

    head: AnswerHead
    body: bytes = field(repr=False)


class ForwardedRequest(msgspec.Struct):
    """A client's request as it goes upstream. ``id`` is the gateway's own; ``upstreams`` are those
    that were not asked yet; ``best`` is the best answer for the client so far, if no upstream has a
    better one. ``conversation``: see ``balancing``."""

    id: str
    dialect: Dialect
    upstreams: Sequence[Upstream]
    path: str
    query: bytes
    headers: RawHeaders
    body: Sequence[Buffer]
    conversation: bytes | None = None
    best: OpusLiveError | WholeAnswer | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"  # The rest may hold content.

    @property
    def may_be_better(self) -> bool:
        """Whether there may be a better answer than one that has just come. The last one's goes on
        as it comes, unless another one's is better."""
        return bool(self.upstreams) or self.best is not None

    def offer(self, answer: OpusLiveError | WholeAnswer) -> None:
        """Take an answer for the best so far if it is."""
        if self.best is None or _rank(answer) < _rank(self.best):
            self.best = answer

    def take_best(self) -> OpusLiveError | WholeAnswer:
        """The best answer, when all upstreams were asked. It is not kept here: see
        ``Exchange.deny``."""
        best, self.best = self.best, None
        assert best is not None
        return best


class Forwarder:
    """Sends requests to upstreams, and judges what comes back.

    ``wall_ms`` is the wall clock in ms since the epoch.
    """

    def __init__(
        self,
        balancer: Balancer,
        monitor: Monitor,
        failures: FailureLog,
        wall_ms: Callable[[], int],
    ) -> None:
        self._balancer = balancer
        self._monitor = monitor
        self._failures = failures
        self._wall_ms = wall_ms

    async def send(
        self, request: ForwardedRequest, cutter: Cutter, asking: Callable[[], object]
    ) -> Relay | None:
        """Send the request to the next upstream that can be reached; None if there is none.

        ``asking`` is called before each upstream is turned to. Returns the relay of its answer:
        bytes of the request were written. Raises ExchangeCut.
        """
        while request.upstreams:
            cutter.check()
            asking()
            upstream = self._balancer.pick(request.upstreams, request.conversation)
            request.upstreams = [each for each in request.upstreams if each is not upstream]
            try:
                return await self._send(request, upstream, cutter)
            except UpstreamError as error:
                self._monitor.failed(upstream, error.kind, f": {reason_of(error)}")
                request.offer(unanswered(error))
        return None

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

    async def accepts(
        self, relay: Relay, head: AnswerHead, request: ForwardedRequest, meter: Meter
    ) -> bool:
        """Whether an answer may go on to the client; else another upstream is to be asked, and
        ``meter`` has read the answer.

        Raises UpstreamError for an answer that can't go on, or if the upstream fails.
        """
        if log.isEnabledFor(logging.DEBUG):
            _tie_ids(relay.upstream.name, head, request)
        if head.status >= 500:
            if request.may_be_better:
                self._monitor.failed(relay.upstream, head.status)
                await _keep(relay, head, request, meter)
                return False
        elif head.status in request.dialect.account_statuses:
            error = await self._account_error(relay, head, request.dialect, meter)
            if error is not None:
                request.offer(error)
                return False
            if head.status == 403 and request.may_be_better:
                await _keep(relay, head, request, meter)
                self._monitor.answered(relay.upstream, head.status)
                return False
        check_passable(head)
        self._monitor.answering(relay.upstream, head.status)
        return True

    async def _account_error(
        self, relay: Relay, head: AnswerHead, dialect: Dialect, meter: Meter
    ) -> OpusLiveError | None:
        """What the client is told instead of an answer about the gateway's account; None for an
        answer that is about something else."""
        now = self._wall_ms()
        if dialect.account_error(head.status, head.headers, b"", now) is not None:
            # The status says so; the body, what it is.
            await _hear_out(relay)
        else:
            await relay.whole_body(HIGH_WATER)
        error = dialect.account_error(head.status, head.headers, relay.so_far(), now)
        if error is None:
            return None
        _read_off(relay, meter)
        if error.code is Code.UPSTREAM_ACCOUNT:
            self._monitor.account_rejected(relay.upstream, head.status)
        elif error.code is Code.UPSTREAM_RATE_LIMITED:
            self._monitor.rate_limited(relay.upstream, error.retry_after)
        return error


async def _keep(relay: Relay, head: AnswerHead, request: ForwardedRequest, meter: Meter) -> None:
    """Read an error, and offer it to the client. A long or a late one is not worth waiting for."""
    await _hear_out(relay)
    body = _read_off(relay, meter)
    if relay.over and not head.is_compressed:
        request.offer(WholeAnswer(head, body))
    else:
        request.offer(unanswered(UpstreamError(FailureKind.BROKEN)))


async def _hear_out(relay: Relay) -> None:
    """Wait for the end of an answer that does not go on: it is short, and about to come, or not
    worth waiting for."""
    with contextlib.suppress(TimeoutError, UpstreamError):
        async with asyncio.timeout(HEAR_OUT_SECONDS):
            await relay.whole_body(HIGH_WATER)


def _read_off(relay: Relay, meter: Meter) -> bytes:
    """Let ``meter`` read what has come of an answer that does not go on; the rest is not wanted."""
    body = relay.so_far()
    meter.feed(body)
    meter.end()
    relay.drop()
    return body


def _rank(answer: OpusLiveError | WholeAnswer) -> tuple[int, int]:
    """How little an answer helps the client, which may ask again: a wait that is known (the
    shortest first), an error of the provider in its own words, an upstream that may come back."""
    if isinstance(answer, WholeAnswer):
        return (1 if answer.head.status >= 500 else 3), 0
    if answer.code is Code.UPSTREAM_RATE_LIMITED:
        return 0, RATE_LIMIT_SECONDS if answer.retry_after is None else answer.retry_after
    return {Code.UPSTREAM_UNREACHABLE: 2, Code.UPSTREAM_ACCOUNT: 4}.get(answer.code, 5), 0


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
