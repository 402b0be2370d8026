"""The life of a request: read this file first.

``Exchange.run`` takes one request of a client through its steps: authenticate, read,
route, forward, relay and meter, settle. It ends in exactly one of four ways, and every
way leaves exactly one record of a metered request:

* *served*: the record is on disk before the client can see that the answer is complete;
* *refused*: an OpusLiveError, raised for the caller to answer in the client's dialect;
  its record is on disk before;
* *broken off*: the client went, or the upstream did after the answer had begun; the
  client's connection is reset, for a clean end could pass for success;
* *cut* by this process: its key was deleted (then nothing is recorded), or it shuts down.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from opuslive.dialects import Dialect, RawHeaders
from opuslive.dialects.headers import forward_request_headers
from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.answers import answer_headers, is_event_stream, passable, reason_of
from opuslive.gateway.authenticator import Authenticator
from opuslive.gateway.relay import HIGH_WATER, Relay
from opuslive.gateway.router import Router, Upstream, allowed, model_not_found
from opuslive.gateway.upstream import AnswerHead, FailureKind, UpstreamConnection, UpstreamError
from opuslive.keys import Key
from opuslive.metering import Buffer, Meter, NoUsage
from opuslive.storage import Storage, StorageUnavailable
from opuslive.usage import UsageRecord

log = logging.getLogger(__name__)
#: One line a request, where the configuration asks for it: what is recorded, nothing more.
access_log = logging.getLogger("opuslive.access")

#: Answers whose body is read before they may go on: they may speak of the gateway's own
#: account with the provider.
ACCOUNT_STATUSES = frozenset({400, 401, 402, 403, 429})
#: What a client that left early is recorded with; nginx's name for it.
CLIENT_CLOSED_REQUEST = 499


@dataclass(frozen=True, slots=True)
class Operation:
    """An endpoint of a dialect. An unmetered one leaves no record and uses up no limit."""

    dialect: Dialect
    path: str
    metered: bool = True


class Cut(enum.Enum):
    """Why an exchange is broken off."""

    CLIENT_GONE = enum.auto()
    UPSTREAM_GONE = enum.auto()
    KEY_DELETED = enum.auto()
    SHUTDOWN = enum.auto()


class ExchangeCut(Exception):
    """The exchange was broken off; the client's connection is, or has to be, reset."""

    def __init__(self, why: Cut) -> None:
        super().__init__(why.name)
        self.why = why


class Client(Protocol):
    """The client's side of an exchange. Whoever implements it owns HTTP towards the client."""

    @property
    def credentials(self) -> Sequence[str]:
        """What may be this gateway's key, most likely first."""

    @property
    def headers(self) -> RawHeaders:
        """The request's headers, as they came."""

    @property
    def query(self) -> bytes:
        """The request's query string, as it came."""

    def watch(self, exchange: Exchange) -> None:
        """Tell the exchange from now on of ``cut``, ``client_full`` and ``client_drained``."""

    async def read_body(self) -> Buffer:
        """The whole request body.

        Raises OpusLiveError (body_too_large, body_timeout, invalid_request, overloaded), or
        ExchangeCut if the client goes first.
        """

    def body_sent(self) -> None:
        """The body is not needed any more: its memory may be given back."""

    async def start_answer(self, head: AnswerHead) -> tuple[Callable[[bytes], object], bool]:
        """Send the answer's head; return how to write its body, and whether in HTTP chunks.

        Raises ExchangeCut if the client is gone.
        """

    def reset(self) -> None:
        """Reset the connection, so that the answer can't be taken for a complete one."""


@dataclass(frozen=True, slots=True)
class Services:
    """What exchanges work with. ``now_ms`` is wall time, ``monotonic`` in seconds."""

    authenticator: Authenticator
    router: Router
    storage: Storage
    now_ms: Callable[[], int]
    monotonic: Callable[[], float]


