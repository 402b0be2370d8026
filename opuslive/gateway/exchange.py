"""The life of a request: read this file first.

``Exchange.run`` takes one request of a client through its steps: authenticate, read,
route, admit, forward, relay and meter, settle. It ends in exactly one of four ways, and every
way leaves exactly one record of a metered request:

* *served*: the record, with the upstream's status, is on disk before the client can see that
  the answer is complete;
* *refused*: an OpusLiveError, raised for the caller to answer in the client's dialect;
  its record is on disk before;
* *broken off*: the client went, or the upstream did after the answer had begun; the
  client's connection is reset, for a clean end could pass for success;
* *cut* by this process: its key was deleted (then nothing is recorded), or it shuts down.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from opuslive.dialects import Buffer, Dialect, Meter, NoUsage, Operation
from opuslive.dialects.headers import forward_request_headers
from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.admission.admission import Demand
from opuslive.gateway.client import Client, ExchangeCut
from opuslive.gateway.holder import Cut, Holder
from opuslive.gateway.relay import HIGH_WATER, Relay
from opuslive.gateway.services import Services
from opuslive.gateway.upstreams.answers import (
    answer_headers,
    check_passable,
    is_event_stream,
    reason_of,
)
from opuslive.gateway.upstreams.connection import UpstreamConnection
from opuslive.gateway.upstreams.router import allowed, model_not_found
from opuslive.gateway.upstreams.upstream import Upstream
from opuslive.gateway.upstreams.wire import AnswerHead, FailureKind, UpstreamError
from opuslive.limits.accounts import LimitExceeded, Reservation

log = logging.getLogger(__name__)

#: What a client that left early is recorded with; nginx's name for it.
CLIENT_CLOSED_REQUEST = 499

T = TypeVar("T")


class Exchange:
    """One request of a client with a proven key."""

    def __init__(
        self,
        services: Services,
        dialect: Dialect,
        operation: Operation,
        client: Client,
        holder: Holder,
    ) -> None:
        self._holder = holder
        self._services = services
        self._dialect = dialect
        self._operation = operation
        self._client = client
        self._settlement = services.recorder.settlement(holder, metered=operation.metered)
        self._waiting_for: asyncio.Future[Any] | None = None
        self._relay: Relay | None = None
        self._answering = False
        self._cut_by: Cut | None = None

    async def run(self) -> None:
        """Take the steps, and see to it that every way out of them is settled."""
        try:
            self._client.watch(self)
            # The body is never named here: this frame lives as long as the stream does.
            relay = await self._forward(
                *await self._admit(*self._route(await self._client.read_body()))
            )
            head = await self._head(relay)
            await self._pass_on(relay, head)
        except ExchangeCut as cut:
            raise await self._break_off(self._cut_by or cut.why) from cut
        except UpstreamError as error:
            if self._relay is not None:
                self._services.health.failed(self._relay.upstream_name, error.kind)
                log.warning("upstream %s %s", self._relay.upstream_name, error)
            raise await self.refuse(_refusal(error)) from error
        except OpusLiveError as error:
            # Mostly the same error: as its own cause it would keep itself alive, and with its
            # frames the body, until a garbage collection.
            raise await self.refuse(error) from None
        except BaseException as error:
            cancelled = isinstance(error, asyncio.CancelledError)
            self._settlement.record(Code.OVERLOADED.status if cancelled else Code.INTERNAL.status)
            self._client.reset()
            raise
        finally:
            if self._relay is not None:
                self._relay.interrupt(ExchangeCut(Cut.SHUTDOWN))

    # The steps.

    def _route(self, body: Buffer) -> tuple[Demand, Sequence[Upstream], Sequence[Buffer]]:
        """What is asked for, which upstreams to try, and what to send them: the body, its alias
        resolved."""
        dialect = self._dialect
        router = self._services.router
        members = dialect.read_request(body)
        self._settlement.model = model = router.resolve(members.model)
        if not allowed(self._holder.key.models, model):
            raise model_not_found()
        upstreams = router.candidates(model, dialect)
        pieces = dialect.prepare(body, members, model)
        guess = dialect.input_guess(body) if self._operation.metered else 0
        return Demand(model, guess, members.max_tokens), upstreams, pieces

    async def _admit(
        self, demand: Demand, upstreams: Sequence[Upstream], body: Sequence[Buffer]
    ) -> tuple[Sequence[Upstream], Sequence[Buffer]]:
        """Hold the request against its limits; let it wait for room if that may come soon."""
        self._raise_if_cut()
        if self._operation.metered:
            admission = self._services.admission
            admitted = admission.enter(self._holder, demand)
            if isinstance(admitted, asyncio.Future):
                outcome = await self._unless_cut(admitted, _release)
                admitted = admission.admitted(self._holder, demand, outcome)
            self._settlement.admitted(admitted)
        return upstreams, body

    async def _forward(self, upstreams: Sequence[Upstream], body: Sequence[Buffer]) -> Relay:
        """Send the request to the first upstream that can be reached.

        Only as long as no byte of it was written anywhere is the next one tried.
        """
        headers = forward_request_headers(self._client.headers)
        for upstream in upstreams:
            self._raise_if_cut()
            request = upstream.request(
                "POST", self._operation.path, self._client.query, headers, body
            )
            try:
                connection = upstream.pool.take()
                if connection is None:
                    connection = await self._unless_cut(
                        upstream.pool.connect(), UpstreamConnection.abandon
                    )
                    self._raise_if_cut(connection)
                relay = Relay(connection, upstream.name, asyncio.get_running_loop())
                connection.send(request, relay)
            except UpstreamError as error:
                self._services.health.failed(upstream.name, error.kind)
                log.warning("upstream %s %s: %s", upstream.name, error, reason_of(error))
                continue
            self._relay = relay
            self._settlement.sent = True
            return relay
        raise UpstreamError(FailureKind.UNREACHABLE)

    async def _head(self, relay: Relay) -> AnswerHead:
        """The head of an answer that may go on to the client. Raises OpusLiveError for one that
        may not: it speaks of the gateway's own account with the provider."""
        head = await relay.head()
        self._client.body_sent()
        check_passable(head)
        dialect = self._dialect
        if head.status in dialect.account_statuses:
            body = await relay.whole_body(HIGH_WATER)
            refusal = dialect.account_error(head.status, head.headers, body or b"")
            if refusal is not None:
                if refusal.code is Code.UPSTREAM_ACCOUNT:
                    self._services.health.account_refused(relay.upstream_name)
                    log.error(
                        "upstream %s refuses this gateway's account (status %d): "
                        "check its credential and its credit",
                        relay.upstream_name,
                        head.status,
                    )
                raise refusal
        self._services.health.answering(relay.upstream_name, head.status)
        return head

    async def _pass_on(self, relay: Relay, head: AnswerHead) -> None:
        """Relay the answer; settle when its last word on usage is heard; then let it end."""
        meter: Meter = NoUsage()
        if 200 <= head.status < 300 and self._operation.metered:
            meter = self._dialect.meter(stream=is_event_stream(head))
        self._settlement.meter = meter
        relay.measure(meter if self._operation.metered else None)
        if not relay.finished:
            await self._start(relay, head)
            await relay.last_word()
        health, status = self._services.health, head.status
        if meter.failed:
            health.failed(relay.upstream_name, FailureKind.GAVE_UP)
            status = Code.UPSTREAM_UNREACHABLE.status
        else:
            health.answered(relay.upstream_name, status)
        await self._settlement.settle(status)
        self._raise_if_cut()
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

    async def _unless_cut(self, waiting: Awaitable[T], give_back: Callable[[T], object]) -> T:
        """Wait for something before the request is sent; ``cut`` ends the wait.

        ``give_back`` gets what came in the very moment in which this task was cancelled.
        """
        self._waiting_for = task = asyncio.ensure_future(waiting)
        try:
            return await task
        except asyncio.CancelledError:
            if not task.cancelled() and task.exception() is None:
                give_back(task.result())
            if self._cut_by is not None:
                raise ExchangeCut(self._cut_by) from None
            raise
        finally:
            self._waiting_for = None

    def _raise_if_cut(self, connection: UpstreamConnection | None = None) -> None:
        """Stop here if ``cut`` was called; ``connection`` is one that was made in vain then."""
        if self._cut_by is not None:
            if connection is not None:
                connection.abandon()
            raise ExchangeCut(self._cut_by)

    async def refuse(self, error: OpusLiveError) -> Exception:
        """Settle a failure; return what to raise: a refusal to answer, while that is possible."""
        if self._answering:
            self._settlement.record(Code.UPSTREAM_UNREACHABLE.status)
            self._client.reset()
            return ExchangeCut(Cut.UPSTREAM_GONE)
        await self._settlement.settle(error.code.status)
        return error

    async def _break_off(self, why: Cut) -> Exception:
        """Settle a cut; return what to raise: an answer, if the client waits for one."""
        if why is Cut.CLIENT_GONE or self._answering:
            gone = why is Cut.CLIENT_GONE
            self._settlement.record(CLIENT_CLOSED_REQUEST if gone else Code.OVERLOADED.status)
            self._client.reset()
            return ExchangeCut(why)
        await self._settlement.settle(Code.OVERLOADED.status)
        if why is Cut.KEY_DELETED:
            return OpusLiveError(Code.INVALID_KEY, "This API key has been deleted.")
        return restarting()

    # What happens to it from outside.

    def keep_open(self, now: int) -> None:
        """See ``Settlement.keep_open``."""
        self._settlement.keep_open(now)

    def cut(self, why: Cut) -> None:
        """Break the exchange off, at whatever step it is.

        A client that is still sending its body is reset: it would not read an answer.
        """
        if self._cut_by is None:
            self._cut_by = why
        if self._relay is not None:
            self._relay.interrupt(ExchangeCut(self._cut_by))
        elif self._waiting_for is not None:
            self._waiting_for.cancel()
        else:
            self._client.reset()

    def client_full(self) -> None:
        """The client takes no more for now."""
        if self._relay is not None:
            self._relay.client_full()

    def client_drained(self) -> None:
        if self._relay is not None:
            self._relay.client_drained()


def _release(outcome: Reservation | LimitExceeded) -> None:
    """Give back a reservation that came when nobody waited for it any more."""
    if isinstance(outcome, Reservation):
        outcome.settle(None, outcome.time)


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
