"""The endpoints that are forwarded: HTTP towards the client, an exchange behind it."""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import Callable, Sequence
from typing import cast

from aiohttp import web
from aiohttp.http import StreamWriter
from multidict import CIMultiDict

from opuslive.dialects import Buffer, Dialect, Operation, RawHeaders
from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.admission.admission import Admission
from opuslive.gateway.client import Watcher
from opuslive.gateway.cutting import ExchangeCut
from opuslive.gateway.exchanges import Exchanges
from opuslive.gateway.holder import Cut, Holder
from opuslive.gateway.upstreams.wire import AnswerHead
from opuslive.web.answers import (
    REQUEST_ID_KEY,
    Handler,
    error_answer,
    gone_answer,
    let_body_come,
    request_id_headers,
)
from opuslive.web.http.checks import credentials_of
from opuslive.web.http.connection import ClientConnection
from opuslive.web.http.deadlines import Pace

#: The least rate at which a body has to arrive, in bytes per second; see ``Pace``. A poor uplink
#: of half a megabit keeps to it.
BODY_RATE = 64 * 1024
#: What a Content-Encoding says that is none.
_UNCODED = frozenset({"", "identity"})
#: A body of more bytes than this is kept in an anonymous mmap: it is given back to the
#: system when the request ends, and written to the upstream without a copy.
MMAP_FROM = 256 * 1024


class _RelayedAnswer(web.StreamResponse):
    """An answer whose head waits for the first bytes of the body: one packet, and one call of the
    system."""

    # Private in aiohttp. Without it the head is sent on its own.
    _send_headers_immediately = False


class BodyBudget:
    """The memory that all request bodies in flight share, in bytes; a key may hold ``share`` of it.

    What has arrived counts, not what was announced: announcing is free for a client.
    """

    def __init__(self, total: int, share: int) -> None:
        self._free = total
        self._share = share

    def take(self, holder: Holder, size: int) -> None:
        """Raises OpusLiveError: rate_limited when the key's share is used up, overloaded when all
        of the budget is."""
        if holder.body_bytes + size > self._share:
            raise OpusLiveError(
                Code.RATE_LIMITED,
                "The requests of this API key that are under way take up all the memory that the "
                "gateway has for their bodies; try again when one of them has been answered.",
                retry_after=5,
            )
        if size > self._free:
            raise OpusLiveError(
                Code.OVERLOADED,
                "The gateway has no memory left for this request's body; try again shortly.",
                retry_after=5,
            )
        self._free -= size
        holder.body_bytes += size

    def give_back(self, holder: Holder, size: int) -> None:
        self._free += size
        holder.body_bytes -= size


class Proxy:
    """Handlers of the forwarded endpoints. ``max_body`` is in bytes."""

    def __init__(
        self, exchanges: Exchanges, admission: Admission, max_body: int, budget: BodyBudget
    ) -> None:
        self._exchanges = exchanges
        self._admission = admission
        self._max_body = max_body
        self._budget = budget

    def handler(self, dialect: Dialect, operation: Operation) -> Handler:
        """The handler of one endpoint."""

        def last() -> bool:
            return self._exchanges.draining

        async def handle(request: web.Request) -> web.StreamResponse:
            client = HttpClient(
                request,
                dialect,
                self._admission,
                self._max_body,
                self._budget,
                last,
            )
            try:
                await self._exchanges.serve(dialect, operation, client)
            except OpusLiveError as error:
                answer = error_answer(request, error, dialect, client.limit_headers())
                if self._exchanges.draining:
                    answer.force_close()
                return answer
            except ExchangeCut:
                return client.response or gone_answer()
            finally:
                client.body_sent()
            assert client.response is not None
            return client.response

        return handle


