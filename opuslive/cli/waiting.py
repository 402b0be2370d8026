"""How a process waits for a database that another one has for a moment."""

from __future__ import annotations

import asyncio

from opuslive.errors import OpusLiveError

#: Seconds between two attempts.
POLL_SECONDS = 0.05


class Patience:
    """How long to go on trying to open the database. The time counts from the first wait."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._deadline: float | None = None

    async def wait(self, error: OpusLiveError) -> None:
        """Let a moment pass before the next attempt. Raises the error if no time is left."""
        now = asyncio.get_running_loop().time()
        if self._deadline is None:
            self._deadline = now + self._seconds
        if now >= self._deadline:
            raise error
        await asyncio.sleep(POLL_SECONDS)
