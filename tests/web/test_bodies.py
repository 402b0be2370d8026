"""Bodies of requests: what a key may hold of the memory for them, and for how long.

Of the kind is whatever takes that memory from others: bodies that are nearly whole, with a length
and in chunks; that stop or trickle in; of a key that is refused whatever they say.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from opuslive.web.app import BODIES_IN_FLIGHT, BODIES_OF_A_KEY
from tests.support.app import App
from tests.support.provider import LAST_CHUNK, ScriptedUpstream, chunk
from tests.support.waiting import eventually, soon
from tests.support.wire import Answer, Wire, message_body, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")

KB = 1024
#: The largest body. Larger than what aiohttp and the kernel take of one that nobody reads.
LARGEST = 512 * KB
#: Keys that take all of the memory.
ALL = BODIES_IN_FLIGHT // BODIES_OF_A_KEY


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    return {"server": {"max_body": f"{LARGEST // KB}KB"}, "limits": {"max_wait": "0s"}}


@pytest_asyncio.fixture(loop_scope="module")
async def uploads(gateway: App) -> AsyncIterator[Uploads]:
    async with contextlib.AsyncExitStack() as stack:
        yield Uploads(gateway, stack)
    await eventually(lambda: gateway.gateway.exchanges.running == 0)
    assert {holder.body_bytes for holder in gateway.gateway.holders} == {0}


def largest() -> bytes:
    body = message_body(filler="")
    return message_body(filler="x" * (LARGEST - len(body)))


BODY = largest()


class Uploads:
    """Requests whose body lacks its last byte."""

    def __init__(self, gateway: App, stack: contextlib.AsyncExitStack) -> None:
        self._gateway = gateway
        self._stack = stack

    async def begin(self, key: str, *, chunked: bool = False) -> Upload:
        wire = await self._stack.enter_async_context(await self._gateway.connect())
        return Upload(wire, key, chunked=chunked)

    async def held(self, key: str, size: int) -> None:
        """Wait until the key holds so much memory."""
        holder = self._gateway.gateway.holders.find(key[: len("sk-ant-ol-") + 8])
        await eventually(lambda: holder.body_bytes == size)


class Upload:
    def __init__(self, wire: Wire, key: str, *, chunked: bool) -> None:
        self.wire = wire
        request = request_bytes("POST", "/v1/messages", key=key, body=BODY)
        self._rest = BODY[-1:]
        if chunked:
            headers = [("Transfer-Encoding", "chunked")]
            request = request_bytes("POST", "/v1/messages", key=key, headers=headers)
            request += chunk(BODY[:-1]) + b"?"
            self._rest = chunk(BODY[-1:]) + LAST_CHUNK
        self.answer = asyncio.ensure_future(self._send(request[:-1]))

    async def _send(self, request: bytes) -> Answer:
        with contextlib.suppress(ConnectionError):
            await self.wire.send(request)
        return await self.wire.answer()

    async def end(self) -> Answer:
        await self.wire.send(self._rest)
        return await soon(self.answer)


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_key_holds_no_more_than_its_share_and_others_send_what_they_like(
    gateway: App, uploads: Uploads, upstream: ScriptedUpstream, key: str, chunked: bool
) -> None:
    begun = [await uploads.begin(key, chunked=chunked) for _ in range(BODIES_IN_FLIGHT)]
    beyond = BODIES_IN_FLIGHT - BODIES_OF_A_KEY
    await eventually(lambda: sum(upload.answer.done() for upload in begun) == beyond)
    refused = [upload.answer.result() for upload in begun if upload.answer.done()]
    for answer in refused:
        assert answer.error == (429, "rate_limit_error")
        assert answer.header("retry-after") == "5"
        assert answer.header("connection") == "close"
    assert (await gateway.messages(await gateway.holder(), BODY)).status == 200
    for upload in begun:
        if not upload.answer.done():
            assert (await upload.end()).status == 200
    assert (await gateway.messages(key, BODY)).status == 200


async def test_all_of_the_memory_is_more_than_one_share(gateway: App, uploads: Uploads) -> None:
    """Only so many keys together leave none."""
    begun = []
    for _ in range(ALL):
        each = await gateway.holder()
        begun += [await uploads.begin(each) for _ in range(BODIES_OF_A_KEY)]
        await uploads.held(each, BODIES_OF_A_KEY * (LARGEST - 1))
    last = await gateway.messages(await gateway.holder(), BODY)
    assert last.error == (503, "overloaded_error")
    for upload in begun:
        upload.wire.abort()
    await asyncio.gather(*(upload.answer for upload in begun), return_exceptions=True)


async def test_a_body_that_is_too_large_is_told_so_and_holds_nothing(
    gateway: App, uploads: Uploads, key: str
) -> None:
    """Neither its share nor the memory is what it lacks."""
    headers = [("Transfer-Encoding", "chunked")]
    head = request_bytes("POST", "/v1/messages", key=key, headers=headers)
    body = b"".join(chunk(BODY) for _ in range(3))
    async with await gateway.connect() as wire:
        with contextlib.suppress(ConnectionError):
            await wire.send(head + body)
        assert (await wire.answer()).error == (413, "request_too_large")
    await uploads.held(key, 0)


class TestRefusedUnread:
    """Whoever is refused whatever the body says: told so at once, and the body is not asked for."""

    @pytest.mark.parametrize("limit", ["1 requests/total", "10 tokens/total", "1 requests/1m"])
    async def test_a_client_that_waits_to_be_let_is_told_at_once(
        self, gateway: App, uploads: Uploads, upstream: ScriptedUpstream, limit: str
    ) -> None:
        key = await gateway.holder(limits=[limit])
        assert (await gateway.messages(key, message_body())).status == 200
        with_body = await gateway.messages(key, message_body())
        headers = [("Expect", "100-continue"), ("Content-Length", str(LARGEST))]
        async with await gateway.connect() as wire:
            await wire.send(request_bytes("POST", "/v1/messages", key=key, headers=headers))
            answer = await wire.answer()
            assert answer.error == with_body.error
            assert answer.message == with_body.message
            assert answer.header("x-should-retry") == with_body.header("x-should-retry")
            assert answer.header("connection") == "close"
            assert await wire.rest() == b""

    async def test_a_body_that_is_on_its_way_takes_no_memory(
        self, gateway: App, uploads: Uploads, upstream: ScriptedUpstream
    ) -> None:
        key = await gateway.holder(limits=["1 requests/total"])
        assert (await gateway.messages(key, message_body())).status == 200
        begun = [await uploads.begin(key) for _ in range(BODIES_IN_FLIGHT)]
        for upload in begun:
            assert (await soon(upload.answer)).error == (429, "billing_error")
        await uploads.held(key, 0)
        assert {record["status"] for record in await gateway.records(key)} == {200, 429}

    async def test_a_small_body_keeps_the_connection(
        self, gateway: App, upstream: ScriptedUpstream
    ) -> None:
        """It is here already: refusing it unread would save nothing."""
        key = await gateway.holder(limits=["1 requests/total"])
        request = request_bytes("POST", "/v1/messages", key=key, body=message_body())
        async with await gateway.connect() as wire:
            for status in (200, 429, 429):
                await wire.send(request)
                answer = await wire.answer()
                assert (answer.status, answer.header("connection")) == (status, None)
