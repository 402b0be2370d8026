"""One answer of an upstream, cut out of the bytes of its connection.

*Framing* is the business of httptools (llhttp) in its strict mode, with three additions: a
transfer coding other than ``chunked``, once and in HTTP/1.1, is refused (by RFC 9112, 6.1, or
because it can't be passed on), trailers are dropped, and an answer to HEAD has no body,
whatever it announces. *Interim answers* (1xx) are swallowed; a 101 is malformed, since nobody
asked for an upgrade.

*Bounds.* Heads, the interim ones included, may have 64 KB in all, and so may what frames a body
between two pieces of it.

Each answer gets a parser of its own, so that nothing of one (a trailer, say) can show up in
the next.
"""

from __future__ import annotations

from typing import Any

import httptools

from opuslive.gateway.upstreams.wire import AnswerHead

#: Status line and headers of an answer, interim ones included, in bytes. Also chunk sizes and
#: trailers, between two pieces of a body.
MAX_HEAD = 64 * 1024
_EVENT_STREAM = b"text/event-stream"
#: The headers that say something of the connection or the body.
_READ = frozenset(
    (b"content-length", b"transfer-encoding", b"keep-alive", b"content-type", b"content-encoding")
)


class AnswerParser:
    """Takes what arrives after a request; tells the head, the body, and the answer's end."""

    def __init__(self, method: str) -> None:
        """``method`` is the request's: an answer to HEAD has no body."""
        self._method = method
        self._parser: Any = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._framing = 0  # bytes that came since the last piece of the body
        self._interim = False
        self._chunks: list[bytes] = []
        #: None until it is whole.
        self.head: AnswerHead | None = None
        #: Whether the body lasts until the connection ends.
        self.until_close = False
        #: Whether the answer is whole.
        self.complete = False
        #: Whether the connection is good for another answer, once this one is complete.
        self.clean = True
        #: Whether what came is no answer. Nothing may be fed any more.
        self.malformed = False
        #: Seconds that the server says it keeps an idle connection; None if it says nothing.
        self.keep_alive_hint: float | None = None

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; return the piece of the body that is in them, up to what is
        malformed."""
        self._framing += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.malformed = not self.complete
            self.clean = False
        chunks = self._chunks
        if not chunks:
            self.malformed |= self._framing > MAX_HEAD and not self.complete
            return b""
        self._framing = 0
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        return body

    def close(self) -> None:
        """Nothing is fed any more. (The parser and this object name each other: both would stay
        in memory until a garbage collection.)"""
        self._parser = None

    # What httptools calls.

    def on_message_begin(self) -> None:
        if self.complete:
            self.clean = False  # Something follows the answer.

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head is None:  # Else it is a trailer.
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self.complete:
            return
        version = self._parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise ValueError("a version that was not asked for")
        status = self._parser.get_status_code()
        if status < 200:
            if status == 101:
                raise ValueError("an upgrade that nobody asked for")
            if status < 100:
                raise ValueError("a status that does not exist")
            self._interim = True
            self._headers = []
            return
        length: int | None = None
        chunked = event_stream = compressed = False
        for name, value in self._headers:
            # One look at a set tells most headers to be none of these.
            lowered = name.lower()
            if lowered not in _READ:
                continue
            if lowered == b"content-length":
                length = int(value)
            elif lowered == b"transfer-encoding":
                if value.strip().lower() != b"chunked" or chunked or version == "1.0":
                    raise ValueError("a transfer coding that can't be passed on")
                chunked = True
            elif lowered == b"content-type":
                event_stream |= value.strip().lower().startswith(_EVENT_STREAM)
            elif lowered == b"content-encoding":
                compressed |= value.strip().lower() not in (b"", b"identity")
            else:
                self.keep_alive_hint = _keep_alive_seconds(value)
        # A head is added up only where what came along with its body may have made it too large.
        if self._framing > MAX_HEAD and _size(self._headers) > MAX_HEAD:
            raise ValueError("too large a head")
        bodiless = self._method == "HEAD" or status in (204, 304)
        self._framing = 0
        self.until_close = not (bodiless or chunked or length is not None)
        self.head = AnswerHead(
            status, self._headers, 0 if bodiless else length, event_stream, compressed
        )
        if self._method == "HEAD":
            # llhttp would take what follows for the body that Content-Length announces.
            self.complete = True
            self.clean = False

    def on_body(self, chunk: bytes) -> None:
        if self.head is None:
            # llhttp knows that some interim answers have no body, not that none has.
            raise ValueError("an interim answer with a body")
        if not self.complete:
            self._chunks.append(chunk)

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
        elif not self.complete:
            self.complete = True
            self.clean = self._parser.should_keep_alive()


def _size(headers: list[tuple[bytes, bytes]]) -> int:
    """The headers in bytes. Each line has a colon, a space and a line end besides."""
    return sum(len(name) + len(value) + 4 for name, value in headers)


def _keep_alive_seconds(value: bytes) -> float | None:
    """The ``timeout`` of a ``Keep-Alive`` header, in seconds."""
    for parameter in value.lower().split(b","):
        name, _, number = parameter.strip().partition(b"=")
        if name == b"timeout" and number.isdigit() and len(number) < 10:
            return float(number)
    return None
