"""A running server takes another configuration: by a signal, by a command, over HTTP.

Under load nothing is dropped, nothing that was used is forgotten, and limits hold before and after.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import bcrypt
import pytest
import pytest_asyncio

from tests.support.held_streams import begun, held_until, rest_of
from tests.support.provider import (
    Request,
    Script,
    ScriptedUpstream,
    anthropic_answer,
    anthropic_events,
)
from tests.support.server import CREDENTIAL, Server, Servers, gateway_config
from tests.support.waiting import eventually
from tests.support.wire import Answer, message_body

pytestmark = pytest.mark.asyncio(loop_scope="module")

STREAMS = 60
LOOPS = 12
PASSWORD = "correct horse: battery"
HASH = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
EVENTS = b"".join(anthropic_events("one two three", input_tokens=5, output_tokens=9))
#: Secrets that no output and no line of the log may have.
SECOND_CREDENTIAL = "second-credential-Kq3"
TOKEN = "T0K3N"
SECRETS = (CREDENTIAL, SECOND_CREDENTIAL, TOKEN, HASH, PASSWORD)

Reload = Callable[[Server], Any]


def change(running: Server, upstream_url: str, **sections: Any) -> None:
    """Write another configuration of the same database."""
    config = gateway_config(upstream_url, **sections)
    running.write_config({"storage": {"url": f"sqlite://{running.database}"}} | config)


def change_upstream(running: Server, **members: str) -> None:
    """Write one with these members of the upstream and no others."""
    upstream = {"name": "provider", **members}
    change(running, "", upstreams=[upstream])


def basic(password: str) -> list[tuple[str, str]]:
    return [("Authorization", "Basic " + base64.b64encode(f"admin:{password}".encode()).decode())]


async def by_signal(server: Server) -> None:
    """Returns once the log tells of it."""
    before = server.log.count("onfiguration was reloaded")
    server.signal(signal.SIGHUP)
    await eventually(lambda: server.log.count("onfiguration was reloaded") > before)


async def by_command(server: Server) -> Any:
    return await server.json("reload")


async def by_http(server: Server) -> Any:
    answer = await server.request("POST", "/admin/api/reload", headers=basic(PASSWORD))
    assert answer.status == 200, answer
    return answer.json()


@pytest_asyncio.fixture(loop_scope="module")
async def second() -> AsyncIterator[ScriptedUpstream]:
    """Another provider."""
    second = ScriptedUpstream()
    await second.start()
    yield second
    await second.close()


class Loop:
    """A client that asks again and again, on a connection for each request."""

    def __init__(self, server: Server, key: str) -> None:
        self.answers: list[int] = []
        self._server, self._key = server, key
        self._end = False

    async def run(self) -> None:
        while not self._end:
            answer = await self._server.messages(self._key, message_body())
            self.answers.append(answer.status)

    def end(self) -> None:
        self._end = True


@pytest.mark.parametrize("reload", [by_signal, by_command, by_http])
async def test_under_load_nothing_is_dropped_and_nothing_forgotten(
    reload: Reload, servers: Servers, upstream: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    """Streams that run end where they began; requests that come go by the new configuration."""
    server = await servers.start(upstream.base_url, admin={"password_hash": HASH})
    finish = asyncio.Event()

    def answering(request: Request) -> Script:
        if b'"stream": true' in request.body:
            return held_until(finish)
        return anthropic_answer(json.loads(request.body))

    upstream.always(answering)
    second.always(answering)
    streaming = await server.admin("POST", "keys", name="streams", limits=["10k requests/day"])
    friend = await server.admin("POST", "keys", name="friend", group="friends")
    looping = [await server.holder() for _ in range(LOOPS)]
    # The friend's group has no limits yet, and has used something.
    for _ in range(3):
        assert (await server.messages(friend["key"], message_body())).status == 200
    wires = [await begun(server, streaming["key"]) for _ in range(STREAMS)]
    loops = [Loop(server, key) for key in looping]
    tasks = [asyncio.create_task(loop.run()) for loop in loops]
    await eventually(lambda: all(loop.answers for loop in loops))

    change(
        server,
        second.base_url,
        upstream={"api_key": SECOND_CREDENTIAL},
        admin={"password_hash": HASH, "contact": "new@example.com"},
        limits={"groups": {"friends": ["5 requests/day"]}, "gateway": ["9M requests/day"]},
        alerts={"webhook": f"{second.base_url}/{TOKEN}"},
        aliases={"short": "claude-test-1"},
        log={"level": "info"},
    )
    reloaded = await reload(server)
    sent = len(upstream.inferences)
    reached = len(second.inferences)
    asked = {loop: len(loop.answers) for loop in loops}
    await eventually(lambda: all(len(loop.answers) > n + 1 for loop, n in asked.items()))
    for loop in loops:
        loop.end()
    await asyncio.gather(*tasks)
    assert all(set(loop.answers) == {200} for loop in loops)
    # Those that were under way in that moment, at most.
    assert len(upstream.inferences) <= sent + LOOPS
    assert len(second.inferences) > reached
    assert second.inferences[-1].header("x-api-key") == SECOND_CREDENTIAL

    # What was used before counts in the limit that is new.
    body = message_body(model="short")
    statuses = [(await server.messages(friend["key"], body)).status for _ in range(3)]
    assert statuses == [200, 200, 429]
    refused = await server.messages(friend["key"], body)
    assert "new@example.com" in refused.message

    finish.set()
    for wire in wires:
        assert (await rest_of(wire)).endswith(EVENTS[-40:])
        wire.close()
    assert len(await server.records(streaming["key"], STREAMS)) == STREAMS
    usage = (await server.request("GET", "/v1/usage", key=streaming["key"])).json()
    (limit,) = usage["limits"]
    assert (limit["used"], limit["reserved"]) == (STREAMS, 0)
    # The pool of the provider that is gone closes when its last answer has ended.
    await eventually(lambda: upstream.open_connections == 0)

    if reloaded is not None:
        assert reloaded["needs_restart"] == []
        assert set(reloaded["changed"]) == {
            *("upstreams.provider.base_url", "upstreams.provider.api_key", "admin.contact"),
            *("limits.groups.friends", "limits.gateway", "alerts.webhook", "aliases.short"),
            *("log.level", "log.access"),
        }
    told = json.dumps(reloaded) + server.out + server.log
    assert not [secret for secret in SECRETS if secret in told]
    status = await server.admin("GET", "status")
    assert status["configuration"]["file"] == str(server.config_file)
    assert status["configuration"]["since"] >= status["started_at"]
    assert await server.stop() == 0


class TestABadFile:
    """The sentence is that of the start; what was in force stays."""

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("[server]\nprt = 1\n", "server: no such key 'prt'; did you mean 'port'?"),
            ("[[upstreams]", "not valid TOML"),
            (None, "No such file or directory"),
        ],
        ids=["unknown key", "not TOML", "gone"],
    )
    async def test_is_told_whole_and_the_old_one_kept(
        self, servers: Servers, upstream: ScriptedUpstream, text: str | None, sentence: str
    ) -> None:
        server = await servers.start(upstream.base_url, admin={"password_hash": HASH})
        key = await server.holder()
        before = await server.admin("GET", "status")
        good = server.config_file.read_text()
        if text is None:
            server.config_file.unlink()
        else:
            server.config_file.write_text(good + text)
        refused = await server.request("POST", "/admin/api/reload", headers=basic(PASSWORD))
        assert refused.status == 400
        assert sentence in refused.json()["detail"]
        server.signal(signal.SIGHUP)
        await eventually(lambda: server.log.count("stays in force: ") == 2)
        assert server.log.count(refused.json()["detail"]) == 2
        command = await server.run("reload")
        assert sentence in command.complaint
        assert (await server.messages(key, message_body())).status == 200
        after = await server.admin("GET", "status")
        assert after["configuration"] == before["configuration"]
        server.config_file.write_text(good)
        server.config_file.chmod(0o600)
        assert (await server.json("reload"))["changed"] == []

    @pytest.mark.parametrize("which", ["config.toml", "provider.key"])
    async def test_a_pipe_in_its_place_is_not_waited_for(
        self, servers: Servers, upstream: ScriptedUpstream, which: str
    ) -> None:
        """Nothing else could be reloaded then, and the server would not end."""
        server = servers.make(None)
        key = server.folder / "provider.key"
        key.write_text(CREDENTIAL)
        key.chmod(0o600)
        change_upstream(server, base_url=upstream.base_url, api_key_file=key.name)
        await server.start()
        path = server.folder / which
        kept = path.read_text()
        path.unlink()
        os.mkfifo(path, 0o600)
        server.signal(signal.SIGHUP)
        await server.logged(f"stays in force: .*{which}")
        path.unlink()
        path.write_text(kept)
        path.chmod(0o600)
        assert (await server.json("reload"))["changed"] == []
        assert await server.stop() == 0

    async def test_a_missing_credential_keeps_the_old_one(
        self, servers: Servers, upstream: ScriptedUpstream
    ) -> None:
        server = await servers.start(upstream.base_url)
        key = await server.holder()
        change_upstream(server, base_url=upstream.base_url, api_key_file="missing.key")
        outcome = await server.run("reload")
        assert "The credential of the upstream 'provider' is missing" in outcome.complaint
        assert (await server.messages(key, message_body())).status == 200
        assert upstream.inferences[-1].header("x-api-key") == CREDENTIAL


async def test_what_needs_a_restart_is_named_and_stays(
    servers: Servers, upstream: ScriptedUpstream
) -> None:
    """The server's options stay in force, whatever the file says."""
    server = await servers.start(upstream.base_url, server={"port": 8080})
    key = await server.holder()
    change(server, upstream.base_url, server={"port": 9090, "max_body": "1KB", "drain": "1s"})
    reloaded = await server.json("reload")
    assert (reloaded["changed"], reloaded["needs_restart"]) == (
        ["server.drain"],
        # "--port 0" says which port, not the file.
        ["server.max_body"],
    )
    large = message_body(system="x" * 2000)
    assert (await server.messages(key, large)).status == 200
    shown = await server.run("reload")
    assert (shown.status, shown.err) == (0, "")
    assert shown.out.splitlines()[:2] == ["Changed: nothing", "Needs a restart: server.max_body"]
    status = await server.admin("GET", "status")
    assert status["configuration"]["needs_restart"] == ["server.max_body"]
    # A moved database: the command finds no server there, and says why.
    other = server.folder / "state" / "other.db"
    server.config_file.write_text(
        server.config_file.read_text().replace(str(server.database), str(other))
    )
    assert "No server runs" in (await server.run("reload")).complaint
    server.signal(signal.SIGHUP)
    await server.logged("needs a restart: server.max_body, storage.url")
    assert (await server.messages(key, message_body())).status == 200
    assert not other.exists()


