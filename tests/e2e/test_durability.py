"""No answer is complete before its usage is on disk: a full disk, a kill, a restart."""

from __future__ import annotations

import asyncio
import json
import resource
from typing import Any

import pytest

from tests.support.provider import (
    Request,
    Script,
    ScriptedUpstream,
    anthropic_answer,
    anthropic_events,
    stream_answer,
)
from tests.support.server import Server, Servers
from tests.support.wire import message_body

pytestmark = pytest.mark.asyncio(loop_scope="module")


def numbered(request: Request) -> Script:
    """Answer with as many input tokens as the prompt says."""
    asked = json.loads(request.body)
    return anthropic_answer(asked, input_tokens=int(asked["messages"][0]["content"]))


def body(number: int, *, stream: bool) -> bytes:
    return message_body(stream=stream, messages=[{"role": "user", "content": str(number)}])


def fill_disk(server: Server, full: bool) -> None:
    """Let the process write no file beyond its first byte, or again as far as it may."""
    assert server.process is not None
    _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (1 if full else hard, hard))


class TestFullDisk:
    async def test_requests_are_refused_until_there_is_space(
        self, servers: Servers, provider: ScriptedUpstream, upstream: ScriptedUpstream
    ) -> None:
        server = await servers.start(provider.base_url)
        upstream.always(numbered)
        key = await server.holder()
        complete = [number for number in range(5) if await self.complete(server, key, number)]
        assert complete == list(range(5))

        fill_disk(server, full=True)
        # The first one finds out; it was answered upstream, so its record is kept for later.
        first = await server.messages(key, body(5, stream=False))
        assert first.error == (503, "overloaded_error")
        assert int(first.header("retry-after") or 0) > 0
        sent = len(upstream.inferences)
        for number in range(6, 9):
            refused = await server.messages(key, body(number, stream=False))
            assert refused.error == (503, "overloaded_error")
        assert len(upstream.inferences) == sent
        assert (await server.request("GET", "/healthz")).status == 200
        assert (await server.request("GET", "/readyz")).status == 503
        assert (await server.run("keys", "create", "in vain")).complaint
        assert (await server.request("GET", "/v1/usage", key=key)).status == 200
        await server.logged("error: The database can't be written")

        fill_disk(server, full=False)
        await server.logged("The database takes writes again")
        assert (await server.request("GET", "/readyz")).status == 200
        assert await self.complete(server, key, 9)
        counted = [record["input_tokens"] for record in await server.records(key)]
        assert sorted(counted) == [0, 1, 2, 3, 4, 5, 9]  # of refusals nothing is kept meanwhile
        assert [found["name"] for found in await server.json("keys", "list")] == ["holder 1"]
        assert await server.stop() == 0

    async def complete(self, server: Server, key: str, number: int) -> bool:
        answer = await server.messages(key, body(number, stream=number % 2 == 0))
        return answer.status == 200

    async def test_a_stream_is_not_ended_while_its_record_is_not_on_disk(
        self, servers: Servers, provider: ScriptedUpstream, upstream: ScriptedUpstream
    ) -> None:
        server = await servers.start(provider.base_url)
        key = await server.holder()
        go_on = asyncio.Event()
        head, *rest = stream_answer(anthropic_events("one two", input_tokens=5))
        upstream.will([head, rest[0], go_on, *rest[1:]])
        async with server.asking(key, message_body(stream=True)) as wire:
            await wire.head()
            await wire.chunk()
            fill_disk(server, full=True)
            go_on.set()
            how, seen = await wire.ending()
        assert how == "reset"
        assert b"message_stop" not in seen
        fill_disk(server, full=False)
        (record,) = await server.records(key, 1)
        assert record["input_tokens"] == 5

    async def test_a_server_can_be_stopped_while_its_disk_is_full(
        self, servers: Servers, provider: ScriptedUpstream, upstream: ScriptedUpstream
    ) -> None:
        server = await servers.start(provider.base_url)
        key = await server.holder()
        fill_disk(server, full=True)
        assert (await server.messages(key, message_body())).status == 503
        assert await server.stop() == 0
        assert "Traceback" not in server.log


async def test_what_was_complete_before_a_kill_is_recorded_once(
    servers: Servers, provider: ScriptedUpstream, upstream: ScriptedUpstream
) -> None:
    server = await servers.start(provider.base_url)
    upstream.always(numbered)
    key = await server.holder()
    numbers = iter(range(1_000_000))
    complete: list[int] = []
    killed = False

    async def use() -> None:
        while not killed:
            number = next(numbers)
            try:
                answer = await server.messages(key, body(number, stream=number % 2 == 0))
            except (OSError, EOFError):
                return
            assert answer.status == 200
            complete.append(number)

    async def kill() -> None:
        nonlocal killed
        while len(complete) < 150:
            await asyncio.sleep(0)
        await server.kill()
        killed = True

    await asyncio.gather(kill(), *(use() for _ in range(16)))
    await server.start()
    recorded = [record["input_tokens"] for record in await server.records(key)]
    assert len(recorded) == len(set(recorded))
    assert set(complete) <= set(recorded)
    # Beyond those there are only requests whose answers were cut off at their very end.
    assert len(recorded) - len(complete) <= 16


async def test_everything_survives_a_restart(
    servers: Servers, provider: ScriptedUpstream, upstream: ScriptedUpstream
) -> None:
    server = await servers.start(provider.base_url)
    key = await server.holder()
    for _ in range(3):
        assert (await server.messages(key, message_body())).status == 200

    async def shown() -> list[Any]:
        usage = (await server.request("GET", "/v1/usage", key=key)).json()
        return [await server.records(key), usage["key"], usage["totals"]]

    before = await shown()
    assert await server.stop() == 0
    await server.start()
    assert await shown() == before
    assert before[2]["requests"] == 3
