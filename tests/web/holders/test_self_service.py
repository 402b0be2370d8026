"""Holders replace the secrets of their keys, and cut what runs."""

from __future__ import annotations

import asyncio
import html
import re
from typing import Any

import pytest

from opuslive.administration.self_service import PAUSE_MS
from tests.support.app import App, Apps
from tests.support.clock import Machine
from tests.support.provider import (
    STALL,
    STREAM_HEAD,
    ScriptedUpstream,
    anthropic_events,
    chunk,
)
from tests.support.wire import Answer, message_body

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    return {"admin": {"contact": "ops@example.com"}}


FORM = [("content-type", "application/x-www-form-urlencoded")]


async def rotate(gateway: App, key: str, body: bytes = b"") -> Answer:
    return await gateway.request("POST", "/v1/key/rotate", key=key, body=body)


async def works(gateway: App, key: str) -> bool:
    return (await gateway.request("GET", "/v1/models", key=key)).status == 200


async def replaced(gateway: App, key: str, body: bytes = b"") -> str:
    answer = await rotate(gateway, key, body)
    assert answer.status == 200, answer
    assert answer.header("cache-control") == "no-store"
    new: str = answer.json()["key"]
    return new


class TestReplacing:
    async def test_the_old_secret_stops_at_once_and_all_else_stays(self, gateway: App) -> None:
        made = await gateway.admin("POST", "keys", name="alice", limits=["9 concurrent"])
        answer = await rotate(gateway, made["key"])
        assert answer.status == 200
        new = answer.json()
        assert (new["id"], new["name"], new["limits"]) == (made["id"], "alice", ["9 concurrent"])
        assert new["previous_secret_expires_at"] is None
        assert new["cut"] == 0
        assert await works(gateway, new["key"])
        assert not await works(gateway, made["key"])
        secret = new["key"].rpartition("-")[2]
        assert secret not in gateway.log
        assert secret not in str(await gateway.admin("GET", "keys", made["id"]))

    async def test_with_a_grace_both_work_and_only_the_new_one_may_replace_or_cut(
        self, gateway: App
    ) -> None:
        """A thief who has the old secret does not take the key over."""
        old = await gateway.holder()
        new = await replaced(gateway, old, b'{"grace": "1h"}')
        assert await works(gateway, old)
        assert await works(gateway, new)
        for path in ("/v1/key/rotate", "/v1/key/cut"):
            refused = await gateway.request("POST", path, key=old)
            assert refused.error == (403, "permission_error")
            assert "This is an old secret" in refused.json()["error"]["message"]
            assert refused.header("x-should-retry") == "false"
        assert await works(gateway, new)
        assert (await gateway.request("POST", "/v1/key/cut", key=new)).status == 200

    @pytest.mark.parametrize(
        ("body", "says"),
        [
            (b'{"grace": "25h"}', "24h at most"),
            (b'{"grace": "soon"}', "'soon'"),
            (b'{"grace": 5}', "'grace' is a text."),
            (b'{"cut": "yes"}', "'cut' is true or false."),
            (b'{"grase": "1h"}', "There is no member 'grase'; did you mean 'grace'?"),
            (b"[]", "has to be a JSON object"),
            (b"{", "is not JSON"),
        ],
    )
    async def test_a_body_that_is_not_right_changes_nothing(
        self, gateway: App, body: bytes, says: str
    ) -> None:
        key = await gateway.holder()
        answer = await rotate(gateway, key, body)
        assert answer.error == (400, "invalid_request_error")
        assert says in answer.json()["error"]["message"]
        assert await works(gateway, key)
        assert (await rotate(gateway, key, b'{"grace": "24h"}')).status == 200

    async def test_a_body_that_is_too_large_is_not_read(self, gateway: App) -> None:
        answer = await rotate(gateway, await gateway.holder(), b" " * 5000)
        assert answer.error == (413, "request_too_large")

    async def test_it_needs_a_key_that_may_be_used(self, gateway: App) -> None:
        assert (await rotate(gateway, "sk-nothing", b"{")).error == (401, "authentication_error")
        made = await gateway.admin("POST", "keys", name="switched off")
        await gateway.admin("PATCH", "keys", made["id"], enabled=False)
        answer = await rotate(gateway, made["key"])
        assert answer.error == (401, "authentication_error")
        assert "is disabled; ask ops@example.com" in answer.json()["error"]["message"]
        # What runs of it may be cut all the same.
        assert (await gateway.request("POST", "/v1/key/cut", key=made["key"])).status == 200

    async def test_of_several_at_once_one_succeeds(self, gateway: App) -> None:
        key = await gateway.holder()
        answers = await asyncio.gather(*(rotate(gateway, key) for _ in range(6)))
        assert [answer.status for answer in answers].count(200) == 1
        (won,) = [answer for answer in answers if answer.status == 200]
        assert await works(gateway, won.json()["key"])

    async def test_an_invitation_stays(self, apps: Apps, upstream: ScriptedUpstream) -> None:
        """It is the administrator's word, against a thief's too."""
        app = await apps.start(upstream.base_url, server={"public_url": "https://ai.example.com"})
        made = await app.admin("POST", "keys", name="bob")
        invited = await app.admin("POST", "keys", made["id"], "invitation")
        await replaced(app, made["key"])
        body = ("code=" + invited["link"].rpartition("#")[2]).encode()
        assert (await app.request("POST", "/invite", headers=FORM, body=body)).status == 200


