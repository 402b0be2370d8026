"""A client's connection: what aiohttp leaves open about it, in one place.

aiohttp parses requests and writes heads. On top of that this module adds what a gateway
that strangers may reach, and that streams for minutes, can't do without:

* **Disconnects seen at once.** A watcher (the running exchange) hears of a connection
  that is lost, or that the client half-closed, inside the event loop's callback. Bytes
  behind a request that is being answered are never parsed: they would make aiohttp stop
  reading, and a client that is gone would go unnoticed. The connection is closed after
  the answer instead.
* **Deadlines** (``deadlines.py``). 15 s for a head, from the first byte of it (or from the
  connection's start); 75 s idle between two requests; 60 s for a client that takes none of
  what was written for it.
* **Bounds** on what the parser takes without end: the fields of a head, all together, and
  what frames the chunks of a body. A body in chunks is the last thing that a connection
  brings: aiohttp's parser keeps the last trailer behind one, and adds it to the headers of
  the request that follows.
* **Resets.** An answer that can't be completed ends with RST, because a plain close
  could pass for the end of a body without a length.
* **Silence.** What aiohttp would log of a connection (the client's address, raw bytes of
  a malformed request, which hold keys and prompts) is not logged, and not echoed either.

aiohttp has no public place for some of this. So ``ClientConnection`` reaches for names of
``web.RequestHandler`` that may change with any minor release, and the dependency is pinned
to one; a test names them all.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import traceback
from collections.abc import Callable
from typing import Any, Protocol, cast

from aiohttp import web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import _ErrInfo

from opuslive.dialects import registry
from opuslive.errors import Code, OpusLiveError
from opuslive.web.answers import REQUEST_ID, SERVER, new_request_id
from opuslive.web.http.caches import forget_requests
from opuslive.web.http.checks import MAX_HEAD, head_too_large
from opuslive.web.http.deadlines import Countdown, Deadlines, StallWatch

log = logging.getLogger(__name__)

#: Bytes that may wait in a transport; asyncio's own default does not hold under TLS.
WRITE_HIGH_WATER = 64 * 1024
#: Bytes of a request line, and of a header field.
MAX_LINE = 8190
MAX_FIELD = 32 * 1024
#: What frames a body in chunks may have this many bytes, and CHUNK_FRAMING more for each byte
#: of the body: sizes, extensions and trailers. (In chunks of one byte each, sizes take 5.)
MAX_FRAMING = 16 * 1024
CHUNK_FRAMING = 16

_BAD_REQUEST = (Code.INVALID_REQUEST, "This is not a well-formed HTTP request.")
_DEFECT = (Code.INTERNAL, "The gateway failed to answer; its log says more.")


class Watcher(Protocol):
    """Who wants to know what becomes of the connection while a request is answered."""

    def client_gone(self) -> None: ...

    def client_full(self) -> None: ...

    def client_drained(self) -> None: ...


class ClientConnection(web.RequestHandler):
    """One connection of a client, kept by aiohttp, watched by us."""

    __slots__ = (
        "_arriving",
        "_body_received",
        "_busy",
        "_gone",
        "_head_deadline",
        "_head_received",
        "_made",
        "_payload",
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
        made: Callable[[], None],
    ) -> None:
        """``made`` is called when the connection is, which under TLS is after the handshake."""
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
        self._made = made
        self._watcher: Watcher | None = None
        self._payload: Any = None
        #: The body of the request whose head came last.
        self._arriving: Any = None
        self._gone = False
        #: From the end of a request's head to the end of its answer.
        self._busy = False
        #: The transport for as long as it lives; aiohttp forgets its own when it closes it.
        self._wire: asyncio.WriteTransport | None = None
        self._head_deadline = Countdown(loop, deadlines.head, self.force_close)
        self._stall = StallWatch(loop, deadlines.stall, self.reset)
        #: Bytes of a head that is not whole yet; and of a body, in chunks, behind its head.
        self._head_received = 0
        self._body_received = 0

    # What handlers call.

    def watch(self, request: web.BaseRequest, watcher: Watcher) -> None:
        """Tell ``watcher`` of this connection from now until ``unwatch``."""
        self._watcher = watcher
        self._payload = request.content
        if len(self._messages) > 0:
            self._refuse_pipelined()

    def unwatch(self) -> None:
        self._watcher = None
        self._payload = None

    @property
    def gone(self) -> bool:
        """Whether the client has left, or said that it will read or send no more."""
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

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._made()
        super().connection_made(transport)
        self._wire = cast(asyncio.WriteTransport, transport)
        self._wire.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        self._head_deadline.start()
        if self._task_handler is not None:
            # When it ends it has closed the transport, which then still has to send what is
            # buffered: a client that never reads would keep it open for ever.
            self._task_handler.add_done_callback(lambda _: self._watch_stall())

    def connection_lost(self, exc: BaseException | None) -> None:
        self._head_deadline.stop()
        self._stall.stop()
        self._wire = None
        self._client_gone()
        # Its cause may tell the client's address; nobody needs it.
        super().connection_lost(None)
        forget_requests()

    def eof_received(self) -> None:
        # None lets the event loop close the transport: a client that half-closes is gone.
        self._client_gone()

    def data_received(self, data: bytes) -> None:
        # (aiohttp calls this with no data to parse on what it has kept.)
        if data and self._payload is not None and self._payload.is_eof():
            self._refuse_pipelined()
            return
        requests = self._request_count
        body = self._arriving
        incomplete = body is not None and not body.is_eof()
        super().data_received(data)
        if self._request_count != requests:
            self._busy = True
            self._head_received = self._body_received = 0
            self._head_deadline.stop()
            self._follow_body(*self._messages[-1])
            if self._watcher is not None or len(self._messages) > 1:
                self._refuse_pipelined()
        elif incomplete:
            self._body_continues(len(data))
        elif data:
            self._head_continues(len(data))

    def _head_continues(self, size: int) -> None:
        if not self._busy and not self._head_deadline.runs:
            self._head_deadline.start()
        self._head_received += size
        if self._head_received <= MAX_HEAD + MAX_LINE or self._close:
            return
        if not self._busy:
            self._busy = True
            self._head_deadline.stop()
            too_long = LineTooLong(b"", MAX_HEAD)
            self._messages.append((_ErrInfo(400, too_long, ""), EMPTY_PAYLOAD))
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)
        self.close()

    def _body_continues(self, size: int) -> None:
        body = self._arriving
        self._body_received += size
        if self._body_received > MAX_FRAMING + (1 + CHUNK_FRAMING) * body.total_bytes:
            body.set_exception(web.RequestPayloadError())
            self.close()

    def _follow_body(self, message: object, body: Any) -> None:
        if isinstance(message, RawRequestMessage):
            self._arriving = body
            if message.chunked:
                self._messages[-1] = (message._replace(should_close=True), body)
        elif self._arriving is not None and not self._arriving.is_eof():
            # A chunk that is none, say. aiohttp would leave whoever reads the body waiting.
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
        """Write what is left of the answer; after that the connection is between requests."""
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self.unwatch()
            self._busy = False
            forget_requests()

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        """Say where a defect is, and nothing of the request that met it."""
        error = kwargs.get("exc_info")
        if isinstance(error, (ConnectionError, web.RequestPayloadError)):
            return  # The client left, or spoils what nobody reads any more.
        trace = error.__traceback__ if isinstance(error, BaseException) else None
        # The frames alone: the exception's message may quote the request.
        log.error(
            "a request met a defect of the gateway: %s\n%s",
            type(error).__name__,
            "".join(traceback.format_tb(trace)),
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
        request_id = request.get(REQUEST_ID[0]) or new_request_id()
        response = web.Response(
            status=status,
            headers={"server": SERVER, **dict.fromkeys(REQUEST_ID, request_id)},
            body=registry.DEFAULT.error_body(error, request_id),
            content_type="application/json",
        )
        response.force_close()
        return response

    def _process_keepalive(self) -> None:
        # A head that is arriving has a deadline of its own, and must not be cut by this one.
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

    def _refuse_pipelined(self) -> None:
        """Serve nothing more on this connection: close it after the answer under way."""
        while len(self._messages) > (0 if self._current_request is not None else 1):
            self._messages.pop()
        self.close()
        if self._buffer_paused:
            self._resume_reading_for_buffer()
