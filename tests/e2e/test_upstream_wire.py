"""What clients see of an upstream whose answers are strange, and that the next ones are not.

Every byte of an upstream that follows is another client's; so after each strange answer the same
client asks again, on the same connection, and gets what is its own.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import pytest_asyncio

from tests.support.listener import Listener, answer
from tests.support.provider import (
    CLOSE,
    LAST_CHUNK,
    RESET,
    STREAM_HEAD,
    Script,
    ScriptedUpstream,
    anthropic_events,
    anthropic_message,
    chunk,
)
from tests.support.server import Server, Servers
from tests.support.wire import Answer, Wire, message_body, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")

OK = b"HTTP/1.1 200 OK\r\n"
BODY = message_body()
MESSAGE = json.dumps(anthropic_message("own", input_tokens=5, output_tokens=9)).encode()
OWN = answer(MESSAGE, b"content-type: application/json")
EVIL = answer(b'{"evil":1}', b"content-type: application/json")
EVENTS = anthropic_events("one two three", input_tokens=5, output_tokens=9)
STREAM = STREAM_HEAD + b"".join(map(chunk, EVENTS)) + LAST_CHUNK


@pytest_asyncio.fixture(loop_scope="module")
async def key(gateway: Server) -> str:
    return await gateway.holder(limits=["9 concurrent", "9M tokens/1h"])


async def ask(wire: Wire, key: str, body: bytes = BODY) -> Answer:
    await wire.send(request_bytes("POST", "/v1/messages", key=key, body=body))
    return await wire.answer()


async def assert_accounted(gateway: Server, key: str, *statuses: int) -> None:
    """One record each, and nothing left reserved."""
    records = await gateway.records(key, len(statuses))
    assert [record["status"] for record in records] == list(statuses)
    usage = (await gateway.request("GET", "/v1/usage", key=key)).json()
    assert [limit["reserved"] for limit in usage["limits"]] == [0, 0]


async def assert_broken_off(wire: Wire) -> None:
    """The connection is reset; or the answer is a 502, if the fault came in one read with it."""
    with contextlib.suppress(ConnectionResetError):
        assert (await wire.answer()).error == (502, "api_error")


class TestNoAnswer:
    @pytest.mark.parametrize(
        "script",
        [
            [CLOSE],
            [RESET],
            [OK + b"x: y\r\n", CLOSE],
            [b"\r\n\r\n", RESET],
            [b"\0" * 4096],
            [b"\x15\x03\x03\x00\x02\x02\x28"],
            [b"\0\0\x12\x04\0\0\0\0\0"],
            [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
            [OWN.replace(b"HTTP/1.1", b"HTTP/2.0")],
            [OWN.replace(b" 200 ", b" 099 ")],
            [OWN.replace(b" 200 ", b" 1000 ")],
            [OK + b"x: " + b"y" * 100_000 + b"\r\n\r\n" + OWN],
            [OK + b"x: y\r\n" * 20_000 + b"\r\n" + OWN],
            [OK + b"content-length: 4\r\ncontent-length: 5\r\n\r\n" + OWN],
            [OK + b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + OWN],
            [OK + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"],
            [b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n" + OWN],
            [b"HTTP/1.1 150 Wait\r\ncontent-length: 5\r\n\r\nhello" + OWN],
            *(
                [answer(MESSAGE, b"content-encoding: " + coding)]
                for coding in (b"gzip", b"br", b"deflate", b"zstd", b"identity, gzip")
            ),
            *([answer(MESSAGE, b"location: /", status=status)] for status in (301, 304, 308)),
        ],
        ids=lambda script: repr(script)[:60],
    )
    async def test_what_is_no_answer_is_a_502(
        self, gateway: Server, upstream: ScriptedUpstream, key: str, script: Script
    ) -> None:
        upstream.will(script, [OWN])
        async with await gateway.connect() as wire:
            refused = await ask(wire, key)
            assert refused.error == (502, "api_error")
            assert (await ask(wire, key)).body == MESSAGE
        await assert_accounted(gateway, key, 502, 200)


class TestStrangeAnswers:
    """Whole ones: they go on, and what comes with them does not."""

    @pytest.mark.parametrize(
        ("script", "reused"),
        [
            ([b"HTTP/1.1 100 Continue\r\n\r\n" + OWN], True),
            ([b"HTTP/1.1 103 Hints\r\nlink: </evil>\r\n\r\n", OWN], True),
            ([OWN.replace(b"200 Status", b"200")], True),
            ([OWN.replace(b"HTTP/1.1", b"HTTP/1.0")], False),
            ([OK + b"\r\n" + MESSAGE, CLOSE], False),
            ([OWN + EVIL], False),
            ([OWN + EVIL[:9]], False),
            ([OWN + b"\0"], False),
            ([OK + b"transfer-encoding: chunked\r\n\r\n" + chunk(MESSAGE) + LAST_CHUNK], True),
            (
                [
                    OK
                    + b"transfer-encoding: chunked\r\n\r\n"
                    + chunk(MESSAGE)
                    + b"00\r\nx: y\r\n\r\n"
                ],
                True,
            ),
        ],
        ids=lambda value: repr(value)[:60],
    )
    async def test_odd_but_whole_answers_are_passed_on(
        self, gateway: Server, upstream: ScriptedUpstream, key: str, script: Script, reused: bool
    ) -> None:
        upstream.will(script, [OWN])
        async with await gateway.connect() as wire:
            first = await ask(wire, key)
            assert (first.status, first.body) == (200, MESSAGE)
            assert {"link", "x"}.isdisjoint(dict(first.headers))
            assert (await ask(wire, key)).body == MESSAGE
        assert len({request.connection for request in upstream.inferences}) == (1 if reused else 2)
        await assert_accounted(gateway, key, 200, 200)

    async def test_a_204_has_no_body(
        self, gateway: Server, upstream: ScriptedUpstream, key: str
    ) -> None:
        upstream.will([OWN.replace(b" 200 ", b" 204 ")], [OWN])
        async with await gateway.connect() as wire:
            assert (await ask(wire, key)).status == 204
            assert (await ask(wire, key)).body == MESSAGE
        await assert_accounted(gateway, key, 204, 200)


class TestHalfAnswers:
    """The client's connection is reset, whatever the framing."""

    @pytest.mark.parametrize(
        "tail",
        [
            [b"x\r\n"],
            [b"-5\r\nhello\r\n"],
            [b"0x5\r\nhello\r\n"],
            [b"\r\n"],
            [b"f" * 17 + b"\r\n"],
            [b"5\r\nhelloworld\r\n"],
            [b"5 \r\nhello\r\n"],
            [b"5\nhello\r\n"],
            [b"5;" + b"x" * 600_000],
            [b"0\r\n" + b"x: y\r\n" * 120_000],
            [b"0\r\nno trailer\r\n\r\n"],
            [b"ff\r\nhello", CLOSE],
            [b"ff\r\nhello", RESET],
            [b"5\r\nhello", CLOSE],
        ],
        ids=lambda tail: repr(tail)[:40],
    )
    async def test_half_a_stream_is_reset(
        self, gateway: Server, upstream: ScriptedUpstream, key: str, tail: Sequence[Any]
    ) -> None:
        """What came in one read with the fault counts as well."""
        before = STREAM_HEAD + b"".join(map(chunk, EVENTS[:-1]))
        upstream.will([before + tail[0], *tail[1:]], [OWN])
        async with gateway.asking(key, message_body(stream=True)) as wire:
            await assert_broken_off(wire)
        assert (await gateway.messages(key, BODY)).body == MESSAGE
        await assert_accounted(gateway, key, 502, 200)
        broken, _ = await gateway.records(key)
        assert (broken["input_tokens"], broken["output_tokens"]) == (5, 9)

    @pytest.mark.parametrize("end", [CLOSE, RESET], ids=str)
    async def test_an_answer_shorter_than_its_length_is_reset(
        self, gateway: Server, upstream: ScriptedUpstream, key: str, end: Any
    ) -> None:
        upstream.will([OWN[:-1], end], [OWN])
        async with gateway.asking(key, BODY) as wire:
            await assert_broken_off(wire)
        assert (await gateway.messages(key, BODY)).body == MESSAGE
        await assert_accounted(gateway, key, 502, 200)

    async def test_a_stream_shorter_than_its_length_is_reset(
        self, gateway: Server, upstream: ScriptedUpstream, key: str
    ) -> None:
        """Though its last event is there: the client would wait for the rest, or take the next
        answer for it."""
        stream = answer(b"".join(EVENTS) + b"\n", b"content-type: text/event-stream")[:-1]
        head, _, body = stream.partition(b"\r\n\r\n")
        upstream.will([head + b"\r\n\r\n", body, CLOSE], [OWN])
        async with gateway.asking(key, message_body(stream=True)) as wire:
            assert (await wire.head()).status == 200
            assert (await wire.ending())[0] == "reset"
        assert (await gateway.messages(key, BODY)).body == MESSAGE


