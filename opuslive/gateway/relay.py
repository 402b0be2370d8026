"""The way of one answer from the upstream to the client.

Theory of operation
-------------------

You have a ``Relay`` for each answer. It stands between two transports and one coroutine:

1. the upstream's connection, which calls ``on_head``, ``on_body``, ``on_end`` and
   ``on_failure`` from inside the event loop's read callback;
2. the client's transport, into which the relay writes before ``on_body`` returns;
3. the coroutine of your exchange, which waits for the few moments that matter. No chunk wakes it.

You take an answer through these steps::

    upstream ──on_body──► [ waiting ] ──measure()──► meter ──► [ out ] ──start()──► client
                                                   [ held ] ──release()──┘

=================  ============================================================================
you await, call    and then
=================  ============================================================================
``head``           you have the answer's head; the body waits in the relay
``whole_body``     a short body waits in the relay, too; ``so_far`` shows what does
``measure``        the meter, which is a filter, sees each chunk and returns what may go
``take_ready``     you have what may go, to send it with the head
``start``          what may go goes to the client, now and at once from now on
``last_word``      the usage is final: you write its record to disk
``release``        what the meter held goes to the client; all that follows goes unseen
``end``            the answer is over: the owner of the client's framing writes the end of it
=================  ============================================================================

*What is held* is what would make the answer complete: the terminal event of a stream and all
after it (the meter holds them), and the last chunk of a body with a length (``_LastChunkHeld``).
The end of a body without a length is not written here at all. So no client ever holds a
complete answer whose usage could still be lost.

*Backpressure.* The relay has no queue of its own beyond one read. A client that is full pauses
the upstream's transport, and so do more than 64 KB that wait here. An event that has to be whole
before it can go on may be larger: its memory is accounted for with ``hold``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from opuslive.dialects import AnswerFilter, Meter
from opuslive.errors import OpusLiveError
from opuslive.gateway.upstreams.connection import UpstreamConnection
from opuslive.gateway.upstreams.upstream import Upstream
from opuslive.gateway.upstreams.wire import AnswerHead, FailureKind, UpstreamError

#: Bytes that may wait here before the upstream is paused.
HIGH_WATER = 64 * 1024


class Relay:
    """One answer on its way. Its methods raise UpstreamError, or what ``interrupt`` was given."""

    __slots__ = (
        "_chunked",
        "_client_full",
        "_connection",
        "_ended",
        "_error",
        "_finished",
        "_head",
        "_hold",
        "_loop",
        "_measuring",
        "_meter",
        "_out",
        "_paused",
        "_queued",
        "_told_held",
        "_waiter",
        "_waiting",
        "_write",
        "upstream",
    )

    def __init__(
        self,
        connection: UpstreamConnection,
        upstream: Upstream,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.upstream = upstream
        self._connection = connection
        self._loop = loop
        self._head: AnswerHead | None = None
        #: The filter that the bytes pass through, from ``measure`` until ``release``.
        self._meter: AnswerFilter | None = None
        self._measuring = False
        self._hold: Callable[[int], object] | None = None
        #: Bytes that ``_hold`` was told of.
        self._told_held = 0
        #: Whether the last word on usage has been heard.
        self._finished = False
        self._waiting: list[bytes] = []
        self._out: list[bytes] = []
        #: Bytes in ``_waiting`` and ``_out``.
        self._queued = 0
        self._write: Callable[[bytes], object] | None = None
        self._chunked = False
        self._client_full = False
        #: Whether the upstream was told to send no more for now.
        self._paused = False
        self._ended = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    # What the exchange calls.

    async def head(self) -> AnswerHead:
        """Wait for the answer's head.

        A failure that comes behind the head is for ``measure`` to raise: the tokens before it
        were used, however fast the failure came.
        """
        while self._head is None:
            try:
                await self._change()
            except UpstreamError:
                if self._head is None:
                    raise
        return self._head

    async def whole_body(self, limit: int) -> bool:
        """Wait for the whole body, or for more than ``limit`` bytes of it (at most HIGH_WATER).

        Returns whether it is whole. It stays in the relay, to be passed on.
        """
        while not self._ended and self._queued <= limit:
            await self._change()
        return self._ended

    def so_far(self) -> bytes:
        """What has come of the body by now, before ``measure``."""
        return b"".join(self._waiting)

    def drop(self) -> None:
        """Nobody wants what is still to come: close the connection, unless the answer is over."""
        self._connection.drop(self)

    def measure(self, meter: Meter | None, hold: Callable[[int], object] | None = None) -> None:
        """Pass the bytes through ``meter`` from now on; None passes them on unseen and unheld.

        ``hold`` is told of so many more bytes that the meter holds of an event which is not whole,
        where they are many; an OpusLiveError that it raises ends the answer.

        Raises the error that the answer has already come to, if it has.
        """
        assert self._head is not None
        self._measuring = True
        self._hold = hold
        length = self._head.length
        self._meter = meter if meter is None or length is None else _LastChunkHeld(meter, length)
        waiting, self._waiting, self._queued = self._waiting, [], 0
        for chunk in waiting:
            self._pass(chunk)
        if self._ended:
            self._end_measuring()
        elif isinstance(self._error, UpstreamError):
            error, self._error = self._error, None
            self._fail(error)
        self._raise_error()

    @property
    def finished(self) -> bool:
        """Whether the last word on usage has been heard."""
        return self._ended or self._finished

    def start(self, write: Callable[[bytes], object], *, chunked: bool) -> None:
        """Send what may go, now and from now on, to the client; in HTTP chunks if ``chunked``."""
        self._write = write
        self._chunked = chunked
        data = self.take_ready()
        if data:
            self._send(data)
        self._balance()

    def take_ready(self) -> bytes:
        """Take out what may go to the client, to be sent along with the answer's head."""
        out, self._out = self._out, []
        data = out[0] if len(out) == 1 else b"".join(out)
        self._queued -= len(data)
        return data

    async def last_word(self) -> None:
        """Wait until the usage is final, or the answer's end has come."""
        while not self.finished:
            await self._change()
        self._raise_error()

    def release(self) -> None:
        """The record is on disk: let the held bytes go, and all that follow."""
        meter, self._meter = self._meter, None
        held = b"" if meter is None else meter.release()
        if held:
            self._send(held)
        self._balance()

    async def end(self) -> None:
        """Wait for the end of the answer; also for the client to take it, if it was large: until
        then its memory counts."""
        while not self._ended or (self._told_held and self._client_full):
            await self._change()

    @property
    def over(self) -> bool:
        """Whether the whole answer has come."""
        return self._ended

    def interrupt(self, error: Exception) -> None:
        """Stop now: close the upstream, raise ``error`` in whichever coroutine waits."""
        if self._error is None:
            self._error = error
        self._connection.drop(self)
        self._notify()

    def read_on(self) -> None:
        """The client left, and the answer may tell its usage soon: what comes is for the meter
        alone. Only after ``start``."""
        self._write = _let_go
        self._chunked = self._client_full = False
        self._balance()

    def client_full(self) -> None:
        """The client's transport has more than it can send: pause the upstream."""
        self._client_full = True
        self._balance()

    def client_drained(self) -> None:
        """The client's transport takes more again."""
        self._client_full = False
        self._balance()
        if self._told_held:
            self._notify()

    # What the upstream connection calls.

    def on_head(self, head: AnswerHead) -> None:
        self._head = head
        self._notify()

    def on_body(self, chunk: bytes) -> None:
        if self._measuring:
            self._pass(chunk)
        else:
            self._waiting.append(chunk)
            self._queued += len(chunk)
            if self._queued > HIGH_WATER:
                self._balance()
                self._notify()

    def on_end(self) -> None:
        self._ended = True
        if self._measuring:
            self._end_measuring()
        self._notify()

    def on_failure(self, error: UpstreamError) -> None:
        self._fail(error)
        self._notify()

    # The way of a chunk.

    def _pass(self, chunk: bytes) -> None:
        meter = self._meter
        data = chunk if meter is None else meter.feed(chunk)
        if data:
            self._send(data)
        if data is not chunk and meter is not None:
            if meter.finished:
                self._finished = True
                self._notify()
            elif meter.held > self._told_held + HIGH_WATER:
                self._account(meter.held)
            self._balance()

    def _send(self, data: bytes) -> None:
        if self._write is None:
            self._out.append(data)
            self._queued += len(data)
            self._balance()
        elif self._chunked:
            self._write(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            self._write(data)

    def _end_measuring(self) -> None:
        if self._meter is not None and not self._meter.end() and self._error is None:
            # A clean end in the middle of a stream could pass for its success.
            self._error = UpstreamError(FailureKind.BROKEN)

    def _fail(self, error: UpstreamError) -> None:
        if self._finished and self._head is not None and self._head.length is None:
            # Nothing was missing but the end of the body: the client has, or gets, it all. (A body
            # with a length lacks bytes: the client would wait for them, or take those of its
            # next answer for them.)
            self._ended = True
        elif self._error is None:
            self._error = error

    def _account(self, held: int) -> None:
        """The meter waits for the end of a large event."""
        more = held - self._told_held
        self._told_held = held
        if self._hold is not None:
            try:
                self._hold(more)
            except OpusLiveError as error:
                self.interrupt(error)

    def _balance(self) -> None:
        meter = self._meter
        # An event that is not whole yet needs its end: pausing would wait for it in vain.
        held = meter.held if meter is not None and meter.finished else 0
        full = self._client_full or self._queued + held > HIGH_WATER
        if full is self._paused:
            return
        self._paused = full
        if full:
            self._connection.pause_for(self)
        else:
            self._connection.resume_for(self)

    # Waiting.

    async def _change(self) -> None:
        """Wait for the next change worth waking for. Raises the error, if that was it."""
        self._raise_error()
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        self._raise_error()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _notify(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _let_go(_: bytes) -> None:
    """Write what nobody is there to read."""


class _LastChunkHeld:
    """A filter behind a meter: the chunk that completes a body of ``length`` bytes waits."""

    __slots__ = ("_held", "_left", "_meter")

    def __init__(self, meter: Meter, length: int) -> None:
        self._meter = meter
        self._left = length
        self._held: list[bytes] = []

    @property
    def finished(self) -> bool:
        return self._meter.finished

    @property
    def held(self) -> int:
        return sum(map(len, self._held)) + self._meter.held

    def feed(self, chunk: bytes) -> bytes:
        self._left -= len(chunk)
        data = self._meter.feed(chunk)
        if self._left > 0:
            return data
        self._held.append(data)
        return b""

    def end(self) -> bool:
        return self._meter.end()

    def release(self) -> bytes:
        return b"".join((*self._held, self._meter.release()))
