"""What clients see, and what is recorded, when the model provider fails."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from tests.support.provider import (
    CLOSE,
    RESET,
    STALL,
    STREAM_HEAD,
    Script,
    ScriptedUpstream,
    anthropic_events,
    chunk,
    json_answer,
)
from tests.support.server import Server, Servers
from tests.support.waiting import soon
from tests.support.wire import message_body

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = message_body()
STREAM = message_body(stream=True)
SECRET = "org-canary-of-the-account"


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    return {"upstream": {"first_byte_timeout": "300ms", "idle_timeout": "300ms"}}


def problem(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}


async def recorded(gateway: Server, key: str) -> tuple[int, bool]:
    """The status of the one record, and whether something was sent upstream."""
    (record,) = await gateway.records(key, 1)
    return record["status"], record["latency_ms"] is not None


class TestBeforeTheAnswer:
    async def test_a_502_is_answered_where_nobody_listens(self, servers: Servers) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            server = await servers.start(f"http://127.0.0.1:{unused.getsockname()[1]}")
            key = await server.holder()
            answer = await server.messages(key, BODY)
        assert answer.error == (502, "api_error")
        assert "127.0.0.1" not in answer.message
        assert await recorded(server, key) == (502, False)
        assert await server.logged("provider could not be reached: Connection refused")

    async def test_a_504_is_answered_for_a_silent_upstream(
        self, gateway: Server, upstream: ScriptedUpstream, key: str
    ) -> None:
        upstream.will([STALL])
        assert (await gateway.messages(key, BODY)).error == (504, "timeout_error")
        assert await recorded(gateway, key) == (504, True)
        await soon((await upstream.request()).gone.wait())

    @pytest.mark.parametrize(
        "script",
        [
            [b"SSH-2.0-OpenSSH_9.6\r\n"],
            [b"HTTP/1.1 abc\r\n\r\n"],
            [b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n"],
            [b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n"],
            [b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"],
            [CLOSE],
            [RESET],
            [b"HTTP/1.1 200 OK\r\nconte", CLOSE],
        ],
        ids=str,
    )
    async def test_a_502_is_answered_where_no_http_is_spoken(
        self, gateway: Server, upstream: ScriptedUpstream, key: str, script: Script
    ) -> None:
        upstream.will(script)
        assert (await gateway.messages(key, BODY)).error == (502, "api_error")
        assert await recorded(gateway, key) == (502, True)
        assert len(upstream.inferences) == 1  # it is never asked twice

    async def test_a_redirect_is_not_followed(
        self, gateway: Server, upstream: ScriptedUpstream, key: str
    ) -> None:
        location = f"http://127.0.0.1:{upstream.port}/elsewhere"
        upstream.will(json_answer({}, status=307, headers=[("location", location)]))
        answer = await gateway.messages(key, BODY)
        assert answer.error == (502, "api_error")
        assert answer.header("location") is None
        assert len(upstream.requests) == 1
        assert await recorded(gateway, key) == (502, True)

    async def test_it_compresses_what_it_was_asked_not_to(
        self, gateway: Server, upstream: ScriptedUpstream, key: str
    ) -> None:
        upstream.will(json_answer({}, headers=[("content-encoding", "gzip")]))
        assert (await gateway.messages(key, BODY)).error == (502, "api_error")

    async def test_an_idle_connection_that_the_upstream_closed_costs_no_request(
        self, gateway: Server, upstream: ScriptedUpstream, key: str
    ) -> None:
        for _ in range(3):
            head = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\n{}"
            upstream.will([head, CLOSE])
            assert (await gateway.messages(key, BODY)).status == 200
        assert len(upstream.inferences) == 3


class TestTheAccount:
    """What a provider says of the administrator's account is nobody else's business."""

    @pytest.mark.parametrize(
        ("status", "error"),
        [
            (401, problem("authentication_error", f"invalid x-api-key {SECRET}")),
            (402, problem("billing_error", SECRET)),
            (
                400,
                problem(
                    "invalid_request_error",
                    f"Your credit balance is too low to access the API {SECRET}",
                ),
            ),
            (403, problem("authentication_error", SECRET)),
        ],
    )
    async def test_an_account_that_is_refused_is_no_business_of_clients(
        self,
        gateway: Server,
        upstream: ScriptedUpstream,
        key: str,
        status: int,
        error: dict[str, Any],
    ) -> None:
        headers = [("www-authenticate", SECRET), ("anthropic-organization-id", SECRET)]
        upstream.will(json_answer(error, status=status, headers=headers))
        answer = await gateway.messages(key, BODY)
        assert answer.error == (502, "api_error")
        assert answer.header("x-should-retry") == "false"
        assert SECRET not in str(answer)
        assert await recorded(gateway, key) == (502, True)
        await gateway.logged(
            rf"error: upstream provider refuses this gateway's account \(status {status}\)"
        )
        assert SECRET not in gateway.log

    async def test_an_account_that_is_limited_is_a_429_without_its_details(
        self, gateway: Server, upstream: ScriptedUpstream, key: str
    ) -> None:
        error = problem("rate_limit_error", f"limit of {SECRET}: 5 requests per minute")
        headers = [("retry-after", "17"), ("anthropic-ratelimit-requests-limit", "5")]
        upstream.will(json_answer(error, status=429, headers=headers))
        answer = await gateway.messages(key, BODY)
        assert answer.error == (429, "rate_limit_error")
        assert answer.header("retry-after") == "17"
        assert answer.header("anthropic-ratelimit-requests-limit") is None
        assert SECRET not in str(answer)
        assert await recorded(gateway, key) == (429, True)

    async def test_overloaded_and_forbidden_go_through(
        self, gateway: Server, upstream: ScriptedUpstream, key: str
    ) -> None:
        for status, kind in ((529, "overloaded_error"), (403, "permission_error")):
            error = problem(kind, "as it came")
            upstream.will(json_answer(error, status=status))
            answer = await gateway.messages(key, BODY)
            assert (answer.status, answer.json()) == (status, error)
        assert [record["status"] for record in await gateway.records(key)] == [529, 403]


class TestInTheMiddle:
    """A client must never take half an answer for a whole one."""

    @pytest.mark.parametrize("end", [CLOSE, RESET, STALL, b"no chunk\r\n"], ids=str)
    async def test_a_stream_that_breaks_off_is_reset(
        self, gateway: Server, upstream: ScriptedUpstream, key: str, end: Any
    ) -> None:
        events = anthropic_events("one two", input_tokens=5, output_tokens=9)[:5]
        sent, read = b"".join(events), asyncio.Event()
        upstream.will([STREAM_HEAD, *map(chunk, events), read, end])
        async with gateway.asking(key, STREAM) as wire:
            await wire.head()
            assert await wire.chunks(len(sent)) == sent
            read.set()
            assert await wire.ending() == ("reset", b"")
        (record,) = await gateway.records(key, 1)
        assert (record["status"], record["input_tokens"]) == (502, 5)
        assert record["output_tokens"] >= 1

    async def test_a_stream_ends_cleanly_but_too_early(
        self, gateway: Server, upstream: ScriptedUpstream, key: str
    ) -> None:
        events = anthropic_events("one two", input_tokens=5)[:4]
        sent, read = b"".join(events), asyncio.Event()
        upstream.will([STREAM_HEAD, *map(chunk, events), read, b"0\r\n\r\n"])
        async with gateway.asking(key, STREAM) as wire:
            await wire.head()
            assert await wire.chunks(len(sent)) == sent
            read.set()
            assert await wire.ending() == ("reset", b"")
        assert await recorded(gateway, key) == (502, True)

    @pytest.mark.parametrize("framing", [b"content-length: 100000\r\n", b""])
    async def test_a_message_that_breaks_off_is_reset(
        self, gateway: Server, upstream: ScriptedUpstream, key: str, framing: bytes
    ) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n" + framing + b"\r\n"
        part = b'{"usage": {"input_tokens": 5, "output_tokens": 9}, "content": "'
        read = asyncio.Event()
        upstream.will([head + part, read, RESET])
        async with gateway.asking(key, BODY) as wire:
            assert (await wire.head()).status == 200
            assert await wire.until(b"usage")
            read.set()
            assert (await wire.ending())[0] == "reset"
        assert await recorded(gateway, key) == (502, True)

    async def test_an_error_event_ends_a_stream_as_it_came(
        self, gateway: Server, upstream: ScriptedUpstream, key: str
    ) -> None:
        start = anthropic_events("one", input_tokens=5)[0]
        error = (
            b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error",'
            b'"message":"Overloaded"}}\n\n'
        )
        upstream.will([STREAM_HEAD, chunk(start), chunk(error), b"0\r\n\r\n"])
        answer = await gateway.messages(key, STREAM)
        assert answer.body == start + error
        assert await recorded(gateway, key) == (502, True)
