"""A client's connection: deadlines, disconnects, resets, and what is not logged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import cast

import pytest
from aiohttp import web

from opuslive.web.http.connection import ClientConnection
from tests.support.connections import Acceptor, Watching
from tests.support.waiting import eventually, soon
from tests.support.wire import Wire, request_bytes

GET = request_bytes("GET", "/")
#: Seconds that a test waits for.
SHORT = 0.05


async def answered(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(text="answered")


def watched(request: web.BaseRequest, watching: Watching) -> ClientConnection:
    """Tell ``watching`` of the request's connection from now on."""
    connection = cast(ClientConnection, request.protocol)
    connection.watch(request, watching)
    return connection


class TestDeadlines:
    async def test_a_connection_that_sends_nothing_is_closed(self, listener: Acceptor) -> None:
        await listener.start(answered, head=SHORT)
        async with await listener.connect() as wire:
            assert await wire.ending() == ("closed", b"")

    async def test_a_head_that_trickles_in_is_cut(self, listener: Acceptor) -> None:
        """Each byte comes in time, the head as a whole does not."""
        await listener.start(answered, head=SHORT)
        async with await listener.connect() as wire:
            await wire.send(GET[:-2])

            async def trickle() -> None:
                while True:
                    await wire.send(b"x-a: b\r\n")
                    await asyncio.sleep(0.001)

            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                await soon(trickle())
        await eventually(lambda: listener.connections == 0)

    async def test_a_slow_answer_is_not_cut(self, listener: Acceptor) -> None:
        finish = asyncio.Event()

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            await finish.wait()
            return await answered(request)

        await listener.start(handler, head=SHORT, idle=SHORT)
        async with await listener.connect() as slow, await listener.connect() as silent:
            await slow.send(GET)
            await silent.ending()  # Its deadline is past, so the other's would be, too.
            finish.set()
            assert (await slow.answer()).status == 200

    async def test_an_idle_connection_is_closed(self, listener: Acceptor) -> None:
        await listener.start(answered, idle=SHORT)
        async with await listener.connect() as wire:
            await wire.send(GET)
            assert (await wire.answer()).status == 200
            assert await wire.ending() == ("closed", b"")

    async def test_a_head_that_has_begun_is_not_idle(self, listener: Acceptor) -> None:
        await listener.start(answered, idle=SHORT)
        async with await listener.connect() as wire, await listener.connect() as other:
            await wire.send(GET)
            await wire.answer()
            await wire.send(GET[:5])
            await other.send(GET)
            await other.answer()
            await other.ending()  # Idle since later than the first one would have been.
            await wire.send(GET[5:])
            assert (await wire.answer()).status == 200

    async def test_a_second_head_has_a_deadline_too(self, listener: Acceptor) -> None:
        await listener.start(answered, head=SHORT)
        async with await listener.connect() as wire:
            await wire.send(GET)
            await wire.answer()
            await wire.send(GET[:5])
            assert await wire.ending() == ("closed", b"")

    async def test_an_idle_connection_has_no_deadline_for_a_head(self, listener: Acceptor) -> None:
        await listener.start(answered, head=SHORT)
        async with await listener.connect() as wire, await listener.connect() as silent:
            await wire.send(GET)
            await wire.answer()
            await silent.ending()
            await wire.send(GET)
            assert (await wire.answer()).status == 200

    async def test_a_client_that_takes_nothing_is_reset(self, listener: Acceptor) -> None:
        watching = Watching()

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            watched(request, watching)
            response = web.StreamResponse()
            await response.prepare(request)
            assert request.transport is not None
            request.transport.write(b"x" * 20_000_000)
            await watching.gone.wait()
            return response

        await listener.start(handler, stall=SHORT)
        async with await listener.connect() as wire:
            await wire.send(GET)
            await soon(watching.gone.wait())
            assert watching.full.is_set()
            assert (await wire.ending())[0] == "reset"

    async def test_a_client_that_takes_nothing_of_a_last_answer_is_reset(
        self, listener: Acceptor
    ) -> None:
        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            response = web.StreamResponse()
            response.force_close()
            await response.prepare(request)
            assert request.transport is not None
            request.transport.write(b"x" * 20_000_000)
            return response

        await listener.start(handler, stall=SHORT)
        async with await listener.connect() as wire:
            await wire.send(GET)
            await wire.head()
            await eventually(lambda: listener.connections == 0)
            assert (await wire.ending())[0] == "reset"


