"""The life of a request: read this file first.

``Exchange.run`` takes one request of a client with a proven key through its steps: read, route,
admit, forward, relay and meter, settle. (``Exchanges.serve`` authenticates it before.) An exchange
ends in exactly one of four ways, and every way leaves exactly one record of a metered request
(``settlement`` says which refusals leave none, because there are too many):

* *served*: the record, with the upstream's status, is on disk before the client can see that
  the answer is complete;
* *denied*: an OpusLiveError, raised for the caller to answer in the client's dialect;
  its record is on disk before;
* *broken off*: the client left, or the upstream failed after the answer had begun; the
  client's connection is reset, for a clean end could pass for success;
* *cut* by this process: its key was deleted (then nothing is recorded), the key's holder asked for
  it, or the process shuts down.
"""

from __future__ import annotations

import asyncio
from typing import NoReturn

from opuslive.dialects import (
    Buffer,
    Dialect,
    InputGuess,
    Meter,
    NoUsage,
    Operation,
    RequestMembers,
)
from opuslive.dialects.headers import forward_request_headers
from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.admission.admission import Admission
from opuslive.gateway.client import Client
from opuslive.gateway.cutting import Cutter, ExchangeCut
from opuslive.gateway.forwarding import ForwardedRequest, Forwarder, WholeAnswer, unanswered
from opuslive.gateway.holder import Cut, Holder
from opuslive.gateway.relay import Relay
from opuslive.gateway.settlement import Settlement
from opuslive.gateway.upstreams.answers import answer_headers
from opuslive.gateway.upstreams.balancing import conversation_id
from opuslive.gateway.upstreams.router import Router, allowed, model_not_found, unrestricted
from opuslive.gateway.upstreams.wire import AnswerHead, UpstreamError
from opuslive.limits.estimates import Demand

#: Seconds for which an answer is read on that its client left near its end, to hear what it used.
#: (Within a second of its client's leaving the upstream is let go.)
READ_ON_SECONDS = 0.8
#: What a client that left early is recorded with; nginx's name for it.
CLIENT_CLOSED_REQUEST = 499


