"""One connection to an upstream, and one request and answer on it at a time.

Theory of operation
-------------------

``UpstreamConnection`` is an ``asyncio.Protocol``: the event loop calls it with bytes,
it has them parsed (``parser.py``) and calls the *sink* of the running exchange.
Nothing here is a coroutine, and no task is woken for a chunk: what arrives in one
read goes to the sink in one call, before the event loop does anything else.

A connection is in one of three states::

    IDLE ──send()──► BUSY ──answer complete and clean──► IDLE
                      │                                    │
                      └──anything else──► CLOSED ◄──closed, or bytes nobody asked for

*The sink hears a fixed sequence*: ``on_head`` once, ``on_body`` any number of times,
then exactly one of ``on_end`` and ``on_failure``; a failure may come at any point.
After ``abandon`` it hears nothing more.

A body that ends with the connection is complete only at an orderly close: under TLS, one
that was announced.

*Early answers.* A refusal (``REFUSED_FROM``) may come while the request is written, and
the connection may be closed behind it. The rest of the request is not sent then; and where a write
fails, what has arrived by then is heard before the connection counts as broken
(``leftovers.py``).

*Reuse.* An answer leaves the connection idle only when everything about it was clean:
it had a length of its own, the server means to keep the connection, the kernel has the
request to its last byte, and nothing follows the answer. Whatever arrives on an idle
connection closes it.

*Backpressure.* Towards the upstream: a large body goes out in 64 KB slices for as long
as the transport takes them. From the upstream: the sink calls ``pause_for`` and
``resume_for``.

*Deadlines.* One timer, re-armed only when it fires: it compares the time of the last
progress with what is allowed, so that a chunk costs one look at the clock. Until the
head is there the request's last written byte counts as progress, then each read; a
connection that the sink has paused is not late.

*Nothing is sent twice.* What fails before ``send`` has returned is ``UNREACHABLE``: no byte
of the request was written, and another upstream may be tried. What fails after that is
told to the sink, as any other kind. The pool hands out only connections proven open (see
``pool.py``), and ``send`` refuses one that was lost since.
"""

from __future__ import annotations

import asyncio
import select
import ssl
from collections.abc import Callable, Iterator
from typing import cast

from opuslive.dialects import Buffer
from opuslive.gateway.upstreams.leftovers import unread
from opuslive.gateway.upstreams.parser import AnswerParser
from opuslive.gateway.upstreams.wire import (
    AnswerSink,
    FailureKind,
    Timeouts,
    UpstreamError,
    UpstreamRequest,
)

#: A request body goes to the transport in slices of this many bytes, so that writing a
#: large one neither copies it whole nor stalls the event loop.
WRITE_SLICE = 64 * 1024
#: Answers of this status and above refuse a request: nobody wants the rest of its body.
REFUSED_FROM = 400


