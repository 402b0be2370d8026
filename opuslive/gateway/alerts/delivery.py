"""Messages to a channel: delivered in the background, and in nobody's way.

Theory of operation. ``send`` puts a message into a queue and returns. One task takes them out,
oldest first, and gives each to the channel until it is taken, ``ATTEMPTS`` times at most: where
another attempt may help (the channel says so) it tries again, later and later. The queue is
bounded: of more messages than fit the oldest are dropped, and counted in the log.

A channel has secrets: an address with a token, a password. They stand in no log line and in no
error: of failures only the status or the kind is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from opuslive.gateway.alerts.alerts import Message
from opuslive.thinning import THINNED

log = logging.getLogger(__name__)

#: Messages that wait at most.
MAX_QUEUED: Final = 100
#: How often one is tried.
ATTEMPTS: Final = 5
#: Seconds before the second attempt, doubled before each one after.
_FIRST_DELAY: Final = 1.0
#: Seconds that messages under way have when the process ends.
CLOSE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one attempt.

    ``problem`` says what went wrong, None if nothing did. ``again_after`` is for how many seconds
    to wait at least before another attempt, None if that would not help. ``said`` is what the
    other side answered, for the administrator who asks: never for the log.
    """

    problem: str | None = None
    again_after: float | None = None
    said: str = ""


class Channel(Protocol):
    """Where messages go. ``label`` names it in the log."""

    @property
    def label(self) -> str: ...

    async def deliver(self, message: Message) -> Answer:
        """Try once. It ends in bounded time, and raises nothing."""


class Delivery:
    """Gives messages to a channel, if there is one. ``start`` it, ``send`` any time, ``close`` it.

    ``sleep`` waits for so many seconds; ``jitter`` gives numbers from 0 to 1.
    """

    def __init__(
        self,
        channel: Channel | None,
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.channel = channel
        #: How the log names the channel, also one that was taken out.
        self._label = "a channel of alerts" if channel is None else channel.label
        self._sleep = sleep
        self._jitter = jitter
        self._queue: deque[Message] = deque()
        self._dropped = 0
        self._delivering = False
        #: Set when there is something to deliver; ``_idle`` when there is nothing.
        self._filled = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to deliver."""
        self._task = asyncio.ensure_future(self._deliver_all())

    def use(self, channel: Channel | None) -> None:
        """Use this channel from now on, also for what waits and what is tried again. Without one
        what waits is dropped, and the log says how much."""
        self.channel = channel
        if channel is not None:
            self._label = channel.label
        elif self._queue:
            log.warning("%d alerts were not told: %s was taken out", len(self._queue), self._label)
            self._queue.clear()
            if not self._delivering:
                self._filled.clear()
                self._idle.set()

    def send(self, message: Message) -> None:
        """Queue a message, if there is a channel."""
        if self.channel is None:
            return
        if len(self._queue) >= MAX_QUEUED:
            self._queue.popleft()
            self._dropped += 1
        self._queue.append(message)
        self._filled.set()
        self._idle.clear()

    async def close(self) -> None:
        """End, after a moment for what is under way."""
        if self._task is None:
            return
        if not self._task.done():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._idle.wait()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        lost = len(self._queue) + self._delivering + self._dropped
        if lost:
            log.warning("%s was not told of %d alerts before the end", self._label, lost)

    async def _deliver_all(self) -> None:
        while True:
            while not self._queue:
                await self._filled.wait()
            self._delivering = True
            await self._deliver(self._queue.popleft())
            self._delivering = False
            if self._dropped:
                log.warning(
                    "%s is too slow: the oldest %d alerts were dropped", self._label, self._dropped
                )
                self._dropped = 0
            if not self._queue:
                self._filled.clear()
                self._idle.set()

    async def _deliver(self, message: Message) -> None:
        """Deliver one message, until it is taken or given up."""
        delay, wait = _FIRST_DELAY, 0.0
        for attempt in range(ATTEMPTS):
            if attempt:
                await self._sleep(max(wait, delay * (0.5 + self._jitter() / 2)))
                delay *= 2
            if self.channel is None:
                answer = Answer("it was switched off")
            else:
                answer = await self.channel.deliver(message)
            if answer.problem is None:
                return
            if answer.again_after is None:
                break
            wait = answer.again_after
        log.warning("%s was not told of an alert: %s", self._label, answer.problem, extra=THINNED)
