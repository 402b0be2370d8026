"""The way of one answer from the upstream to the client.

Theory of operation
-------------------

A ``Relay`` is the sink of an upstream connection. Bytes come in by ``on_body``, inside
the event loop's read callback, and leave in the same call through the client's
transport. The coroutine of the exchange only waits for the few moments that matter;
it is not woken for a chunk::

    upstream ──on_body──► [ waiting ] ──measure()──► meter ──► [ out ] ──start()──► client
                                                       └─────► [ held ] ──release()──┘

* until ``measure`` is called the bytes wait: the exchange is looking at the head;
* from then on the meter sees each chunk and says how much of it may go;
* what may go waits in ``out`` until ``start`` says where to, then goes at once;
* what may not go yet is ``held`` until ``release``: the terminal event of a stream and
  all after it, or the last chunk of a body with a length. The exchange releases it when
  the usage record is on disk. The end of a body without a length is not written here at
  all: whoever owns the client's framing writes it after ``end`` has returned.

So no client ever holds a complete answer whose usage could still be lost.

Backpressure is symmetric and has no queue of its own beyond one read: a client that is
full pauses the upstream's transport, and so does a queue here of more than 64 KB.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from opuslive.dialects import Meter
from opuslive.gateway.upstreams.connection import UpstreamConnection
from opuslive.gateway.upstreams.wire import AnswerHead, FailureKind, UpstreamError

#: Bytes that may wait here before the upstream is paused.
HIGH_WATER = 64 * 1024


class Relay:
    """One answer on its way. Its methods raise UpstreamError, or what ``interrupt`` was given."""

    def __init__(
        self,
        connection: UpstreamConnection,
        upstream_name: str,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.upstream_name = upstream_name
        self._connection = connection
        self._loop = loop
        self._head: AnswerHead | None = None
        self._meter: Meter | None = None
        self._measuring = False
        self._remaining: int | None = None
        self._waiting: list[bytes] = []
        self._out: list[bytes] = []
        self._held: list[bytes] = []
        self._queued = 0
        self._write: Callable[[bytes], object] | None = None
        self._chunked = False
        self._client_full = False
        self._released = False
        self._ended = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    # What the exchange calls.

    async def head(self) -> AnswerHead:
        """Wait for the answer's head.

        What broke the answer off behind it is for ``measure`` to raise: what came before that
        was used, however fast it came.
        """
        while self._head is None:
            try:
                await self._change()
            except UpstreamError:
                if self._head is None:
                    raise
        return self._head

    async def whole_body(self, limit: int) -> bytes | None:
        """Wait for the whole body if it has no more than ``limit`` bytes (at most HIGH_WATER).

        ``None`` for a longer one. The body stays in the relay, to be passed on.
        """
        while not self._ended and self._queued <= limit:
            await self._change()
        return b"".join(self._waiting) if self._ended and self._queued <= limit else None

    def measure(self, meter: Meter | None) -> None:
        """From now on pass the bytes through ``meter``; None passes them on unseen and unheld.

        Raises the error that the answer has already come to, if it has.
        """
        assert self._head is not None
        self._measuring = True
        self._meter = meter
        self._released = meter is None
        self._remaining = self._head.length
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
        return self._ended or (self._meter is not None and self._meter.finished)

    def start(self, write: Callable[[bytes], object], *, chunked: bool) -> None:
        """Send what may go, now and from now on, to the client; in HTTP chunks if ``chunked``."""
        self._write = write
        self._chunked = chunked
        out, self._out = self._out, []
        if out:
            data = b"".join(out)
            self._queued -= len(data)
            self._send(data)
        self._balance()

    async def last_word(self) -> None:
        """Wait until the usage is final, or the answer's end has come."""
        while not self.finished:
            await self._change()
        self._raise_error()

    def release(self) -> None:
        """The record is on disk: let the held bytes go, and all that follow."""
        self._released = True
        held, self._held = self._held, []
        if held:
            data = b"".join(held)
            self._queued -= len(data)
            self._send(data)
        self._balance()

    async def end(self) -> None:
        """Wait for the end of the answer."""
        while not self._ended:
            await self._change()

    def interrupt(self, error: Exception) -> None:
        """Stop now: close the upstream, raise ``error`` in whichever coroutine waits."""
        if self._error is None:
            self._error = error
        self._connection.drop(self)
        self._notify()

    def client_full(self) -> None:
        """The client's transport has more than it can send: pause the upstream."""
        self._client_full = True
        self._balance()

    def client_drained(self) -> None:
        self._client_full = False
        self._balance()

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
        if self._remaining is not None:
            self._remaining -= len(chunk)
        if self._released or self._meter is None:
            self._send(chunk)
            return
        may_go = self._meter.feed(chunk)
        if self._remaining is not None and self._remaining <= 0:
            may_go = 0
        if may_go == len(chunk) and not self._held:
            self._send(chunk)
            return
        if may_go:
            held, self._held = self._held, []
            self._queued -= sum(map(len, held))
            self._send(b"".join((*held, chunk[:may_go])))
            chunk = chunk[may_go:]
        if chunk:
            self._held.append(chunk)
            self._queued += len(chunk)
            self._balance()
        if self._meter.finished:
            self._notify()

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
        if self._meter is not None and self._meter.finished and not self._remaining:
            # Nothing was missing but the end of the body: the client has, or gets, it all. (Not
            # where it was promised more bytes: it would wait for them, or take those of its next
            # answer for them.)
            self._ended = True
        elif self._error is None:
            self._error = error

    def _balance(self) -> None:
        if self._client_full or self._queued > HIGH_WATER:
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
