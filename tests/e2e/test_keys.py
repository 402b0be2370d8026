"""What an administrator does to a key takes effect with the next request."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.provider import (
    LAST_CHUNK,
    STALL,
    STREAM_HEAD,
    ScriptedUpstream,
    anthropic_events,
    chunk,
)
from tests.support.server import Server
from tests.support.waiting import soon
from tests.support.wire import Answer, message_body

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = message_body()
EVENTS = anthropic_events("one two three", input_tokens=5, output_tokens=9)


async def use(gateway: Server, key: str) -> Answer:
    return await gateway.messages(key, BODY)


class TestDelete:
    async def test_a_deleted_key_is_gone_for_good(
        self, gateway: Server, upstream: ScriptedUpstream
    ) -> None:
        """Its next request is refused, its stream is reset, and no file knows it any more."""
        name = "Erika Mustermann"
        key = await gateway.create_key(name, "--group", "a group of hers")
        other = await gateway.holder()
        for credential in (key["key"], key["key"], other):
            assert (await use(gateway, credential)).status == 200
        assert name.encode() in gateway.database_files()
        assert key["id"].encode() in gateway.database_files()

        upstream.will([STREAM_HEAD, *map(chunk, EVENTS[:5]), STALL])
        async with gateway.asking(key["key"], message_body(stream=True)) as wire:
            await wire.head()
            await wire.chunks(len(b"".join(EVENTS[:5])))
            deleted = await gateway.json("keys", "delete", name, "--yes")
            assert await wire.ending() == ("reset", b"")
        assert deleted["id"] == key["id"]
        # That of the running request, too, if it has been running for a second.
        assert deleted["erased_records"] in (2, 3)
        await soon(upstream.inferences[-1].gone.wait())

        refused = await use(gateway, key["key"])
        assert refused.error == (401, "authentication_error")
        assert refused.header("x-should-retry") == "false"
        assert (await gateway.request("GET", "/v1/usage", key=key["key"])).status == 401
        files = gateway.database_files()
        for trace in (key["id"], key["prefix"], name, "a group of hers"):
            assert trace.encode() not in files
        assert len(await gateway.records(other)) == 1
        assert (await gateway.run("keys", "show", name)).complaint

    async def test_a_deleted_key_s_request_that_waits_gets_a_401(
        self, gateway: Server, upstream: ScriptedUpstream
    ) -> None:
        key = await gateway.holder(name="deleted while it waits")
        upstream.will([STALL])
        async with gateway.asking(key, BODY) as wire:
            request = await soon(upstream.request())
            await gateway.admin("DELETE", "keys", "deleted while it waits")
            assert (await wire.answer()).error == (401, "authentication_error")
            await soon(request.gone.wait())

    async def test_streams_of_other_keys_go_on(
        self, gateway: Server, upstream: ScriptedUpstream, key: str
    ) -> None:
        await gateway.holder(name="bystander")
        finish = asyncio.Event()
        upstream.will(
            [STREAM_HEAD, *map(chunk, EVENTS[:5]), finish, *map(chunk, EVENTS[5:]), LAST_CHUNK]
        )
        async with gateway.asking(key, message_body(stream=True)) as wire:
            await soon(upstream.request())
            await gateway.admin("DELETE", "keys", "bystander")
            finish.set()
            assert (await wire.answer()).body == b"".join(EVENTS)


class TestDisable:
    async def test_new_requests_are_refused_and_running_ones_finish(
        self, gateway: Server, upstream: ScriptedUpstream
    ) -> None:
        key = (await gateway.create_key("on and off"))["key"]
        finish = asyncio.Event()
        upstream.will(
            [STREAM_HEAD, *map(chunk, EVENTS[:5]), finish, *map(chunk, EVENTS[5:]), LAST_CHUNK]
        )
        async with gateway.asking(key, message_body(stream=True)) as wire:
            await soon(upstream.request())
            assert (await gateway.json("keys", "disable", "on and off"))["state"] == "disabled"
            refused = await use(gateway, key)
            assert refused.error == (401, "authentication_error")
            assert "disabled" in refused.message
            assert (await gateway.request("GET", "/v1/models", key=key)).status == 401
            finish.set()
            assert (await wire.answer()).body == b"".join(EVENTS)
        assert [record["status"] for record in await gateway.records(key)] == [200]
        usage = (await gateway.request("GET", "/v1/usage", key=key)).json()
        assert usage["key"]["state"] == "disabled"
        assert (await gateway.json("keys", "enable", "on and off"))["state"] == "enabled"
        assert (await use(gateway, key)).status == 200


class TestRotate:
    async def rotate(self, gateway: Server, *options: str) -> tuple[Any, Any]:
        name = f"rotated {options}"
        old = await gateway.admin("POST", "keys", name=name, limits=["8 concurrent"])
        assert (await use(gateway, old["key"])).status == 200
        new = await gateway.json("keys", "rotate", name, *options)
        assert new["key"] != old["key"]
        assert {**new, "key": 0, "previous_secret_expires_at": 0} == {
            **old,
            "key": 0,
            "previous_secret_expires_at": 0,
        }
        assert (await use(gateway, new["key"])).status == 200
        return old, new

    async def test_without_grace_the_old_secret_stops_at_once(
        self, gateway: Server, upstream: ScriptedUpstream
    ) -> None:
        old, new = await self.rotate(gateway)
        assert (await use(gateway, old["key"])).error == (401, "authentication_error")
        assert new["previous_secret_expires_at"] is None
        assert len(await gateway.records(new["key"])) == 2

    async def test_with_grace_the_old_secret_works_until_the_next_rotation(
        self, gateway: Server, upstream: ScriptedUpstream
    ) -> None:
        old, new = await self.rotate(gateway, "--grace", "1h")
        assert (await use(gateway, old["key"])).status == 200
        assert new["previous_secret_expires_at"] is not None
        newest = await gateway.admin("POST", "keys", new["id"], "rotate")
        for void in (old, new):
            assert (await use(gateway, void["key"])).status == 401
        assert len(await gateway.records(newest["key"])) == 3

    async def test_the_old_secret_stops_when_the_grace_has_ended(
        self, gateway: Server, upstream: ScriptedUpstream
    ) -> None:
        old = await gateway.holder(name="short grace")
        assert (await use(gateway, old)).status == 200  # proven, and remembered
        await gateway.admin("POST", "keys", "short grace", "rotate", grace="50ms")
        async with asyncio.timeout(10):
            while (answer := await use(gateway, old)).status == 200:
                pass
        assert answer.error == (401, "authentication_error")


class TestUpdate:
    async def test_new_models_hold_from_the_next_request_on(
        self, gateway: Server, upstream: ScriptedUpstream
    ) -> None:
        key = await gateway.admin("POST", "keys", name="models", models=["claude-test-2"])
        assert (await use(gateway, key["key"])).error == (404, "not_found_error")
        await gateway.json("keys", "update", "models", "--model", "claude-test-*")
        assert (await use(gateway, key["key"])).status == 200

    async def test_an_expired_key_is_refused_until_its_expiry_is_moved(
        self, gateway: Server, upstream: ScriptedUpstream
    ) -> None:
        key = await gateway.holder(name="expiring", expires="2s")
        assert (await use(gateway, key)).status == 200
        async with asyncio.timeout(10):
            while (answer := await use(gateway, key)).status == 200:
                pass
        assert answer.error == (401, "authentication_error")
        assert "expired" in answer.message
        usage = (await gateway.request("GET", "/v1/usage", key=key)).json()
        assert usage["key"]["state"] == "expired"
        await gateway.admin("PATCH", "keys", "expiring", expires="30d")
        assert (await use(gateway, key)).status == 200

    async def test_a_new_name_is_seen_by_the_holder(self, gateway: Server) -> None:
        key = await gateway.admin("POST", "keys", name="old name")
        renamed = await gateway.json("keys", "update", key["prefix"], "--name", "new name")
        assert (renamed["id"], renamed["name"]) == (key["id"], "new name")
        usage = await gateway.request("GET", "/v1/usage", key=key["key"])
        assert usage.json()["key"]["name"] == "new name"


@pytest.mark.parametrize(
    "credential",
    ["", "x", "sk-ant-ol-", "sk-ant-ol-aaaaaaaa-" + "0" * 40, "0" * 100_000, "\xe9\xff"],
    ids=["empty", "short", "prefix", "unknown", "long", "latin"],
)
async def test_what_is_no_key_is_refused(
    gateway: Server, upstream: ScriptedUpstream, credential: str
) -> None:
    for header in (
        ("x-api-key", credential[:30_000]),
        ("Authorization", f"Bearer {credential[:30_000]}"),
    ):
        for target, body in (("/v1/messages", BODY), ("/v1/messages/count_tokens", BODY)):
            answer = await gateway.request("POST", target, headers=[header], body=body)
            assert answer.error == (401, "authentication_error")
            assert answer.header("x-should-retry") == "false"
        for target in ("/v1/models", "/v1/models/claude-test-1", "/v1/usage", "/v1/usage/export"):
            answer = await gateway.request("GET", target, headers=[header])
            assert answer.error == (401, "authentication_error")
    assert upstream.inferences == []
