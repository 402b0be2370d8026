"""How long a client may take, and the timers that end its connection after that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds that a client has."""

    #: From the first byte of a head to its last; from the connection's start to the first byte;
    #: and for a TLS handshake.
    head: float = 15.0
    #: Between two requests. Reverse proxies usually keep an idle connection for 60 s.
    idle: float = 75.0
    #: Without a byte of a body; see ``Pace``.
    body: float = 30.0
    #: From taking some bytes of an answer to taking the next ones.
    stall: float = 60.0
    #: For the last bytes of an answer when the process ends.
    shutdown: float = 5.0


class Pace:
    """Until when a body may take that has to keep to a minimum rate, in bytes per second.

    It has ``grace`` seconds, and earns time with every byte that arrives: at the rate or above it
    never ends. What is earned is never more than ``grace`` seconds ahead, so that a body which
    stops is cut after that, however much of it is there. ``now`` is in seconds.
    """

    __slots__ = ("_grace", "_rate", "deadline")

    def __init__(self, grace: float, rate: float, now: float) -> None:
        self._grace = grace
        self._rate = rate
        self.deadline = now + grace

    def arrived(self, size: int, now: float) -> float:
        """So many bytes have arrived. Returns the new deadline."""
        self.deadline = min(self.deadline + size / self._rate, now + self._grace)
        return self.deadline


class Countdown:
    """Calls ``overdue`` once, ``seconds`` after the last ``start``, unless ``stop`` is called."""

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

    def close(self) -> None:
        """Stop for good. (Who is called names this object: both would stay in memory until a
        garbage collection.)"""
        self.stop()
        self._overdue = _nothing

    def _end(self) -> None:
        self._timer = None
        self._overdue()


def _nothing() -> None:
    """What comes too late."""


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
        """Watch from now until ``stop``. A watch that is running already is left as it is."""
        if not self._countdown.runs:
            self._transport = transport
            self._size = transport.get_write_buffer_size()
            self._countdown.start()

    def stop(self) -> None:
        self._countdown.stop()
        self._transport = None

    def close(self) -> None:
        """Stop for good: see ``Countdown.close``."""
        self.stop()
        self._countdown.close()
        self._stalled = _nothing

    def _check(self) -> None:
        transport = self._transport
        if transport is None:
            return
        if transport.get_write_buffer_size() >= self._size:
            self._stalled()
        else:
            self.watch(transport)