class HttpClient:
    """The client of one exchange, over HTTP."""

    __slots__ = (
        "_admission",
        "_budget",
        "_connection",
        "_dialect",
        "_holder",
        "_last",
        "_max_body",
        "_prolong",
        "_request",
        "_taken",
        "response",
    )

    def __init__(
        self,
        request: web.Request,
        dialect: Dialect,
        admission: Admission,
        max_body: int,
        budget: BodyBudget,
        last: Callable[[], bool],
    ) -> None:
        """``last`` says whether no further request is to come on this connection."""
        self._request = request
        self._last = last
        self._dialect = dialect
        self._admission = admission
        self._holder: Holder | None = None
        self._connection = cast(ClientConnection, request.protocol)
        self._max_body = max_body
        self._budget = budget
        self._taken = 0
        #: Gives a body that is arriving time for the bytes that came.
        self._prolong: Callable[[int], object] | None = None
        self.response: web.StreamResponse | None = None

    @property
    def request_id(self) -> str:
        return self._request[REQUEST_ID_KEY]

    @property
    def credentials(self) -> Sequence[str]:
        return credentials_of(self._request)

    @property
    def headers(self) -> RawHeaders:
        return self._request.raw_headers

    @property
    def query(self) -> bytes:
        return self._request.raw_path.partition("?")[2].encode("utf-8", "surrogateescape")

    def authenticated(self, holder: Holder) -> None:
        self._holder = holder

    def limit_headers(self) -> Sequence[tuple[str, str]]:
        """How the key stands, in the headers that the dialect's clients look for."""
        if self._holder is None:
            return ()
        limits = self._admission.own_limits(self._holder)
        return self._dialect.limit_headers(limits, self._admission.now())

    def watch(self, watcher: Watcher) -> None:
        self._connection.watch(self._request, watcher)
        if self._connection.gone:
            raise ExchangeCut(Cut.CLIENT_GONE)

    @property
    def body_is_here(self) -> bool:
        return self._request.content.is_eof()

    async def read_body(self) -> Buffer:
        length = self._request.content_length
        if length is not None and length > self._max_body:
            raise self._too_large()
        codings = self._request.headers.getall("Content-Encoding", ())
        if not _UNCODED.issuperset(map(str.lower, codings)):
            raise OpusLiveError(
                Code.INVALID_REQUEST,
                "The request's body is compressed, so that its model can't be read; send it "
                "without Content-Encoding.",
            )
        let_body_come(self._request)
        size = self._max_body if length is None else length
        try:
            if self.body_is_here:
                # As small bodies are: a deadline would cost more than reading.
                return await self._read_into_memory()
            now = asyncio.get_running_loop().time
            pace = Pace(self._connection.deadlines.body, BODY_RATE, now())
            async with asyncio.timeout_at(pace.deadline) as timeout:
                self._prolong = lambda size: timeout.reschedule(pace.arrived(size, now()))
                if size > MMAP_FROM:
                    return await self._read_into_mmap(size)
                return await self._read_into_memory()
        except TimeoutError:
            raise OpusLiveError(
                Code.BODY_TIMEOUT, "The request's body did not arrive in time."
            ) from None
        except (web.RequestPayloadError, ConnectionError, web.HTTPException) as error:
            if self._connection.gone:
                raise ExchangeCut(Cut.CLIENT_GONE) from error
            raise OpusLiveError(
                Code.INVALID_REQUEST, "The request's body is not well-formed HTTP."
            ) from None

    async def start_answer(
        self, head: AnswerHead, begun: bytes
    ) -> tuple[Callable[[bytes], object], bool]:
        request = self._request
        headers = CIMultiDict(
            [(name.decode("ascii"), _text(value)) for name, value in head.headers]
        )
        headers.update(request_id_headers(request))
        headers.update(self.limit_headers())
        self.response = response = _RelayedAnswer(status=head.status, headers=headers)
        chunked = False
        if head.length is not None:
            response.content_length = head.length
        elif request.version >= (1, 1):
            response.enable_chunked_encoding()
            chunked = True
        else:
            response.force_close()  # HTTP/1.0: the body ends with the connection.
        if self._last():
            response.force_close()
        try:
            writer = cast(StreamWriter, await response.prepare(request))
            if begun:
                # Nobody waits here for a slow client: the relay hears of it.
                await writer.write(begun, drain=False)
            else:
                writer.send_headers()
        except ConnectionError as error:
            raise ExchangeCut(Cut.CLIENT_GONE) from error
        transport = request.transport
        if transport is None:
            raise ExchangeCut(Cut.CLIENT_GONE)
        return transport.write, chunked

    def reset(self) -> None:
        self._connection.reset()

    def body_sent(self) -> None:
        if self._holder is not None:
            self._budget.give_back(self._holder, self._taken)
            self._taken = 0

    def hold(self, size: int) -> None:
        assert self._holder is not None
        self._budget.take(self._holder, size)
        self._taken += size

    async def _read_into_memory(self) -> bytes:
        content = self._request.content
        chunks: list[bytes] = []
        try:
            while chunk := await content.readany():
                self._take(len(chunk), self._max_body)
                chunks.append(chunk)
        except BaseException:
            # Now, and not when the refusal is recorded: others wait for this memory.
            chunks.clear()
            self.body_sent()
            raise
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _read_into_mmap(self, size: int) -> Buffer:
        """A body of at most ``size`` bytes. Joined from its pieces it would take up twice as
        much for a moment, and that would not count."""
        content = self._request.content
        memory = mmap.mmap(-1, size)
        # Memory of the mmap that nothing was written to yet takes up none.
        try:
            while chunk := await content.readany():
                start = self._taken
                self._take(len(chunk), size)
                memory[start : self._taken] = chunk
        except BaseException:
            memory.close()
            self.body_sent()
            raise
        return memoryview(memory)[: self._taken]

    def _take(self, size: int, most: int) -> None:
        """Take memory for ``size`` bytes more of a body that may have ``most``."""
        if self._taken + size > most:
            raise self._too_large()
        assert self._holder is not None, "a body is read for a proven key alone"
        self._budget.take(self._holder, size)
        self._taken += size
        if self._prolong is not None:
            self._prolong(size)

    def _too_large(self) -> OpusLiveError:
        return OpusLiveError(
            Code.BODY_TOO_LARGE,
            f"The request's body is larger than the {self._max_body:,} bytes that this gateway "
            "takes.",
        )


def _text(value: bytes) -> str:
    """A header's value for aiohttp, which writes UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
