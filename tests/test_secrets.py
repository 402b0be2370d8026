"""No object shows a secret that it holds, and no message does; nothing of them is left behind."""

from __future__ import annotations

import asyncio
import functools
import os
import resource
import subprocess
import sys
import traceback
import types
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest
from aiohttp.http import RawRequestMessage

from opuslive.administration.keys import KeyChanges
from opuslive.administration.password import hash_password
from opuslive.bootstrap import Gateway, open_gateway
from opuslive.config.files import Settings
from opuslive.config.sections import parse_config, parse_config_text
from opuslive.errors import UsageError
from opuslive.gateway.upstreams.wire import AnswerHead, UpstreamRequest
from opuslive.web.http.listening import open_sockets
from opuslive.web.server import WebServer
from tests.support.provider import STALL, STREAM_HEAD, ScriptedUpstream, anthropic_events, chunk
from tests.support.scrapes import TOKEN, VARIABLE
from tests.support.waiting import soon
from tests.support.wire import Wire, message_body, request_bytes

CREDENTIAL = "canary-provider-credential"
HASH = hash_password("canary password")
WEBHOOK = "https://hooks.example.com/canary-webhook"
PROMPT = "canary-prompt"

#: Whose text is their content, so that whoever holds one decides whether it is shown.
CONTAINERS = (str, bytes, bytearray, memoryview, int, float, tuple, list, set, frozenset, Mapping)
#: What is not walked into: all of the interpreter hangs together by these.
OUTSIDE = (type, types.ModuleType, types.BuiltinFunctionType, types.CodeType)


def parts(thing: object) -> Iterator[object]:
    """What an object holds: attributes, members, what a callback is bound to or encloses."""
    if isinstance(thing, Mapping):
        yield from thing.keys()
        yield from thing.values()
    elif isinstance(thing, (tuple, list, set, frozenset, deque)):
        yield from thing
    elif isinstance(thing, types.MethodType):
        yield thing.__self__
    elif isinstance(thing, functools.partial):
        yield from (thing.func, *thing.args, *thing.keywords.values())
    elif isinstance(thing, types.FunctionType):
        for cell in thing.__closure__ or ():
            yield cell.cell_contents
    elif isinstance(thing, RawRequestMessage):
        yield thing.raw_headers
    elif isinstance(thing, types.CoroutineType):
        if thing.cr_frame is not None:
            yield from thing.cr_frame.f_locals.values()
        yield thing.cr_await
    else:
        yield from getattr(thing, "__dict__", {}).values()
        for kind in type(thing).__mro__:
            for name in kind.__dict__.get("__slots__", ()):
                private = name.startswith("__") and not name.endswith("__")
                slot = f"_{kind.__name__.lstrip('_')}{name}" if private else name
                if hasattr(thing, slot):
                    yield getattr(thing, slot)
        if isinstance(thing, asyncio.Task):
            yield thing.get_coro()


def _foreign(thing: object) -> bool:
    """The provider of the tests; and a request as aiohttp has it, which nothing of ours shows."""
    return type(thing).__module__.partition(".")[0] in ("tests", "aiohttp")


def all_objects(*roots: object) -> list[object]:
    """Everything that can be reached from the roots."""
    found: dict[int, object] = {}
    waiting = list(roots)
    while waiting:
        thing = waiting.pop()
        if id(thing) in found or isinstance(thing, OUTSIDE):
            continue
        found[id(thing)] = thing
        waiting += parts(thing)
    return list(found.values())


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    upstream = ScriptedUpstream()
    await upstream.start()
    yield upstream
    await upstream.close()


@pytest.fixture
async def gateway(upstream: ScriptedUpstream, tmp_path: Path) -> AsyncIterator[Gateway]:
    config = parse_config(
        {
            "admin": {"password_hash": HASH},
            "alerts": {"webhook": WEBHOOK},
            "metrics": {"token_env": VARIABLE},
            "upstreams": [{"name": "p", "base_url": upstream.base_url, "api_key": CREDENTIAL}],
        },
        source="test",
    )
    gateway = await open_gateway(
        Settings(config, tmp_path),
        f"sqlite://{tmp_path / 'opuslive.db'}",
        environ={VARIABLE: TOKEN},
    )
    yield gateway
    await gateway.close()


