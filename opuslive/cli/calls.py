"""One HTTP request over a Unix socket and its answer, with nothing loaded that a command can spare.

The server is of this program, so the answer has a simple form: nothing of its head decides what is
done with it but the status. httptools reads it, as it reads upstreams' answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httptools

#: Bytes that are read at once, at most.
_READ = 65_536
#: How long the server may take to accept the connection.
_CONNECT_SECONDS = 10.0


class WentAway(Exception):
    """The server closed the connection before all of its answer was there, or there is none."""


class Call:
    """A request on a connection of its own. Closed by leaving ``async with``."""

    def __init__(self, socket: Path, method: str, target: str, body: bytes | None) -> None:
        """``target`` is percent-encoded; ``body`` is JSON."""
        self._socket = socket
        head = f"{method} {target} HTTP/1.1\r\nhost: opuslive\r\nconnection: close\r\n"
        if body is not None:
            head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self._request = head.encode("ascii") + b"\r\n" + (body or b"")
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._has_status = self._complete = False
        self.status = 0
        #: Name in lower case → value.
        self.headers: dict[str, str] = {}

    async def __aenter__(self) -> Call:
        """Sends the request, and has the status. Raises WentAway."""
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                self._reader, self._writer = await asyncio.open_unix_connection(self._socket)
        except OSError:
            raise WentAway from None
        try:
            self._writer.write(self._request)
            while not self._has_status:
                await self._read()
        except BaseException:
            self._writer.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def body(self) -> bytes:
        """All of the answer's body. Raises WentAway."""
        while not self._complete:
            await self._read()
        return self._take()

    async def parts(self) -> AsyncIterator[bytes]:
        """The body, as it comes. Raises WentAway."""
        while True:
            if part := self._take():
                yield part
            if self._complete:
                return
            await self._read()

    async def lines(self) -> AsyncIterator[bytes]:
        """The lines of the body, each when it is there. Raises WentAway."""
        rest = b""
        while True:
            *lines, rest = (rest + self._take()).split(b"\n")
            for line in lines:
                yield line
            if self._complete:
                return
            await self._read()

    def _take(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken

    async def _read(self) -> None:
        try:
            data = await self._reader.read(_READ)
            if not data:
                raise WentAway
            self._parser.feed_data(data)
        except (OSError, httptools.HttpParserError):
            raise WentAway from None

    # The parser's callbacks.

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._has_status = True

    def on_body(self, part: bytes) -> None:
        self._parts.append(part)

    def on_message_complete(self) -> None:
        self._complete = True
