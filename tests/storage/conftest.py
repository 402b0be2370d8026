"""Stores to test against."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from opuslive.storage import Storage, open_storage
from tests.support.stores import Open


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
