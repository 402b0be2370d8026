"""What is kept of a request, and sums of it.

These are all the facts the gateway ever holds about one request: whatever is not a
field of ``UsageRecord`` is forgotten when the request ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from opuslive.metering import TokenCounts

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """One request of one key.

    ``time`` is the moment of admission, ms since the Unix epoch. ``latency_ms`` runs
    from there to the upstream's last byte and is ``None`` when nothing was sent
    upstream: such a record is a refusal and never counts in a limit. ``model`` is
    ``None`` unless the name is one that the gateway itself knows. ``tier`` is that of the
    model's price which the size of the request puts it in; it is kept in the hourly sums only,
    so that what they cost can be told.
    """

    key_id: str
    time: int
    model: str | None
    status: int
    latency_ms: int | None
    tokens: TokenCounts = field(default_factory=TokenCounts)
    tier: int = 0

    @property
    def end_time(self) -> int:
        """When the tokens became known, ms since the epoch: they count from here."""
        return self.time + (self.latency_ms or 0)


@dataclass(frozen=True, slots=True)
class UsageSum:
    """Usage added up. ``requests`` were sent upstream, ``refusals`` were not."""

    requests: int = 0
    refusals: int = 0
    tokens: TokenCounts = field(default_factory=TokenCounts)

    def as_dict(self) -> dict[str, int]:
        """The members under which the interfaces show a sum."""
        return {
            "requests": self.requests,
            "refusals": self.refusals,
            "input_tokens": self.tokens.input,
            "output_tokens": self.tokens.output,
            "cache_read_tokens": self.tokens.cache_read,
            "cache_write_tokens": self.tokens.cache_write,
        }


@dataclass(frozen=True, slots=True)
class HourSum:
    """What a key used of one model, in one tier of its price, in one hour.

    ``hour`` is the number of hours since the epoch. Requests and refusals are in the hour of
    their record's time, tokens in that of its end.
    """

    hour: int
    model: str | None
    tier: int
    sum: UsageSum


@dataclass(frozen=True, slots=True)
class SeriesPoint:
    """The sum of one bucket of a series.

    ``bucket`` is the start of the day or hour in ms since the epoch, or a model name
    (``None`` for requests whose model name is not kept).
    """

    bucket: int | str | None
    sum: UsageSum


#: The columns of an export, in order.
EXPORT_COLUMNS = (
    "time",
    "model",
    "status",
    "latency_ms",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
)


def export_row(record: UsageRecord) -> Mapping[str, str | int | None]:
    """Everything held about one request, under the names of ``EXPORT_COLUMNS``."""
    tokens = record.tokens
    return {
        "time": iso_ms(record.time),
        "model": record.model,
        "status": record.status,
        "latency_ms": record.latency_ms,
        "input_tokens": tokens.input,
        "output_tokens": tokens.output,
        "cache_read_tokens": tokens.cache_read,
        "cache_write_5m_tokens": tokens.cache_write_5m,
        "cache_write_1h_tokens": tokens.cache_write_1h,
    }


def iso_ms(ms: int) -> str:
    """Milliseconds since the epoch as ISO 8601 UTC: ``2026-11-23T15:04:05.123Z``."""
    whole = datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{ms % 1000:03d}Z"


def iso_seconds(ms: int) -> str:
    """Milliseconds since the epoch as ISO 8601 UTC to the second: ``2026-11-23T15:04:05Z``."""
    return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
