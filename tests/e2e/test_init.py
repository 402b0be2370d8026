"""``opuslive init``: what it writes, what it refuses, and that the commands it prints work."""

from __future__ import annotations

import asyncio
import shlex
import socket
import ssl
import stat
import subprocess
import tempfile
import tomllib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import trustme

from opuslive.config.sections import parse_config_text
from tests.support.provider import Request, Script, ScriptedUpstream, json_answer
from tests.support.server import Outcome
from tests.support.terminal import Machine
from tests.support.wire import Wire, message_body, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")

CREDENTIAL = "sk-upstream-Zq7"
LIMITS = ("60 requests/1m", "2M tokens/5h")


class OpenAIUpstream(ScriptedUpstream):
    """Lists models as OpenAI's servers do, for whoever has the credential in OpenAI's header."""

    open = False

    def _script(self, request: Request) -> Script:
        if request.path.partition("?")[0] != "/v1/models":
            return super()._script(request)
        if not self.open and request.header("authorization") != f"Bearer {CREDENTIAL}":
            return json_answer({"error": {"message": "no"}}, status=401)
        return json_answer({"object": "list", "data": [{"id": "gpt-a", "object": "model"}]})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def openai() -> AsyncIterator[OpenAIUpstream]:
    made = OpenAIUpstream()
    await made.start()
    yield made
    await made.close()


@pytest.fixture
def machine() -> Iterator[Machine]:
    with tempfile.TemporaryDirectory(prefix="opuslive-") as folder:
        yield Machine(Path(folder))


