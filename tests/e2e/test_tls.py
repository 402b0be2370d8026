"""TLS of the gateway's own, and to the model provider."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
import trustme

from tests.support.provider import (
    CLOSE,
    CUT,
    LAST_CHUNK,
    STALL,
    STREAM_HEAD,
    ScriptedUpstream,
    anthropic_events,
    chunk,
)
from tests.support.server import Server, Servers, descriptors, gateway_config
from tests.support.waiting import eventually, soon
from tests.support.wire import Wire, message_body, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")

STREAM = message_body(stream=True)
EVENTS = anthropic_events("one two three", input_tokens=5, output_tokens=9)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider(authority: trustme.CA) -> AsyncIterator[ScriptedUpstream]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    upstream = ScriptedUpstream(tls=context)
    await upstream.start()
    yield upstream
    await upstream.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    provider: ScriptedUpstream, folder: Path, authority: trustme.CA
) -> AsyncIterator[Server]:
    server = Server(folder, gateway_config(provider.base_url))
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(folder / "chain.pem"))
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    tls = '\n[server.tls]\ncertificate = "chain.pem"\nprivate_key = "key.pem"\n'
    server.config_file.write_text(server.config_file.read_text() + tls)
    server.environ["SSL_CERT_FILE"] = str(folder / "authority.pem")
    await server.start()
    yield server
    await server.kill()


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def ask(gateway: Server, key: str, body: bytes | None) -> Streams:
    """Ask for a message, or without a body for the usage."""
    context = ssl.create_default_context(cafile=str(gateway.folder / "authority.pem"))
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, ssl=context)
    headers = [("Connection", "close")]
    method, target = ("GET", "/v1/usage") if body is None else ("POST", "/v1/messages")
    writer.write(request_bytes(method, target, key=key, headers=headers, body=body))
    return reader, writer


async def test_a_stream_comes_through(
    gateway: Server, upstream: ScriptedUpstream, key: str
) -> None:
    finish = asyncio.Event()
    upstream.will(
        [STREAM_HEAD, *map(chunk, EVENTS[:4]), finish, *map(chunk, EVENTS[4:]), LAST_CHUNK]
    )
    reader, writer = await ask(gateway, key, STREAM)
    before = await soon(reader.readuntil(EVENTS[3]))
    finish.set()
    answer = before + await soon(reader.read())
    assert answer.endswith(LAST_CHUNK)
    assert all(event in answer for event in EVENTS)
    writer.close()
    reader, writer = await ask(gateway, key, None)
    usage = json.loads((await soon(reader.read())).partition(b"\r\n\r\n")[2])
    writer.close()
    assert (usage["totals"]["requests"], usage["totals"]["output_tokens"]) == (1, 9)


async def test_a_stream_that_breaks_off_is_reset(
    gateway: Server, upstream: ScriptedUpstream, key: str
) -> None:
    read = asyncio.Event()
    upstream.will([STREAM_HEAD, *map(chunk, EVENTS[:4]), read, CLOSE])
    reader, writer = await ask(gateway, key, STREAM)
    await soon(reader.readuntil(EVENTS[3]))
    read.set()
    with pytest.raises(ConnectionResetError):
        await soon(reader.read())
    writer.close()


async def test_a_client_that_leaves_stops_the_upstream(
    gateway: Server, upstream: ScriptedUpstream, key: str
) -> None:
    upstream.will([STREAM_HEAD, *map(chunk, EVENTS[:4]), STALL])
    reader, writer = await ask(gateway, key, STREAM)
    await soon(reader.readuntil(EVENTS[3]))
    writer.close()
    await soon((await upstream.request()).gone.wait())


async def test_a_renewed_certificate_serves_new_connections(
    gateway: Server, upstream: ScriptedUpstream, key: str, authority: trustme.CA
) -> None:
    """SIGHUP takes it at once. A stream from before goes on; a bad one changes nothing."""
    finish = asyncio.Event()
    upstream.will(
        [STREAM_HEAD, *map(chunk, EVENTS[:4]), finish, *map(chunk, EVENTS[4:]), LAST_CHUNK]
    )
    reader, writer = await ask(gateway, key, STREAM)
    before = await soon(reader.readuntil(EVENTS[3]))

    async def seen() -> bytes:
        """The certificate that a new connection is shown."""
        _, writer = await ask(gateway, key, None)
        shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return shown

    old = await seen()
    (gateway.folder / "key.pem").write_bytes(b"half a k")
    gateway.signal(signal.SIGHUP)
    await gateway.logged("error: The configuration .* stays in force: The certificate ")
    assert await seen() == old
    renewed = authority.issue_cert("127.0.0.1")
    renewed.private_key_pem.write_to_path(str(gateway.folder / "key.pem"))
    renewed.cert_chain_pems[0].write_to_path(str(gateway.folder / "chain.pem"))
    gateway.signal(signal.SIGHUP)
    await gateway.logged(r"the configuration was reloaded; changed: server\.tls\.certificate")
    assert await seen() != old
    finish.set()
    answer = before + await soon(reader.read())
    assert answer.endswith(LAST_CHUNK)
    assert all(event in answer for event in EVENTS)
    writer.close()


async def test_clear_text_is_not_answered(gateway: Server) -> None:
    async with await gateway.connect() as wire:
        await wire.send(request_bytes("GET", "/healthz"))
        _, answer = await wire.ending()
    assert b"HTTP" not in answer


@pytest.mark.parametrize("leave", [Wire.close, Wire.abort], ids=["closed", "reset"])
@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x28",
    ],
    ids=["nothing", "half a hello", "clear text", "an alert"],
)
async def test_handshakes_that_fail_leave_nothing_behind(
    gateway: Server, sent: bytes, leave: Callable[[Wire], None]
) -> None:
    before = descriptors(gateway)
    wires = [await gateway.connect() for _ in range(50)]
    for wire in wires:
        await wire.send(sent)
        leave(wire)
    # The next connection is accepted after all of them, and is served.
    reader, writer = await ask(gateway, "no key", None)
    assert (await soon(reader.read())).startswith(b"HTTP/1.1 401")
    writer.close()
    await eventually(lambda: descriptors(gateway) <= before)
    assert "event loop reports" not in gateway.log


async def test_a_provider_that_nobody_vouches_for_is_sent_nothing(
    provider: ScriptedUpstream, upstream: ScriptedUpstream, servers: Servers
) -> None:
    server = await servers.start(provider.base_url)
    key = await server.holder()
    assert (await server.messages(key, message_body())).error == (502, "api_error")
    await server.logged("its certificate is not accepted")
    assert upstream.requests == []


async def test_a_provider_with_a_certificate_that_is_not_good(
    servers: Servers, authority: trustme.CA, tmp_path: Path
) -> None:
    """Nothing of a request is sent to it, not even its head."""
    now = datetime.now(UTC)
    stranger = trustme.CA()
    certificates = {
        "name": authority.issue_cert("localhost", "127.0.0.2"),
        "expired": authority.issue_cert(
            "127.0.0.1",
            not_before=now - timedelta(days=2),
            not_after=now - timedelta(days=1),
        ),
        "stranger": stranger.issue_cert("127.0.0.1"),
    }
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    providers = {}
    for fault, certificate in certificates.items():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        providers[fault] = ScriptedUpstream(tls=context)
        await providers[fault].start()
    upstreams = [
        {
            "name": fault,
            "base_url": provider.base_url,
            "api_key": "x",
            "models": [f"claude-{fault}"],
        }
        for fault, provider in providers.items()
    ]
    server = servers.make(None, upstreams=upstreams)
    server.environ["SSL_CERT_FILE"] = str(tmp_path / "authority.pem")
    await server.start()
    for fault, provider in providers.items():
        key = await server.holder()
        answer = await server.messages(key, message_body(f"claude-{fault}"))
        assert answer.error == (502, "api_error"), fault
        await server.logged(rf"upstream {fault} could not be reached: its certificate is not")
        assert provider.requests == []
        await provider.close()
        (record,) = await server.records(key, 1)
        assert (record["status"], record["latency_ms"]) == (502, None)


@pytest.mark.parametrize(
    "head",
    [STREAM_HEAD, b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"],
    ids=["chunked", "until the end"],
)
async def test_an_end_that_the_provider_did_not_announce_is_none(
    gateway: Server, upstream: ScriptedUpstream, key: str, head: bytes
) -> None:
    """Whoever is on the way could have made it."""
    read = asyncio.Event()
    part = chunk(EVENTS[0]) if head is STREAM_HEAD else b'{"usage": {"input_tokens": 5}}'
    upstream.will([head + part, read, CUT])
    reader, writer = await ask(gateway, key, message_body())
    await soon(reader.readuntil(b"input_tokens"))
    read.set()
    with pytest.raises(ConnectionResetError):
        await soon(reader.read())
    writer.close()
