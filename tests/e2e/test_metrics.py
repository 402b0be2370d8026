"""``/metrics`` of the real program."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime

import pytest
import trustme

from tests.support.admin_pages import HASH, RIGHT
from tests.support.provider import ScriptedUpstream
from tests.support.scrapes import BEARER, TOKEN, VARIABLE, Scraped, check_with_promtool, scrape
from tests.support.server import CREDENTIAL, Server, Servers
from tests.support.waiting import soon
from tests.support.wire import message_body, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def start(servers: Servers, provider: ScriptedUpstream, **metrics: bool) -> Server:
    server = servers.make(
        provider.base_url,
        admin={"password_hash": HASH},
        metrics={"token_env": VARIABLE} | metrics,
    )
    server.environ[VARIABLE] = TOKEN
    await server.start()
    return server


async def test_a_monitor_reads_what_happened(
    provider: ScriptedUpstream, upstream: ScriptedUpstream, servers: Servers
) -> None:
    server = await start(servers, provider, keys=True)
    created = await server.create_key("somebody")
    for stream in (True, False):
        answer = await server.messages(created["key"], message_body(stream=stream))
        assert answer.status == 200
    shown = await scrape(server)
    check_with_promtool(shown.text)
    assert shown.total("opuslive_requests_total", endpoint="/v1/messages", status="200") == 2
    assert shown.total("opuslive_tokens_total", kind="output") == 14
    assert shown.value("opuslive_key_requests_total", key=created["id"], status="200") == 2
    assert shown.total("opuslive_added_latency_seconds_count") == 2
    assert shown.total("opuslive_added_latency_seconds_sum") > 0
    assert shown.total("opuslive_upstream_head_seconds_sum") > 0
    assert shown.value("opuslive_upstream_state", upstream="provider", state="ok") == 1
    assert (shown.value("opuslive_storage_commit_records_sum") or 0) >= 2
    # Nobody but the process itself can read its memory, and that it can.
    assert (shown.value("process_resident_memory_bytes") or 0) > 10e6
    assert (shown.value("process_open_fds") or 0) > 5
    assert (await scrape(server, RIGHT)).total("opuslive_requests_total") == 2
    for secret in ("somebody", created["key"][-40:], TOKEN, CREDENTIAL, str(server.folder)):
        assert secret not in shown.text
    assert (await server.run("keys", "delete", "somebody", "--yes")).status == 0
    assert created["id"] not in (await scrape(server)).text
    assert TOKEN not in server.log


@pytest.mark.parametrize("token", [None, "", "   ", "short", "white space in the midst", "ü" * 20])
async def test_a_token_that_is_missing_or_can_be_guessed_is_named_at_the_start(
    provider: ScriptedUpstream, servers: Servers, token: str | None
) -> None:
    server = servers.make(provider.base_url, metrics={"token_env": VARIABLE})
    environ = {} if token is None else {VARIABLE: token}
    outcome = await server.run("serve", "--port", "0", **environ)
    assert VARIABLE in outcome.complaint
    assert "openssl rand -hex 32" in outcome.complaint
    assert not (token or "").strip() or (token or "") not in outcome.complaint
    # Commands have no use for it.
    assert (await server.run("keys", "list")).status == 0


async def test_the_certificate_in_use_tells_when_it_ends(
    provider: ScriptedUpstream, servers: Servers, authority: trustme.CA
) -> None:
    server = servers.make(provider.base_url, metrics={"token_env": VARIABLE})
    server.environ[VARIABLE] = TOKEN
    ends = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
    certificate = authority.issue_cert("127.0.0.1", not_after=ends)
    certificate.private_key_pem.write_to_path(str(server.folder / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(server.folder / "chain.pem"))
    (server.folder / "key.pem").chmod(0o600)
    tls = '\n[server.tls]\ncertificate = "chain.pem"\nprivate_key = "key.pem"\n'
    server.config_file.write_text(server.config_file.read_text() + tls)
    await server.start()
    context = ssl.create_default_context()
    authority.configure_trust(context)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context)
    headers = [("Authorization", BEARER), ("Connection", "close")]
    writer.write(request_bytes("GET", "/metrics", headers=headers))
    head, _, body = (await soon(reader.read())).partition(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 200 ")
    shown = Scraped(body.decode())
    until = shown.value("opuslive_certificate_not_after_timestamp_seconds")
    assert until == ends.timestamp()
    since = shown.value("opuslive_certificate_not_before_timestamp_seconds")
    assert (since or 0) < ends.timestamp()
    check_with_promtool(shown.text)