async def test_a_credential_file_that_was_replaced_is_read(
    servers: Servers, upstream: ScriptedUpstream
) -> None:
    server = servers.make(None)
    path = server.folder / "provider.key"

    def write(credential: str) -> None:
        new = path.with_suffix(".new")
        new.write_text(credential + "\n")
        new.chmod(0o600)
        new.replace(path)

    write(CREDENTIAL)
    change_upstream(server, base_url=upstream.base_url, api_key_file=path.name)
    await server.start()
    key = await server.holder()
    used = []
    for credential in (CREDENTIAL, SECOND_CREDENTIAL):
        write(credential)
        used.append((await server.json("reload"))["changed"])
        assert (await server.messages(key, message_body())).status == 200
        assert upstream.inferences[-1].header("x-api-key") == credential
    assert used == [[], ["upstreams.provider.api_key_file"]]
    assert SECOND_CREDENTIAL not in server.log


class TestThePassword:
    async def status(self, server: Server, password: str) -> int:
        return (await server.request("GET", "/admin", headers=basic(password))).status

    async def set(self, server: Server, password: str) -> str:
        outcome = await server.run("admin", "password", "--password-stdin", input_=password)
        assert (outcome.status, outcome.err) == (0, "")
        return outcome.out

    async def test_that_is_set_opens_a_running_server_at_once(
        self, servers: Servers, upstream: ScriptedUpstream
    ) -> None:
        server = await servers.start(upstream.base_url)
        assert await self.status(server, PASSWORD) == 404
        assert "The running server uses it from now on." in await self.set(server, PASSWORD)
        assert await self.status(server, PASSWORD) == 200
        await self.set(server, "another password")
        assert [await self.status(server, each) for each in (PASSWORD, "another password")] == [
            401,
            200,
        ]

    async def test_is_kept_where_the_server_refuses_the_rest_of_the_file(
        self, servers: Servers, upstream: ScriptedUpstream
    ) -> None:
        server = await servers.start(upstream.base_url)
        await self.set(server, PASSWORD)
        change_upstream(server, base_url=upstream.base_url, api_key_env="MISSING")
        said = await self.set(server, "another password")
        assert "keeps the password from before: The credential" in said
        assert await self.status(server, PASSWORD) == 200