class Exchange:
    """One request of a client with a proven key. A ``Watcher`` of the client."""

    __slots__ = (
        "_admission",
        "_answering",
        "_client",
        "_cutter",
        "_dialect",
        "_forwarder",
        "_holder",
        "_members",
        "_operation",
        "_read_on",
        "_relay",
        "_router",
        "_settlement",
    )

    def __init__(
        self,
        router: Router,
        admission: Admission,
        forwarder: Forwarder,
        settlement: Settlement,
        dialect: Dialect,
        operation: Operation,
        client: Client,
        holder: Holder,
    ) -> None:
        self._router = router
        self._admission = admission
        self._forwarder = forwarder
        self._settlement = settlement
        self._dialect = dialect
        self._operation = operation
        self._client = client
        self._holder = holder
        self._cutter = Cutter()
        self._members: RequestMembers | None = None
        self._relay: Relay | None = None
        #: Ends the reading on for a client that left.
        self._read_on: asyncio.TimerHandle | None = None
        #: Whether the client may have seen something of the answer.
        self._answering = False

    async def run(self, turn: asyncio.Semaphore | None = None) -> None:
        """Take the steps, and see to it that every way out of them is settled.

        A request that is not metered is admitted when it gets its ``turn``. Raises OpusLiveError,
        to be answered, or ExchangeCut.
        """
        held: asyncio.Semaphore | None = None
        try:
            self._client.watch(self)
            if turn is None and not self._client.body_is_here:
                self._admission.check(self._holder)
                self._settlement.passage.pause()
            demand, request = self._route(await self._client.read_body())
            if turn is None:
                await self._admit(demand)
            else:
                held = await self._take(turn)
            head = await self._forward(request)
            if isinstance(head, WholeAnswer):
                await self._repeat(head)
            else:
                await self._pass_on(head)
                self._cutter.check()  # The client may have left, and the answer been read on.
                await self._settle(head)
        except ExchangeCut as cut:
            await self._break_off(self._cutter.why or cut.why)
        except UpstreamError as error:
            self._settlement.failed = True
            if self._relay is not None:
                self._forwarder.broken_off(self._relay.upstream, error)
            await self.deny(unanswered(error))
        except OpusLiveError as error:
            await self.deny(error)
        except BaseException as error:
            cancelled = isinstance(error, asyncio.CancelledError)
            self._settlement.record(Code.OVERLOADED.status if cancelled else Code.INTERNAL.status)
            self._client.reset()
            raise
        finally:
            if self._read_on is not None:
                self._read_on.cancel()
            if self._relay is not None and not self._relay.over:
                self._relay.interrupt(ExchangeCut(Cut.SHUTDOWN))
            if held is not None:
                held.release()

    # The steps.

    def _route(self, body: Buffer) -> tuple[Demand, ForwardedRequest]:
        """What is asked for; and what to send to which upstreams: the body, its alias resolved."""
        self._settlement.passage.resume()
        dialect, operation = self._dialect, self._operation
        self._members = members = dialect.read_request(body, operation)
        self._settlement.model = model = self._router.resolve(members.model)
        globs, others = self._holder.key.models, members.other_models
        self._router.check_full_names(others)
        if not allowed(globs, model):
            raise model_not_found()
        for other in others:
            if not allowed(globs, other):
                raise model_not_found()
        if members.any_model and not unrestricted(globs):
            raise model_not_found()
        upstreams = self._router.candidates(model, dialect, others)
        request = ForwardedRequest(
            self._client.request_id,
            dialect,
            upstreams,
            operation.path,
            self._client.query,
            forward_request_headers(self._client.headers),
            dialect.prepare(body, members, model),
            None if len(upstreams) == 1 else self._conversation(body),
        )
        guess = dialect.input_guess(body) if operation.metered else InputGuess(0)
        demand = Demand(
            model,
            guess.seen,
            members.max_tokens,
            others,
            members.any_model,
            guess.unseen + members.unseen_input,
            members.unpriced,
            members.bound,
            members.answers,
        )
        return demand, request

    def _conversation(self, body: Buffer) -> bytes | None:
        named = self._dialect.conversation(self._client.headers, body)
        return None if named is None else conversation_id(self._holder.key.id, named)

    async def _admit(self, demand: Demand) -> None:
        """Hold the request against its limits; let it wait for room if that may come soon."""
        self._cutter.check()
        admitted = self._admission.enter(self._holder, demand)
        if isinstance(admitted, asyncio.Future):
            self._settlement.passage.pause()
            outcome = await self._cutter.wait(admitted, self._admission.give_back)
            self._settlement.passage.resume()
            admitted = self._admission.admitted(self._holder, demand, outcome)
        self._settlement.admitted(admitted)

    async def _take(self, turn: asyncio.Semaphore) -> asyncio.Semaphore:
        """Wait for the turn of a request that uses up no limit."""
        self._cutter.check()
        await self._cutter.wait(turn.acquire(), lambda _: turn.release())
        return turn

    async def _forward(self, request: ForwardedRequest) -> AnswerHead | WholeAnswer:
        """Send the request to one upstream after the other, until one gives the head of an answer
        that may go on to the client; else take the best of their answers."""
        settlement = self._settlement
        passage = settlement.passage
        try:
            while True:
                relay = await self._forwarder.send(request, self._cutter, passage.forwarded)
                if relay is None:
                    break
                self._relay = relay
                settlement.sending(relay.upstream.name)
                head = await relay.head()
                passage.answered()
                settlement.meter = meter = self._meter_of(head)
                settlement.refused = 400 <= head.status < 500
                if await self._forwarder.accepts(relay, head, request, meter):
                    return head
            best = request.take_best()
            settlement.refused = not (isinstance(best, WholeAnswer) and best.head.status >= 500)
            if isinstance(best, WholeAnswer):
                return best
            try:
                raise best
            finally:
                del best  # See ``deny``.
        finally:
            # The answer may stream for hours, and an error keeps the frames that it came through:
            # the body takes no memory meanwhile.
            request.body = ()
            self._client.body_sent()

    def _meter_of(self, head: AnswerHead) -> Meter:
        """What reads the usage of an answer; nothing can read that of a redirect, say."""
        if 200 <= head.status < 300:
            assert self._members is not None
            return self._dialect.meter(self._members, stream=head.is_event_stream)
        return self._dialect.error_meter() if 400 <= head.status < 600 else NoUsage()

    async def _pass_on(self, head: AnswerHead) -> None:
        """Relay the answer through its meter, until the last word on its usage is heard."""
        relay = self._relay
        assert relay is not None
        meter = self._settlement.meter if self._operation.metered else None
        relay.measure(meter, self._client.hold)
        if not relay.finished:
            await self._start(relay, head)
            await relay.last_word()

    async def _settle(self, head: AnswerHead) -> None:
        """Put the record on disk; then let the client have the end of its answer."""
        relay = self._relay
        assert relay is not None
        meter = self._settlement.meter
        status = self._forwarder.answered(relay.upstream, head.status, gave_up=meter.failed)
        told = meter.failed or (meter.input_told and meter.output_told)
        if self._operation.metered and not told:
            self._forwarder.usage_untold(relay.upstream)
        await self._settlement.settle(status)
        self._cutter.check()
        relay.release()
        if not self._answering:
            await self._start(relay, head)
        await relay.end()

    async def _start(self, relay: Relay, head: AnswerHead) -> None:
        self._answering = True
        write, chunked = await self._client.start_answer(
            AnswerHead(head.status, answer_headers(head), head.length), relay.take_ready()
        )
        relay.start(write, chunked=chunked)

    async def _repeat(self, answer: WholeAnswer) -> None:
        """Put the record on disk; then give the client an answer that has been read whole."""
        head = answer.head
        await self._settlement.settle(head.status)
        self._cutter.check()
        self._answering = True
        await self._client.start_answer(
            AnswerHead(head.status, answer_headers(head), len(answer.body)), answer.body
        )

    # The ends.

    async def deny(self, error: OpusLiveError) -> NoReturn:
        """Settle a failure. Raises the error to answer with, or ExchangeCut if it is too late."""
        if self._answering:
            # What had begun was not refused, whatever ends it: without memory it is a 503.
            status = error.code.status
            self._settlement.record(status if status >= 500 else Code.OVERLOADED.status)
            self._client.reset()
            raise ExchangeCut(Cut.UPSTREAM_GONE) from error
        await self._settlement.settle(error.code.status)
        try:
            raise error from None
        finally:
            # The error keeps the frames that it came through, this one too. If they kept the error,
            # the body in them would stay in memory until a garbage collection.
            del error

    async def _break_off(self, why: Cut) -> NoReturn:
        """Settle a cut. Raises the error to answer with, if the client waits for an answer, or
        ExchangeCut."""
        # Whoever has the key left, at the client or by a word to the gateway.
        left = why in (Cut.CLIENT_GONE, Cut.HOLDER_ASKED)
        self._settlement.failed = not left
        status = CLIENT_CLOSED_REQUEST if left else Code.OVERLOADED.status
        if why is Cut.CLIENT_GONE or self._answering:
            self._settlement.record(status)
            self._client.reset()
            raise ExchangeCut(why)
        await self._settlement.settle(status)
        if why is Cut.KEY_DELETED:
            raise OpusLiveError(Code.INVALID_KEY, "This API key has been deleted.")
        if why is Cut.HOLDER_ASKED:
            raise OpusLiveError(
                Code.CONFLICT, "The holder of this API key has cut the requests that ran."
            )
        raise restarting()

    # What happens to the exchange from outside.

    def keep_open(self, now: int) -> None:
        """See ``Settlement.keep_open``."""
        self._settlement.keep_open(now)

    def shift(self, delta: int) -> None:
        """See ``Settlement.shift``."""
        self._settlement.shift(delta)

    def cut(self, why: Cut) -> None:
        """Break the exchange off, at whatever step it is.

        A client that is still sending its body is reset: it would not read an answer.
        """
        waited = self._cutter.cut(why)
        if self._relay is not None:
            self._relay.interrupt(ExchangeCut(self._cutter.why or why))
        elif not waited:
            self._client.reset()

    def client_gone(self) -> None:
        """The client has left. An answer near its end is read on for a moment: else who leaves
        before the usage comes would pay less than who stays."""
        if self._read_on is not None:
            return
        relay = self._relay
        if (
            relay is None
            or not self._answering
            or relay.finished
            or not self._settlement.meter.ends_soon
        ):
            self.cut(Cut.CLIENT_GONE)
            return
        self._cutter.cut(Cut.CLIENT_GONE)
        relay.read_on()
        loop = asyncio.get_running_loop()
        self._read_on = loop.call_later(READ_ON_SECONDS, self.cut, Cut.CLIENT_GONE)

    def client_full(self) -> None:
        if self._relay is not None:
            self._relay.client_full()

    def client_drained(self) -> None:
        if self._relay is not None:
            self._relay.client_drained()


def restarting() -> OpusLiveError:
    """What a client is told while the process is about to end."""
    return OpusLiveError(
        Code.OVERLOADED, "The gateway is about to restart; try again.", retry_after=5
    )
