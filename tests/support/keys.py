"""Makers of keys and records."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from opuslive.keys import Key
from opuslive.usage import TokenCounts, UsagePart, UsageRecord
from tests.support.clock import NOW

TOKENS = TokenCounts(
    input=1, output=20, cache_read=300, cache_write_5m=4_000, cache_write_1h=50_000
)


def a_key(number: int = 1, **changes: Any) -> Key:
    """The key with this number; ``changes`` are fields of ``Key``."""
    key = Key(
        id=f"key{number:05d}",
        name=f"name of {number}",
        prefix=f"sk-ant-ol-key{number:05d}",
        created_at=NOW + number,
        secret_hash=b"$2b$06$" + bytes([number % 256]) * 53,
    )
    return replace(key, **changes)


def a_record(
    key: int = 1,
    *,
    time: int = NOW,
    model: str | None = "claude-opus-4-8",
    status: int | None = 200,
    latency_ms: int | None = 1_500,
    tokens: TokenCounts = TOKENS,
    parts: tuple[UsagePart, ...] = (),
) -> UsageRecord:
    """A record of the key with this number."""
    return UsageRecord(f"key{key:05d}", time, model, status, latency_ms, tokens, parts=parts)


def a_refusal(key: int = 1, *, time: int = NOW) -> UsageRecord:
    """The record of a request that was refused."""
    return UsageRecord(f"key{key:05d}", time, None, 429, None)
