"""Telling that keys expire soon: ``DAYS`` before, each once.

Theory of operation. Every ``LOOK_SECONDS`` all keys are looked at. A key is told of when one of
the moments, so many days before it expires, lies between the last look and this one. So each is
told once while the process lives; and since the store keeps the moment of the last look (one
number, and nothing of a key), also across restarts: what became due meanwhile is told at the start,
and what was told is not told again. Only a kill in the very moment of the telling repeats it.

Not told is what the administrator has just decided: a moment that had passed when the key was made,
or when its expiry was changed. Disabled keys are left out, and what has expired.

Expiries go by the wall clock, and so does this. If that was set back by more than ``SET_BACK_MS``,
what comes anew is told anew: a last look in a far future would otherwise keep all alerts back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol

from opuslive.keys import Key
from opuslive.storage import StorageUnavailable
from opuslive.times import DAY_MS, HOUR_MS

log = logging.getLogger(__name__)

#: Days before a key expires, at which it is told.
DAYS: Final = (7, 1)
LOOK_SECONDS: Final = 600.0
#: ms by which the last look may lie in the future.
SET_BACK_MS: Final = HOUR_MS


class LastLook(Protocol):
    """Where the moment of the last look is kept, in ms since the epoch."""

    async def expiries_seen(self) -> int | None: ...

    async def keep_expiries_seen(self, at: int) -> None: ...


class Expiries:
    """Looks after the expiries of ``keys``, and calls ``tell`` with a key's id, when it expires (ms
    since the epoch) and in how many days. ``now_ms`` is the wall clock."""

    def __init__(
        self,
        keys: Callable[[], Iterable[Key]],
        kept: LastLook,
        now_ms: Callable[[], int],
        tell: Callable[[str, int, int], object],
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._keys = keys
        self._kept = kept
        self._now_ms = now_ms
        self._tell = tell
        self._sleep = sleep
        self._seen: int | None = None
        #: Id of a key → its expiry at the last look.
        self._known: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look every now and then, until ``stop``."""
        self._task = asyncio.ensure_future(self._watch())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            try:
                await self.look()
            except StorageUnavailable:
                log.debug("when expiries were looked at last can't be kept or read now")
            await self._sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Tell what became due since the last look. Raises StorageUnavailable."""
        first = self._seen is None
        kept = await self._kept.expiries_seen() if self._seen is None else self._seen
        seen, now = kept or 0, self._now_ms()
        if seen > now + SET_BACK_MS:
            seen = now
        expiring = {
            key.id: key for key in self._keys() if key.enabled and (key.expires_at or 0) > now
        }
        known = self._known
        self._seen, self._known = max(seen, now), {}
        for key_id, key in expiring.items():
            assert key.expires_at is not None
            self._known[key_id] = key.expires_at
            since = max(seen, key.created_at)
            due = any(since < key.expires_at - days * DAY_MS <= now for days in DAYS)
            if due and (first or known.get(key_id) == key.expires_at):
                self._tell(key_id, key.expires_at, -(-(key.expires_at - now) // DAY_MS))
        if expiring and self._seen != kept:
            await self._kept.keep_expiries_seen(self._seen)
