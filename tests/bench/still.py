"""An event loop in which nothing happens by itself, and what stands on both sides of a gateway.

Time stands still, connections are made at once, and what is written to one is kept. So the code of
an exchange is all that runs, and it runs the same each time.
"""

from __future__ import annotations

import asyncio
import contextvars
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, cast

from opuslive.dialects import Dialect, RawHeaders
from opuslive.gateway.admission.admission import Admission
from opuslive.gateway.client import Watcher
from opuslive.gateway.holder import Holder
from opuslive.gateway.upstreams.wire import AnswerHead
from opuslive.storage import OpenRecord
from opuslive.usage import UsageRecord


class StillTransport:
    """Takes all that is written to it. Its socket is open, and silent."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        self.written = 0

    def get_extra_info(self, name: str) -> object:
        return self._ours if name == "socket" else None

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes) -> None:
        self.written += len(data)


class StillLoop:
    """Runs what is ready when told to. Timers never fire. What asyncio and the gateway ask of an
    event loop is here, and no more."""

    def __init__(self) -> None:
        self._ready: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self.connections: list[asyncio.Protocol] = []

    @property
    def as_loop(self) -> asyncio.AbstractEventLoop:
        return cast(asyncio.AbstractEventLoop, self)

    def run_ready(self) -> None:
        while self._ready:
            callback, arguments = self._ready.popleft()
            callback(*arguments)

    def run(self, coroutine: Coroutine[Any, Any, object]) -> asyncio.Task[object]:
        """Begin a coroutine, up to where it waits for something that is to happen."""
        task = self.create_task(coroutine)
        self.run_ready()
        return task

    # What code that runs on it calls.

    def time(self) -> float:
        return 1_000.0

    def get_debug(self) -> bool:
        return False

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self.as_loop)

    def create_task(self, coro: Any, **how: Any) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self.as_loop, **how)

    def call_soon(
        self,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        self._ready.append((callback, args))
        return cast(asyncio.Handle, None)

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, **how: Any
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, **how: Any
    ) -> asyncio.TimerHandle:
        return asyncio.TimerHandle(when, callback, args, self.as_loop)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Timers are kept nowhere."""

    def run_in_executor(
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        future = self.create_future()
        future.set_result(func(*args))
        return future

    async def getaddrinfo(self, host: Any, port: Any, **how: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    async def create_connection(self, make: Any, *where: Any, **how: Any) -> Any:
        transport, protocol = StillTransport(), make()
        self.connections.append(protocol)
        protocol.connection_made(transport)
        return transport, protocol


class StillStorage:
    """Records are on disk when told so. It has what an exchange asks of a ``Storage``."""

    checksum_key = b"k" * 32
    healthy = True

    def __init__(self, loop: StillLoop) -> None:
        self._loop = loop
        self._recording: asyncio.Future[None] | None = None

    def add_record(
        self, record: UsageRecord, opened: OpenRecord | None = None
    ) -> asyncio.Future[None]:
        self._recording = self._loop.create_future()
        return self._recording

    def on_disk(self) -> None:
        assert self._recording is not None
        self._recording.set_result(None)


class StillClient:
    """A client that has sent its whole request. A ``Client``, as ``web`` shows one to an exchange:
    it is told how its key stands, and gets the answer's head and its body."""

    def __init__(
        self,
        admission: Admission,
        dialect: Dialect,
        credential: str,
        headers: RawHeaders,
        body: bytes,
    ) -> None:
        self.request_id = "req_011111111111111111111111"
        self.credentials: Sequence[str] = (credential,)
        self.headers = headers
        self.query = b""
        self.body_is_here = True
        self.head: AnswerHead | None = None
        self.standing: Sequence[tuple[str, str]] = ()
        self.got = 0
        self._admission = admission
        self._dialect = dialect
        self._body = body

    def authenticated(self, holder: Holder) -> None:
        self._holder = holder

    def watch(self, watcher: Watcher) -> None:
        """It stays to the end."""

    async def read_body(self) -> bytes:
        return self._body

    def body_sent(self) -> None:
        """It takes no memory that counts."""

    def hold(self, size: int) -> None:
        """There is memory."""

    async def start_answer(
        self, head: AnswerHead, begun: bytes
    ) -> tuple[Callable[[bytes], object], bool]:
        self.head = head
        limits = self._admission.own_limits(self._holder)
        self.standing = self._dialect.limit_headers(limits, self._admission.now())
        self.write(begun)
        return self.write, head.length is None

    def write(self, data: bytes) -> None:
        self.got += len(data)

    def reset(self) -> None:
        raise AssertionError("the answer was broken off")
