"""The program gets its certificate by itself: from pebble, and from an authority with faults."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from opuslive.config.files import certificates_path
from opuslive.web.acme import papers
from opuslive.web.acme.store import Store
from tests.support.acme_directory import AcmeDirectory, Answer, refusal
from tests.support.held_sockets import Held
from tests.support.pebble import NEEDS_PEBBLE, Pebble, free_port
from tests.support.provider import (
    LAST_CHUNK,
    STREAM_HEAD,
    ScriptedUpstream,
    anthropic_events,
    chunk,
)
from tests.support.server import Server, Servers
from tests.support.waiting import eventually, soon
from tests.support.wire import Wire, message_body, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAME = "ai.example.com"
EVENTS = anthropic_events("one two three", input_tokens=5, output_tokens=9)


def sections(directory: str, root: Path, http_port: int) -> dict[str, Any]:
    tls = {
        "acme": "ops@example.com",
        "acme_directory": directory,
        "acme_ca": str(root),
        "acme_http_port": http_port,
    }
    return {"server": {"public_url": f"https://{NAME}", "tls": tls}}


def trusting(root: str | None) -> ssl.SSLContext:
    """A client that trusts this root alone; None for one that trusts anybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if root is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(cadata=root)
    return context


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def dial(server: Server, root: str | None) -> Streams:
    return await soon(
        asyncio.open_connection("127.0.0.1", server.port, ssl=trusting(root), server_hostname=NAME)
    )


async def seen(server: Server, root: str | None) -> x509.Certificate:
    """The certificate that a new connection is shown."""
    _, writer = await dial(server, root)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(der)


async def get(server: Server, root: str | None, target: str) -> bytes:
    reader, writer = await dial(server, root)
    writer.write(request_bytes("GET", target, headers=[("Connection", "close")]))
    answer = await soon(reader.read())
    writer.close()
    return answer


async def status(server: Server) -> dict[str, Any]:
    found = await server.admin("GET", "status")
    certificate: dict[str, Any] = found["certificate"]
    return certificate


@NEEDS_PEBBLE
class TestPebble:
    @pytest_asyncio.fixture(loop_scope="module")
    async def pebble(self, tmp_path: Path) -> AsyncIterator[Pebble]:
        pebble = Pebble(tmp_path)
        yield pebble
        pebble.stop()

    def server(self, servers: Servers, provider: ScriptedUpstream, pebble: Pebble) -> Server:
        tls = sections(pebble.url, pebble.tls_root, pebble.http_port)
        return servers.make(provider.base_url, **tls)

    async def test_a_certificate_is_got_served_and_kept_over_a_restart(
        self, servers: Servers, provider: ScriptedUpstream, pebble: Pebble
    ) -> None:
        await pebble.start()
        server = self.server(servers, provider, pebble)
        await server.start()
        await server.logged(f"{NAME} has a new certificate, good until")
        assert (await get(server, pebble.root(), "/healthz")).startswith(b"HTTP/1.1 200")
        first = await seen(server, pebble.root())
        found = await status(server)
        assert found["name"] == NAME
        assert found["not_after"] is not None
        assert (found["failures_in_a_row"], found["last_failure"]) == (0, None)
        assert await server.stop() == 0
        await server.start()
        assert await seen(server, pebble.root()) == first
        assert pebble.issued() == 1
        assert "no certificate" not in server.log

    async def test_an_authority_that_is_down_keeps_nobody_from_being_served(
        self, servers: Servers, provider: ScriptedUpstream, pebble: Pebble
    ) -> None:
        """A client that takes any certificate shows that the gateway runs; others refuse."""
        server = self.server(servers, provider, pebble)
        await server.start()
        await server.logged("There is no certificate for ai.example.com yet")
        await server.logged(r"could not be reached \(Connection refused\)\. The next attempt is at")
        assert (await get(server, None, "/readyz")).startswith(b"HTTP/1.1 200")
        assert (await status(server))["not_after"] is None
        await pebble.start()
        with pytest.raises(ssl.SSLCertVerificationError):
            await seen(server, pebble.root())
        server.signal(signal.SIGHUP)
        await server.logged(f"{NAME} has a new certificate, good until")
        await seen(server, pebble.root())

    @pytest.mark.long
    async def test_an_authority_that_forgot_everything_gives_another_one(
        self, servers: Servers, provider: ScriptedUpstream, pebble: Pebble
    ) -> None:
        await pebble.start()
        server = self.server(servers, provider, pebble)
        await server.start()
        await server.logged("has a new certificate")
        await server.kill()
        pebble.stop()
        await pebble.start()
        store = certificates_path(f"sqlite://{server.database}")
        (file,) = store.rglob(f"{NAME}.pem")
        file.unlink()
        await server.start()
        await server.logged("has a new certificate")
        await seen(server, pebble.root())


