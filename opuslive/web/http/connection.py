"""A client's connection: aiohttp's, and what aiohttp leaves open about it.

aiohttp parses requests and writes heads. This module adds what a gateway needs that strangers
may reach and that streams for minutes:

* **Disconnects are seen at once.** The event loop's callback tells a watcher (the running
  exchange) that the connection is lost, or that the client half-closed it. Bytes behind a
  request that is being answered to a watcher are never parsed: aiohttp would stop reading
  because of them, and nobody would notice a client that leaves. The connection is closed
  after the answer instead.
* **Deadlines** (``deadlines.py``): 15 s for a head, from its first byte, from the end of
  the answer that it came behind, or from the connection's start; 75 s idle between two
  requests; 60 s for a client that takes none of what was written for it.
* **Places** (``places.py``): a connection that waits gives way to another one when all places
  are taken.
* **Bounds** on what the parser takes without end: all fields of a head together, all heads
  together that are not whole (``heads.py``), and what frames the chunks of a body. A
  connection is closed after a request with a body in chunks: aiohttp's parser keeps the last
  trailer behind such a body, and adds it to the headers of the next request.
* **Upgrades** are declined by serving the request as an ordinary one (RFC 9110, 7.8). aiohttp's
  parser reads its body by its framing, and then drops, or keeps aside, what came behind it
  in the same packet. Where anything did, the connection is closed after the answer.
* **Resets.** An answer that can't be completed ends with RST, because a plain close
  could pass for the end of a body without a length. ``closing.py`` sees to that when the
  process ends.
* **Silence.** aiohttp would log the client's address, and raw bytes of a malformed request,
  which hold keys and prompts. Here they are neither logged nor sent back.

aiohttp has no public interface for some of this. So ``ClientConnection`` uses private names of
``web.RequestHandler``, which may change with any minor release; the dependency is pinned to
one minor release, and a test lists the names.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
import struct
import traceback
from typing import Any, cast

from aiohttp import web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import _ErrInfo

from opuslive.dialects import registry
from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.client import Watcher
from opuslive.thinning import THINNED
from opuslive.web.answers import NOSNIFF, REQUEST_ID, REQUEST_ID_KEY, SERVER, new_request_id
from opuslive.web.http.boundary import RequestBoundary
from opuslive.web.http.caches import forget_requests
from opuslive.web.http.checks import MAX_HEAD, head_too_large
from opuslive.web.http.deadlines import Countdown, Deadlines, StallWatch
from opuslive.web.http.heads import HeadBudget
from opuslive.web.http.places import Place

log = logging.getLogger(__name__)

#: Bytes that may wait in a transport; asyncio's own default is larger under TLS.
WRITE_HIGH_WATER = 64 * 1024
#: Bytes of a request line, and of a header field.
MAX_LINE = 8190
MAX_FIELD = 32 * 1024
#: The framing of a body in chunks (sizes, extensions, trailers) may have this many bytes, and
#: CHUNK_FRAMING more for each byte of the body. (In chunks of one byte each, sizes take 5.)
MAX_FRAMING = 16 * 1024
CHUNK_FRAMING = 16
#: Digits of a length that is counted: the parser takes no more than 2**64, but any zeros before.
MAX_DIGITS = 20

_BAD_REQUEST = (Code.INVALID_REQUEST, "This is not a well-formed HTTP request.")
_DEFECT = (Code.INTERNAL, "The gateway failed to answer; its log says more.")


class ClientConnection(web.RequestHandler):
    """One connection of a client."""

    __slots__ = (
        "_arriving",
        "_body_received",
        "_boundary",
        "_busy",
        "_gone",
        "_head_deadline",
        "_head_lines",
        "_heads",
        "_offers_upgrade",
        "_payload",
        "_place",
        "_stall",
        "_watcher",
        "_wire",
        "deadlines",
    )

    def __init__(
        self,
        manager: web.Server,
        *,
        loop: asyncio.AbstractEventLoop,
        deadlines: Deadlines,
        place: Place,
        heads: HeadBudget,
    ) -> None:
        super().__init__(
            manager,
            loop=loop,
            keepalive_timeout=deadlines.idle,
            access_log=None,  # type: ignore[arg-type]  # aiohttp's own way to switch it off
            auto_decompress=False,
            max_line_size=MAX_LINE,
            max_field_size=MAX_FIELD,
        )
        self.deadlines = deadlines
        self._place = place
        self._heads = heads
        self._watcher: Watcher | None = None
        self._payload: Any = None
        #: The body of the last request whose head is whole.
        self._arriving: Any = None
        #: Whether that request offers to go on in another protocol.
        self._offers_upgrade = False
        self._gone = False
        #: Whether a request's head is whole and its answer is not written.
        self._busy = False
        #: The transport, until the connection is lost; aiohttp's own is None once it is closing.
        self._wire: asyncio.WriteTransport | None = None
        self._head_deadline = Countdown(loop, deadlines.head, self.force_close)
        self._stall = StallWatch(loop, deadlines.stall, self.reset)
        self._boundary = RequestBoundary()
        #: Lines of a head that is not whole.
        self._head_lines = 0
        #: Bytes of the last request's body as they came, with the framing of its chunks.
        self._body_received = 0

    # What handlers call.

    def watch(self, request: web.BaseRequest, watcher: Watcher) -> None:
        """Tell ``watcher`` of this connection from now until the request is answered."""
        self._watcher = watcher
        self._payload = request.content
        if self._messages or self._boundary.head_bytes:
            self._drop_pipelined()

    @property
    def gone(self) -> bool:
        """Whether the client has left, or half-closed the connection."""
        return self._gone

    def reset(self) -> None:
        """Close with RST instead of FIN, dropping what was not sent yet."""
        transport = self._wire
        if transport is None:
            return
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._force_close = True
        transport.abort()

    # What the end of the process calls.

    @property
    def fresh(self) -> bool:
        """Whether the client has asked nothing yet."""
        return self._request_count == 0

    @property
    def sending(self) -> bool:
        """Whether an answer is under way: not written yet, or not yet all with the kernel."""
        wire = self._wire
        if wire is None:
            return False
        return self._busy or wire.get_write_buffer_size() > 0 or _holds_ciphertext(wire)

    def abort(self) -> None:
        """Close the connection, which waits, to make room."""
        if self._wire is not None:
            self._wire.abort()

    def close_after_answer(self) -> None:
        """Close the connection now if it is idle, or else when the answer is written.

        What was written before is sent all the same, for as long as the event loop runs.
        """
        if self._waiter is not None and not self._waiter.done():
            self.force_close()
        else:
            self.close()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._wire = cast(asyncio.WriteTransport, transport)
        self._wire.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        self._head_deadline.start()
        if self._task_handler is not None:
            # The task's last act is to close the transport, which then sends what is buffered: a
            # client that never reads would keep it open for ever.
            self._task_handler.add_done_callback(lambda _: self._watch_stall())

    def connection_lost(self, exc: BaseException | None) -> None:
        self._place.leave()
        self._heads.release(self)
        self._head_deadline.close()
        self._stall.close()
        self._wire = self._arriving = None
        self._client_gone()
        # ``exc`` may tell the client's address; nobody needs it.
        super().connection_lost(None)
        forget_requests()

    def eof_received(self) -> None:
        # None lets the event loop close the transport: a client that half-closes is gone.
        self._client_gone()

    def data_received(self, data: bytes) -> None:
        # (aiohttp calls this without data, for the parser to go on with what it has kept.)
        if data and (self._upgraded or (self._payload is not None and self._payload.is_eof())):
            self._drop_pipelined()
            return
        before = self._request_count
        body = self._arriving
        incomplete = body is not None and not body.is_eof()
        self._boundary.feed(data)
        closing = self._close and incomplete
        if closing:
            # aiohttp parses nothing more for a connection that is to close: not the rest of the
            # body either, which the answer waits for.
            self._close = False
        super().data_received(data)
        self._close |= closing
        new = self._request_count - before
        if new:
            self._requests_begin(new)
            if closing:
                self._drop_pipelined()
        elif incomplete:
            self._body_continues(len(data))
        if self._boundary.head_bytes:
            # The parser is not to be trusted with what came in one packet with an upgrade's end.
            lost = self._offers_upgrade and (new > 0 or incomplete)
            self._head_lines += data.count(b"\n", max(0, len(data) - self._boundary.head_bytes))
            self._head_continues(lost=lost)

    def _requests_begin(self, number: int) -> None:
        """The parser has added this many requests, or what it could not parse, to the queue."""
        self._begin_answer()
        self._body_received = 0
        self._head_lines = 0
        self._heads.release(self)
        self._follow_body(*self._messages[-1])
        for index in range(-number, 0):
            self._boundary.parsed(_body_length(*self._messages[index]))
        if self._watcher is not None or len(self._messages) > 1:
            self._drop_pipelined()

    def _head_continues(self, *, lost: bool) -> None:
        if self._watcher is not None or self._upgraded or lost:
            self._drop_pipelined()
        if not self._busy:
            self._wait_for_head()
        if self._boundary.head_bytes <= MAX_HEAD + MAX_LINE or self._close:
            return
        if not self._busy:
            self._begin_answer()
            too_long = LineTooLong(b"", MAX_HEAD)
            self._messages.append((_ErrInfo(400, too_long, ""), EMPTY_PAYLOAD))
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)
        self.close()

    def _begin_answer(self) -> None:
        self._busy = True
        self._place.serve()
        self._head_deadline.stop()

    def _wait_for_head(self) -> None:
        """The head that has begun is not whole."""
        self._heads.hold(self, self._boundary.head_bytes, self._head_lines)
        if not self._head_deadline.runs:
            self._head_deadline.start()

    def _body_continues(self, size: int) -> None:
        body = self._arriving
        self._body_received += size
        if self._body_received > MAX_FRAMING + (1 + CHUNK_FRAMING) * body.total_bytes:
            body.set_exception(web.RequestPayloadError())
            self.close()

    def _follow_body(self, message: object, body: Any) -> None:
        if isinstance(message, RawRequestMessage):
            self._arriving = body
            self._offers_upgrade = message.upgrade
            if message.chunked:
                self._messages[-1] = (message._replace(should_close=True), body)
        elif self._arriving is not None and not self._arriving.is_eof():
            # The body is malformed. aiohttp would leave the handler waiting for its rest.
            self._arriving.set_exception(web.RequestPayloadError())

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_stall()
        if self._watcher is not None:
            self._watcher.client_full()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stall.stop()
        if self._watcher is not None:
            self._watcher.client_drained()

    # What aiohttp calls.

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Write what is left of the answer; then the next head's deadline runs, if one has begun.

        (A head that came behind the request could not be served before.)
        """
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._watcher = self._payload = None
            self._busy = len(self._messages) > 0
            if not self._busy:
                self._place.wait()
                if self._boundary.head_bytes and not self._close:
                    self._wait_for_head()
            forget_requests()

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        """Log where a defect is, and nothing of the request that met it."""
        error = kwargs.get("exc_info")
        if isinstance(error, (ConnectionError, web.RequestPayloadError)):
            return  # The client left, or sent a malformed body that no handler reads any more.
        trace = error.__traceback__ if isinstance(error, BaseException) else None
        # The frames alone: the exception's message may quote the request.
        log.error(
            "a request met a defect of the gateway: %s\n%s",
            type(error).__name__,
            "".join(traceback.format_tb(trace)),
            extra=THINNED,
        )

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a request that could not be parsed, or whose handler failed."""
        error = OpusLiveError(*(_DEFECT if status >= 500 else _BAD_REQUEST))
        if isinstance(exc, LineTooLong):
            error = head_too_large()
            status = error.code.status
        if status >= 500:
            self.log_exception(exc_info=exc)
        if request.writer.output_size > 0:
            self.reset()
            raise ConnectionResetError
        request_id = request.get(REQUEST_ID_KEY) or new_request_id()
        response = web.Response(
            status=status,
            headers={"server": SERVER, **NOSNIFF, **dict.fromkeys(REQUEST_ID, request_id)},
            body=registry.DEFAULT.error_body(error, request_id),
            content_type="application/json",
        )
        response.force_close()
        return response

    def _process_keepalive(self) -> None:
        # A head that has begun has a deadline of its own; this one must not cut it.
        if not self._head_deadline.runs:
            super()._process_keepalive()
        else:
            self._keepalive_handle = None

    def _watch_stall(self) -> None:
        if self._wire is not None:
            self._stall.watch(self._wire)

    def _client_gone(self) -> None:
        if not self._gone:
            self._gone = True
            if self._watcher is not None:
                self._watcher.client_gone()

    def _drop_pipelined(self) -> None:
        """Close after the answer under way; drop what came behind its request."""
        while len(self._messages) > (0 if self._current_request is not None else 1):
            self._messages.pop()
        self.close()
        if self._buffer_paused:
            self._resume_reading_for_buffer()


def _body_length(message: object, body: object) -> int | None:
    """Bytes of a request's body; None if they can't be counted, and the connection closes."""
    if not isinstance(message, RawRequestMessage) or message.chunked:
        return None
    if body is EMPTY_PAYLOAD:
        return 0
    length = message.headers.get("Content-Length", "")
    return int(length) if 0 < len(length) <= MAX_DIGITS else None


def _holds_ciphertext(transport: asyncio.WriteTransport) -> bool:
    """Whether a TLS transport may hold bytes that its buffer's size does not tell.

    The transport below it has a buffer of its own, which nobody can look at. Bytes wait there only
    while the kernel has no room for them.
    """
    if transport.get_extra_info("ssl_object") is None:
        return False
    sock = transport.get_extra_info("socket")
    descriptor = -1 if sock is None else sock.fileno()
    if descriptor < 0:
        return False  # It is closed already.
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return not poll.poll(0)
