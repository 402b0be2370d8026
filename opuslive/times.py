"""Units of time, how moments are written, and the two clocks. Nothing here reads a clock.

Moments are in ms since the Unix epoch everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


@dataclass(frozen=True, slots=True)
class Clock:
    """Two clocks, in ms since the epoch.

    ``wall_ms`` decides when keys expire. ``steady_ms`` is what records bear and windows go by:
    the wall clock as it stood at the start, plus what the machine has measured since.
    """

    wall_ms: Callable[[], int]
    steady_ms: Callable[[], int]


def end_of_day(ms: int) -> int:
    """When the day (UTC) ends that a time is in; both in ms since the epoch."""
    return (ms // DAY_MS + 1) * DAY_MS


def iso_ms(ms: int) -> str:
    """Milliseconds since the epoch as ISO 8601 UTC: ``2026-11-23T15:04:05.123Z``."""
    whole = datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{ms % 1000:03d}Z"


def iso_seconds(ms: int) -> str:
    """Milliseconds since the epoch as ISO 8601 UTC to the second: ``2026-11-23T15:04:05Z``."""
    return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
