"""A backup of a gateway under load holds what was confirmed before, wherever it is restored."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil

import pytest

from tests.support.provider import Request, Script, ScriptedUpstream, anthropic_answer
from tests.support.server import Servers
from tests.support.waiting import eventually
from tests.support.wire import message_body

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLIENTS = 20


def numbered(request: Request) -> Script:
    """Answer with as many input tokens as the prompt says."""
    asked = json.loads(request.body)
    return anthropic_answer(asked, input_tokens=int(asked["messages"][0]["content"]))


def body(number: int) -> bytes:
    return message_body(stream=number % 2 == 0, messages=[{"role": "user", "content": str(number)}])


async def test_a_backup_under_load_restored_elsewhere_has_every_record_confirmed_before(
    servers: Servers, provider: ScriptedUpstream, upstream: ScriptedUpstream
) -> None:
    server = await servers.start(provider.base_url)
    upstream.always(numbered)
    key, deleted = await server.holder(), await server.json("keys", "create", "deleted")
    numbers = itertools.count(1)
    confirmed: set[int] = set()
    ended = asyncio.Event()

    async def use() -> None:
        while not ended.is_set():
            number = next(numbers)
            assert (await server.messages(key, body(number))).status == 200
            confirmed.add(number)

    clients = [asyncio.create_task(use()) for _ in range(CLIENTS)]
    await eventually(lambda: len(confirmed) > 200)
    assert (await server.messages(deleted["key"], body(0))).status == 200
    before = set(confirmed)
    file = server.folder / "backup.db"
    backing_up = asyncio.create_task(server.json("database", "backup", str(file)))
    await server.admin("DELETE", "keys", "deleted")
    await backing_up
    assert (await server.json("database", "check"))["ok"]
    await server.json("database", "compact")
    during = len(confirmed)
    await eventually(lambda: len(confirmed) > during)
    ended.set()
    await asyncio.gather(*clients)
    assert await server.stop() == 0

    elsewhere = servers.make(provider.base_url)
    moved = elsewhere.folder / "moved.db"
    shutil.move(file, moved)
    told = await elsewhere.json("database", "restore", str(moved), "--yes")
    assert told["keys"]["come_back"] == ["holder 1"]
    await elsewhere.start()
    assert (await elsewhere.messages(deleted["key"], body(0))).status == 401
    found = [record["input_tokens"] for record in await elsewhere.records(key)]
    assert before <= set(found)
    assert len(set(found)) == len(found)
    assert (await elsewhere.json("database", "check"))["ok"]
    assert deleted["id"].encode() not in moved.read_bytes()
    assert await elsewhere.stop() == 0
