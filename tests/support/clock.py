"""The moment at which tests happen, and a machine's clocks, which only a test moves."""

from __future__ import annotations

from datetime import UTC, datetime

from opuslive.times import Clock
from tests.support.waiting import eventually

#: 2026-11-23T15:04:05.123Z, a Monday, in ms since the epoch.
NOW = 1_795_446_245_123
#: The same day at 17:14:03 UTC, whole seconds, as people read times.
EVENING = NOW + 7_797_877
#: A Monday in September 2026, 14:13:20 UTC: a round number of ms, for windows.
MONDAY = 1_790_000_000_000
#: Wed, 21 Oct 2026 07:28:00 GMT: whole seconds, as headers tell them.
WEDNESDAY = 1_792_567_680_000


def at(text: str) -> int:
    """An ISO time in UTC as ms since the epoch."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


class Machine:
    """A machine's two clocks, in ms since the epoch, and the ``Clock`` that reads them."""

    def __init__(self) -> None:
        self.wall = self.elapsed = NOW
        self.clock = Clock(lambda: self.wall, lambda: self.elapsed)

    def pass_time(self, ms: int) -> None:
        self.wall += ms
        self.elapsed += ms

    async def set_clock(self, delta: int) -> None:
        """Set the wall clock, and wait until the gateway has seen it."""
        self.wall += delta
        await eventually(lambda: self.clock.wall_is_ahead == 0)
