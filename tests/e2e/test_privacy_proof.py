"""Every route and every command, with canaries in all that a client, a provider or an
administrator's slip may say; then every file, the process and its memory are searched.

The routes and commands are those that the program has: a new one fails here until it is driven.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import bcrypt
import click
import pytest
from aiohttp import web

from opuslive.bootstrap import open_gateway
from opuslive.cli.root import main
from opuslive.config.files import Settings
from opuslive.config.sections import Config
from opuslive.web.app import control_app, public_app
from tests.support.canaries import CANARY, SOURCE, Flock, ask
from tests.support.commands import subcommands
from tests.support.provider import (
    CLOSE,
    STREAM_HEAD,
    ScriptedUpstream,
    anthropic_events,
    anthropic_message,
    chunk,
    json_answer,
    stream_answer,
)
from tests.support.scrapes import TOKEN, VARIABLE, scrape
from tests.support.server import CREDENTIAL, Outcome, Server, Servers
from tests.support.wire import message_body, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")

PASSWORD = "the password of the administrator"
#: Rounds between two looks at the memory, and what may be more of in the second: what was there
#: last stays until something else takes its place. One kept for each round would be 180.
FEW_ROUNDS, MANY_ROUNDS, SLACK = 20, 200, 60

#: By method and path (``*``: any other method). What is sent besides goes with each.
TARGETS: dict[tuple[str, str], str] = {
    ("GET", "/"): "/",
    ("HEAD", "/api/hello"): "/api/hello",
    ("GET", "/healthz"): "/healthz",
    ("GET", "/readyz"): "/readyz",
    ("GET", "/metrics"): "/metrics",
    ("GET", "/privacy"): "/privacy",
    ("GET", "/usage"): "/usage",
    ("POST", "/usage"): "/usage",
    ("POST", "/usage/export"): "/usage/export",
    ("POST", "/usage/replace"): "/usage/replace",
    ("POST", "/usage/cut"): "/usage/cut",
    ("GET", "/invite"): "/invite",
    ("POST", "/invite"): "/invite",
    ("GET", "/static/{name}"): "/static/{bird}",
    ("GET", "/api/oauth/usage"): "/api/oauth/usage",
    ("*", "/managed/settings"): "/managed/settings",
    ("GET", "/v1/models"): "/v1/models",
    ("GET", "/v1/models/{id}"): "/v1/models/{bird}",
    ("GET", "/v1/usage"): "/v1/usage",
    ("GET", "/v1/usage/export"): "/v1/usage/export",
    ("POST", "/v1/key/rotate"): "/v1/key/rotate",
    ("POST", "/v1/key/cut"): "/v1/key/cut",
    ("POST", "/v1/messages"): "/v1/messages",
    ("POST", "/v1/messages/count_tokens"): "/v1/messages/count_tokens",
    ("POST", "/v1/chat/completions"): "/v1/chat/completions",
    ("POST", "/v1/completions"): "/v1/completions",
    ("POST", "/v1/responses"): "/v1/responses",
    ("POST", "/v1/embeddings"): "/v1/embeddings",
    ("GET", "/admin/api/keys"): "/admin/api/keys",
    ("POST", "/admin/api/keys"): "/admin/api/keys",
    ("GET", "/admin/api/keys/{id}"): "/admin/api/keys/{bird}",
    ("PATCH", "/admin/api/keys/{id}"): "/admin/api/keys/{bird}",
    ("DELETE", "/admin/api/keys/{id}"): "/admin/api/keys/{bird}",
    ("POST", "/admin/api/keys/{id}/rotate"): "/admin/api/keys/{bird}/rotate",
    ("PATCH", "/admin/api/keys"): "/admin/api/keys",
    ("POST", "/admin/api/rotations"): "/admin/api/rotations",
    ("GET", "/admin/api/groups"): "/admin/api/groups",
    ("GET", "/admin/api/groups/{name}"): "/admin/api/groups/{bird}",
    ("POST", "/admin/api/keys/{id}/invitation"): "/admin/api/keys/{bird}/invitation",
    ("DELETE", "/admin/api/keys/{id}/invitation"): "/admin/api/keys/{bird}/invitation",
    ("GET", "/admin/api/usage"): "/admin/api/usage",
    ("GET", "/admin/api/keys/{id}/models"): "/admin/api/keys/{bird}/models",
    ("GET", "/admin/api/records"): "/admin/api/records?keys={bird}",
    ("GET", "/admin/api/trouble"): "/admin/api/trouble",
    ("GET", "/admin/api/status"): "/admin/api/status",
    ("GET", "/admin/api/activity"): "/admin/api/activity",
    # Over the control socket alone.
    **{
        ("POST", f"/admin/api/database/{work}"): f"/admin/api/database/{work}"
        for work in ("backup", "check", "compact")
    },
    ("GET", "/admin/api/check"): "/admin/api/check",
    ("POST", "/admin/api/reload"): "/admin/api/reload",
    ("POST", "/admin/api/alerts/test"): "/admin/api/alerts/test",
    ("GET", "/admin/api/openapi.json"): "/admin/api/openapi.json",
    ("*", "/admin/api{rest}"): "/admin/api/{bird}",
    ("GET", "/admin"): "/admin",
    ("GET", "/admin/"): "/admin/",
    ("GET", "/admin/live"): "/admin/live",
    ("GET", "/admin/keys"): "/admin/keys",
    ("GET", "/admin/keys/new"): "/admin/keys/new",
    ("POST", "/admin/keys/new"): "/admin/keys/new",
    ("POST", "/admin/keys/new/invite"): "/admin/keys/new/invite",
    ("POST", "/admin/limits"): "/admin/limits",
    ("POST", "/admin/reload"): "/admin/reload",
    ("GET", "/admin/keys/{id}"): "/admin/keys/{bird}",
    **{
        (method, f"/admin/keys/{{id}}/{page}"): f"/admin/keys/{{bird}}/{page}"
        for page in ("change", "raise", "rotate", "invite", "delete")
        for method in ("GET", "POST")
    },
    ("POST", "/admin/keys/{id}/invite/revoke"): "/admin/keys/{bird}/invite/revoke",
    ("POST", "/admin/keys/{id}/disable"): "/admin/keys/{bird}/disable",
    ("POST", "/admin/keys/{id}/enable"): "/admin/keys/{bird}/enable",
    ("POST", "/admin/keys/{id}/lower"): "/admin/keys/{bird}/lower",
    **{
        ("POST", f"/admin/many/{what}"): f"/admin/many/{what}"
        for what in ("change", "disable", "enable", "rotate")
    },
    ("GET", "/admin/groups"): "/admin/groups",
    ("GET", "/admin/groups/{name}"): "/admin/groups/{bird}",
    ("*", "/admin{rest}"): "/admin/{bird}",
    ("*", "/{path}"): "/{bird}/{bird}",
}
TARGETS |= {
    ("HEAD", path): target
    for (method, path), target in TARGETS.items()
    # The administrator's API has a document that names its methods.
    if method == "GET" and not path.startswith("/admin/api")
}


#: What a command is called with; ``{bird}`` is where an administrator may slip.
COMMANDS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("serve",): ("--host", "{bird}.test"),
    ("keys", "create"): ("a name", "--limit", "{bird}"),
    ("keys", "list"): ("--json",),
    ("keys", "show"): ("{bird}",),
    ("keys", "update"): ("{bird}", "--limit", "1 concurrent"),
    ("keys", "disable"): ("{bird}",),
    ("keys", "enable"): ("{bird}",),
    ("keys", "rotate"): ("{bird}",),
    ("keys", "invite"): ("{bird}",),
    ("keys", "delete"): ("{bird}", "--yes"),
    ("groups", "list"): ("--json",),
    ("groups", "show"): ("{bird}",),
    ("usage",): ("{bird}", "--since", "7d"),
    ("export",): ("{bird}",),
    ("admin", "password"): ("--password-stdin",),
    ("reload",): ("--json",),
    ("alerts", "test"): ("--json",),
    ("init",): ("--yes", "--credential-env", "{bird}"),
    ("check",): ("--json",),
    ("database", "backup"): ("nowhere/{bird}",),
    ("database", "restore"): ("nowhere/{bird}", "--yes"),
    ("database", "check"): ("--json",),
    ("database", "compact"): ("--json",),
    ("systemd",): ("--socket",),
    ("top",): ("--json",),
    ("completion",): ("bash",),
}


async def routes_of_the_program(folder: Path) -> set[tuple[str, str]]:
    """Methods and paths. What a path answers to a method that it does not take is left out."""
    gateway = await open_gateway(
        Settings(Config(), folder), f"sqlite://{folder / 'routes.db'}", environ={}
    )
    found: set[tuple[str, str]] = set()
    for app in (public_app(gateway), control_app(gateway)):
        for route in app.router.routes():
            assert isinstance(route.resource, web.Resource)
            found.add((route.method, route.resource.canonical))
    await gateway.close()
    named = {path for method, path in found if method != "*"}
    return {(method, path) for method, path in found if method != "*" or path not in named}


def commands_of(group: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if not isinstance(group, click.Group):
        yield path
        return
    for name, command in subcommands(group).items():
        yield from commands_of(command, (*path, name))


class Driver:
    """Sends requests with canaries wherever a client may put one."""

    def __init__(self, server: Server, key: str, bird: Flock) -> None:
        self._server = server
        self._key = key
        self.bird = bird

    def headers(self) -> list[tuple[str, str]]:
        bird = self.bird
        return [
            ("User-Agent", bird("the user agent")),
            *bird.identity(),
            ("Anthropic-Beta", bird("a header's value")),
            (f"X-{bird('a header name')}", "1"),
            ("If-None-Match", bird("a tag")),
        ]

    def message(self, model: str = "claude-test-1", *, stream: bool = False) -> bytes:
        """A body with all kinds of content."""
        bird = self.bird
        image = base64.b64encode(bird("an image").encode() * 20).decode()
        content: list[dict[str, Any]] = [
            {"type": "text", "text": bird("a prompt")},
            {"type": "image", "source": {"type": "base64", "data": image + bird("base 64")}},
            {"type": "tool_result", "tool_use_id": bird("a tool's id"), "content": bird("result")},
            {"type": "document", "title": bird("a title"), "source": {"url": bird("a URL")}},
        ]
        call = {"type": "tool_use", "name": bird("a tool"), "input": {bird("a name"): bird("v")}}
        return message_body(
            model,
            stream=stream,
            system=bird("a system prompt"),
            messages=[{"role": "user", "content": content}, {"role": "x", "content": [call]}],
            metadata={"user_id": bird("a user's id")},
            stop_sequences=[bird("a stop sequence")],
            tools=[{"name": bird("a tool's name"), "description": bird("its description")}],
        )

    def body(self, method: str, path: str) -> tuple[bytes | None, list[tuple[str, str]]]:
        """A body for the path, and headers that go with it."""
        bird = self.bird
        if method not in ("POST", "PATCH"):
            return None, []
        if path.startswith("/v1/"):
            return self.message(), []
        if path.startswith("/admin/api"):
            return json.dumps({bird("a member"): bird("its value")}).encode(), []
        form = f"key={bird('a form')}&{bird('a field')}={bird('its text')}".encode()
        return form, [("Content-Type", "application/x-www-form-urlencoded")]

    def requests(self, method: str, path: str, target: str) -> Iterator[bytes]:
        """The same request by everyone who may send one: with a key, without, with a wrong one,
        as the administrator, and as one who is not."""
        bird = self.bird
        wrong = [bird("a wrong key"), self._key[:-6] + "000000", bird("a long key") * 20]
        basic = [f"admin:{PASSWORD}", f"{bird('a user')}:{bird('a password')}"]
        who: list[list[tuple[str, str]]] = [
            [("x-api-key", self._key)],
            [],
            *([("Authorization", f"Bearer {key}")] for key in wrong),
            *(
                [("Authorization", "Basic " + base64.b64encode(text.encode()).decode())]
                for text in basic
            ),
        ]
        for credentials in who:
            body, more = self.body(method, path)
            filled = re.sub(r"\{bird\}", lambda _: bird(f"the path of {path}"), target)
            query = f"?{bird('a name in the query')}={quote(bird('the query'))}&since={bird('x')}"
            # Some paths refuse parameters that they do not know, and some serve all the same.
            for sent in (query, "") if path.startswith(("/v1/usage", "/admin/api")) else (query,):
                yield request_bytes(
                    "BREW" if method == "*" else method,
                    filled + sent,
                    headers=[*credentials, *self.headers(), *more],
                    body=body,
                )

    async def send(self, request: bytes) -> int:
        async with await self._server.connect(SOURCE) as wire:
            await wire.send(request)
            return (await wire.answer(head_only=request.startswith(b"HEAD"))).status

    async def inference(self, body: bytes) -> int:
        return await self.send(
            request_bytes(
                "POST",
                f"/v1/messages?{self.bird('the query')}",
                key=self._key,
                headers=self.headers(),
                body=body,
            )
        )


def upstream_answers(bird: Flock) -> list[Any]:
    """Whatever a provider may say, with the statuses that clients get for it."""
    error = {"error": {"type": bird("an error's type"), "message": bird("an error")}}
    billing = {"error": {"type": "billing_error", "message": f"credit {bird('credit')}"}}
    return [
        (200, json_answer(anthropic_message(bird("an answer")) | {"id": bird("an id")})),
        (200, stream_answer(anthropic_events(bird("a stream")))),
        (200, json_answer({"model": bird("a model"), "usage": {bird("u"): bird("v")}})),
        (502, json_answer(error, status=401, headers=[("x-note", bird("a header"))])),
        (502, json_answer(billing, status=402)),
        (429, json_answer(error, status=429, headers=[("retry-after", bird("retry"))])),
        (400, json_answer(error, status=400)),
        (529, json_answer(error, status=529)),
        (502, json_answer({}, status=302, headers=[("location", f"http://{bird('to')}/")])),
        (502, [f"{bird('not HTTP')}\r\n\r\n".encode()]),
        (502, [f"HTTP/1.1 200 {bird('phrase')}\r\n{bird('no colon')}\r\n\r\n".encode()]),
        (502, [CLOSE]),
    ]


def searched(server: Server) -> dict[str, bytes]:
    """All that the program has written anywhere, and what the system tells of it."""
    kept = {str(path): content for path, content in server.files().items()}
    kept |= {"standard output": server.out.encode(), "standard error": server.log.encode()}
    process = server.process
    if process is not None:
        proc = Path(f"/proc/{process.pid}")
        kept["its command line"] = (proc / "cmdline").read_bytes()
        try:
            kept["its environment"] = (proc / "environ").read_bytes()
            links = [str(path.readlink()) for path in (proc / "fd").iterdir()]
        except PermissionError:
            return kept  # Undumpable: what we may not read nobody else of this user may.
        # A temporary file that was unlinked would be found by its descriptor alone.
        files = {name for name in links if name.startswith("/") and not name.startswith("/dev/")}
        beside = {str(server.database) + end for end in ("", "-wal", "-shm", ".lock")}
        assert files <= beside, files - beside
    return kept


def memory_of(pid: int) -> bytes | None:
    """All that the process may write to; None where nobody may read it."""
    pieces = []
    try:
        with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                span, mode, *_ = line.split()
                if not mode.startswith("rw"):
                    continue
                start, end = (int(text, 16) for text in span.split("-"))
                try:
                    memory.seek(start)
                    pieces.append(memory.read(end - start))
                except (OSError, OverflowError):
                    continue  # not memory of its own, such as a device's
    except PermissionError:
        return None
    return b"".join(pieces)


def canaries_in(memory: bytes) -> set[bytes]:
    return set(re.findall(CANARY.encode() + rb"\d{4,}x", memory))


@pytest.mark.parametrize("log_format", [pytest.param("text", marks=pytest.mark.long), "json"])
async def test_nothing_that_is_said_is_kept_in_files_logs_or_output(
    provider: ScriptedUpstream, upstream: ScriptedUpstream, servers: Servers, log_format: str
) -> None:
    server = servers.make(
        provider.base_url,
        log={"level": "debug", "format": log_format, "access": True},
        admin={"password_hash": bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()},
        metrics={"token_env": VARIABLE, "keys": True},
    )
    server.environ[VARIABLE] = TOKEN
    await server.start()
    key = await server.holder()
    bird = Flock()
    driver = Driver(server, key, bird)

    assert set(TARGETS) == await routes_of_the_program(server.folder / "tmp")
    statuses: dict[tuple[str, str], set[int]] = {}
    for (method, path), target in TARGETS.items():
        for request in driver.requests(method, path, target):
            statuses.setdefault((method, path), set()).add(await driver.send(request))
    works = (
        ("GET", "/"),
        ("GET", "/admin/api/status"),
        ("POST", "/v1/messages"),
        ("GET", "/metrics"),
    )
    for served in works:
        assert 200 in statuses[served], statuses
    assert all(status < 500 for found in statuses.values() for status in found), statuses

    for status, script in upstream_answers(bird):
        upstream.will(script)
        assert await driver.inference(driver.message()) == status
    for broken in (1, 4, 6):  # The provider breaks off, before and in the middle of the text.
        events = anthropic_events(f"{bird('a broken stream')} two")
        upstream.will([STREAM_HEAD, *map(chunk, events[:broken]), CLOSE])
        async with await server.connect(SOURCE) as wire:
            body = driver.message(stream=True)
            await wire.send(request_bytes("POST", "/v1/messages", key=key, body=body))
            assert (await wire.ending())[0] == "reset"
    for model in (f"claude-{bird('a model')}", bird("a model")):
        assert await driver.inference(driver.message(model)) in (200, 404)
    big = driver.message() + bird("an upload").encode() * 40_000
    for cut in (20, 40_000, 400_000):
        upload = request_bytes("POST", "/v1/messages", key=key, headers=driver.headers(), body=big)
        await ask(await server.connect(SOURCE), upload[: len(upload) - cut])

    assert set(COMMANDS) == set(commands_of(main))

    async def command(name: tuple[str, ...], arguments: tuple[str, ...]) -> Outcome:
        filled = [argument.format(bird=bird("an argument")) for argument in arguments]
        secret = bird("a short password")[:7] + "\n"
        return await server.run(*name, *filled, input_=secret, OPUSLIVE_X=bird("a variable"))

    outcomes = await asyncio.gather(*(command(*item) for item in COMMANDS.items()))
    assert {outcome.status for outcome in outcomes} == {0, 1}
    assert not any("Traceback" in outcome.err for outcome in outcomes)

    kept = {f"{name} while running": content for name, content in searched(server).items()}
    kept["the metrics"] = (await scrape(server)).text.encode()
    assert await server.stop() == 0
    kept |= searched(server)
    assert any(name.endswith("opuslive.db-wal while running") for name in kept)
    assert CREDENTIAL.encode() in b"".join(kept.values())  # in the configuration: it is searched
    secrets = {
        "the secret of a key": key.rpartition("-")[2],
        "the password": PASSWORD,
        "where it came from": SOURCE,
    }
    for name, content in kept.items():
        assert bird.caught(content) == [], name
        for what, secret in secrets.items():
            assert secret.encode() not in content, (what, name)
        if "config.toml" not in name:
            assert CREDENTIAL.encode() not in content, name
    assert "Traceback" not in server.log
    assert "defect" not in server.log

    # Nor does it reach the provider who somebody is, or where; what a client says to it does.
    reached = b"".join(str(received).encode() for received in upstream.inferences)
    assert bird.identities_in(reached) == []
    assert {"a prompt", "the user agent", "a header's value"} <= set(bird.caught(reached))


async def test_no_code_and_no_secret_that_holders_make_is_kept(
    provider: ScriptedUpstream, servers: Servers
) -> None:
    server = await servers.start(
        provider.base_url,
        server={"public_url": "https://ai.example.com"},
        log={"level": "debug", "format": "json", "access": True},
    )
    form = [("Content-Type", "application/x-www-form-urlencoded")]
    json_form = [("Content-Type", "application/json")]
    secrets: dict[str, str] = {}

    async def invited(name: str) -> str:
        outcome = await server.run("keys", "create", name, "--invite", "--json")
        code: str = json.loads(outcome.out)["link"].rpartition("#")[2]
        secrets[f"the code of {name}"] = code
        return code

    def secret(what: str, credential: str) -> str:
        secrets[what] = credential.rpartition("-")[2]
        return credential

    await invited("the one that is never used")
    await server.run("keys", "invite", "the one that is never used", "--revoke")
    code = await invited("the one that a program uses")
    answer = await server.request(
        "POST", "/invite", headers=json_form, body=json.dumps({"code": code}).encode()
    )
    first = secret("what the program got", answer.json()["key"])
    code = await invited("the one that a page uses")
    answer = await server.request("POST", "/invite", headers=form, body=f"code={code}".encode())
    shown = re.search(r"sk-ant-ol-\w{8}-\w{40}", answer.body.decode())
    assert shown is not None
    second = secret("what the page showed", shown[0])
    answer = await server.request("POST", "/v1/key/rotate", key=first)
    third = secret("what replaced it", answer.json()["key"])
    for key, status in ((first, 401), (second, 200), (third, 200)):
        assert (await server.messages(key, message_body())).status == status
    kept = {f"{name} while running": content for name, content in searched(server).items()}
    assert await server.stop() == 0
    kept |= searched(server)
    for name, content in kept.items():
        for what, text in secrets.items():
            assert text.encode() not in content, (what, name)


@pytest.mark.long
async def test_memory_keeps_no_more_of_many_requests_than_of_few(
    provider: ScriptedUpstream, upstream: ScriptedUpstream, servers: Servers
) -> None:
    """What is left of the last ones is overwritten by the next ones: nothing piles up."""
    server = await servers.start(provider.base_url)
    key = await server.holder()
    bird = Flock()
    driver = Driver(server, key, bird)
    plain = request_bytes("POST", "/v1/messages", key=key, body=message_body())

    async def left_after(rounds: int) -> list[str] | None:
        for _ in range(rounds):
            upstream.will(stream_answer(anthropic_events(bird("an answer"))))
            body = message_body(
                f"claude-{bird('a model')}",
                messages=[{"role": "user", "content": bird("a prompt")}],
            )
            request = request_bytes(
                "POST",
                f"/v1/messages?{bird('the query')}",
                key=key,
                headers=[("User-Agent", bird("the user agent")), ("X-A", bird("a header"))],
                body=body,
            )
            assert await driver.send(request) == 200
            wrong = request_bytes("GET", f"/{bird('a path')}", key=bird("a wrong key"))
            assert await driver.send(wrong) == 404
        for _ in range(FEW_ROUNDS):
            assert await driver.send(plain) == 200
        assert server.process is not None
        memory = memory_of(server.process.pid)
        return None if memory is None else [bird.place(c.decode()) for c in canaries_in(memory)]

    few, many = await left_after(FEW_ROUNDS), await left_after(MANY_ROUNDS)
    if few is None or many is None:
        pytest.skip("only root may read the memory of the gateway")
    counts = f"{FEW_ROUNDS} rounds: {Counter(few)}; {MANY_ROUNDS} more: {Counter(many)}"
    print(counts)
    assert len(many) <= len(few) + SLACK, counts
