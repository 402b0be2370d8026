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
    model's price which the size of the request puts it in; it is kept in the sums of hours and
    days only, so that what they cost can be told. ``status`` is ``None`` while the request
    runs: what is known of it then is kept now and then, lest it be lost if the process is
    killed.
    """

    key_id: str
    time: int
    model: str | None
    status: int | None
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
class ModelSum:
    """What was used in one bucket of one model, in one tier of its price.

    ``bucket`` is the start of an hour or a day in ms since the epoch, or the id of a key, or
    the model once more. ``model`` is ``None`` for requests whose model name is not kept.
    Requests and refusals are in the hour or day of their record's time, tokens in that of
    its end.
    """

    bucket: int | str | None
    model: str | None
    tier: int
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