@pytest.fixture
def port() -> int:
    """A port that is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
        return found


async def init(machine: Machine, url: str, *options: str, **environ: str) -> Outcome:
    """Set up, with the credential in the environment, and no questions."""
    given = ("--provider", url, "--credential-env", "UPSTREAM_KEY", *options)
    return await machine.run("init", *given, **{"UPSTREAM_KEY": CREDENTIAL, **environ})


async def made_by(machine: Machine, url: str, *options: str, **environ: str) -> Any:
    outcome = await init(machine, url, *options, "--json", **environ)
    assert (outcome.status, outcome.err) == (0, ""), outcome
    return outcome.json()


def refused(machine: Machine, outcome: Outcome) -> str:
    """The sentence of a refusal that left nothing."""
    assert CREDENTIAL not in outcome.err
    assert not machine.files()
    return outcome.complaint


async def test_the_commands_that_it_prints_make_a_gateway_that_serves(
    machine: Machine, upstream: ScriptedUpstream, port: int
) -> None:
    options = ["--port", str(port), *(word for limit in LIMITS for word in ("--limit", limit))]
    made = await made_by(machine, upstream.base_url, *options)
    assert made["config"] == str(machine.config_file)
    assert (made["models"], made["credential_file"]) == (2, None)
    assert stat.S_IMODE(machine.config_file.stat().st_mode) == 0o600
    assert "config.example.toml" in machine.config_file.read_text().splitlines()[0]
    assert made["admin_password"] not in machine.config_file.read_text()
    serve, check, create = map(shlex.split, made["next"])
    environ = {**machine.environ, "UPSTREAM_KEY": CREDENTIAL}
    with subprocess.Popen(
        serve, env=environ, cwd=machine.home, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as server:
        try:
            assert server.stdout is not None
            listens = await asyncio.to_thread(server.stdout.readline)
            assert f"http://127.0.0.1:{port}".encode() in listens
            checked = await machine.run_words(check)
            assert "ok " in checked.out
            assert "0 errors" in checked.out
            assert (await machine.run_words(create)).status == 0
            async with await Wire.connect(port) as wire:
                await wire.send(
                    request_bytes("POST", "/v1/messages", key=made["key"], body=message_body())
                )
                assert (await wire.answer()).status == 200
        finally:
            server.terminate()
    shown = (await machine.run("keys", "show", "first", "--json")).json()
    assert shown["limits"] == list(LIMITS)


async def test_what_is_for_people_shows_each_secret_once(
    machine: Machine, upstream: ScriptedUpstream, port: int
) -> None:
    done = await init(machine, upstream.base_url, "--port", str(port))
    assert (done.status, done.err) == (0, "")
    assert done.out.count("sk-ant-ol-") == 1
    assert done.out.count("with the password") == 1
    assert CREDENTIAL not in done.out


async def test_a_path_with_blanks_is_quoted_in_the_next_commands(
    machine: Machine, upstream: ScriptedUpstream, port: int
) -> None:
    file = machine.home / "my gate way" / "c.toml"
    made = await made_by(machine, upstream.base_url, "--port", str(port), "--config", str(file))
    assert made["config"] == str(file)
    (_, check, _) = made["next"]
    assert f"--config {shlex.quote(str(file))}" in check
    assert (await machine.run_words(shlex.split(check), UPSTREAM_KEY=CREDENTIAL)).status == 0


async def test_what_a_url_speaks_is_found_out(
    machine: Machine, openai: OpenAIUpstream, upstream: ScriptedUpstream, port: int
) -> None:
    other = machine.home / "other.toml"
    await made_by(machine, upstream.base_url, "--port", str(port), "--config", str(other))
    assert parse_config_text(other.read_text(), source="c").upstreams[0].dialect == "anthropic"
    await made_by(machine, f"{openai.base_url}/v1", "--port", str(port), "--key", "second")
    (made,) = parse_config_text(machine.config_file.read_text(), source="c").upstreams
    assert (made.dialect, made.base_url) == ("openai", openai.base_url)


async def test_a_list_that_anybody_gets_tells_what_is_spoken(
    machine: Machine, openai: OpenAIUpstream, port: int
) -> None:
    openai.open = True
    try:
        await made_by(machine, openai.base_url, "--port", str(port))
    finally:
        openai.open = False
    assert 'dialect = "openai"' in machine.config_file.read_text()


async def test_a_server_on_this_machine_needs_no_credential(
    machine: Machine, upstream: ScriptedUpstream, port: int
) -> None:
    options = ("--provider", upstream.base_url, "--yes", "--port", str(port))
    assert (await machine.run("init", *options)).status == 0
    assert "api_key" not in machine.config_file.read_text()


@pytest.mark.parametrize("more", [(), ("--json",)], ids=["for people", "as JSON"])
async def test_a_refused_credential_writes_nothing(
    machine: Machine, upstream: ScriptedUpstream, more: tuple[str, ...]
) -> None:
    upstream.models = None
    try:
        complaint = refused(machine, await init(machine, upstream.base_url, *more))
    finally:
        upstream.models = ("claude-test-1", "claude-test-2")
    assert "refuses the credential (status 401), and nothing was written" in complaint
    assert not (machine.state / "opuslive").exists()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("{here}/deeper", "no list of models at its address (status 404)"),
        ("{dead}", "can't be reached: Connection refused"),
        ("http://192.0.2.1", "plain http would send prompts and the credential in clear"),
        ("https://", "must be an address"),
        ("antropic", "write one of anthropic, openai, or an address"),
    ],
)
async def test_a_wrong_address_writes_nothing(
    machine: Machine, upstream: ScriptedUpstream, port: int, url: str, said: str
) -> None:
    place = url.format(
        here=upstream.base_url,
        dead=f"http://127.0.0.1:{port}",
    )
    assert said in refused(machine, await init(machine, place))


async def test_a_provider_with_a_certificate_has_to_be_trusted(
    machine: Machine, authority: trustme.CA, port: int
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    secure = ScriptedUpstream(tls=context)
    await secure.start()
    try:
        complaint = refused(machine, await init(machine, secure.base_url))
        assert "its certificate is not accepted" in complaint
        trusted = machine.folder / "authority.pem"
        authority.cert_pem.write_to_path(str(trusted))
        options = ("--port", str(port))
        await made_by(machine, secure.base_url, *options, SSL_CERT_FILE=str(trusted))
    finally:
        await secure.close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--credential-env", "X", "--host-name", "a.example"), "--acme EMAIL or --behind-proxy"),
        (("--credential-env", "X", "--behind-proxy"), "--host-name"),
        (
            ("--credential-env", "X", "--host-name", "a.example", "--acme", "nobody"),
            "--acme: must be a mail address",
        ),
        (
            ("--credential-env", "X", "--host-name", "192.0.2.1", "--acme", "a@b.example"),
            "--host-name: names no host that",
        ),
        (("--credential-env", "X", "--host", "0.0.0.0"), "Listening on '0.0.0.0' without TLS"),
        (("--credential-env", "X", "--port", "0"), "a number from 1 to 65535"),
        (("--credential-env", "X", "--limit", "many"), "many"),
        (("--credential-env", "X", "--key", " "), "name"),
        (("--credential-file", "missing"), "missing can't be read"),
        ((), "--credential-file FILE or --credential-env NAME"),
    ],
)
async def test_what_has_no_default_or_is_wrong_is_named(
    machine: Machine, options: tuple[str, ...], said: str
) -> None:
    done = await machine.run("init", "--no-verify", *options, X=CREDENTIAL)
    assert said in refused(machine, done)


async def test_a_variable_that_is_not_set_will_do_if_nobody_asks_for_it(
    machine: Machine, upstream: ScriptedUpstream, port: int
) -> None:
    """The server may have what this shell does not."""
    options = ("--provider", upstream.base_url, "--credential-env", "UNSET", "--port", str(port))
    complaint = refused(machine, await machine.run("init", *options))
    assert "the environment variable UNSET" in complaint
    assert (await machine.run("init", "--no-verify", *options)).status == 0


async def test_options_that_exclude_each_other_are_wrong_usage(machine: Machine) -> None:
    for pair in (
        ("--credential-file", "a", "--credential-env", "B"),
        ("--acme", "a@example.com", "--behind-proxy"),
        ("--admin-password-stdin", "--no-admin"),
    ):
        done = await machine.run("init", *pair)
        assert done.status == 2
        assert "not both" in done.err


async def test_a_port_in_use_is_named(machine: Machine, upstream: ScriptedUpstream) -> None:
    complaint = refused(
        machine, await init(machine, upstream.base_url, "--port", str(upstream.port))
    )
    assert f"port {upstream.port}: Address already in use" in complaint


async def test_nothing_is_overwritten(
    machine: Machine, upstream: ScriptedUpstream, port: int
) -> None:
    machine.config_file.write_text("# mine\n")
    machine.config_file.chmod(0o600)
    before = machine.files()
    complaint = (await init(machine, upstream.base_url, "--port", str(port))).complaint
    assert f"{machine.config_file} exists" in complaint
    assert machine.files() == before


async def test_a_name_that_a_key_has_already_leaves_all_as_it_was(
    machine: Machine, upstream: ScriptedUpstream, port: int
) -> None:
    first = machine.home / "first.toml"
    await made_by(machine, upstream.base_url, "--port", str(port), "--config", str(first))
    before = machine.files()
    complaint = (await init(machine, upstream.base_url, "--port", str(port))).complaint
    assert "There is a key named 'first' in" in complaint
    assert machine.files() == before


async def test_a_credential_file_is_used_where_it_is(
    machine: Machine, upstream: ScriptedUpstream, port: int
) -> None:
    file = machine.home / "mine.key"
    file.write_text(CREDENTIAL)
    file.chmod(0o644)
    options = ("--provider", upstream.base_url, "--credential-file", str(file), "--port", str(port))
    assert "chmod 600" in (await machine.run("init", *options)).complaint
    assert set(machine.files()) == {"mine.key"}
    file.chmod(0o600)
    done = await machine.run("init", *options, "--json")
    assert done.json()["credential_file"] is None
    assert 'api_key_file = "mine.key"' in machine.config_file.read_text()
    assert upstream.requests[-1].header("x-api-key") == CREDENTIAL


async def test_behind_a_proxy_it_has_a_public_url(
    machine: Machine, upstream: ScriptedUpstream, port: int
) -> None:
    options = ("--host-name", "ai.example.com", "--behind-proxy", "--port", str(port))
    await made_by(machine, upstream.base_url, *options, "--contact", "me")
    made = tomllib.loads(machine.config_file.read_text())
    assert made["server"]["behind_proxy"] is True
    assert made["server"]["public_url"] == "https://ai.example.com"
    assert made["server"]["host"] == "127.0.0.1"
    assert made["admin"]["contact"] == "me"


async def test_a_password_comes_from_standard_input_or_there_is_none(
    machine: Machine, upstream: ScriptedUpstream, port: int
) -> None:
    options = ("--provider", upstream.base_url, "--port", str(port), "--json")
    given = ("--admin-password-stdin", *options)
    done = await machine.run("init", *given, input_="correct horse battery\n")
    assert done.json()["admin_password"] is None
    assert "password_hash" in machine.config_file.read_text()
    other = str(machine.home / "other.toml")
    more = ("--no-admin", "--key", "other", "--config", other)
    assert (await machine.run("init", *options, *more)).json()["admin_password"] is None
    assert "password_hash" not in Path(other).read_text()


async def test_secrets_that_nobody_could_read_undo_all(
    machine: Machine, upstream: ScriptedUpstream, port: int
) -> None:
    words = shlex.join(
        machine.words("init", "--provider", upstream.base_url, "--yes", "--port", str(port))
    )
    done = await machine.run_words(["sh", "-c", f"{words} > /dev/full"])
    assert done.status == 1
    assert not machine.files()
    database = machine.state / "opuslive" / "opuslive.db"
    options = ("--provider", upstream.base_url, "--yes", "--port", str(port))
    # Its name is free again.
    assert database.exists()
    assert (await machine.run("init", *options)).status == 0


QUESTIONS = (
    "Provider (",
    "The provider's key",
    "Host name",
    "TLS for it",
    "Address to listen on",
    "Port to listen on",
    "File for keys and usage",
    "Whom holders of keys may ask",
    "Password of the user",
    "Name of the first key",
    "Its limits",
)


def answers(url: str, port: int) -> dict[str, str]:
    given = {"Provider (": url, "The provider's key": CREDENTIAL, "Port to listen on": str(port)}
    return given | {"Host name": "ai.example.com", "TLS for it": "proxy"}


async def test_on_a_terminal_it_asks(
    machine: Machine, upstream: ScriptedUpstream, port: int
) -> None:
    given = answers(upstream.base_url, port)
    async with machine.terminal("init") as terminal:
        for question in QUESTIONS:
            await terminal.answer(question, given.get(question, ""))
        assert await terminal.wait() == 0, terminal.shown
    assert CREDENTIAL not in terminal.shown
    credential = machine.home / "provider.key"
    assert credential.read_text() == f"{CREDENTIAL}\n"
    for file in (credential, machine.config_file):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert set(machine.files()) == {"config.toml", "provider.key"}
    assert 'api_key_file = "provider.key"' in machine.config_file.read_text()
    assert (await machine.run("check")).status == 0


@pytest.mark.parametrize("at", range(len(QUESTIONS)), ids=QUESTIONS)
async def test_ctrl_c_at_a_question_leaves_nothing(
    machine: Machine, upstream: ScriptedUpstream, port: int, at: int
) -> None:
    given = answers(upstream.base_url, port)
    async with machine.terminal("init") as terminal:
        for question in QUESTIONS[:at]:
            await terminal.answer(question, given.get(question, ""))
        await terminal.interrupt(QUESTIONS[at])
        assert await terminal.wait() == 1
        assert "Traceback" not in terminal.shown
    assert not machine.files()
    assert not (machine.state / "opuslive").exists()


async def test_wrong_answers_are_asked_for_again(
    machine: Machine, upstream: ScriptedUpstream, port: int
) -> None:
    async with machine.terminal("init", "--no-admin") as terminal:
        await terminal.answer("Provider (", "antropic")
        await terminal.answer("Provider (", upstream.base_url)
        upstream.models = None
        await terminal.answer("The provider's key", "sk-wrong")
        await terminal.see("refuses it (status 401)")
        upstream.models = ("claude-test-1",)
        await terminal.answer("The provider's key", CREDENTIAL)
        await terminal.answer("Host name", "")
        await terminal.answer("Address to listen on", "0.0.0.0")
        await terminal.answer("Address to listen on", "127.0.0.1")
        await terminal.answer("Port to listen on", str(upstream.port))
        await terminal.answer("Port to listen on", str(port))
        await terminal.answer("File for keys")
        await terminal.answer("Whom holders")
        await terminal.answer("Name of the first key", "")
        await terminal.answer("Its limits", "60 of them")
        await terminal.answer("Its limits", ", ".join(LIMITS))
        assert await terminal.wait() == 0, terminal.shown
    assert (await machine.run("keys", "show", "first", "--json")).json()["limits"] == list(LIMITS)


async def test_a_credential_file_from_before_is_not_overwritten(
    machine: Machine, upstream: ScriptedUpstream
) -> None:
    (machine.home / "provider.key").write_text("other")
    async with machine.terminal("init", "--provider", upstream.base_url) as terminal:
        await terminal.see("exists, and nothing is overwritten")
        assert await terminal.wait() == 1
    assert machine.files() == {"provider.key": b"other"}


async def test_what_no_authority_certifies_is_told_at_its_question(
    machine: Machine, upstream: ScriptedUpstream
) -> None:
    given = ("--provider", upstream.base_url, "--no-verify", "--credential-env", "X")
    async with machine.terminal("init", "--no-admin", *given) as terminal:
        await terminal.answer("Host name", "192.0.2.1")
        await terminal.answer("TLS for it", "acme")
        await terminal.see("the host name: names no host that [server.tls] acme can get")
        await terminal.answer("TLS for it", "proxy")
        await terminal.interrupt("Address to listen on")
    async with machine.terminal("init", "--no-admin", *given) as terminal:
        await terminal.answer("Host name", "ai.example.com")
        await terminal.answer("TLS for it", "")
        await terminal.answer("Your mail address", "nobody")
        await terminal.see("must be a mail address")
        await terminal.answer("Your mail address", "you@example.com")
        await terminal.interrupt("Address to listen on")
