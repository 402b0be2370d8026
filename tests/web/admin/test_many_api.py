"""Several keys are changed by one request to the administration API: all of them, or none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.admin_pages import RIGHT, SECTIONS
from tests.support.app import App
from tests.support.wire import Answer

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    return dict(SECTIONS)


async def ask(server: App, method: str, path: str, members: object) -> Answer:
    body = json.dumps(members).encode()
    headers = [("Authorization", RIGHT)]
    return await server.request(method, f"/admin/api/{path}", headers=headers, body=body)


async def make(server: App, *names: str, **members: object) -> list[Any]:
    return [await server.admin("POST", "keys", name=name, **members) for name in names]


async def erase(server: App, keys: Sequence[Any]) -> None:
    for key in keys:
        await server.admin("DELETE", "keys", key["id"])


async def test_keys_are_changed_together(gateway: App) -> None:
    one, two, other = await make(gateway, "c1", "c2", "c3", limits=["9 concurrent"])
    members = {"limits": ["60 requests/1m"], "group": "friends", "expires": "30d", "enabled": False}
    body = {"keys": [two["prefix"], "c1", two["id"]], "changes": members}
    answer = await ask(gateway, "PATCH", "keys", body)
    assert answer.status == 200, answer
    items = answer.json()["items"]
    # Each once, in the order in which they were named.
    assert [key["id"] for key in items] == [two["id"], one["id"]]
    for key in items:
        assert key == await gateway.admin("GET", "keys", key["id"])
        assert (key["limits"], key["group"], key["enabled"]) == (
            ["60 requests/1m"],
            "friends",
            False,
        )
    assert (await gateway.admin("GET", "keys", other["id"]))["limits"] == ["9 concurrent"]
    await erase(gateway, [one, two, other])


async def test_all_keys_of_a_group_are_changed(gateway: App) -> None:
    keys = await make(gateway, "g1", "g2", group="a/b", limits=["2M tokens/5h"])
    raised = {"raise": {"limit": "4M tokens/5h", "for": "1d"}}
    answer = await ask(gateway, "PATCH", "keys", {"group": "a/b", "changes": raised})
    assert [key["name"] for key in answer.json()["items"]] == ["g1", "g2"]
    for key in answer.json()["items"]:
        (shown,) = key["raises"]
        assert (shown["limit"], shown["from"]) == ("4M tokens/5h", "2M tokens/5h")
    taken_back = {"group": "a/b", "changes": {"raise": None}}
    for key in (await ask(gateway, "PATCH", "keys", taken_back)).json()["items"]:
        assert key["raises"] == []
    moved = {"group": "a/b", "changes": {"group": "friends"}}
    for key in (await ask(gateway, "PATCH", "keys", moved)).json()["items"]:
        assert key["group"] == "friends"
    assert (await ask(gateway, "PATCH", "keys", moved)).status == 404
    await erase(gateway, keys)


@pytest.mark.parametrize(
    ("changes", "blamed"),
    [
        ({"remove_limits": ["9 concurrent"]}, "the key 'n2': The key has no limit of 9 concurr"),
        ({"raise": {"limit": "10 concurrent", "for": "1d"}}, "the key 'n2': The key has no limit"),
    ],
)
async def test_none_is_changed_if_one_can_not_be_and_that_one_is_named(
    gateway: App, changes: dict[str, object], blamed: str
) -> None:
    keys = await make(gateway, "n1", limits=["9 concurrent"])
    keys += await make(gateway, "n2", limits=["60 requests/1m"])
    body = {"keys": ["n1", "n2"], "changes": {**changes, "enabled": False}}
    answer = await ask(gateway, "PATCH", "keys", body)
    assert answer.status == 400
    assert f"Nothing was changed, because of {blamed}" in answer.json()["detail"]
    for key in keys:
        shown = await gateway.admin("GET", "keys", key["id"])
        assert (shown["enabled"], shown["limits"]) == (True, key["limits"])
    await erase(gateway, keys)


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ({"keys": ["lone"]}, 400, "'changes' is an object"),
        ({"keys": ["lone"], "changes": {}}, 400, "'changes' is an object"),
        ({"keys": ["lone"], "changes": {"enabeld": True}}, 400, "did you mean 'enabled'"),
        ({"changes": {"enabled": True}}, 400, "either 'keys' or 'group'"),
        ({"keys": ["lone"], "group": "g", "changes": {"enabled": True}}, 400, "either 'keys'"),
        ({"keys": [], "changes": {"enabled": True}}, 400, "Name a key at least"),
        ({"keys": "lone", "changes": {"enabled": True}}, 400, "'keys' is a list of texts"),
        ({"group": 1, "changes": {"enabled": True}}, 400, "'group' is a text"),
        ({"keys": ["lone", "no one"], "changes": {"enabled": True}}, 404, "because of 'no one'"),
        ({"group": "no one", "changes": {"enabled": True}}, 404, "No key is in the group 'no one'"),
        ({"keys": ["lone", "x"], "changes": {"name": "y"}}, 400, "belongs to one key"),
    ],
)
async def test_what_makes_no_sense_is_refused_with_the_remedy(
    gateway: App, body: dict[str, Any], status: int, detail: str
) -> None:
    keys = await make(gateway, "lone", "x")
    answer = await ask(gateway, "PATCH", "keys", body)
    assert answer.status == status
    assert detail in answer.json()["detail"]
    await erase(gateway, keys)


async def test_many_get_new_secrets_and_the_old_ones_a_grace(gateway: App) -> None:
    keys = await make(gateway, "r1", "r2", group="rotating")
    answer = await ask(gateway, "POST", "rotations", {"group": "rotating", "grace": "1h"})
    assert answer.status == 200, answer
    assert answer.header("cache-control") == "no-store"
    rotated = answer.json()["items"]
    assert [key["id"] for key in rotated] == [key["id"] for key in keys]
    assert len({key["key"] for key in rotated}) == 2
    for old, new in zip(keys, rotated, strict=True):
        assert new["previous_secret_expires_at"] is not None
        for credential in (old["key"], new["key"]):
            assert (await gateway.request("GET", "/v1/usage", key=credential)).status == 200
    # At once, and none if one does not exist.
    body = {"keys": ["r1", "gone"]}
    assert (await ask(gateway, "POST", "rotations", body)).status == 404
    assert (await gateway.request("GET", "/v1/usage", key=rotated[0]["key"])).status == 200
    await ask(gateway, "POST", "rotations", {"keys": ["r1"]})
    assert (await gateway.request("GET", "/v1/usage", key=rotated[0]["key"])).status == 401
    await erase(gateway, keys)


async def test_a_key_is_reached_by_whatever_name_it_has(gateway: App) -> None:
    keys = await make(gateway, "changes", "rotations", "many", "{braces}", "a/b", "50%")
    for key in keys:
        assert (await gateway.admin("GET", "keys", key["name"]))["id"] == key["id"]
    await erase(gateway, keys)


async def test_a_holder_sees_the_raise_of_a_limit(gateway: App) -> None:
    (key,) = await make(gateway, "raised", limits=["2M tokens/5h", "9 concurrent"])
    raised = {"limit": "4M tokens/5h", "until": "2099-12-31"}
    changed = await gateway.admin("PATCH", "keys", key["id"], **{"raise": raised})
    until = "2100-01-01T00:00:00Z"
    expected = [{"limit": "4M tokens/5h", "from": "2M tokens/5h", "until": until}]
    assert changed["raises"] == expected
    usage = (await gateway.request("GET", "/v1/usage", key=key["key"])).json()
    assert usage["key"]["raises"] == expected
    assert usage["key"]["limits"] == ["2M tokens/5h", "9 concurrent"]
    first, second = usage["limits"]
    assert (first["limit"], first["max"], first["remaining"]) == ("4M tokens/5h", 4e6, 4e6)
    assert (first["raised_from"], first["raised_until"]) == ("2M tokens/5h", until)
    assert (second["raised_from"], second["raised_until"]) == (None, None)
    await erase(gateway, [key])