class UpstreamConnection(asyncio.Protocol):
    """A connection to an upstream; made and kept by a pool, lent to one exchange at a time.

    ``on_idle`` and ``on_lost`` tell the pool that the connection may be lent again, or
    never again.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timeouts: Timeouts,
        on_idle: Callable[[UpstreamConnection], None],
        on_lost: Callable[[UpstreamConnection], None],
    ) -> None:
        self._loop = loop
        self._timeouts = timeouts
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._poll = select.poll()
        self._write_paused = False
        self._read_paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._progress_at = 0.0
        #: Seconds that the server says it keeps an idle connection; None if it says nothing.
        self.keep_alive_hint: float | None = None
        self._sink: AnswerSink | None = None
        self._begin_exchange("GET")

    def _begin_exchange(self, method: str) -> None:
        self._answer = AnswerParser(method)
        self._outgoing: Iterator[Buffer] | None = None
        #: Whether the rest of the request is not sent: it was refused, or can't be sent any more.
        self._cut_short = False
        self._head_done = False

    # What the pool and the exchange call.

    @property
    def closing(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def open_and_silent(self) -> bool:
        """Whether the connection is open and nothing has come on it, as a poll of its socket says
        now: the event loop may not have looked yet."""
        return not self.closing and not self._poll.poll(0)

    def send(self, request: UpstreamRequest, sink: AnswerSink) -> None:
        """Send a request on an idle connection; ``sink`` hears the answer.

        Raises UpstreamError (unreachable, nothing sent) if the connection is lost already.
        """
        assert self._sink is None
        if self.closing:
            raise UpstreamError(FailureKind.UNREACHABLE)
        self._answer.close()
        self._begin_exchange(request.method)
        self._sink = sink
        self._progress_at = self._loop.time()
        self._arm(self._timeouts.first_byte)
        size = sum(map(len, request.body))
        if size <= WRITE_SLICE and not self._write_paused:
            # As most are: in one packet, and without an iterator.
            assert self._transport is not None
            self._transport.write(b"".join((request.head, *request.body)))
            return
        self._outgoing = _slices(request)
        self._pump()

    def drop(self, sink: AnswerSink) -> None:
        """Give up the exchange of ``sink``, if it still runs on this connection."""
        if self._sink is sink:
            self.abandon()

    def abandon(self) -> None:
        """Close the connection now, whatever is on its way; the sink hears nothing more."""
        self._sink = None
        self._outgoing = None
        self._disarm()
        if self._transport is not None:
            self._transport.abort()

    def pause_for(self, sink: AnswerSink) -> None:
        """Stop reading until ``resume_for``: the sink can't take more for now."""
        if self._sink is sink and not self._read_paused and not self.closing:
            assert self._transport is not None
            self._read_paused = True
            self._transport.pause_reading()

    def resume_for(self, sink: AnswerSink) -> None:
        """Read on."""
        if self._sink is sink:
            self._resume()

    def _resume(self) -> None:
        if self._read_paused:
            self._read_paused = False
            self._progress_at = self._loop.time()
            if not self.closing:
                assert self._transport is not None
                self._transport.resume_reading()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        sink = self._sink
        if sink is None:
            self.abandon()
            return
        answer = self._answer
        body = answer.feed(data)
        if answer.head is not None:
            self._progress_at = self._loop.time()
            if not self._head_done:
                self._head_done = True
                self._arm(self._timeouts.idle)
                if answer.head.status >= REFUSED_FROM and self._outgoing is not None:
                    self._outgoing = None
                    self._cut_short = True
                if answer.keep_alive_hint is not None:
                    self.keep_alive_hint = answer.keep_alive_hint
                sink.on_head(answer.head)
        if body and self._sink is not None:
            sink.on_body(body)
        if self._sink is None:
            return  # It gave up when it heard that.
        if answer.malformed:
            self._fail(FailureKind.MALFORMED)
        elif answer.complete:
            self._finish()

    def eof_received(self) -> None:
        if self._sink is None:
            return
        if self._answer.until_close and self._ended_in_order():
            self._finish()
        else:
            self._fail(FailureKind.BROKEN)

    def connection_lost(self, exc: Exception | None) -> None:
        transport = self._transport
        self.write_failed()
        if self._sink is not None and transport is not None:
            self._hear_out(transport, exc)
        self._transport = None
        if self._sink is not None:
            self._fail(FailureKind.BROKEN)
        self._disarm()
        self._answer.close()
        self._on_lost(self)

    def write_failed(self) -> None:
        """The connection is lost, though what had arrived before may still be heard."""
        self._outgoing = None
        self._cut_short = True

    def _hear_out(self, transport: asyncio.Transport, exc: Exception | None) -> None:
        """Take what has arrived: a write that fails ends the connection before it is read.

        (Under TLS the layer below has handed it over already.)
        """
        if transport.get_extra_info("ssl_object") is not None:
            return
        for data in unread(transport):
            self.data_received(data)
            if self._sink is None:
                return
        # Linux says EPIPE, and not ECONNRESET, of a reset that came behind an orderly close.
        if isinstance(exc, BrokenPipeError):
            self.eof_received()

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        self._progress_at = self._loop.time()
        self._pump()

    # The ends of an exchange.

    def _finish(self) -> None:
        sink = self._sink
        assert sink is not None
        reusable = self._answer.complete and self._answer.clean and self._written
        self._sink = None
        self._outgoing = None
        self._resume()
        if reusable:
            self._on_idle(self)
            # The timer may serve the next request.
        elif self._transport is not None:
            self._transport.abort()
        sink.on_end()

    def _fail(self, kind: FailureKind) -> None:
        sink = self._sink
        assert sink is not None
        self.abandon()
        sink.on_failure(UpstreamError(kind))

    def _ended_in_order(self) -> bool:
        """Whether the end that came is the upstream's own word. Anyone on the way can end a TCP
        connection; under TLS the upstream says so in a close_notify."""
        assert self._transport is not None
        tls = self._transport.get_extra_info("ssl_object")
        if tls is None:
            return True
        try:
            return bool(tls.read(1) == b"")
        except ssl.SSLError as error:
            return isinstance(error, ssl.SSLZeroReturnError)

    @property
    def _written(self) -> bool:
        """Whether the kernel has all of the request (and the connection is open)."""
        transport = self._transport
        return (
            self._outgoing is None
            and not self._cut_short
            and transport is not None
            and not transport.is_closing()
            and transport.get_write_buffer_size() == 0
        )

    def _pump(self) -> None:
        """Write on for as long as the transport takes it without queueing."""
        while self._outgoing is not None and not self._write_paused and not self.closing:
            piece = next(self._outgoing, None)
            if piece is None:
                self._outgoing = None
                return
            assert self._transport is not None
            self._transport.write(piece)

    def _arm(self, seconds: float) -> None:
        """See to it that the deadline is looked at in so many seconds, or earlier.

        A timer costs more than an assignment: so one that is set, for an earlier request maybe,
        stays.
        """
        if self._timer is not None:
            if self._timer.when() <= self._loop.time() + seconds:
                return
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._check_deadline)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check_deadline(self) -> None:
        self._timer = None
        if self._sink is None:
            return
        allowed = self._timeouts.idle if self._head_done else self._timeouts.first_byte
        if self._read_paused:
            self._arm(allowed)
            return
        left = self._progress_at + allowed - self._loop.time()
        # The loop's timers may fire a clock tick early.
        if left > 0.001:
            self._arm(left)
        elif self._head_done:
            self._fail(FailureKind.IDLE_TIMEOUT)
        else:
            self._fail(FailureKind.HEAD_TIMEOUT)


def _slices(request: UpstreamRequest) -> Iterator[Buffer]:
    """The request in pieces for the transport; a small one whole, in one packet."""
    size = sum(len(piece) for piece in request.body)
    if size <= WRITE_SLICE:
        yield b"".join((request.head, *request.body))
        return
    yield request.head
    for piece in request.body:
        view = memoryview(piece)
        for start in range(0, len(view), WRITE_SLICE):
            yield view[start : start + WRITE_SLICE]
