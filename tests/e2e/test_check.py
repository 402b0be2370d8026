"""``opuslive check``: what it finds, with a server and without one, and that it changes nothing.

Its kinds: all is right; a thing is wrong that the upstream, a file, the database, the certificate
or an address has to do with.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.support.mail import MailServer
from tests.support.provider import ScriptedUpstream
from tests.support.server import CREDENTIAL, Server, Servers

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODELS = {"models": ["claude-test-*"]}


async def checked(server: Server, status: int) -> Mapping[str, Any]:
    """What a check finds: name → its members."""
    outcome = await server.run("check", "--json")
    assert (outcome.status, outcome.err) == (status, ""), outcome
    assert CREDENTIAL not in outcome.out
    found = outcome.json()
    assert found["ok"] is (status == 0)
    for each in found["checks"]:
        assert (each["remedy"] is None) is (each["level"] == "ok"), each
    return {each["name"]: each for each in found["checks"]}


def levels(found: Mapping[str, Any]) -> set[str]:
    return {each["level"] for each in found.values()}


@pytest.mark.parametrize("serving", [True, False], ids=["with a server", "without"])
async def test_nothing_is_wrong_with_what_is_right(
    servers: Servers, upstream: ScriptedUpstream, serving: bool
) -> None:
    server = servers.make(upstream.base_url, upstream=MODELS)
    await server.start()
    await server.holder()
    if not serving:
        await server.stop()
    before = server.files()
    found = await checked(server, 0)
    assert levels(found) == {"ok"}
    assert "lists 2 models" in found["upstream provider"]["text"]
    assert "has 1 key" in found["database"]["text"]
    assert upstream.requests[-1].path.startswith("/v1/models")
    after = server.files()
    # A running server writes.
    if not serving:
        assert after == before
    shown = await server.run("check")
    assert shown.status == 0
    assert "0 errors" in shown.out


async def test_a_database_is_not_made(servers: Servers, upstream: ScriptedUpstream) -> None:
    server = servers.make(upstream.base_url, upstream=MODELS)
    before = server.files()
    assert "the first start makes it" in (await checked(server, 0))["database"]["text"]
    assert server.files() == before


async def test_what_a_killed_server_left_is_looked_at_and_stays(
    servers: Servers, upstream: ScriptedUpstream
) -> None:
    server = servers.make(upstream.base_url, upstream=MODELS)
    await server.start()
    await server.holder()
    await server.kill()
    log = server.database.with_name(server.database.name + "-wal")
    before = log.read_bytes(), server.database.read_bytes()
    found = await checked(server, 0)
    assert "has 1 key" in found["database"]["text"]
    assert (log.read_bytes(), server.database.read_bytes()) == before


@pytest.mark.parametrize("serving", [True, False], ids=["with a server", "without"])
async def test_a_refused_credential_is_an_error(
    servers: Servers, upstream: ScriptedUpstream, serving: bool
) -> None:
    server = servers.make(upstream.base_url)
    upstream.models = None
    try:
        if serving:
            await server.start()
        found = await checked(server, 1)
    finally:
        upstream.models = ("claude-test-1", "claude-test-2")
    assert "refuses the credential (status 401)" in found["upstream provider"]["text"]


@pytest.mark.parametrize(
    ("upstream_members", "said"),
    [
        ({"base_url": "http://127.0.0.1:1"}, "Connection refused"),
        ({"base_url": "https://name.invalid"}, "its name can't be resolved"),
        ({"api_key_env": "NOT_SET", "api_key": None}, "is missing"),
        ({"api_key_file": "nowhere.key", "api_key": None}, "is missing"),
    ],
    ids=["dead port", "no such host", "no variable", "no file"],
)
async def test_an_upstream_that_can_t_be_asked_is_an_error(
    servers: Servers, upstream: ScriptedUpstream, upstream_members: dict[str, Any], said: str
) -> None:
    members = {"api_key": CREDENTIAL} | upstream_members
    server = servers.make(
        upstream.base_url,
        upstreams=[
            {"name": "provider", "base_url": upstream.base_url}
            | {name: value for name, value in members.items() if value is not None}
        ],
    )
    found = (await checked(server, 1))["upstream provider"]
    assert (found["level"], said in found["text"]) == ("error", True), found
    assert "127.0.0.1" not in found["text"]


async def test_a_wrong_path_is_a_warning(servers: Servers, upstream: ScriptedUpstream) -> None:
    server = servers.make(f"{upstream.base_url}/deeper")
    found = (await checked(server, 0))["upstream provider"]
    assert found["level"] == "warning"
    assert "status 404" in found["text"]


async def test_an_upstream_s_certificate_has_to_be_trusted(
    servers: Servers, authority: trustme.CA
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    secure = ScriptedUpstream(tls=context)
    await secure.start()
    server = servers.make(secure.base_url)
    found = (await checked(server, 1))["upstream provider"]
    assert "certificate is not accepted" in found["text"]
    authority.cert_pem.write_to_path(str(server.folder / "authority.pem"))
    server.environ["SSL_CERT_FILE"] = str(server.folder / "authority.pem")
    assert "over TLS" in (await checked(server, 0))["upstream provider"]["text"]
    await secure.close()


async def test_models_that_are_configured_and_not_there_are_named(
    servers: Servers, upstream: ScriptedUpstream
) -> None:
    models = ["claude-test-1", "claude-9", "gpt-*"]
    server = servers.make(
        upstream.base_url, upstream={"models": models}, aliases={"best": "claude-9"}
    )
    found = await checked(server, 0)
    assert "has no claude-9, gpt-*" in found["models of provider"]["text"]
    assert "best" in found["aliases"]["text"]


@pytest.mark.parametrize("where", ["the gateway", "a group", "a key", "nowhere", "another model"])
async def test_models_without_a_price_are_named_where_a_usd_limit_would_refuse_them(
    servers: Servers, upstream: ScriptedUpstream, where: str
) -> None:
    limits: dict[str, Any] = {}
    if where == "the gateway":
        limits = {"gateway": ["5 usd/day"]}
    elif where == "a group":
        limits = {"groups": {"friends": ["5 usd/day"]}}
    server = servers.make(upstream.base_url, limits=limits)
    if where == "a key":
        await server.create_key("a", "--limit", "5 usd/day")
    elif where == "another model":
        await server.create_key("a", "--limit", "5 usd/day", "--model", "claude-opus-*")
    found = (await checked(server, 0))["prices"]
    if where in ("nowhere", "another model"):
        assert found["level"] == "ok"
    else:
        assert "claude-test-1, claude-test-2" in found["text"]
        assert '[prices."claude-test-1"]' in found["remedy"]


async def test_a_clock_that_is_off_is_told(servers: Servers) -> None:
    """The provider's, or this machine's."""

    class Late(ScriptedUpstream):
        def _script(self, request: object) -> list[bytes]:
            moment = datetime.now(UTC) - timedelta(seconds=500)
            date = moment.strftime("%a, %d %b %Y %H:%M:%S GMT").encode()
            return [
                b"HTTP/1.1 200 OK\r\ncontent-length: 26\r\ndate: " + date + b"\r\n\r\n"
                b'{"data":[{"id":"claude"}]}'
            ]

    late = Late()
    await late.start()
    found = await checked(servers.make(late.base_url), 0)
    assert "s ahead of the provider's" in found["clock and provider's"]["text"]
    await late.close()


async def test_files_that_others_may_read_are_told_with_the_command(
    servers: Servers, upstream: ScriptedUpstream
) -> None:
    server = servers.make(upstream.base_url)
    server.config_file.chmod(0o644)
    found = (await checked(server, 0))["file config.toml"]
    assert found["level"] == "warning"
    assert found["remedy"] == f"run 'chmod 600 {server.config_file}'"


async def test_a_configuration_with_a_mistake_is_an_error_and_all_that_is_told(
    servers: Servers, upstream: ScriptedUpstream
) -> None:
    server = servers.make(upstream.base_url, server={"prot": 1})
    found = await checked(server, 1)
    assert "no such key 'prot'" in found["configuration"]["text"]
    assert list(found) == ["configuration"]
    server.config_file.unlink()
    assert list(await checked(server, 1)) == ["configuration"]


async def test_a_file_that_changed_since_the_start_is_told(
    servers: Servers, upstream: ScriptedUpstream
) -> None:
    server = await servers.start(upstream.base_url)
    text = server.config_file.read_text()
    server.config_file.write_text(text.replace("claude-*", "claude-test-*"))
    found = (await checked(server, 0))["configuration"]
    assert "was changed since the server read it" in found["text"]
    assert found["remedy"] == "run 'opuslive reload', so that it takes effect"
    assert (await server.run("reload")).status == 0
    assert (await checked(server, 0))["configuration"]["level"] == "ok"
    server.config_file.write_text(f"{server.config_file.read_text()}[metrics]\nkeys = true\n")
    found = (await checked(server, 0))["configuration"]
    assert found["text"].endswith("was changed since the server read it: metrics.keys")
    assert found["remedy"] == "restart the server, so that it takes effect"


async def test_a_damaged_database_is_an_error(servers: Servers, upstream: ScriptedUpstream) -> None:
    server = servers.make(upstream.base_url)
    for number in range(30):
        await asyncio.sleep(0)
        if number == 0:
            await server.start()
        await server.holder()
    await server.stop()
    data = bytearray(server.database.read_bytes())
    for page in range(2 * 4096, len(data), 4096):
        data[page : page + 200] = b"\xa5" * 200
    server.database.write_bytes(data)
    found = (await checked(server, 1))["database"]
    assert found["level"] == "error"
    assert "opuslive database restore FILE" in found["remedy"]
    server.database.write_bytes(b"no database at all, " * 300)
    assert "is not a database" in (await checked(server, 1))["database"]["text"]


@pytest.mark.parametrize(
    ("case", "name", "said"),
    [
        ("good", "certificate", "good for 127.0.0.1"),
        ("unknown authority", "certificate", "clients that trust what this machine does"),
        ("another name", "certificate", "is not for 127.0.0.1"),
        ("expired", "certificate", "expired"),
        ("few days", "certificate's end", "days are left"),
        ("another key", "certificate", "the key is not the certificate's"),
    ],
)
async def test_the_certificate_is_looked_at_as_clients_do(
    servers: Servers,
    upstream: ScriptedUpstream,
    authority: trustme.CA,
    case: str,
    name: str,
    said: str,
) -> None:
    server = servers.make(
        upstream.base_url,
        server={
            "public_url": "https://127.0.0.1:1",
            "tls": {"certificate": "chain.pem", "private_key": "key.pem"},
        },
    )
    ends = {"expired": -1, "few days": 3}.get(case, 90)
    names = "example.com" if case == "another name" else "127.0.0.1"
    made = authority.issue_cert(
        names,
        not_before=datetime.now(UTC) - timedelta(days=30),
        not_after=datetime.now(UTC) + timedelta(days=ends),
    )
    key = authority.issue_cert(names) if case == "another key" else made
    key.private_key_pem.write_to_path(str(server.folder / "key.pem"))
    (server.folder / "key.pem").chmod(0o600)
    made.cert_chain_pems[0].write_to_path(str(server.folder / "chain.pem"))
    authority.cert_pem.write_to_path(str(server.folder / "authority.pem"))
    if case != "unknown authority":
        server.environ["SSL_CERT_FILE"] = str(server.folder / "authority.pem")
    wrong = case in ("another name", "expired", "another key")
    assert said in (await checked(server, 1 if wrong else 0))[name]["text"]


async def test_the_public_url_has_to_lead_here(
    servers: Servers, upstream: ScriptedUpstream
) -> None:
    server = await servers.start(upstream.base_url, server={"public_url": upstream.base_url})
    found = (await checked(server, 0))["public_url"]
    assert "and not as OpusLive does (status 404)" in found["text"]


async def test_a_port_of_another_program_is_an_error(
    servers: Servers, upstream: ScriptedUpstream
) -> None:
    server = servers.make(upstream.base_url, server={"port": upstream.port})
    found = (await checked(server, 1))["listening address"]
    assert "Address already in use" in found["text"]


async def test_an_upstream_that_never_answers_is_told_in_time(servers: Servers) -> None:
    def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kept.append(writer)

    kept: list[asyncio.StreamWriter] = []
    listening = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    found = await checked(servers.make(f"http://127.0.0.1:{port}"), 1)
    assert "no answer in time" in found["upstream provider"]["text"]
    for writer in kept:
        writer.transport.abort()
    listening.close()


async def test_the_api_of_the_administration_has_it(
    servers: Servers, upstream: ScriptedUpstream
) -> None:
    server = await servers.start(upstream.base_url)
    answer = await server.admin("GET", "check")
    assert answer["ok"] is True
    assert Path(server.config_file).name in answer["checks"][0]["text"]


@pytest.mark.parametrize("serving", [True, False], ids=["with a server", "without"])
async def test_the_mail_server_of_alerts_is_asked_and_gets_no_mail(
    servers: Servers, upstream: ScriptedUpstream, serving: bool
) -> None:
    mail = MailServer()
    await mail.start()
    smtp = {"host": "127.0.0.1", "port": mail.port, "tls": "none"}
    smtp |= {"from": "a@example.com", "to": "b@example.com"}
    alerts = {"webhook": "https://discord.com/api/webhooks/1/canary", "smtp": smtp}
    server = servers.make(upstream.base_url, upstream=MODELS, alerts=alerts)
    if serving:
        await server.start()
    outcome = await server.run("check", "--json")
    found = {each["name"]: each for each in outcome.json()["checks"]}
    assert found["alert webhook"]["level"] == found["alert mail"]["level"] == "ok"
    assert "format discord" in found["alert webhook"]["text"]
    assert "takes the connection" in found["alert mail"]["text"]
    assert mail.mails == []
    assert "canary" not in outcome.out
    await mail.close()
    found = {each["name"]: each for each in (await server.run("check", "--json")).json()["checks"]}
    assert found["alert mail"]["level"] == "warning"
    assert "ConnectionRefusedError" in found["alert mail"]["text"]
