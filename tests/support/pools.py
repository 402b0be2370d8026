"""The gateway's end of connections to an upstream: requests, pools, and what comes of an answer.

``Sink`` writes down what an answer's listener hears.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

from opuslive.gateway.upstreams.pool import UpstreamPool
from opuslive.gateway.upstreams.wire import (
    AnswerHead,
    FailureKind,
    Timeouts,
    UpstreamError,
    UpstreamRequest,
)
from tests.support.waiting import PATIENCE

#: Deadlines that never fire in a test.
PATIENT = Timeouts(60.0, 60.0, 60.0)

#: A line of a transcript: ("head", status), ("body", bytes), ("end",) or ("failure", kind).
Line = tuple[object, ...]
END: Line = ("end",)


def a_get(path: str = "/") -> UpstreamRequest:
    return UpstreamRequest("GET", b"GET %b HTTP/1.1\r\nhost: upstream\r\n\r\n" % path.encode())


def a_post(*body: bytes) -> UpstreamRequest:
    length = sum(map(len, body))
    return UpstreamRequest(
        "POST", b"POST / HTTP/1.1\r\nhost: upstream\r\ncontent-length: %d\r\n\r\n" % length, body
    )


class Sink:
    """Hears an answer, and keeps the transcript. An ``AnswerSink``."""

    def __init__(self, *, on_body: Callable[[], object] | None = None) -> None:
        self.heard: list[Line] = []
        self.heads: list[AnswerHead] = []
        self.pieces: list[bytes] = []
        self.error: UpstreamError | None = None
        self.ended = asyncio.Event()
        #: Whether each call came straight from the event loop, and not from a task of its own.
        self.outside_tasks = True
        self._then = on_body

    def _hear(self, *line: object) -> None:
        assert not self.ended.is_set(), f"{line} after the end"
        self.heard.append(line)
        self.outside_tasks &= asyncio.current_task() is None

    def on_head(self, head: AnswerHead) -> None:
        self._hear("head", head.status)
        self.heads.append(head)

    def on_body(self, chunk: bytes) -> None:
        assert chunk
        self.pieces.append(chunk)
        self._hear("body", chunk)
        if self._then is not None:
            self._then()

    def on_end(self) -> None:
        self._hear("end")
        self.ended.set()

    def on_failure(self, error: UpstreamError) -> None:
        self._hear("failure", error.kind)
        self.error = error
        self.ended.set()

    @property
    def head(self) -> AnswerHead:
        (head,) = self.heads
        return head

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    async def end(self) -> list[Line]:
        """The transcript, once the answer is over; neighbouring pieces of the body joined."""
        async with asyncio.timeout(PATIENCE):
            await self.ended.wait()
        return self.so_far

    @property
    def so_far(self) -> list[Line]:
        lines: list[Line] = []
        for kind, group in itertools.groupby(self.heard, lambda line: line[0]):
            lines += [("body", self.body)] if kind == "body" else list(group)
        return lines

    async def failure(self) -> FailureKind:
        """How the exchange failed, after nothing but perhaps a head and a piece of a body."""
        lines = await self.end()
        assert self.error is not None, lines
        assert self.error.kind is not FailureKind.UNREACHABLE
        return self.error.kind


#: Makes pools of connections to a port, with other deadlines.
MakePool = Callable[..., UpstreamPool]
