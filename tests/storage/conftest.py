"""Stores to test against, and what they are filled with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from opuslive.keys import Key
from opuslive.storage import Storage, open_storage
from opuslive.usage import TokenCounts, UsageRecord

#: 2026-11-23T15:04:05.123Z
NOW = 1_795_446_245_123
TOKENS = TokenCounts(
    input=1, output=20, cache_read=300, cache_write_5m=4_000, cache_write_1h=50_000
)

Open = Callable[[], Awaitable[Storage]]


def a_key(number: int = 1, **changes: object) -> Key:
    key = Key(
        id=f"key{number:05d}",
        name=f"name of {number}",
        prefix=f"sk-ant-ol-key{number:05d}",
        created_at=NOW + number,
        secret_hash=b"$2b$06$" + bytes([number % 256]) * 53,
    )
    return replace(key, **changes)  # type: ignore[arg-type]


def a_record(
    key: int = 1,
    *,
    time: int = NOW,
    model: str | None = "claude-opus-4-8",
    status: int | None = 200,
    latency_ms: int | None = 1_500,
    tokens: TokenCounts = TOKENS,
) -> UsageRecord:
    return UsageRecord(f"key{key:05d}", time, model, status, latency_ms, tokens)


def a_refusal(key: int = 1, *, time: int = NOW) -> UsageRecord:
    return UsageRecord(f"key{key:05d}", time, None, 429, None)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "opuslive.db"


@pytest.fixture(params=["sqlite"])
async def open_store(request: pytest.FixtureRequest, database: Path) -> AsyncIterator[Open]:
    """Opens the store of this test, again and again; what is still open in the end is closed.

    A retry by the clock never comes: what a test sees happen, it made happen.
    """
    opened: list[Storage] = []

    async def open_again() -> Storage:
        store = await open_storage(f"{request.param}://{database}", retry_delay=3_600)
        opened.append(store)
        return store

    yield open_again
    for store in opened:
        await store.close()


@pytest.fixture
async def store(open_store: Open) -> Storage:
    return await open_store()