async def test_a_key_that_has_expired_may_not(apps: Apps, upstream: ScriptedUpstream) -> None:
    machine = Machine()
    app = apps.make(upstream.base_url)
    app.clock = machine.clock
    await app.start()
    key = await app.holder(expires="1h")
    machine.pass_time(3_600_000)
    answer = await rotate(app, key)
    assert answer.error == (401, "authentication_error")
    assert "has expired" in answer.json()["error"]["message"]


async def test_it_may_be_done_once_a_minute(apps: Apps, upstream: ScriptedUpstream) -> None:
    machine = Machine()
    app = apps.make(upstream.base_url)
    app.clock = machine.clock
    await app.start()
    other = await app.holder()
    first = await replaced(app, await app.holder())
    machine.pass_time(PAUSE_MS - 1_500)
    refused = await rotate(app, first)
    assert refused.error == (429, "rate_limit_error")
    assert refused.header("retry-after") == "2"
    machine.pass_time(1_500)
    second = await replaced(app, first)
    # The administrator's rotations, and other keys, are not bound by that.
    await app.admin("POST", "keys", second.split("-")[-2], "rotate")
    await replaced(app, other)


async def test_the_administrator_may_forbid_it_without_a_restart(
    apps: Apps, upstream: ScriptedUpstream
) -> None:
    app = await apps.start(upstream.base_url, keys={"self_service": False})
    key = await app.holder()
    for path in ("/v1/key/rotate", "/v1/key/cut"):
        refused = await app.request("POST", path, key=key)
        assert refused.error == (403, "permission_error")
        assert "ask the administrator" in refused.json()["error"]["message"]
    page = await app.request("POST", "/usage", headers=FORM, body=f"key={key}".encode())
    assert "/usage/replace" not in page.body.decode()
    refused = await app.request("POST", "/usage/replace", headers=FORM, body=f"key={key}".encode())
    assert refused.status == 403
    written = app.config_file.read_text()
    app.config_file.write_text(written.replace('"self_service" = false', '"self_service" = true'))
    assert (await app.reloader.reload()).changed == ("keys.self_service",)
    assert (await rotate(app, key)).status == 200


async def test_a_stolen_key_is_taken_back_in_one_step(
    gateway: App, upstream: ScriptedUpstream
) -> None:
    """Replaced and cut: the thief's stream breaks off, and its next request is refused."""
    key = await gateway.holder()
    upstream.will([STREAM_HEAD, *map(chunk, anthropic_events("a")[:4]), STALL])
    async with gateway.asking(key, message_body(stream=True)) as thief:
        await thief.until(b"content_block_delta")
        answer = await rotate(gateway, key, b'{"cut": true}')
        assert answer.json()["cut"] == 1
        assert (await thief.ending())[0] == "reset"
    assert not await works(gateway, key)
    (record,) = await gateway.records(answer.json()["key"], 1)
    assert record["status"] == 499


async def test_what_runs_can_be_cut_alone(gateway: App, upstream: ScriptedUpstream) -> None:
    key = await gateway.holder()
    other = await gateway.holder()
    assert (await gateway.request("POST", "/v1/key/cut", key=key)).json()["cut"] == 0
    for _ in range(2):
        upstream.will([STREAM_HEAD, *map(chunk, anthropic_events("a")[:4]), STALL])
    async with (
        gateway.asking(key, message_body(stream=True)) as mine,
        gateway.asking(other, message_body(stream=True)) as others,
    ):
        await mine.until(b"content_block_delta")
        await others.until(b"content_block_delta")
        assert (await gateway.request("POST", "/v1/key/cut", key=key)).json()["cut"] == 1
        assert (await mine.ending())[0] == "reset"
        assert gateway.gateway.holders.find(other.split("-")[-2]).running
    assert await works(gateway, key)


class TestPages:
    async def post(self, gateway: App, path: str, **fields: str) -> Answer:
        body = "&".join(f"{name}={value}" for name, value in fields.items()).encode()
        return await gateway.request("POST", path, headers=FORM, body=body)

    async def test_the_new_secret_is_shown_once(self, gateway: App) -> None:
        key = await gateway.holder()
        answer = await self.post(gateway, "/usage/replace", key=key, grace="1h", cut="yes")
        assert answer.status == 200
        assert answer.header("cache-control") == "no-store"
        assert answer.header("referrer-policy") == "same-origin"
        text = html.unescape(answer.body.decode())
        (new,) = set(re.findall(r"sk-ant-ol-\w{8}-\w{40}", text))
        assert new != key
        assert "The old one works until" in text
        assert await works(gateway, new)
        assert await works(gateway, key)

    async def test_what_was_cut_is_told(self, gateway: App) -> None:
        answer = await self.post(gateway, "/usage/cut", key=await gateway.holder())
        assert answer.status == 200
        assert "Nothing was running" in answer.body.decode()

    @pytest.mark.parametrize("path", ["/usage/replace", "/usage/cut"])
    async def test_an_unknown_key_is_told_in_words_for_a_page(
        self, gateway: App, path: str
    ) -> None:
        answer = await self.post(gateway, path, key="sk-nothing")
        assert answer.status == 401
        assert "This is not a key of this gateway." in answer.body.decode()
        assert (await self.post(gateway, path)).status == 400

    async def test_what_is_refused_is_told(self, gateway: App) -> None:
        key = await gateway.holder()
        assert (await self.post(gateway, "/usage/replace", key=key, grace="25h")).status == 400
        new = await replaced(gateway, key)
        refused = await self.post(gateway, "/usage/replace", key=new)
        assert refused.status == 429
        assert refused.header("retry-after") is not None
        assert "less than a minute ago" in refused.body.decode()
