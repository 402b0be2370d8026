"""Ready and draining: one meaning for each word, wherever it is said."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from tests.support.admin_pages import HASH, RIGHT
from tests.support.app import App, Apps
from tests.support.provider import STALL, ScriptedUpstream, json_answer
from tests.support.server import gateway_config
from tests.support.waiting import eventually, soon
from tests.support.wire import Wire, message_body, request_bytes

SIGNED_IN = [("Authorization", RIGHT)]

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def said(wire: Wire) -> tuple[str, bool, bool, str]:
    """What ``/readyz`` says, what the API says of ``ready`` and ``draining``, and what the
    overview says first; all on one connection, for new ones may be refused."""
    await wire.send(request_bytes("GET", "/readyz"))
    readiness = await wire.answer()
    await wire.send(request_bytes("GET", "/admin/api/status", headers=SIGNED_IN))
    status = (await wire.answer()).json()
    assert (readiness.status == 200) == status["ready"]
    await wire.send(request_bytes("GET", "/admin", headers=SIGNED_IN))
    page = (await wire.answer()).body.decode()
    standing = re.search(r'<p class="standing[^>]*><strong>(.*?)</strong>', page)
    assert standing is not None
    return readiness.json()["status"], status["ready"], status["draining"], standing[1]


async def start(apps: Apps, upstream: ScriptedUpstream, drain_notice: str) -> App:
    sections: dict[str, Any] = {"server": {"drain_notice": drain_notice}}
    return await apps.start(upstream.base_url, admin={"password_hash": HASH}, **sections)


async def test_a_gateway_is_ready_while_it_serves(apps: Apps, upstream: ScriptedUpstream) -> None:
    app = await start(apps, upstream, "0s")
    async with await app.connect() as wire:
        assert await said(wire) == ("ok", True, False, "Serving.")


async def test_readiness_tells_how_many_upstreams_are_up_and_no_more(
    apps: Apps, upstream: ScriptedUpstream
) -> None:
    config = gateway_config(upstream.base_url)
    (first,) = config["upstreams"]
    config["upstreams"] = [first, first | {"name": "second", "priority": 1}]
    app = await apps.start(None, **config)
    ready = await app.request("GET", "/readyz")
    assert ready.json() == {"status": "ok", "upstreams": {"up": 2, "configured": 2}}
    limited = json_answer({}, status=429, headers=[("retry-after", "60")])
    upstream.will(limited, json_answer({"usage": {"input_tokens": 1, "output_tokens": 1}}))
    assert (await app.messages(await app.holder(), message_body())).status == 200
    ready = await app.request("GET", "/readyz")
    assert (ready.status, ready.json()["upstreams"]) == (200, {"up": 1, "configured": 2})


async def test_a_server_that_is_told_to_end_is_not_ready_and_serves_until_it_drains(
    apps: Apps, upstream: ScriptedUpstream
) -> None:
    app = await start(apps, upstream, "1h")
    key, cut = await app.holder(), asyncio.Event()
    ending = asyncio.ensure_future(app.drain(cut))
    await eventually(lambda: app.gateway.exchanges.stopping)
    async with await app.connect() as wire:
        assert await said(wire) == ("stopping", False, False, "The server is about to end.")
    assert (await app.messages(key, message_body())).status == 200
    cut.set()
    await soon(ending)


async def test_a_server_that_drains_refuses_new_requests(
    apps: Apps, upstream: ScriptedUpstream
) -> None:
    app = await start(apps, upstream, "0s")
    key, cut = await app.holder(), asyncio.Event()
    upstream.will([STALL])
    async with (
        app.asking(key, message_body()),
        await app.connect() as wire,
        await app.connect() as other,
    ):
        await soon(upstream.request())
        # Connections from before go on.
        for idle in (wire, other):
            await idle.send(request_bytes("GET", "/healthz"))
            assert (await idle.answer()).status == 200
        ending = asyncio.ensure_future(app.drain(cut))
        await eventually(lambda: app.gateway.exchanges.draining)
        assert await said(wire) == ("draining", False, True, "The server is ending.")
        await other.send(request_bytes("POST", "/v1/messages", key=key, body=message_body()))
        assert (await other.answer()).error == (503, "overloaded_error")
        cut.set()
        await soon(ending)