async def test_without_a_server_a_reload_says_so(servers: Servers) -> None:
    server = servers.make("http://127.0.0.1:9")
    outcome = await server.run("reload")
    assert "No server runs" in outcome.complaint
    assert not server.database.exists()


async def test_the_sandbox_keeps_its_provider(servers: Servers) -> None:
    server = servers.make(None)
    await server.start("--sandbox")
    key = await server.holder()
    text = server.config_file.read_text()
    server.config_file.write_text(text + '\n[aliases]\nshort = "claude-sandbox"\n')
    assert (await server.json("reload"))["changed"] == ["aliases.short"]
    answer: Answer = await server.messages(key, message_body(model="short"))
    assert answer.status == 200


async def test_a_file_that_comes_later_is_taken_and_then_kept(
    servers: Servers, upstream: ScriptedUpstream
) -> None:
    """A server that found no file looks again; one that has its file looks at no other."""
    server = servers.make(None)
    config = server.config_file.read_text()
    server.config_file.unlink()
    later = server.folder / "xdg" / "opuslive" / "config.toml"
    bare = server.command()
    del bare[-2:]
    server.command = lambda *words: [*bare, *words]  # type: ignore[method-assign]
    await server.start("--sandbox")
    later.parent.mkdir(mode=0o700)
    later.write_text(config + '[aliases]\nshort = "claude-sandbox"\n')
    later.chmod(0o600)
    server.signal(signal.SIGHUP)
    await server.logged("aliases.short")
    nearer = server.folder / "home" / "config.toml"
    nearer.write_text('[aliases]\nother = "claude-sandbox"\n')
    before = server.log.count("was reloaded")
    server.signal(signal.SIGHUP)
    await eventually(lambda: server.log.count("was reloaded") > before)
    assert "aliases.other" not in server.log
