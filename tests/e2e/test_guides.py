"""README's guides, followed block by block on machines of their own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.box import NEEDS_BOX, Box, in_a_box
from tests.support.documents import guide
from tests.support.pebble import NEEDS_PEBBLE, Pebble
from tests.support.provider import ScriptedUpstream
from tests.support.systemd import Systemd
from tests.support.terminal import Terminal
from tests.support.waiting import eventually

pytestmark = [pytest.mark.long, pytest.mark.asyncio(loop_scope="module"), NEEDS_BOX]

NAME = "ai.example.com"
CREDENTIAL = "sk-upstream-Zq7"
#: It has a price, as limits in dollars need.
MODEL = "claude-sonnet-4-5"
CONFIG = Path("/etc/opuslive/config.toml")
#: What else is asked; Enter will do.
DEFAULTS = (
    "Address to listen on",
    "Port to listen on",
    "File for keys and usage",
    "Whom holders",
    "Password of the user",
    "Name of the first key",
    "Its limits",
)


@contextlib.asynccontextmanager
async def provider() -> AsyncIterator[ScriptedUpstream]:
    upstream = ScriptedUpstream()
    upstream.models = (MODEL,)
    await upstream.start()
    try:
        yield upstream
    finally:
        await upstream.close()


async def test_what_is_done_on_such_a_machine_stays_there(tmp_path: Path) -> None:
    """Else nobody could try a guide on a machine that somebody needs."""
    replaced = [Path("/etc"), Path("/opt"), Path("/var/lib"), Path("/usr/local/bin")]
    before = [sorted(path.iterdir()) for path in replaced]
    read_only = [
        tmp_path,
        Path("/usr/bin"),
        Path("/usr/local"),
        Path("/root"),
        Path(__file__).parent,
    ]

    async def follow(box: Box) -> None:
        for path in replaced:
            (path / "opuslive-was-here").write_text("")
        for path in read_only:
            with pytest.raises(OSError, match="Read-only file system"):
                (path / "opuslive-was-here").write_text("")
        with pytest.raises(OSError, match="unreachable"):
            await asyncio.open_connection("192.0.2.1", 80)

    await in_a_box(follow)
    assert [sorted(path.iterdir()) for path in replaced] == before


async def answer_questions(box: Box, block: str, url: str) -> str:
    """Type the block on a terminal, and answer what ``init`` asks; return what was shown."""
    terminal = Terminal(box.words(block), box.environ, box.source)
    try:
        await terminal.answer("Provider (", url)
        await terminal.answer("The provider's key", CREDENTIAL)
        for question in DEFAULTS:
            await terminal.answer(question)
        assert await terminal.wait() == 0, terminal.shown
    finally:
        terminal.close()
    return terminal.shown


def first_key(shown: str) -> str:
    found = re.search(r"sk-ant-ol-\w+-\w+", shown)
    assert found is not None, shown
    return found[0]


@contextlib.asynccontextmanager
async def authority(box: Box) -> AsyncIterator[Pebble]:
    """Certificates come from an authority of this machine's; whoever asks here trusts its root."""
    pebble = Pebble(box.folder)
    pebble.http_port = 80
    try:
        await pebble.start()
        root = box.folder / "root.pem"
        root.write_text(pebble.root())
        box.environ |= {"SSL_CERT_FILE": str(root), "CURL_CA_BUNDLE": str(root)}
        yield pebble
    finally:
        pebble.stop()


def practise(pebble: Pebble) -> None:
    """What README says to write before the start, for another authority."""
    trusted = Path("/etc/opuslive/authority.pem")
    shutil.copy(pebble.tls_root, trusted)
    trusted.chmod(0o644)
    text = CONFIG.read_text()
    assert text.count("[server.tls]\n") == 1
    keys = f'[server.tls]\nacme_directory = "{pebble.url}"\nacme_ca = "{trusted}"\n'
    CONFIG.write_text(text.replace("[server.tls]\n", keys))


async def serve(box: Box, systemd: Systemd, upstream: ScriptedUpstream, pebble: Pebble) -> str:
    """From an installed program to a service with a certificate; return the first key."""
    shown = await answer_questions(box, guide("server"), upstream.base_url)
    practise(pebble)
    service, check = guide("service").rsplit("opuslive check", 1)
    assert check == "\n"
    await box.follow(service)
    # The certificate takes some seconds.
    await eventually(lambda: "has a new certificate" in systemd.log.read_text())
    told = await box.follow("opuslive check")
    assert "0 errors" in told
    return first_key(shown)


async def ask(box: Box, key: str) -> None:
    """Use the key as a client does."""
    body = json.dumps({"model": MODEL, "max_tokens": 9, "messages": []})
    address = f"https://{NAME}/v1/messages"
    told = await box.follow(f"curl -sS {address} -H \"x-api-key: $KEY\" -d '{body}'", KEY=key)
    assert json.loads(told)["type"] == "message", told


async def check_supervision(box: Box, systemd: Systemd, key: str) -> None:
    """It is another user's process, and is there again after it was killed."""
    owner = Path(f"/proc/{systemd.pid}").stat().st_uid
    assert owner != 0
    starts = systemd.starts
    os.kill(systemd.pid, signal.SIGKILL)
    await eventually(lambda: systemd.starts > starts)
    await ask(box, key)


async def make_key(box: Box) -> str:
    create, curl = guide("key").splitlines()
    key = first_key(await box.follow(create))
    assert MODEL in await box.follow(curl, KEY=key)
    return key


@NEEDS_PEBBLE
async def test_a_new_machine_becomes_a_gateway_and_lives_through_its_years() -> None:
    async def follow(box: Box) -> None:
        box.name(NAME)
        systemd = Systemd(box)
        async with provider() as upstream, authority(box) as pebble, systemd.running():
            await box.install(guide("install"))
            key = await serve(box, systemd, upstream, pebble)
            await ask(box, key)
            other = await make_key(box)
            await check_supervision(box, systemd, other)
            await box.follow(guide("backup"))
            # Pip fetches, what follows asks the gateway.
            before, pip, *after = guide("upgrade").splitlines()
            await box.follow(before)
            await box.install(pip)
            await box.follow("\n".join(after))
            await ask(box, key)
            await move(box, systemd)
            await ask(box, other)

    await in_a_box(follow)


async def move(box: Box, systemd: Systemd) -> None:
    """To another machine: this one, once it has nothing any more."""
    await box.follow(guide("leave"))
    olds = "for each in /etc /var/lib; do mv $each/opuslive $each/old; done"
    await box.follow(f"userdel opuslive; {olds}")
    await box.follow(guide("arrive"))
    service, _ = guide("service").rsplit("opuslive check", 1)
    seen = systemd.log.read_text().count("has a new certificate")
    await box.follow(service)
    await eventually(lambda: systemd.log.read_text().count("has a new certificate") > seen)


@NEEDS_PEBBLE
async def test_the_single_executable_does_it_where_there_is_no_python(executable: Path) -> None:
    async def follow(box: Box) -> None:
        box.name(NAME)
        box.take_away("python*")
        systemd = Systemd(box)
        async with provider() as upstream, authority(box) as pebble, systemd.running():
            await box.follow(f"install -m 0755 {executable} /usr/local/bin/opuslive")
            key = await serve(box, systemd, upstream, pebble)
            await ask(box, key)
            await make_key(box)
            await check_supervision(box, systemd, key)

    await in_a_box(follow)
