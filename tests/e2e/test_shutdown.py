"""SIGTERM: running streams finish, what they used is recorded, nothing is left behind."""

from __future__ import annotations

import asyncio
import signal

import pytest

from tests.support.provider import (
    LAST_CHUNK,
    STALL,
    STREAM_HEAD,
    ScriptedUpstream,
    anthropic_events,
    chunk,
)
from tests.support.server import Server, Servers, log_is_truncated
from tests.support.waiting import eventually, soon
from tests.support.wire import Wire, message_body, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")

STREAM = message_body(stream=True)
EVENTS = anthropic_events("one two three", input_tokens=5, output_tokens=9)


async def refuses(server: Server) -> bool:
    """Whether new connections are refused."""
    try:
        (await server.connect()).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_idle_server_ends_at_a_signal(
    servers: Servers, provider: ScriptedUpstream, number: signal.Signals
) -> None:
    server = await servers.start(provider.base_url)
    key = await server.holder()
    async with await server.connect() as wire:
        await wire.send(request_bytes("GET", "/v1/usage", key=key))
        assert (await wire.answer()).status == 200
        server.signal(number)
        assert await server.wait() == 0
        assert await wire.ending() == ("closed", b"")
    assert log_is_truncated(server)
    names = {path.name for path in server.database.parent.iterdir()}
    assert names <= {"opuslive.db", "opuslive.db-wal", "opuslive.db-shm", "opuslive.db.lock"}
    assert "Traceback" not in server.log


async def test_a_running_stream_finishes_after_sigterm(
    servers: Servers, provider: ScriptedUpstream, upstream: ScriptedUpstream
) -> None:
    server = await servers.start(provider.base_url)
    key = await server.holder()
    finish = asyncio.Event()
    upstream.will(
        [STREAM_HEAD, *map(chunk, EVENTS[:5]), finish, *map(chunk, EVENTS[5:]), LAST_CHUNK]
    )
    async with server.asking(key, STREAM) as wire, await server.connect() as idle:
        await idle.send(request_bytes("GET", "/readyz"))
        assert (await idle.answer()).status == 200
        await wire.head()
        received = await wire.chunks(len(b"".join(EVENTS[:5])))
        server.signal(signal.SIGTERM)
        await server.logged("stopping: 1 requests are running")
        while not await refuses(server):
            await asyncio.sleep(0.005)
        # Over a connection from before one still learns why.
        await idle.send(request_bytes("GET", "/readyz"))
        assert (await idle.answer()).json()["status"] == "draining"
        await idle.send(request_bytes("POST", "/v1/messages", key=key, body=STREAM))
        refused = await idle.answer()
        assert refused.error == (503, "overloaded_error")
        assert int(refused.header("retry-after") or 0) > 0
        # Commands go on, too.
        assert [made["name"] for made in await server.json("keys", "list")] == ["holder 1"]
        finish.set()
        while piece := await wire.chunk():
            received += piece
        assert received == b"".join(EVENTS)
        assert await server.wait() == 0
    assert log_is_truncated(server)
    await server.start()
    assert [r["status"] for r in await server.records(key)] == [200, 503]


async def stopping(server: Server, upstream: ScriptedUpstream, key: str) -> Wire:
    """A stream that would never end, on a server that was told to stop."""
    upstream.will([STREAM_HEAD, *map(chunk, EVENTS[:5]), STALL])
    wire = await server.connect()
    await wire.send(request_bytes("POST", "/v1/messages", key=key, body=STREAM))
    await wire.head()
    await wire.chunks(len(b"".join(EVENTS[:5])))
    server.signal(signal.SIGTERM)
    return wire


async def assert_cut(server: Server, upstream: ScriptedUpstream, wire: Wire, key: str) -> None:
    assert await wire.ending() == ("reset", b"")
    await soon(upstream.inferences[0].gone.wait())
    assert await server.wait() == 0
    assert log_is_truncated(server)
    await server.start()
    (record,) = await server.records(key)
    assert (record["status"], record["input_tokens"]) == (503, 5)


async def test_a_second_signal_cuts_and_still_records(
    servers: Servers, provider: ScriptedUpstream, upstream: ScriptedUpstream
) -> None:
    server = await servers.start(provider.base_url)
    key = await server.holder()
    async with await stopping(server, upstream, key) as wire:
        await server.logged("stopping: 1 requests are running")
        server.signal(signal.SIGTERM)
        await assert_cut(server, upstream, wire, key)


async def test_the_time_to_drain_has_an_end(
    servers: Servers, provider: ScriptedUpstream, upstream: ScriptedUpstream
) -> None:
    server = await servers.start(provider.base_url, server={"drain": "50ms"})
    key = await server.holder()
    async with await stopping(server, upstream, key) as wire:
        await assert_cut(server, upstream, wire, key)


async def test_a_request_that_has_no_answer_yet_is_told_of_the_shutdown(
    servers: Servers, provider: ScriptedUpstream, upstream: ScriptedUpstream
) -> None:
    server = await servers.start(provider.base_url, server={"drain": "0s"})
    key = await server.holder()
    upstream.will([STALL])
    async with server.asking(key, message_body()) as wire:
        await soon(upstream.request())
        server.signal(signal.SIGTERM)
        assert (await wire.answer()).error == (503, "overloaded_error")
        assert await server.wait() == 0
    await server.start()
    assert [r["status"] for r in await server.records(key)] == [503]


async def test_the_listener_stays_open_for_the_time_of_notice(
    servers: Servers, provider: ScriptedUpstream, upstream: ScriptedUpstream
) -> None:
    server = await servers.start(provider.base_url, server={"drain_notice": "1h"})
    key = await server.holder()
    server.signal(signal.SIGTERM)
    async with asyncio.timeout(10):
        while (await server.request("GET", "/readyz")).status == 200:
            pass
    assert (await server.messages(key, message_body())).status == 200
    server.signal(signal.SIGTERM)
    assert await server.wait() == 0
    await eventually(lambda: upstream.open_connections == 0)
