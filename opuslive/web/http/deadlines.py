"""How long a client may take, and the timers that hold it to that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds that a client has.

    ``head``: for a head, from its first byte; and for the first one to begin. ``idle``: between
    two requests; beyond the 60 s for which reverse proxies usually pool theirs. ``body``: for
    a body, besides what its size takes. ``stall``: without taking anything of what was written
    for it.
    """

    head: float = 15.0
    idle: float = 75.0
    body: float = 30.0
    stall: float = 60.0


class Countdown:
    """Calls ``overdue`` once, ``seconds`` after the last ``start``, unless it is stopped."""

    __slots__ = ("_loop", "_overdue", "_seconds", "_timer")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, overdue: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._overdue = overdue
        self._timer: asyncio.TimerHandle | None = None

    @property
    def runs(self) -> bool:
        return self._timer is not None

    def start(self) -> None:
        self.stop()
        self._timer = self._loop.call_later(self._seconds, self._end)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self) -> None:
        self._timer = None
        self._overdue()


class StallWatch:
    """Calls ``stalled`` when a transport's buffer has not shrunk for ``seconds``."""

    __slots__ = ("_countdown", "_size", "_stalled", "_transport")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, stalled: Callable[[], None]
    ) -> None:
        self._countdown = Countdown(loop, seconds, self._check)
        self._stalled = stalled
        self._transport: asyncio.WriteTransport | None = None
        self._size = 0

    def watch(self, transport: asyncio.WriteTransport) -> None:
        """Watch from now until ``stop``; a watch that is on goes on as it is."""
        if not self._countdown.runs:
            self._transport = transport
            self._size = transport.get_write_buffer_size()
            self._countdown.start()

    def stop(self) -> None:
        self._countdown.stop()
        self._transport = None

    def _check(self) -> None:
        transport = self._transport
        if transport is None:
            return
        if transport.get_write_buffer_size() >= self._size:
            self._stalled()
        else:
            self.watch(transport)
