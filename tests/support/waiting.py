"""How tests wait: for something to come about, never for time to pass."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

#: Seconds after which what was waited for is taken not to come. Never part of what is asserted.
PATIENCE = 20.0


async def soon(awaited: Awaitable[T]) -> T:
    """What comes of it; a TimeoutError if that takes too long."""
    async with asyncio.timeout(PATIENCE):
        return await awaited


async def eventually(condition: Callable[[], T], what: str = "it") -> T:
    """Let the event loop turn until the condition holds; return what it then is."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE
    while not (value := condition()):
        assert loop.time() < deadline, f"{what} did not come about"
        await asyncio.sleep(0.001)
    return value


async def turns(count: int = 20) -> None:
    """Let the event loop turn: whatever is ready by now happens."""
    for _ in range(count):
        await asyncio.sleep(0)


async def settled(number: Callable[[], int]) -> int:
    """What a number comes to that grows for a while."""
    last, same = number(), 0
    async with asyncio.timeout(PATIENCE * 4):
        while same < 30:
            await asyncio.sleep(0.005)
            same = same + 1 if number() == last else 0
            last = number()
    return last
