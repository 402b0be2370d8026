"""Groups over the administration API: what they are called, how they stand, what is odd."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

import pytest
import pytest_asyncio

from tests.support.admin_pages import SECTIONS, get
from tests.support.app import App
from tests.support.odd_names import ODD_NAMES

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    return {**SECTIONS, "limits.groups": {"friends": ["5M tokens/day", "4 concurrent"], "idle": []}}


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def keys(gateway: App) -> None:
    for name, group in (("one", "friends"), ("two", "friends"), ("three", "freinds")):
        await gateway.admin("POST", "keys", name=name, group=group)
    await gateway.admin("POST", "keys", name="four", group="friends", expires="6d")


async def test_groups_are_those_of_the_configuration_and_those_of_keys(gateway: App) -> None:
    answer = (await get(gateway, "/admin/api/groups")).json()
    assert answer["next"] is None
    shown = [(group["name"], group["known"], group["keys"]) for group in answer["items"]]
    assert [each for each in shown if each[0] in ("friends", "freinds", "idle")] == [
        ("freinds", False, 1),
        ("friends", True, 3),
        ("idle", True, 0),
    ]
    odd, friends = answer["items"][0], await gateway.admin("GET", "groups", "friends")
    assert odd["warnings"] == [
        "[limits.groups] has no group 'freinds', so its keys share no limits. Did you mean "
        "'friends'?"
    ]
    assert (friends["warnings"], friends["expiring_soon"]) == ([], 1)
    assert [limit["limit"] for limit in friends["limits"]] == ["5M tokens/day", "4 concurrent"]
    assert friends["limits"][0]["scope"] == "group"
    assert friends["limits"][0]["remaining"] == 5_000_000


async def test_the_keys_of_a_group_are_listed_in_pages(gateway: App) -> None:
    first = (await get(gateway, "/admin/api/keys?group=friends&limit=2")).json()
    rest = (await get(gateway, f"/admin/api/keys?group=friends&after={first['next']}")).json()
    assert [key["name"] for key in (*first["items"], *rest["items"])] == ["one", "two", "four"]
    assert rest["next"] is None
    assert (await get(gateway, "/admin/api/keys?group=nobody")).json()["items"] == []


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_any_name_is_found_by_its_path(gateway: App, name: str) -> None:
    made = await gateway.admin("POST", "keys", name=f"in {name}"[:100], group=name)
    answer = await get(gateway, f"/admin/api/groups/{quote(name, safe='')}")
    assert answer.status == 200, answer
    assert (answer.json()["name"], answer.json()["keys"]) == (name, 1)
    await gateway.admin("DELETE", "keys", made["id"])


@pytest.mark.parametrize("name", [".", "..", "a/b"])
async def test_a_name_that_no_path_can_have_is_found_by_a_query(gateway: App, name: str) -> None:
    made = await gateway.admin("POST", "keys", name=f"in {name}", group=name)
    answer = await get(gateway, f"/admin/api/groups?{urlencode({'name': name})}")
    assert [group["name"] for group in answer.json()["items"]] == [name]
    await gateway.admin("DELETE", "keys", made["id"])


async def test_a_group_that_is_none_is_not_found_and_the_nearest_is_named(gateway: App) -> None:
    for path in ("groups/frends", "groups?name=frends"):
        answer = await get(gateway, f"/admin/api/{path}")
        assert answer.status == 404
        assert answer.json()["detail"].startswith("There is no group 'frends'; did you mean 'fr")


async def test_whoever_writes_or_reads_an_unknown_group_is_warned(gateway: App) -> None:
    made = await gateway.admin("POST", "keys", name="warned", group="fiends")
    shown = await gateway.admin("GET", "keys", made["id"])
    assert made["warnings"] == shown["warnings"]
    assert "Did you mean 'friends'?" in made["warnings"][0]
    changed = await gateway.admin("PATCH", "keys", made["id"], group="friends")
    assert changed["warnings"] == []
    rotated = await gateway.admin("POST", "keys", made["id"], "rotate")
    assert rotated["warnings"] == []
    await gateway.admin("DELETE", "keys", made["id"])


async def test_a_key_tells_that_it_expires_soon(gateway: App) -> None:
    assert (await gateway.admin("GET", "keys", "four"))["expires_soon"] is True
    changed = await gateway.admin("PATCH", "keys", "four", expires="8d")
    assert changed["expires_soon"] is False
    await gateway.admin("PATCH", "keys", "four", expires="6d")
