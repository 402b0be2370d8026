"""A limit that is new counts each request once: those of before, those that run, and those that
end while it looks back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from opuslive.storage.sqlite.store import SQLiteStorage
from opuslive.times import DAY_MS, HOUR_MS
from tests.support.limiting import Limiting, settings, tokens

LIMITS = ["1M requests/1h", "1M requests/7d", "1M requests/day", "1M requests/total"]
LIMITS += ["1M tokens/1h", "1M tokens/7d", "1M tokens/total"]
EACH = 10  # tokens of a request


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[SQLiteStorage]:
    storage = await SQLiteStorage.open(tmp_path / "opuslive.db", retry_delay=1)
    yield storage
    await storage.close()


@pytest.fixture
async def limiting(storage: SQLiteStorage) -> Limiting:
    return Limiting(storage, settings())


def expected(requests: int) -> dict[str, int]:
    return {limit: requests * (EACH if "tokens" in limit else 1) for limit in LIMITS}


@pytest.mark.parametrize("began", [1, HOUR_MS // 2, HOUR_MS - 1])
async def test_a_request_that_ends_while_a_new_limit_looks_back_counts_once(
    limiting: Limiting, storage: SQLiteStorage, began: int
) -> None:
    """It began so long ago: in this hour or in the one before, and within all windows."""
    key = await limiting.key()
    await limiting.use(key, tokens(EACH))
    admitted = limiting.admit(key)
    limiting.now += began
    async with storage._reader.at_rest():  # nothing is read inside
        change = asyncio.create_task(limiting.change(key, *LIMITS))
        await asyncio.sleep(0)
        await limiting.end(key, admitted, tokens(EACH))
    await change
    assert limiting.used(key) == expected(2)


async def test_requests_that_end_while_a_new_limit_looks_back_count_once_each(
    limiting: Limiting,
) -> None:
    key = await limiting.key()
    running = [limiting.admit(key) for _ in range(60)]
    limiting.now += HOUR_MS - 1
    change = asyncio.create_task(limiting.change(key, *LIMITS))
    for number, admitted in enumerate(running):
        await limiting.end(key, admitted, tokens(EACH))
        if number < 10:
            await limiting.end(key, limiting.admit(key), tokens(EACH))
    await change
    assert limiting.used(key) == expected(70)


async def test_a_limit_added_days_later_counts_each_request_once(limiting: Limiting) -> None:
    key = await limiting.key()
    for _ in range(3):
        await limiting.use(key, tokens(EACH))
        limiting.now += DAY_MS
    admitted = limiting.admit(key)
    limiting.now += 12 * HOUR_MS
    await limiting.change(key, "1M requests/total")
    limiting.now += 1
    await limiting.end(key, admitted, tokens(EACH))
    await limiting.change(key, "1M requests/total", "1M requests/30d")
    assert limiting.used(key) == {"1M requests/total": 4, "1M requests/30d": 4}


async def test_two_changes_within_a_ms_and_a_request_that_ends_between_them(
    limiting: Limiting,
) -> None:
    key = await limiting.key()
    first, second = limiting.admit(key), limiting.admit(key)
    await limiting.change(key, "1M tokens/1h")
    await limiting.end(key, first, tokens(EACH))
    await limiting.change(key, "1M tokens/1h", "1M tokens/7d")
    await limiting.end(key, second, tokens(EACH))
    assert limiting.used(key) == {"1M tokens/1h": 2 * EACH, "1M tokens/7d": 2 * EACH}