class TestRenewal:
    """A certificate that is due stands there from before; the authority is one of our own."""

    @pytest.fixture
    def http_port(self) -> int:
        return free_port()

    @pytest.fixture
    def directory(self, http_port: int) -> Iterator[AcmeDirectory]:
        def fetch(token: str) -> bytes | None:
            async def ask() -> bytes:
                async with await Wire.connect(http_port) as wire:
                    target = f"/.well-known/acme-challenge/{token}"
                    await wire.send(f"GET {target} HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
                    answer = await wire.answer()
                assert answer.status == 200
                return answer.body

            return asyncio.run(ask())

        directory = AcmeDirectory(fetch, lambda: datetime.now(UTC) - timedelta(hours=1))
        yield directory
        directory.close()

    @pytest.fixture
    def server(
        self,
        servers: Servers,
        provider: ScriptedUpstream,
        directory: AcmeDirectory,
        http_port: int,
        tmp_path: Path,
    ) -> Server:
        tls = sections(directory.url, directory.trusted(tmp_path), http_port)
        return servers.make(provider.base_url, **tls)

    def put_old(self, server: Server, directory: AcmeDirectory, age: timedelta) -> int:
        """A certificate of this age, as if it had been got; its serial number."""
        now, directory.now = directory.now, lambda: datetime.now(UTC) - age
        key = papers.new_key()
        leaf = directory.issue(NAME, key.public_key())
        directory.now = now
        folder = certificates_path(f"sqlite://{server.database}")
        store = Store(folder, directory.url, NAME)
        store.write_certificate(papers.key_pem(key) + leaf.public_bytes(Encoding.PEM))
        return leaf.serial_number

    async def test_a_stream_goes_on_while_its_certificate_is_renewed(
        self,
        server: Server,
        upstream: ScriptedUpstream,
        directory: AcmeDirectory,
    ) -> None:
        root = directory.root_pem()
        old = self.put_old(server, directory, timedelta(days=61))
        renewed, finish = threading.Event(), asyncio.Event()
        directory.will("directory", Answer(wait=renewed, body=directory.document()))
        await server.start()
        key = await server.holder()
        assert (await seen(server, root)).serial_number == old
        upstream.will(
            [STREAM_HEAD, *map(chunk, EVENTS[:4]), finish, *map(chunk, EVENTS[4:]), LAST_CHUNK]
        )
        reader, writer = await dial(server, root)
        headers = [("Connection", "close")]
        body = message_body(stream=True)
        writer.write(request_bytes("POST", "/v1/messages", key=key, headers=headers, body=body))
        before = await soon(reader.readuntil(EVENTS[3]))
        renewed.set()
        await server.logged("has a new certificate")
        assert (await seen(server, root)).serial_number != old
        finish.set()
        answer = before + await soon(reader.read())
        assert answer.endswith(LAST_CHUNK)
        assert all(event in answer for event in EVENTS)
        writer.close()

    async def test_an_authority_that_fails_later_leaves_the_old_one_in_use(
        self, server: Server, directory: AcmeDirectory
    ) -> None:
        old = self.put_old(server, directory, timedelta(days=61))
        directory.will("order", refusal("rateLimited", "Too many.", retry_after="3600"))
        await server.start()
        await server.logged(r'warning: There is no new .* \(it says: "Too many."\)\. The next')
        assert (await seen(server, directory.root_pem())).serial_number == old
        found = await status(server)
        assert found["failures_in_a_row"] == 1
        assert "wants a pause" in found["last_failure"]
        checked = (await server.run("check", "--json")).json()["checks"]
        (told,) = (each for each in checked if each["name"] == "certificate")
        assert told["level"] == "warning"
        assert f"but its renewal fails: {found['last_failure']}" in told["text"]
        assert await server.stop() == 0

    async def test_the_end_of_the_process_does_not_wait_for_the_authority(
        self, server: Server, directory: AcmeDirectory
    ) -> None:
        never = threading.Event()
        directory.will("directory", Answer(wait=never))
        await server.start()
        await eventually(lambda: directory.asked)
        assert await server.stop() == 0
        never.set()

    async def test_the_plain_port_is_held_by_no_client(
        self, server: Server, directory: AcmeDirectory, http_port: int
    ) -> None:
        """Clients that say nothing make room for those that speak, and secrets come to no log."""
        self.put_old(server, directory, timedelta(days=1))
        await server.start()
        silent = [await Wire.connect(http_port) for _ in range(400)]
        async with await Wire.connect(http_port) as wire:
            await wire.send(request_bytes("POST", "/v1/messages", key="sk-Zq7", body=b"prompt-Zq7"))
            answer = await wire.answer()
        assert answer.status == 403
        assert f"the address is https://{NAME}" in json.loads(answer.body)["error"]["message"]
        for wire in silent:
            wire.close()
        assert await server.stop() == 0
        assert "Zq7" not in server.log

    async def test_both_ports_may_be_held_by_somebody_else(
        self,
        servers: Servers,
        provider: ScriptedUpstream,
        directory: AcmeDirectory,
        http_port: int,
        tmp_path: Path,
    ) -> None:
        """Sockets of a service manager are told apart by their port, in any order."""
        held = Held(["127.0.0.1", "127.0.0.1"])
        tls = sections(directory.url, directory.trusted(tmp_path), held.ports[0])
        server = servers.make(provider.base_url, **tls)
        held.give_to(server)
        self.put_old(server, directory, timedelta(days=1))
        await server.start()
        assert server.port == held.ports[1]
        root = directory.root_pem()
        assert (await get(server, root, "/healthz")).startswith(b"HTTP/1.1 200")
        async with await Wire.connect(held.ports[0]) as wire:
            await wire.send(request_bytes("GET", "/usage"))
            assert (await wire.answer()).status == 301
        assert await server.stop() == 0
        async with await Wire.connect(held.ports[0]) as wire:
            await wire.send(request_bytes("GET", "/usage"))
            await server.start()
            assert (await wire.answer()).status == 301
        assert await server.stop() == 0
        held.close()

    async def test_a_plain_port_that_is_taken_is_named_with_the_remedy(
        self, server: Server, directory: AcmeDirectory, http_port: int
    ) -> None:
        with socket.create_server(("127.0.0.1", http_port)):
            complaint = (await server.run("serve", "--port", "0")).complaint
        assert f"Can't listen on 127.0.0.1, port {http_port}: Address already in use" in complaint
        assert "set [server.tls] acme_http_port to another one" in complaint
