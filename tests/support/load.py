"""Clients and an administrator at work on a gateway, until it is killed under their hands."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections.abc import AsyncIterator
from typing import Any

from tests.support.ledger import FAULT_STATUS, Asked, Ending, HeldKey, Ledger, Life
from tests.support.provider import (
    LAST_CHUNK,
    RESET,
    STALL,
    STREAM_HEAD,
    Request,
    Script,
    ScriptedUpstream,
    anthropic_answer,
    anthropic_events,
    chunk,
    json_answer,
)
from tests.support.server import Server
from tests.support.wire import Answer, Wire, message_body, request_bytes

CLIENTS = 6
LIMITS = [
    "900B requests/total",
    "900B tokens/total",
    "900B input_tokens/7d",
    "900B output_tokens/5h",
    "900B requests/30d",
    "5k concurrent",
]
_DIED = (OSError, EOFError, asyncio.IncompleteReadError)


class Load:
    """Load on one server, all of it by the chances of ``chance``."""

    def __init__(
        self, server: Server, upstream: ScriptedUpstream, ledger: Ledger, chance: random.Random
    ) -> None:
        self._server = server
        self._ledger = ledger
        self._chance = chance
        self._names = (f"holder-{number}" for number in itertools.count(1))
        upstream.always(self._answer)

    # The provider.

    def _answer(self, request: Request) -> Script:
        document = json.loads(request.body)
        asked = self._ledger.asked(document["messages"][0]["content"])
        if asked.ending is Ending.FAULT:
            return json_answer({"type": "error", "error": {}}, status=FAULT_STATUS)
        if asked.ending is Ending.WHOLE:
            return anthropic_answer(document, **asked.tokens)
        start = [STREAM_HEAD, *map(chunk, anthropic_events("one two", **asked.tokens)[:4])]
        return [*start, RESET if asked.ending is Ending.BROKEN else STALL]

    # Clients.

    @contextlib.asynccontextmanager
    async def running(self, staying: int) -> AsyncIterator[None]:
        """Clients at work, until the end of the block; they end when the server does.

        So many more stay with a stream that does not end.
        """
        clients = [asyncio.create_task(self._client()) for _ in range(CLIENTS)]
        keys = self._chance.choices(self._ledger.live(), k=staying)
        clients += [asyncio.create_task(self.stay(key)) for key in keys]
        clients.append(asyncio.create_task(self._changes()))
        try:
            yield
        finally:
            for client in clients:
                client.cancel()
            outcomes = await asyncio.gather(*clients, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    async def _client(self) -> None:
        with contextlib.suppress(*_DIED):
            while self._ledger.live():
                key = self._chance.choice(self._ledger.live())
                (ending,) = self._chance.choices(list(Ending), [20, 2, 2, 2])
                await self.ask(key, ending)

    async def stay(self, key: HeldKey) -> None:
        """Ask for a stream that has no end, and stay until the server dies."""
        with contextlib.suppress(*_DIED):
            await self.ask(key, Ending.ENDLESS, stay=True)

    async def ask(self, key: HeldKey, ending: Ending, *, stay: bool = False) -> Asked:
        """Ask once, and write down what came back. Raises what a dead server makes."""
        asked = self._ledger.ask(key, ending, time.monotonic())
        stream = ending is not Ending.WHOLE or asked.number % 2 == 0
        body = message_body(stream=stream, messages=[{"role": "user", "content": asked.number}])
        async with await self._server.connect() as wire:
            await wire.send(request_bytes("POST", "/v1/messages", key=key.credential, body=body))
            if ending in (Ending.BROKEN, Ending.ENDLESS):
                await self._begin(asked, wire, stay=stay)
            else:
                self._saw(key, asked, await wire.answer())
        return asked

    async def _begin(self, asked: Asked, wire: Wire, *, stay: bool) -> None:
        head = await wire.head()
        if head.status != 200:
            return
        await wire.chunk()
        asked.began = time.monotonic()
        if asked.ending is Ending.BROKEN:
            _, rest = await wire.ending()
            if rest.endswith(LAST_CHUNK):
                self._ledger.surprises.append(f"request {asked.number} looked complete")
        elif stay:
            await wire.ending()
        else:  # leave at once, or stay for a while, perhaps until the server dies
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._chance.uniform(-0.3, 0.3)):
                    await wire.ending()
            asked.left = True
            wire.abort()

    def _saw(self, key: HeldKey, asked: Asked, answer: Answer) -> None:
        asked.complete = answer.status
        event_stream = "event-stream" in (answer.header("content-type") or "")
        if answer.status == 200 and event_stream and b"message_stop" not in answer.body:
            self._ledger.surprises.append(f"request {asked.number} ended before its end")
        expected = {503, FAULT_STATUS if asked.ending is Ending.FAULT else 200}
        if key.life is not Life.CONFIRMED:
            expected.add(401)
        if answer.status not in expected:
            self._ledger.surprises.append(f"request {asked.number} was answered {answer.status}")

    # The administrator.

    async def create_key(self) -> HeldKey:
        key = HeldKey(next(self._names))
        self._ledger.keys.append(key)
        # The stop marks where the name ends, so that no name begins another.
        made = await self._server.admin("POST", "keys", name=key.name + ".", limits=LIMITS)
        key.id, key.credential, key.life = made["id"], made["key"], Life.CONFIRMED
        return key

    async def delete_key(self, key: HeldKey) -> None:
        key.life = Life.DELETING
        assert key.id is not None
        await self._server.admin("DELETE", "keys", key.id)
        key.life = Life.DELETED

    async def _changes(self) -> None:
        with contextlib.suppress(*_DIED):
            for number in itertools.count():
                key = self._chance.choice(self._ledger.live())
                assert key.id is not None
                group = f"group-{number}"
                key.groups.add(group)
                await self._server.admin("PATCH", "keys", key.id, group=group)
                key.groups = {group}
                await asyncio.sleep(self._chance.uniform(0, 0.1))


async def limit_status(server: Server, key: HeldKey) -> tuple[dict[str, int], Any]:
    """What the gateway tells a holder: what each limit has used, and the totals."""
    answer = await server.request("GET", "/v1/usage", key=key.credential)
    assert answer.status == 200, answer
    usage = answer.json()
    assert not any(limit["reserved"] for limit in usage["limits"]), usage
    used = {limit["limit"]: limit["used"] for limit in usage["limits"]}
    totals = usage["totals"]
    counts = {name: totals[name] for name in totals if not name.startswith(("usd", "latency"))}
    return used, counts