@pytest.mark.filterwarnings("ignore::aiohttp.web.NotAppKeyWarning")
async def test_no_object_shows_what_it_holds(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """Looks at every object that a gateway consists of, while it answers."""
    web = WebServer(gateway, max_files=1000)
    (listening,) = await open_sockets(["127.0.0.1"], 0)
    await web.start([listening])
    port = listening.getsockname()[1]
    key, credential = await gateway.administration.create(KeyChanges(name="holder"))
    await gateway.administration.rotate(key.id, 3600)
    stored = gateway.holders.find(key.id).key
    assert key.secret_hash is not None
    assert stored.secret_hash is not None
    assert stored.previous_hash is not None
    upstream.will([STREAM_HEAD, *map(chunk, anthropic_events("a")[:4]), STALL])
    body = message_body(stream=True, messages=[{"role": "user", "content": PROMPT}])
    request = request_bytes("POST", "/v1/messages", key=credential, body=body)
    async with await Wire.connect(port) as wire:
        await wire.send(request)
        await soon(wire.until(b"content_block_delta"))
        objects = all_objects(gateway, web)
    secrets = {
        "the provider's credential": CREDENTIAL,
        "the key": credential[len(key.prefix) :],
        "the key's hash": key.secret_hash.decode(),
        "its hash after the rotation": stored.secret_hash.decode(),
        "the key of checksums": repr(gateway.storage.checksum_key)[2:-1],
        "the admin's hash": HASH,
        "the webhook": WEBHOOK,
        "the token of the metrics": TOKEN,
        "the prompt": PROMPT,
    }
    held = "\n".join(repr(thing) for thing in objects if isinstance(thing, (str, bytes)))
    for name in ("the provider's credential", "the admin's hash", "the webhook", "the key"):
        assert secrets[name] in held, name  # the walk comes as far as that
    kinds = {type(thing).__name__ for thing in objects}
    assert kinds >= {"Upstream", "UpstreamConfig", "Exchange", "HttpClient", "Relay", "Database"}
    for thing in objects:
        if isinstance(thing, CONTAINERS) or _foreign(thing):
            continue
        for text in (repr(thing), str(thing)):
            shown = [name for name, secret in secrets.items() if secret in text]
            assert not shown, f"{type(thing)} shows {shown}"
    await web.close()


def test_what_goes_over_the_wire_is_not_shown() -> None:
    request = UpstreamRequest("POST", b"x-api-key: canary", [b"canary"])
    head = AnswerHead(200, [(b"x-note", b"canary")], 6)
    assert "canary" not in repr((request, head))


SPOILT = {
    "a space": '[[upstreams]]\nname = "p"\nbase_url = "https://x.test"\napi_key = "canary canary"',
    "two lines": '[[upstreams]]\nname = "p"\nbase_url = "https://x.test"\napi_key = "canary\\n"',
    "a list": '[[upstreams]]\nname = "p"\nbase_url = "https://x.test"\napi_key = ["canary"]',
    "no quotes": '[[upstreams]]\nname = "p"\nbase_url = "https://x.test"\napi_key = canary',
    "no end": '[[upstreams]]\nname = "p"\nbase_url = "https://x.test"\napi_key = "canary',
    "in the place of a variable's name": (
        '[[upstreams]]\nname = "p"\nbase_url = "https://x.test"\napi_key_env = "sk-canary"'
    ),
    "in the address": '[[upstreams]]\nname = "p"\nbase_url = "https://u:canary@x.test"',
    "in its query": '[[upstreams]]\nname = "p"\nbase_url = "https://x.test/?key=canary"',
    "twice": (
        '[[upstreams]]\nname = "p"\nbase_url = "https://x.test"\n'
        'api_key = "canary"\napi_key_env = "CANARY"'
    ),
    "a password": '[admin]\npassword_hash = "canary"',
    "a webhook in clear": '[alerts]\nwebhook = "http://hooks.test/canary"',
    "a webhook that is none": '[alerts]\nwebhook = "canary"',
    "a webhook that is a number": "[alerts]\nwebhook = 1\ncanary",
    "a bearer token": '[metrics]\ntoken_env = "Bearer canary"',
}


@pytest.mark.parametrize("how", SPOILT)
def test_no_message_quotes_a_secret(how: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_config_text(SPOILT[how], source="config.toml")
    assert "canary" not in "".join(traceback.format_exception(raised.value))


def test_no_process_leaves_a_core_behind(tmp_path: Path) -> None:
    """Neither as a file nor to the program that the kernel may hand the memory to."""
    code = """if True:
        import atexit, ctypes, resource
        from opuslive.__main__ import main
        atexit.register(lambda: print(
            *resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)
        ))
        main()
    """
    config = tmp_path / "config.toml"
    config.write_text(f'[storage]\nurl = "sqlite://{tmp_path}/opuslive.db"\n')
    done = subprocess.run(
        [sys.executable, "-c", code, "--config", str(config), "keys", "list"],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=_allow_cores,
    )
    dumpable = "0" if sys.platform == "linux" else "-1"
    assert done.stdout.splitlines()[-1].split() == ["0", "0", dumpable]


def _allow_cores() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    os.umask(0o077)
