"""Messages to a webhook: delivered in the background, and in nobody's way.

Theory of operation. ``send`` puts a message into a queue and returns. One task takes them out,
oldest first, and posts each as JSON until it is taken, ``ATTEMPTS`` times at most: after a network
error, a 429 or a 5xx it tries again, later and later. Any other answer ends it at once: a redirect
is never followed, and what the receiver calls wrong would stay wrong. The queue is bounded: of more
messages than fit the oldest are dropped, and counted in the log.

The address may hold a token. It stands in no log line and in no error: of failures only the
status or the kind is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import aiohttp
import msgspec
from yarl import URL

from opuslive.thinning import THINNED

log = logging.getLogger(__name__)

#: Messages that wait at most.
MAX_QUEUED: Final = 100
#: How often one is tried, and how many seconds a try may take.
ATTEMPTS: Final = 5
TIMEOUT_SECONDS: Final = 10.0
#: Seconds before the second attempt, doubled before each one after.
_FIRST_DELAY: Final = 1.0
#: Seconds that a receiver may ask to be left alone; more is taken for this.
MAX_RETRY_AFTER: Final = 60.0
#: Seconds that messages under way have when the process ends.
CLOSE_SECONDS: Final = 1.0


class Webhook:
    """Posts to an address, if there is one. ``start`` it, ``send`` any time, ``close`` it.

    ``sleep`` waits for so many seconds; ``jitter`` gives numbers from 0 to 1.
    """

    def __init__(
        self,
        url: str | None,
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self._url = url
        self._sleep = sleep
        self._jitter = jitter
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._queue: deque[bytes] = deque()
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

    def use(self, url: str | None) -> None:
        """Post to this address from now on, also what waits and what is tried again. Without one
        what waits is dropped, and the log says how much."""
        self._url = url
        if url is None and self._queue:
            log.warning("%d alerts were not told: there is no webhook any more", len(self._queue))
            self._queue.clear()
            if not self._delivering:
                self._filled.clear()
                self._idle.set()

    def send(self, message: Mapping[str, object]) -> None:
        """Queue a message, if there is an address."""
        if self._url is None:
            return
        if len(self._queue) >= MAX_QUEUED:
            self._queue.popleft()
            self._dropped += 1
        self._queue.append(msgspec.json.encode(message))
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
            log.warning("the alert webhook was not told of %d alerts before the end", lost)

    async def _deliver_all(self) -> None:
        async with aiohttp.ClientSession(
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"user-agent": "OpusLive"},
            trust_env=False,  # no proxy: it could read the address
        ) as session:
            while True:
                while not self._queue:
                    await self._filled.wait()
                self._delivering = True
                await self._deliver(session, self._queue.popleft())
                self._delivering = False
                if self._dropped:
                    log.warning(
                        "the alert webhook is too slow: the oldest %d alerts were dropped",
                        self._dropped,
                    )
                    self._dropped = 0
                if not self._queue:
                    self._filled.clear()
                    self._idle.set()

    async def _deliver(self, session: aiohttp.ClientSession, body: bytes) -> None:
        """Post one message, until it is taken or given up."""
        delay, wait = _FIRST_DELAY, 0.0
        for attempt in range(ATTEMPTS):
            if attempt:
                await self._sleep(max(wait, delay * (0.5 + self._jitter() / 2)))
                delay *= 2
            problem, again_after = await self._post(session, body)
            if problem is None:
                return
            if again_after is None:
                break
            wait = again_after
        log.warning("the alert webhook was not told of an alert: %s", problem, extra=THINNED)

    async def _post(
        self, session: aiohttp.ClientSession, body: bytes
    ) -> tuple[str | None, float | None]:
        """What went wrong, if anything did, and for how many seconds to wait at least before the
        next attempt: None if there should be none."""
        if self._url is None:
            return "it was switched off", None
        try:
            async with session.post(
                # As it was written: a token that is encoded in some way of its own stays valid.
                URL(self._url, encoded=True),
                data=body,
                headers={"content-type": "application/json"},
                allow_redirects=False,
            ) as answer:
                status, headers = answer.status, answer.headers
        # Whatever it is, it must not end the task: the next message may have better luck.
        except Exception as error:
            return f"it can't be reached ({type(error).__name__})", 0.0
        if 200 <= status < 300:
            return None, None
        problem = f"it answers with status {status}"
        if status == 429 or status >= 500:
            return problem, _retry_after(headers.get("retry-after", ""))
        return problem, None


def _retry_after(text: str) -> float:
    """The seconds that the receiver asks for; 0 if it names none, or a date."""
    digits = text.strip()[:9]
    return min(float(digits), MAX_RETRY_AFTER) if digits.isascii() and digits.isdigit() else 0.0
