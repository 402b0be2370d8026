"""How the limits of a key stand, and a provider that ends its answers when a test says so."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.support.provider import (
    LAST_CHUNK,
    STREAM_HEAD,
    Request,
    Script,
    ScriptedUpstream,
    anthropic_events,
    chunk,
)
from tests.support.server import Server
from tests.support.waiting import soon

EVENTS = anthropic_events("Hello from the tests", input_tokens=11, output_tokens=7)


async def usage(server: Server, key: str) -> Any:
    answer = await server.request("GET", "/v1/usage", key=key)
    assert answer.status == 200, answer
    return answer.json()


async def statuses(server: Server, key: str) -> dict[str, Any]:
    """How each limit of the key stands, by its text."""
    return {limit["limit"]: limit for limit in (await usage(server, key))["limits"]}


async def limit_status(server: Server, key: str) -> Any:
    """How the key's only limit stands."""
    (limit,) = (await statuses(server, key)).values()
    return limit


async def nothing_reserved(server: Server, key: str) -> None:
    """Wait until nothing of the key is reserved."""

    async def free() -> None:
        while any(limit["reserved"] for limit in (await statuses(server, key)).values()):
            await asyncio.sleep(0.005)

    await soon(free())


class Gated:
    """A provider that begins its answers at once, and ends them when ``open`` is set."""

    def __init__(self, upstream: ScriptedUpstream) -> None:
        self.open = asyncio.Event()
        self.most = 0
        self._upstream = upstream
        self._ended = 0
        upstream.always(self._answer)

    @property
    def begun(self) -> int:
        return len(self._upstream.inferences)

    @property
    def gone(self) -> int:
        """How many of them the gateway has hung up on."""
        return sum(request.gone.is_set() for request in self._upstream.inferences)

    def _answer(self, request: Request) -> Script:
        self.most = max(self.most, self.begun - self._ended)
        yield STREAM_HEAD + chunk(EVENTS[0])
        yield self.open
        # Its slot is free again as soon as the gateway has these bytes.
        self._ended += 1
        yield b"".join(map(chunk, EVENTS[1:])) + LAST_CHUNK