class Exchanges:
    """All exchanges that run, so that those of a key, or all, can be cut."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._running: dict[Exchange, None] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        #: Whether load balancers should go on sending requests here.
        self.ready = True
        #: Whether new requests are refused, because the process is about to end.
        self.draining = False

    @property
    def running(self) -> int:
        return len(self._running)

    async def serve(self, operation: Operation, client: Client) -> None:
        """Take one request through its life.

        Raises OpusLiveError, to be answered, or ExchangeCut.
        """
        key = await self._services.authenticator.authenticate(client.credentials)
        if self.draining:
            raise restarting()
        if operation.metered and not self._services.storage.healthy:
            # No record of this refusal: what can't be written piles up in memory.
            raise StorageUnavailable
        exchange = Exchange(self._services, operation, client, key)
        self._running[exchange] = None
        self._idle.clear()
        try:
            await exchange.run()
        finally:
            del self._running[exchange]
            if not self._running:
                self._idle.set()

    def cut_key(self, key_id: str) -> int:
        """Break off the requests of a deleted key, leaving no record; return how many."""
        return self._cut(
            (exchange for exchange in self._running if exchange.key.id == key_id), Cut.KEY_DELETED
        )

    def cut_all(self) -> int:
        """Break off everything, because the process ends; return how many."""
        return self._cut(self._running, Cut.SHUTDOWN)

    async def wait_idle(self) -> None:
        await self._idle.wait()

    def _cut(self, exchanges: Iterable[Exchange], why: Cut) -> int:
        cut = list(exchanges)
        for exchange in cut:
            exchange.cut(why)
        return len(cut)


class Exchange:
    """One request of a client with a proven key."""

    def __init__(self, services: Services, operation: Operation, client: Client, key: Key) -> None:
        self.key = key
        self._services = services
        self._operation = operation
        self._client = client
        self._admitted_at = services.now_ms()
        self._began = services.monotonic()
        self._model: str | None = None
        self._connecting: asyncio.Task[UpstreamConnection] | None = None
        self._relay: Relay | None = None
        self._meter: Meter = NoUsage()
        self._answering = False
        self._cut_by: Cut | None = None
        self._recording: asyncio.Future[None] | None = None

    async def run(self) -> None:
        """Take the steps, and see to it that every way out of them is settled."""
        try:
            self._client.watch(self)
            # The body is never named here: this frame lives as long as the stream does.
            relay = await self._forward(*self._route(await self._client.read_body()))
            head = await self._head(relay)
            await self._pass_on(relay, head)
        except ExchangeCut as cut:
            raise self._break_off(self._cut_by or cut.why) from cut
        except UpstreamError as error:
            if self._relay is not None:
                log.warning("upstream %s %s", self._relay.upstream_name, error)
            raise await self._refuse(_refusal(error)) from error
        except OpusLiveError as error:
            raise await self._refuse(error) from error
        except BaseException as error:
            cancelled = isinstance(error, asyncio.CancelledError)
            self._record(Code.OVERLOADED.status if cancelled else Code.INTERNAL.status)
            self._client.reset()
            raise
        finally:
            if self._relay is not None:
                self._relay.interrupt(ExchangeCut(Cut.SHUTDOWN))

    # The steps.

    def _route(self, body: Buffer) -> tuple[Sequence[Upstream], Sequence[Buffer]]:
        """Which upstreams to try, and what to send them: the body, its alias resolved."""
        dialect = self._operation.dialect
        router = self._services.router
        members = dialect.read_request(body)
        self._model = model = router.resolve(members.model)
        if not allowed(self.key.models, model):
            raise model_not_found()
        upstreams = router.candidates(model, dialect)
        return upstreams, [body] if model == members.model else dialect.with_model(body, model)

    async def _forward(self, upstreams: Sequence[Upstream], body: Sequence[Buffer]) -> Relay:
        """Send the request to the first upstream that can be reached.

        Only as long as no byte of it was written anywhere is the next one tried.
        """
        headers = forward_request_headers(self._client.headers)
        for upstream in upstreams:
            if self._cut_by is not None:
                raise ExchangeCut(self._cut_by)
            request = upstream.request(
                "POST", self._operation.path, self._client.query, headers, body
            )
            try:
                connection = upstream.pool.take() or await self._connect(upstream)
                relay = Relay(connection, upstream.name, asyncio.get_running_loop())
                connection.send(request, relay)
            except UpstreamError as error:
                log.warning("upstream %s %s: %s", upstream.name, error, reason_of(error))
                continue
            self._relay = relay
            return relay
        raise UpstreamError(FailureKind.UNREACHABLE, sent=False)

    async def _connect(self, upstream: Upstream) -> UpstreamConnection:
        self._connecting = asyncio.ensure_future(upstream.pool.connect())
        try:
            connection = await self._connecting
        except asyncio.CancelledError:
            if self._cut_by is not None:
                raise ExchangeCut(self._cut_by) from None
            raise
        finally:
            self._connecting = None
        if self._cut_by is not None:
            connection.abandon()
            raise ExchangeCut(self._cut_by)
        return connection

    async def _head(self, relay: Relay) -> AnswerHead:
        """The head of an answer that may go on to the client. Raises OpusLiveError for one that
        may not: it speaks of the gateway's own account with the provider."""
        head = await relay.head()
        self._client.body_sent()
        if not passable(head):
            raise UpstreamError(FailureKind.MALFORMED)
        if head.status in ACCOUNT_STATUSES:
            body = await relay.whole_body(HIGH_WATER)
            refusal = self._operation.dialect.upstream_refusal(
                head.status, head.headers, body or b""
            )
            if refusal is not None:
                if refusal.code is Code.UPSTREAM_ACCOUNT:
                    log.error(
                        "upstream %s refuses this gateway's account (status %d): "
                        "check its credential and its credit",
                        relay.upstream_name,
                        head.status,
                    )
                raise refusal
        return head

    async def _pass_on(self, relay: Relay, head: AnswerHead) -> None:
        """Relay the answer; settle when its last word on usage is heard; then let it end."""
        successful = 200 <= head.status < 300
        if successful and self._operation.metered:
            self._meter = self._operation.dialect.meter(stream=is_event_stream(head))
        relay.measure(self._meter if self._operation.metered else None)
        if not relay.finished:
            await self._start(relay, head)
            await relay.last_word()
        await self._settle(Code.UPSTREAM_UNREACHABLE.status if self._meter.failed else head.status)
        if self._cut_by is not None:
            raise ExchangeCut(self._cut_by)
        if not self._answering:
            await self._start(relay, head)
        relay.release()
        await relay.end()

    async def _start(self, relay: Relay, head: AnswerHead) -> None:
        self._answering = True
        write, chunked = await self._client.start_answer(
            AnswerHead(head.status, answer_headers(head), head.length)
        )
        relay.start(write, chunked=chunked)

    # The ends.

    async def _settle(self, status: int) -> None:
        """Record the request and wait until that is on disk. Raises StorageUnavailable."""
        self._record(status)
        if self._recording is not None:
            await self._recording

    def _record(self, status: int) -> None:
        """Queue the one record of this request. Further calls, and those for a deleted key, do
        nothing."""
        if not self._operation.metered or self._recording or self._cut_by is Cut.KEY_DELETED:
            return
        latency = round((self._services.monotonic() - self._began) * 1000)
        record = UsageRecord(
            key_id=self.key.id,
            time=self._admitted_at,
            model=self._services.router.kept_name(self._model),
            status=status,
            latency_ms=None if self._relay is None else latency,
            tokens=self._meter.counts(),
        )
        self._recording = self._services.storage.add_record(record)
        access_log.info(
            "key=%s model=%s status=%d latency_ms=%s tokens=%s",
            record.key_id,
            record.model,
            record.status,
            record.latency_ms,
            record.tokens,
        )

    async def _refuse(self, error: OpusLiveError) -> Exception:
        """Settle a failure; return what to raise: a refusal to answer, while that is possible."""
        if self._answering:
            self._record(Code.UPSTREAM_UNREACHABLE.status)
            self._client.reset()
            return ExchangeCut(Cut.UPSTREAM_GONE)
        await self._settle(error.code.status)
        return error

    def _break_off(self, why: Cut) -> Exception:
        """Settle a cut; return what to raise: an answer, if there is someone to take it."""
        self._record(CLIENT_CLOSED_REQUEST if why is Cut.CLIENT_GONE else Code.OVERLOADED.status)
        if why is Cut.CLIENT_GONE or self._answering:
            self._client.reset()
            return ExchangeCut(why)
        if why is Cut.KEY_DELETED:
            return OpusLiveError(Code.INVALID_KEY, "This API key has been deleted.")
        return restarting()

    # What happens to it from outside.

    def cut(self, why: Cut) -> None:
        """Break the exchange off, at whatever step it is."""
        if self._cut_by is None:
            self._cut_by = why
        if self._relay is not None:
            self._relay.interrupt(ExchangeCut(self._cut_by))
        elif self._connecting is not None:
            self._connecting.cancel()
        else:
            self._client.reset()

    def client_full(self) -> None:
        """The client takes no more for now."""
        if self._relay is not None:
            self._relay.client_full()

    def client_drained(self) -> None:
        if self._relay is not None:
            self._relay.client_drained()


def restarting() -> OpusLiveError:
    return OpusLiveError(
        Code.OVERLOADED, "The gateway is about to restart; try again.", retry_after=5
    )


def _refusal(error: UpstreamError) -> OpusLiveError:
    """What a client is told of an upstream that did not answer."""
    if error.kind is FailureKind.HEAD_TIMEOUT:
        return OpusLiveError(
            Code.UPSTREAM_TIMEOUT, "The model provider did not answer in time; try again."
        )
    return OpusLiveError(
        Code.UPSTREAM_UNREACHABLE, "The model provider could not be reached; try again shortly."
    )
