"""The administration's pages about groups."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest

from opuslive.web.pages.addresses import group_address
from tests.support.admin_pages import HOSTILE, SECTIONS, get, make, post, text_of
from tests.support.app import App
from tests.support.odd_names import ODD_NAMES

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    return dict(SECTIONS)


async def erase(server: App, *names: str) -> None:
    for name in names:
        await server.admin("DELETE", "keys", name)


async def test_the_list_has_every_group_and_warns_of_those_without_limits(gateway: App) -> None:
    for name, group in (("l1", "friends"), ("l2", "friend"), ("l3", "friends")):
        await make(gateway, name, group=group, expires="2d" if name == "l3" else "")
    answer = await get(gateway, "/admin/groups")
    assert answer.status == 200
    text = text_of(answer)
    assert "friends 2 1 1 0 % of 5M tokens/day" in text
    assert "friend 1 0 0 [limits.groups] has no group 'friend'" in text
    assert "Did you mean 'friends'?" in text
    await erase(gateway, "l1", "l2", "l3")


async def test_a_group_shows_its_limits_and_its_keys(gateway: App) -> None:
    await make(gateway, "g1", group="friends")
    await make(gateway, "g2", group="friends", expires="2d")
    await make(gateway, "elsewhere")
    text = text_of(await get(gateway, "/admin/groups/friends"))
    assert "5M tokens a day" in text
    assert "1 of its keys expires within 7 days." in text
    assert "g1" in text
    assert "elsewhere" not in text
    ordered = (await get(gateway, "/admin/groups/friends?sort=name&order=desc")).body.decode()
    assert ordered.index(">g2<") < ordered.index(">g1<")
    none = text_of(await get(gateway, "/admin/groups/friends?q=nobody"))
    assert "None of its 2 keys is like that." in none
    await erase(gateway, "g1", "g2", "elsewhere")


@pytest.mark.parametrize("name", [*ODD_NAMES, ".", "..", HOSTILE])
async def test_the_page_of_any_name_is_linked_and_found(gateway: App, name: str) -> None:
    key_id, _ = await make(gateway, "odd", group=name)
    address = group_address(name)
    for page in ("/admin/groups", "/admin/keys", address):
        answer = await get(gateway, page)
        assert answer.status == 200, (page, answer)
        if page != address:
            assert f'href="{html.escape(address)}"' in answer.body.decode()
    body = answer.body.decode()
    assert f"<h1>{html.escape(name)}</h1>" in body.replace("&#34;", "&quot;").replace(
        "&#39;", "&#x27;"
    )
    (hidden,) = re.findall(r'<input type="hidden" name="group" value="([^"]*)">', body)
    assert html.unescape(hidden) == name
    changed = await post(gateway, "/admin/many/disable", {"group": name})
    location = changed.header("location") or ""
    assert changed.status == 303
    done = await get(gateway, location)
    assert "The keys are disabled" in text_of(done)
    assert f"/admin/keys/{key_id}" in done.body.decode()
    await erase(gateway, "odd")


async def test_a_group_that_is_none_is_not_found(gateway: App) -> None:
    answer = await get(gateway, "/admin/groups/frinds")
    assert answer.status == 404
    assert "There is no group 'frinds'; did you mean 'friends'?" in text_of(answer)


async def test_an_unknown_group_is_told_of_wherever_it_is_typed_or_shown(gateway: App) -> None:
    """On the page of a new key, of a key, of its form, in the table; and never as configured."""
    warning = "[limits.groups] has no group 'friend', so its keys share no limits. Did you mean"
    made = await post(gateway, "/admin/keys/new", {"name": "typo", "group": "friend"})
    assert warning in text_of(made)
    key_id = (await gateway.admin("GET", "keys", "typo"))["id"]
    for path in (f"/admin/keys/{key_id}", f"/admin/keys/{key_id}/change"):
        assert warning in text_of(await get(gateway, path))
    assert "friend no limits" in text_of(await get(gateway, "/admin/keys"))
    form = text_of(await get(gateway, "/admin/keys/new"))
    assert "It has: friends. Empty" in form
    # A form that comes back for another error says it, too.
    again = await post(gateway, "/admin/keys/new", {"name": "typo", "group": "friend"})
    assert again.status == 409
    assert warning in text_of(again)
    await post(gateway, f"/admin/keys/{key_id}/change", {"name": "typo", "group": "friends"})
    assert warning not in text_of(await get(gateway, f"/admin/keys/{key_id}"))
    await erase(gateway, "typo")


async def test_expiring_soon_is_marked_in_the_table(gateway: App) -> None:
    await make(gateway, "goes", expires="6d")
    await make(gateway, "stays", expires="9d")
    rows = (await get(gateway, "/admin/keys")).body.decode().split("<tr ")
    soon = {name: "soon</span>" in row for row in rows for name in ("goes", "stays") if name in row}
    assert soon == {"goes": True, "stays": False}
    await erase(gateway, "goes", "stays")