async def started(servers: Servers, listener: Listener) -> Server:
    """A gateway that has asked for the list of models, and hung up."""
    server = await servers.start(f"http://127.0.0.1:{listener.port}")
    peer = await listener.accept()
    assert (await peer.request()).startswith(b"GET /v1/models")
    peer.send(answer(b"{}", b"connection: close", status=404))
    assert await peer.closed()
    return server


class TestByHand:
    """What depends on who is first, with an upstream that a test plays."""

    @pytest_asyncio.fixture(loop_scope="module")
    async def listener(self) -> AsyncIterator[Listener]:
        listener = Listener()
        yield listener
        listener.close()

    async def test_an_answer_while_the_body_is_going_up(
        self, servers: Servers, listener: Listener
    ) -> None:
        """It goes on at once; what is left of the body goes nowhere."""
        server = await started(servers, listener)
        key = await server.holder(limits=["9 concurrent", "9M tokens/1h"])
        problem = b'{"type":"error","error":{"type":"some_error","message":"early"}}'
        large = message_body(messages=[{"role": "user", "content": "x" * 10_000_000}])
        async with await server.connect() as wire:
            await wire.send(request_bytes("POST", "/v1/messages", key=key, body=large))
            peer = await listener.accept()
            await peer.request()
            peer.send(answer(problem, b"content-type: application/json", status=413))
            early = await wire.answer()
            assert (early.status, early.body) == (413, problem)
            assert await peer.closed()
            await wire.send(request_bytes("POST", "/v1/messages", key=key, body=BODY))
            other = await listener.accept()
            await other.request()
            other.send(OWN)
            assert (await wire.answer()).body == MESSAGE
        await assert_accounted(server, key, 413, 200)

    async def test_what_nobody_asked_for_reaches_nobody(
        self, servers: Servers, listener: Listener
    ) -> None:
        """An answer on an idle connection closes it; the next request goes out on another."""
        server = await started(servers, listener)
        key = await server.holder(limits=["9 concurrent", "9M tokens/1h"])
        for _ in range(3):
            async with server.asking(key, BODY) as wire:
                peer = await listener.accept()
                await peer.request()
                peer.send(OWN)
                assert (await wire.answer()).body == MESSAGE
                peer.send(EVIL)
        assert listener.accept_now() is None
        await assert_accounted(server, key, 200, 200, 200)