class TestWatching:
    @pytest.mark.parametrize("leave", [Wire.close, Wire.abort, Wire.half_close])
    async def test_a_client_that_leaves_is_noticed(
        self, listener: Acceptor, leave: Callable[[Wire], None]
    ) -> None:
        watching, connections = Watching(), []

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            connections.append(watched(request, watching))
            await watching.gone.wait()
            return web.Response()

        await listener.start(handler)
        async with await listener.connect() as wire:
            await wire.send(GET)
            await eventually(lambda: bool(connections))
            assert not connections[0].gone
            # Bytes behind the request must not hide it.
            await wire.send(b"x" * 100_000)
            leave(wire)
            await soon(watching.gone.wait())
            assert connections[0].gone

    async def test_a_client_that_is_full_and_reads_again_is_noticed(
        self, listener: Acceptor
    ) -> None:
        watching = Watching()
        data = b"x" * 20_000_000

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            watched(request, watching)
            response = web.StreamResponse()
            response.content_length = len(data)
            await response.prepare(request)
            assert request.transport is not None
            request.transport.write(data)
            await watching.drained.wait()
            return response

        await listener.start(handler)
        async with await listener.connect() as wire:
            await wire.send(GET)
            await soon(watching.full.wait())
            assert not watching.drained.is_set()
            assert (await wire.answer()).body == data
            assert watching.drained.is_set()

    async def test_requests_behind_a_watched_one_are_not_served(self, listener: Acceptor) -> None:
        served, finish = [], asyncio.Event()

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            served.append(request.path)
            watched(request, Watching())
            await finish.wait()
            return await answered(request)

        await listener.start(handler)
        async with await listener.connect() as wire:
            await wire.send(request_bytes("GET", "/first"))
            await eventually(lambda: bool(served))
            for _ in range(100):
                await wire.send(request_bytes("GET", "/behind"))
            finish.set()
            assert (await wire.answer()).body == b"answered"
            assert (await wire.ending())[1] == b""
        assert served == ["/first"]

    async def test_a_head_behind_a_request_has_a_bound(self, listener: Acceptor) -> None:
        """Though nobody watches, and nothing of it can be served yet."""
        begun, finish = asyncio.Event(), asyncio.Event()

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            begun.set()
            await finish.wait()
            return await answered(request)

        await listener.start(handler)
        async with await listener.connect() as wire:
            await wire.send(GET)
            await soon(begun.wait())
            await wire.send(GET[:-2])
            for _ in range(80):
                await wire.send(b"x-a: " + b"b" * 1000 + b"\r\n")
            finish.set()
            assert (await wire.answer()).body == b"answered"
            assert (await wire.ending())[1] == b""

    async def test_the_rest_of_an_unread_body_is_no_head(self, listener: Acceptor) -> None:
        """It may come, and is not read, for as long as the client may take to see the answer."""

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(status=422)

        await listener.start(handler)
        async with await listener.connect() as wire:
            await wire.send(request_bytes("POST", "/", headers=[("Content-Length", "200000")]))
            assert (await wire.answer()).status == 422
            await wire.send(b"x" * 200_000)
            await wire.send(GET)
            assert (await wire.answer()).status == 422

    async def test_a_watched_connection_goes_on_after_the_answer(self, listener: Acceptor) -> None:
        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            watched(request, Watching())
            return await answered(request)

        await listener.start(handler)
        async with await listener.connect() as wire:
            for _ in range(3):
                await wire.send(GET)
                assert (await wire.answer()).body == b"answered"


class TestSilence:
    async def test_a_defect_is_logged_without_its_message(
        self, listener: Acceptor, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            raise ValueError(request.path)

        await listener.start(handler)
        async with await listener.connect() as wire:
            await wire.send(request_bytes("GET", "/kanarienvogel"))
            answer = await wire.answer()
            assert await wire.ending() == ("closed", b"")
        assert answer.error == (500, "api_error")
        assert answer.header("server") == "OpusLive"
        assert "a request met a defect of the gateway: ValueError" in caplog.text
        assert "in handler" in caplog.text  # where it is
        assert "kanarienvogel" not in caplog.text + str(answer)
        assert "127.0.0.1" not in caplog.text

    async def test_a_defect_after_the_answer_has_begun_resets(self, listener: Acceptor) -> None:
        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"half an answer")
            raise ValueError

        await listener.start(handler)
        async with await listener.connect() as wire:
            await wire.send(GET)
            assert (await wire.ending())[0] == "reset"

    @pytest.mark.parametrize(
        "garbage", [b"kanarienvogel\r\n\r\n", b"GET / HTTP/1.1\r\nk\0: v\r\n\r\n"]
    )
    async def test_what_is_not_http_is_neither_logged_nor_sent_back(
        self, listener: Acceptor, caplog: pytest.LogCaptureFixture, garbage: bytes
    ) -> None:
        caplog.set_level(logging.DEBUG)
        await listener.start(answered)
        async with await listener.connect() as wire:
            await wire.send(garbage)
            answer = await wire.answer()
            assert await wire.ending() == ("closed", b"")
        assert answer.error == (400, "invalid_request_error")
        assert "kanarienvogel" not in caplog.text + str(answer)
        assert caplog.records == []

    async def test_the_answer_to_what_is_not_http_is_json_and_nothing_else(
        self, listener: Acceptor
    ) -> None:
        await listener.start(answered)
        async with await listener.connect() as wire:
            await wire.send(b"no request at all\r\n\r\n")
            answer = await wire.answer()
        assert (answer.status, answer.header("x-content-type-options")) == (400, "nosniff")

    async def test_a_handler_that_reads_a_malformed_body_is_told(self, listener: Acceptor) -> None:
        reading = asyncio.Event()

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            reading.set()
            with pytest.raises(web.RequestPayloadError):
                await request.read()
            return web.Response(status=422)

        await listener.start(handler)
        async with await listener.connect() as wire:
            await wire.send(request_bytes("POST", "/", headers=[("Transfer-Encoding", "chunked")]))
            await soon(reading.wait())
            await wire.send(b"no chunk\r\n")
            assert (await wire.answer()).status == 422
            assert (await wire.ending())[0] == "closed"
