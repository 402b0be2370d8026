"""Budgets and slots hold, whatever comes at once, and whoever leaves in the middle."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.limited import EVENTS, Gated, limit_status, nothing_reserved, statuses
from tests.support.provider import (
    LAST_CHUNK,
    STREAM_HEAD,
    Request,
    ScriptedUpstream,
    Step,
    anthropic_answer,
    chunk,
)
from tests.support.server import Server, Servers
from tests.support.waiting import eventually
from tests.support.wire import Answer, Wire, message_body, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    return {"limits": {"max_wait": "20s"}}


class TestTokens:
    @pytest.mark.parametrize(("mode", "most"), [("max_tokens", 50), ("adaptive", 55)])
    async def test_many_requests_at_once_stay_within_their_tokens(
        self,
        servers: Servers,
        provider: ScriptedUpstream,
        upstream: ScriptedUpstream,
        mode: str,
        most: int,
    ) -> None:
        """Each really uses 2,000 tokens, and none has ended when the last one comes."""
        limits = {"reserve_output": mode, "max_wait": "500ms"}
        server = await servers.start(provider.base_url, limits=limits)
        key = await server.holder(limits=["100k tokens/1h"])
        everyone_is_here = asyncio.Event()

        def answer(request: Request) -> Iterator[bytes | asyncio.Event | Step]:
            yield everyone_is_here
            asked = json.loads(request.body)
            yield from anthropic_answer(asked, input_tokens=30, output_tokens=1970)

        upstream.always(answer)
        refused = 0

        async def ask(number: int) -> Answer:
            nonlocal refused
            body = message_body(stream=number % 2 == 0, max_tokens=2000)
            answer = await server.messages(key, body)
            refused += answer.status == 429
            return answer

        asking = [asyncio.ensure_future(ask(number)) for number in range(200)]
        await eventually(lambda: refused + len(upstream.inferences) == 200)
        assert (await limit_status(server, key))["remaining"] < 2_000
        everyone_is_here.set()
        answers = await asyncio.gather(*asking)

        statuses = Counter(answer.status for answer in answers)
        assert statuses.keys() == {200, 429}
        assert 45 <= statuses[200] <= most
        await nothing_reserved(server, key)
        end = await limit_status(server, key)
        assert (end["used"], end["reserved"]) == (statuses[200] * 2_000, 0)
        assert mode == "adaptive" or end["used"] <= 100_000

    @pytest.mark.parametrize(("mode", "most"), [("max_tokens", 50), ("adaptive", 55)])
    async def test_many_that_come_and_end_as_they_like(
        self,
        servers: Servers,
        provider: ScriptedUpstream,
        upstream: ScriptedUpstream,
        mode: str,
        most: int,
    ) -> None:
        limits = {"reserve_output": mode, "max_wait": "20s"}
        server = await servers.start(provider.base_url, limits=limits)
        key = await server.holder(limits=["100k tokens/1h"])
        upstream.always(
            lambda request: anthropic_answer(
                json.loads(request.body), input_tokens=30, output_tokens=1970
            )
        )

        async def ask(number: int) -> int:
            body = message_body(stream=number % 2 == 0, max_tokens=2000)
            return (await server.messages(key, body)).status

        statuses = Counter(await asyncio.gather(*map(ask, range(200))))
        assert statuses.keys() == {200, 429}
        assert 48 <= statuses[200] <= most
        await nothing_reserved(server, key)
        assert (await limit_status(server, key))["used"] == statuses[200] * 2_000

    async def test_a_max_tokens_that_can_never_fit(
        self, servers: Servers, provider: ScriptedUpstream, upstream: ScriptedUpstream
    ) -> None:
        """It is told which would; that one does."""
        server = await servers.start(provider.base_url, limits={"reserve_output": "max_tokens"})
        key = await server.holder(limits=["10k tokens/1h"])
        refused = await server.messages(key, message_body(max_tokens=64_000))
        assert refused.error == (400, "invalid_request_error")
        assert refused.header("x-should-retry") == "false"
        assert "10k tokens/1h" in refused.message
        largest = int(refused.message.rstrip(".").rpartition(" ")[2])
        assert 9_900 < largest < 10_000
        too_large = await server.messages(key, message_body(max_tokens=largest + 1))
        assert too_large.error == (400, "invalid_request_error")
        assert (await server.messages(key, message_body(max_tokens=largest))).status == 200
        assert len(upstream.inferences) == 1

    async def test_more_than_the_whole_limit_has_the_window_for_itself(
        self, gateway: Server, upstream: ScriptedUpstream
    ) -> None:
        """Under ``adaptive``, where a large max_tokens is no reason to refuse."""
        key = await gateway.holder(limits=["1k tokens/1h"])
        gated = Gated(upstream)
        async with gateway.asking(key, message_body(stream=True, max_tokens=64_000)) as wire:
            await wire.head()
            assert (await limit_status(gateway, key))["reserved"] == 1_000
            gated.open.set()
            await wire.until(LAST_CHUNK)
        end = await limit_status(gateway, key)
        assert (end["used"], end["reserved"], end["remaining"]) == (18, 0, 982)


class TestConcurrency:
    async def test_the_provider_never_sees_more(
        self, gateway: Server, upstream: ScriptedUpstream
    ) -> None:
        """Those that there is no slot for wait, and all are served in the end."""
        key = await gateway.holder(limits=["8 concurrent"])
        gated = Gated(upstream)
        asking = [
            asyncio.ensure_future(gateway.messages(key, message_body(stream=True)))
            for _ in range(100)
        ]
        await eventually(lambda: gated.begun == 8)
        assert (await limit_status(gateway, key))["reserved"] == 8
        gated.open.set()
        assert {answer.status for answer in await asyncio.gather(*asking)} == {200}
        assert (gated.begun, gated.most) == (100, 8)
        await nothing_reserved(gateway, key)

    async def test_slots_of_killed_clients_go_to_others(
        self, gateway: Server, upstream: ScriptedUpstream
    ) -> None:
        """Four of the eight that stream, and 46 of those that wait. Their slots go to others."""
        key = await gateway.holder(limits=["8 concurrent"])
        gated = Gated(upstream)
        streaming = [await self.stream(gateway, key) for _ in range(8)]
        waiting = [await self.ask(gateway, key) for _ in range(92)]
        assert (await limit_status(gateway, key))["reserved"] == gated.begun == 8

        for wire in (*streaming[::2], *waiting[::2]):
            wire.abort()
        # Of the 46 one may have got a slot just before it was seen to have left.
        await eventually(lambda: gated.gone >= 4 and gated.begun - gated.gone == 8)
        assert (await limit_status(gateway, key))["reserved"] == 8
        gated.open.set()
        for wire in (*streaming[1::2], *waiting[1::2]):
            if wire in waiting:
                assert (await wire.head()).status == 200
            await wire.until(LAST_CHUNK)
            wire.close()
        assert gated.begun - gated.gone == 50
        await nothing_reserved(gateway, key)
        statuses = Counter(record["status"] for record in await gateway.records(key))
        assert statuses[200] == 50
        assert 5 <= statuses[499] <= 50  # of those that were not sent, at least one a second

    @staticmethod
    async def ask(server: Server, key: str) -> Wire:
        wire = await server.connect()
        await wire.send(request_bytes("POST", "/v1/messages", key=key, body=message_body()))
        return wire

    async def stream(self, server: Server, key: str) -> Wire:
        wire = await self.ask(server, key)
        assert (await wire.head()).status == 200
        await wire.chunk()
        return wire

    async def test_a_slot_is_free_however_a_request_ends(
        self, gateway: Server, upstream: ScriptedUpstream
    ) -> None:
        key = await gateway.holder(limits=["1 concurrent", "100 requests/1h", "1M tokens/1h"])
        events = [chunk(event) for event in EVENTS]
        upstream.will(
            [STREAM_HEAD, *events, LAST_CHUNK],
            [STREAM_HEAD, *events[:3], Step.RESET],
            [STREAM_HEAD, *events[:3], Step.CLOSE],
            [Step.RESET],
            [Step.CLOSE],
            [b"HTTP/1.1 500 Error\r\ncontent-length: 2\r\n\r\n{}"],
            [b"HTTP/1.1 401 No\r\ncontent-length: 2\r\n\r\n{}"],
            [b"HTTP/1.1 429 No\r\ncontent-length: 2\r\n\r\n{}"],
            [b"nonsense\r\n\r\n"],
        )
        for number in range(9):
            async with gateway.asking(key, message_body(stream=True)) as wire:
                await wire.ending() if number in (1, 2) else await wire.answer()
            await nothing_reserved(gateway, key)
        for body in (b"not JSON", message_body("gpt-4"), message_body(max_tokens=-1)):
            assert (await gateway.messages(key, body)).status in (400, 404)
            await nothing_reserved(gateway, key)
        limits = await statuses(gateway, key)
        # All nine went to the provider.
        assert limits["100 requests/1h"]["used"] == 9
        assert limits["1 concurrent"]["used"] == 0


class TestWaiting:
    async def test_a_request_waits_for_a_slot_that_another_frees(
        self, gateway: Server, upstream: ScriptedUpstream
    ) -> None:
        key = await gateway.holder(limits=["1 concurrent"])
        gated = Gated(upstream)
        async with gateway.asking(key, message_body(stream=True)) as first:
            await first.head()
            async with gateway.asking(key, message_body(stream=True)) as second:
                assert (await limit_status(gateway, key))["reserved"] == 1
                assert gated.begun == 1
                gated.open.set()
                assert (await second.answer()).status == 200
            await first.until(LAST_CHUNK)
        assert gated.most == 1
        assert [record["status"] for record in await gateway.records(key)] == [200, 200]

    async def test_a_request_waits_for_room_that_comes_with_time(
        self, gateway: Server, upstream: ScriptedUpstream
    ) -> None:
        key = await gateway.holder(limits=["1 requests/1s"])
        answers = await asyncio.gather(*(gateway.messages(key, message_body()) for _ in range(2)))
        assert [answer.status for answer in answers] == [200, 200]
        first, second = await gateway.records(key)
        assert first["time"] < second["time"]

    async def test_who_leaves_is_not_waited_for(
        self, gateway: Server, upstream: ScriptedUpstream
    ) -> None:
        key = await gateway.holder(limits=["1 concurrent"])
        gated = Gated(upstream)
        async with gateway.asking(key, message_body(stream=True)) as first:
            await first.head()
            async with gateway.asking(key, message_body(stream=True)):
                await limit_status(gateway, key)
            async with gateway.asking(key, message_body(stream=True)) as third:
                # That the second one left is known when it is recorded.
                (left,) = await gateway.records(key, 1)
                assert (left["status"], left["latency_ms"]) == (499, None)
                gated.open.set()
                assert (await third.answer()).status == 200
            await first.until(LAST_CHUNK)
        assert gated.begun == 2
        await nothing_reserved(gateway, key)

    async def test_requests_of_a_deleted_key_are_cut(
        self, gateway: Server, upstream: ScriptedUpstream
    ) -> None:
        made = await gateway.admin("POST", "keys", name="to be deleted", limits=["1 concurrent"])
        gated = Gated(upstream)
        async with gateway.asking(made["key"], message_body(stream=True)) as first:
            await first.head()
            async with gateway.asking(made["key"], message_body()) as second:
                await limit_status(gateway, made["key"])
                await gateway.admin("DELETE", "keys", made["id"])
                assert (await second.answer()).error == (401, "authentication_error")
            assert (await first.ending())[0] == "reset"
        assert gated.begun == 1
