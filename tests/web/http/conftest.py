"""A listener of the connections under test, on both event loops: asyncio's own, and uvloop."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.connections import Acceptor
from tests.support.loops import BOTH, LoopFactories


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> LoopFactories:
    return BOTH


@pytest_asyncio.fixture
async def listener() -> AsyncIterator[Acceptor]:
    made = Acceptor()
    yield made
    await made.close()
