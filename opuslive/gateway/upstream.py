"""One connection to an upstream, and one request and answer on it at a time.

Theory of operation
-------------------

``UpstreamConnection`` is an ``asyncio.Protocol``: the event loop calls it with bytes,
it parses them with httptools (llhttp) and calls the *sink* of the running exchange.
Nothing here is a coroutine, and no task is woken for a chunk: what arrives in one
read goes to the sink in one call, before the event loop does anything else.

A connection is in one of three states::

    IDLE ──send()──► BUSY ──answer complete and clean──► IDLE
                      │                                    │
                      └──anything else──► CLOSED ◄──closed, or bytes nobody asked for

*The sink hears a fixed sequence*: ``on_head`` once, ``on_body`` any number of times,
then exactly one of ``on_end`` and ``on_failure``; a failure may come at any point.
After ``abandon`` it hears nothing more.

*Interim answers* (1xx) are swallowed; a 101 is a failure, since nobody asked for an
upgrade. *Framing* is llhttp's business in its strict mode, with three additions:
a transfer coding other than one ``chunked`` in HTTP/1.1 is refused, trailers are dropped, and a
body that ends with the connection is complete only at an orderly close. Heads, the interim
ones included, may have 64 KB in all, and so may what frames a body between two pieces of it.

*Reuse.* An answer leaves the connection idle only when everything about it was clean:
it had a length of its own, the server means to keep the connection, the kernel has the
request to its last byte, and nothing follows the answer. Each answer gets a parser of
its own, so that nothing of one (a trailer, say) can show up in the next. Whatever
arrives on an idle connection closes it.

*Backpressure.* Towards the upstream: a large body goes out in 64 KB slices for as long
as the transport takes them. From the upstream: the sink calls ``pause_for`` and
``resume_for``.

*Deadlines.* One timer, re-armed only when it fires: it compares the time of the last
progress with what is allowed, so that a chunk costs one look at the clock. Until the
head is there the request's last written byte counts as progress, then each read; a
connection that the sink has paused is not late.

*Nothing is sent twice.* ``UpstreamError.sent`` says whether a byte of the request was
written. It is never false once ``send`` has returned; the pool hands out only
connections proven open (see ``pool.py``), and ``send`` refuses one that was lost since.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import cast

import httptools

from opuslive.gateway.wire import (
    AnswerHead,
    AnswerSink,
    FailureKind,
    Timeouts,
    UpstreamError,
    UpstreamRequest,
)
from opuslive.metering import Buffer

#: Status line and headers of an answer, interim ones included, in bytes. Also chunk sizes and
#: trailers, between two pieces of a body.
MAX_HEAD = 64 * 1024
#: A request body goes to the transport in slices of this many bytes, so that writing a
#: large one neither copies it whole nor stalls the event loop.
WRITE_SLICE = 64 * 1024


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
        self._write_paused = False
        self._read_paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._progress_at = 0.0
        #: Seconds that the server says it keeps an idle connection; None if it says nothing.
        self.keep_alive_hint: float | None = None
        self._sink: AnswerSink | None = None
        self._begin_exchange("GET")

    def _begin_exchange(self, method: str) -> None:
        self._method = method
        self._parser = httptools.HttpResponseParser(self)
        self._outgoing: Iterator[Buffer] | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._framing = 0  # bytes that came since the last piece of the body
        self._head_done = False
        self._interim = False
        self._until_close = False
        self._complete = False
        self._clean = True
        self._chunks: list[bytes] = []

    # What the pool and the exchange call.

    @property
    def closing(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def fileno(self) -> int:
        """The socket's file descriptor, to prove with a poll that it is open and silent."""
        assert self._transport is not None
        return cast(int, self._transport.get_extra_info("socket").fileno())

    def send(self, request: UpstreamRequest, sink: AnswerSink) -> None:
        """Send a request on an idle connection; ``sink`` hears the answer.

        Raises UpstreamError (unreachable, nothing sent) if the connection is lost already.
        """
        assert self._sink is None
        if self.closing:
            raise UpstreamError(FailureKind.UNREACHABLE, sent=False)
        self._begin_exchange(request.method)
        self._sink = sink
        self._progress_at = self._loop.time()
        self._arm(self._timeouts.first_byte)
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

    def data_received(self, data: bytes) -> None:
        sink = self._sink
        if sink is None:
            self.abandon()
            return
        if self._head_done:
            self._progress_at = self._loop.time()
        self._framing += len(data)
        malformed = False
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            malformed = not self._complete
            self._clean = False
        if self._sink is None:
            return  # It gave up when it heard the head.
        chunks = self._chunks
        if malformed or (self._framing > MAX_HEAD and not chunks and not self._complete):
            self._fail(FailureKind.MALFORMED)
            return
        if chunks:
            self._framing = 0
            sink.on_body(chunks[0] if len(chunks) == 1 else b"".join(chunks))
            chunks.clear()
        if self._complete and self._sink is not None:
            self._finish()

    def eof_received(self) -> None:
        if self._sink is None:
            return
        if self._until_close:
            self._finish()
        else:
            self._fail(FailureKind.BROKEN)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._sink is not None:
            self._fail(FailureKind.BROKEN)
        self._on_lost(self)

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        self._progress_at = self._loop.time()
        self._pump()

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._complete:
            self._clean = False  # Something follows the answer.

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_done:  # Else it is a trailer.
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._complete:
            return
        status = self._parser.get_status_code()
        if status < 200:
            if status == 101:
                raise ValueError("an upgrade that nobody asked for")
            if status < 100:
                raise ValueError("a status that does not exist")
            self._interim = True
            self._headers = []
            return
        version = self._parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise ValueError("a version that was not asked for")
        length: int | None = None
        chunked = False
        for name, value in self._headers:
            lowered = name.lower()
            if lowered == b"content-length":
                length = int(value)
            elif lowered == b"transfer-encoding":
                if value.strip().lower() != b"chunked" or chunked or version == "1.0":
                    raise ValueError("a transfer coding that can't be passed on")
                chunked = True
            elif lowered == b"keep-alive":
                self.keep_alive_hint = _keep_alive_seconds(value)
        bodiless = self._method == "HEAD" or status in (204, 304)
        # Each line has a colon, a space and a line end besides.
        if sum(len(name) + len(value) + 4 for name, value in self._headers) > MAX_HEAD:
            raise ValueError("too large a head")
        self._head_done = True
        self._framing = 0
        self._until_close = not (bodiless or chunked or length is not None)
        self._progress_at = self._loop.time()
        self._arm(self._timeouts.idle)
        if self._sink is not None:
            self._sink.on_head(AnswerHead(status, self._headers, 0 if bodiless else length))
        if self._method == "HEAD":
            # llhttp would take what follows for the body that Content-Length announces.
            self._complete = True
            self._clean = False

    def on_body(self, chunk: bytes) -> None:
        if not self._complete:
            self._chunks.append(chunk)

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
        elif not self._complete:
            self._complete = True
            self._clean = self._parser.should_keep_alive()

    # The ends of an exchange.

    def _finish(self) -> None:
        sink = self._sink
        assert sink is not None
        reusable = self._complete and self._clean and self._written
        self._sink = None
        self._outgoing = None
        self._disarm()
        self._resume()
        if reusable:
            self._on_idle(self)
        elif self._transport is not None:
            self._transport.abort()
        sink.on_end()

    def _fail(self, kind: FailureKind) -> None:
        sink = self._sink
        assert sink is not None
        self.abandon()
        sink.on_failure(UpstreamError(kind))

    @property
    def _written(self) -> bool:
        """Whether the kernel has all of the request (and the connection is open)."""
        transport = self._transport
        return (
            self._outgoing is None
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
        self._disarm()
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


def _keep_alive_seconds(value: bytes) -> float | None:
    """The ``timeout`` of a ``Keep-Alive`` header, in seconds."""
    for parameter in value.lower().split(b","):
        name, _, number = parameter.strip().partition(b"=")
        if name == b"timeout" and number.isdigit() and len(number) < 10:
            return float(number)
    return None
