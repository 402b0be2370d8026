"""The configuration is reloaded from the pages, and over the API, by the administrator alone."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.admin_pages import RIGHT, SECTIONS, WRONG, get, post
from tests.support.app import App, Apps
from tests.support.provider import ScriptedUpstream
from tests.support.server import gateway_config
from tests.support.wire import message_body

pytestmark = pytest.mark.asyncio(loop_scope="module")


def change(app: App, provider: ScriptedUpstream, /, **sections: Any) -> None:
    storage = {"storage": {"url": f"sqlite://{app.database}"}}
    app.write_config(storage | gateway_config(provider.base_url, **sections))


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    return {"admin": SECTIONS["admin"]}


async def test_a_button_reloads_and_the_page_says_what_changed(
    gateway: App, upstream: ScriptedUpstream, sections: dict[str, Any]
) -> None:
    overview = (await get(gateway, "/admin")).body.decode()
    assert f"<code>{gateway.config_file}</code>, in force since" in overview
    assert "Needs a restart" not in overview
    change(
        gateway,
        upstream,
        **sections,
        aliases={"short <b>": "claude-test-1"},
        server={"port": 81},
    )
    answer = await post(gateway, "/admin/reload")
    page = answer.body.decode()
    assert answer.status == 200
    assert "aliases.&#39;short &lt;b&gt;&#39;" in page
    assert "<code>server.port</code>" in page
    overview = (await get(gateway, "/admin")).body.decode()
    assert "Needs a restart" in overview
    assert "<code>server.port</code>" in overview
    again = (await post(gateway, "/admin/reload")).body.decode()
    assert "Nothing has changed." in again
    gateway.config_file.write_text("'<b>' = 1")
    refused = await post(gateway, "/admin/reload")
    assert refused.status == 400
    assert "no such key &#39;&lt;b&gt;&#39;" in refused.body.decode()


@pytest.mark.parametrize("path", ["/admin/reload", "/admin/api/reload"])
async def test_nobody_else_reloads(gateway: App, path: str) -> None:
    since = gateway.gateway.in_force.since
    for auth, headers, status in (
        (None, [], 401),
        (WRONG, [], 401),
        (RIGHT, [("Origin", "https://elsewhere.example")], 403),
        (RIGHT, [("Sec-Fetch-Site", "cross-site")], 403),
    ):
        assert (await post(gateway, path, auth=auth, headers=headers)).status == status
    assert (await get(gateway, path)).status == 405
    assert gateway.gateway.in_force.since == since


async def test_pages_and_refusals_go_by_the_configuration_in_force(
    apps: Apps, upstream: ScriptedUpstream
) -> None:
    app = await apps.start(upstream.base_url)
    key = await app.holder()

    async def page(path: str) -> str:
        return (await app.request("GET", path)).body.decode()

    async def refusal() -> str:
        return (await app.messages("sk-ant-ol-wrong", message_body())).message

    assert "ops@example.com" not in await page("/privacy") + await refusal()
    landing = await page("/")
    change(
        app,
        upstream,
        upstream={"name": "renamed", "dialect": "openai"},
        admin={"contact": "ops@example.com"},
        keys={"prefix": "mine-", "default_limits": ["7 requests/day"]},
        log={"access": False},
        server={"public_url": "https://ai.example.com"},
        alerts={"webhook": "https://hooks.example.com/canary"},
    )
    await app.reloader.reload()
    privacy = await page("/privacy")
    assert "ops@example.com" in privacy
    assert "ops@example.com" in await refusal()
    assert "renamed" in privacy
    assert "canary" not in privacy
    assert await page("/") != landing
    assert "https://ai.example.com" in await page("/")
    assert "mine-…" in await page("/usage")
    made = await app.admin("POST", "keys", name="new")
    assert made["key"].startswith("mine-")
    assert made["limits"] == ["7 requests/day"]
    # A key from before is what it was; its model is served in another format now.
    assert (await app.messages(key, message_body())).status == 404
    async with await app.connect() as wire:
        await wire.send(b"GET /privacy HTTP/1.1\r\nHost: ai.example.com\r\n\r\n")
        assert (await wire.answer()).status == 200
