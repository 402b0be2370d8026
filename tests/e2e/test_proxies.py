"""Behind the reverse proxies of README, with README's own configuration of them."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
import trustme

from opuslive.config.sections import UpstreamConfig
from tests.support.documents import guide
from tests.support.pebble import free_port
from tests.support.provider import (
    LAST_CHUNK,
    STREAM_HEAD,
    ScriptedUpstream,
    anthropic_events,
    chunk,
)
from tests.support.server import Server, Servers
from tests.support.waiting import soon
from tests.support.wire import Headers, message_body, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAME = "ai.example.com"
EVENTS = anthropic_events("one two three", input_tokens=5, output_tokens=9)
#: What stands around README's block. Logs and files go into the folder.
NGINX = """
daemon off;
error_log {folder}/error.log;
pid {folder}/nginx.pid;
worker_processes 1;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {guide}
}}
"""
CADDY = """
{{
    admin off
    auto_https disable_redirects
    https_port {port}
    storage file_system {folder}/caddy
}}
{guide}
"""


def asking(
    method: str, target: str, key: str | None, body: bytes | None, headers: Headers = ()
) -> bytes:
    """A request to the public name."""
    request = request_bytes(method, target, key=key, headers=headers, body=body)
    return request.replace(b"Host: gateway.localhost\r\n", f"Host: {NAME}\r\n".encode(), 1)


class Proxy:
    """A proxy in front of a server; ``port`` is where it does TLS."""

    def __init__(self, folder: Path, authority: trustme.CA) -> None:
        self.port = free_port()
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        certificate = authority.issue_cert(NAME)
        self._key, self._chain = folder / "privkey.pem", folder / "fullchain.pem"
        certificate.private_key_pem.write_to_path(str(self._key))
        for pem in certificate.cert_chain_pems:
            pem.write_to_path(str(self._chain), append=True)
        self.trusted = ssl.create_default_context()
        authority.configure_trust(self.trusted)

    def nginx(self, server: Server) -> list[str]:
        block = guide("nginx")
        for placeholder, real in (
            ("/etc/ssl/ai.example.com/fullchain.pem", self._chain),
            ("/etc/ssl/ai.example.com/privkey.pem", self._key),
            ("listen 443 ssl", f"listen 127.0.0.1:{self.port} ssl"),
            ("127.0.0.1:8080", f"127.0.0.1:{server.port}"),
        ):
            assert placeholder in block
            block = block.replace(placeholder, str(real))
        file = self.folder / "nginx.conf"
        file.write_text(NGINX.format(folder=self.folder, guide=block))
        return ["nginx", "-p", str(self.folder), "-c", str(file)]

    def caddy(self, server: Server) -> list[str]:
        block = guide("caddy").replace("127.0.0.1:8080", f"127.0.0.1:{server.port}")
        # In place of the certificate that it would get from an authority.
        head = f"{NAME} {{\n"
        assert block.startswith(head)
        block = block.replace(
            head, f"{head}    bind 127.0.0.1\n    tls {self._chain} {self._key}\n"
        )
        file = self.folder / "Caddyfile"
        file.write_text(CADDY.format(folder=self.folder, port=self.port, guide=block))
        return ["caddy", "run", "--adapter", "caddyfile", "--config", str(file)]

    async def start(self, words: list[str]) -> None:
        home = {"HOME": str(self.folder), "PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/bin"}
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(words, env=home, stdout=log, stderr=log)

        async def answers() -> bool:
            try:
                _, writer = await self.connect()
            except OSError:
                return False
            writer.close()
            return True

        async with asyncio.timeout(20):
            while not await answers():
                assert self.process.poll() is None, (self.folder / "log").read_text()
                await asyncio.sleep(0.01)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.trusted, server_hostname=NAME
        )

    async def ask(
        self,
        method: str,
        target: str,
        key: str | None = None,
        body: bytes | None = None,
        headers: Headers = (),
    ) -> bytes:
        """The whole answer, head first."""
        reader, writer = await self.connect()
        given = [("Connection", "close"), *headers]
        writer.write(asking(method, target, key, body, given))
        answer = await soon(reader.read())
        writer.close()
        return answer

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()


@pytest_asyncio.fixture(loop_scope="module")
async def server(servers: Servers, provider: ScriptedUpstream) -> Server:
    public = {"public_url": f"https://{NAME}", "behind_proxy": True}
    return await servers.start(provider.base_url, server=public)


@pytest_asyncio.fixture(loop_scope="module", params=["nginx", "caddy"])
async def proxy(
    request: pytest.FixtureRequest, server: Server, authority: trustme.CA, tmp_path: Path
) -> AsyncIterator[Proxy]:
    if shutil.which(request.param, path="/usr/local/bin:/usr/sbin:/usr/bin") is None:
        pytest.skip(f"{request.param} is not installed")
    proxy = Proxy(tmp_path, authority)
    words: Callable[[Server], list[str]] = getattr(proxy, request.param)
    try:
        await proxy.start(words(server))
        yield proxy
    finally:
        proxy.stop()


async def test_a_stream_passes_event_by_event(
    proxy: Proxy, server: Server, upstream: ScriptedUpstream
) -> None:
    gates = [asyncio.Event() for _ in EVENTS]
    script: list[bytes | asyncio.Event] = [STREAM_HEAD]
    for event, gate in zip(EVENTS, gates, strict=True):
        script += [gate, chunk(event)]
    upstream.will([*script, LAST_CHUNK])
    reader, writer = await proxy.connect()
    body = message_body(stream=True)
    writer.write(asking("POST", "/v1/messages", await server.holder(), body))
    for event, gate in zip(EVENTS, gates, strict=True):
        # None is sent before the one before it has come.
        gate.set()
        await soon(reader.readuntil(event))
    writer.close()


async def test_a_client_that_leaves_stops_the_provider(
    proxy: Proxy, server: Server, upstream: ScriptedUpstream
) -> None:
    never = asyncio.Event()
    upstream.will([STREAM_HEAD, chunk(EVENTS[0]), never])
    reader, writer = await proxy.connect()
    body = message_body(stream=True)
    key = await server.holder()
    writer.write(asking("POST", "/v1/messages", key, body))
    await soon(reader.readuntil(EVENTS[0]))
    writer.transport.abort()
    (record,) = await server.records(key, 1)
    assert record["status"] == 499


async def test_the_largest_body_passes(
    proxy: Proxy, server: Server, upstream: ScriptedUpstream
) -> None:
    body = message_body(text="x" * 31_000_000)
    answer = await proxy.ask("POST", "/v1/messages", await server.holder(), body)
    assert answer.startswith(b"HTTP/1.1 200")
    assert len((await upstream.request()).body) == len(body)


async def test_pages_have_the_public_address(proxy: Proxy) -> None:
    answer = await proxy.ask("GET", "/")
    assert answer.startswith(b"HTTP/1.1 200")
    assert f"https://{NAME}".encode() in answer


async def test_what_a_client_claims_of_itself_is_neither_believed_nor_passed_on(
    proxy: Proxy, server: Server, upstream: ScriptedUpstream
) -> None:
    claims = [("X-Forwarded-For", "203.0.113.7"), ("X-Forwarded-Host", "evil.example")]
    key = await server.holder()
    assert (await proxy.ask("POST", "/v1/messages", key, message_body(), claims)).startswith(
        b"HTTP/1.1 200"
    )
    sent = await upstream.request()
    assert sent.header("x-forwarded-for") is None
    assert b"evil.example" not in await proxy.ask("GET", "/", headers=claims)
    assert "203.0.113.7" not in server.log


def seconds(directive: str) -> float:
    (value,) = [
        line.split()[1].rstrip(";s")
        for line in guide("nginx").splitlines()
        if line.split()[:1] == [directive]
    ]
    return float(value)


async def test_nginx_waits_longer_than_the_gateway_does() -> None:
    waits = UpstreamConfig(name="x", base_url="http://127.0.0.1")
    assert seconds("proxy_read_timeout") > max(waits.first_byte_timeout, waits.idle_timeout)
