"""Groups, several keys at once and raised limits, as an administrator meets them in a browser."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

import bcrypt
import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from tests.support.browser import Site, Visitor, assert_accessible, assert_fits
from tests.support.history import write_history
from tests.support.server import Servers

pytestmark = pytest.mark.asyncio(loop_scope="module")

PASSWORD = "a long password"
HASH = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
ADMIN = {"http_credentials": {"username": "admin", "password": PASSWORD}}
#: Pages of groups and forms that are a GET away.
PAGES = (
    "/admin/groups",
    "/admin/groups/friends",
    "/admin/groups/a%2Fb%20%25%20%E2%98%83",
    "/admin/keys",
    "/admin/keys/{key}",
    "/admin/keys/{key}/raise",
    "/admin/keys/{key}/change",
)
KEY = re.compile(r"sk-ant-ol-\w{8}-\w{40}")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site() -> AsyncIterator[Site]:
    servers = Servers()
    sections: dict[str, Any] = {
        "admin": {"password_hash": HASH},
        "limits.groups": {"friends": ["90M tokens/month", "4 concurrent"], "idle": ["9 usd/day"]},
    }
    server = servers.make("https://models.example", **sections)
    limits = ("--limit", "2M tokens/5h", "--limit", "8 concurrent")
    live = await write_history(server, "alice at work", 200, *limits, "--group", "friends")
    full = await write_history(server, "bob", 60, "--limit", "1 concurrent", "--group", "friends")
    await server.start()
    await server.admin("PATCH", "keys", full.id, expires="3d")
    await server.admin(
        "PATCH", "keys", live.id, **{"raise": {"limit": "4M tokens/5h", "until": "2d"}}
    )
    await server.admin("POST", "keys", name="a label", group="a/b % \N{SNOWMAN}")
    yield Site(server, live, full)
    await servers.close()


async def press(page: Page, name: str) -> None:
    await page.get_by_role("button", name=name, exact=True).click()


async def tick(page: Page, names: Sequence[str]) -> None:
    for name in names:
        await page.get_by_label(f"Choose {name}", exact=True).check()


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
async def test_keys_that_are_ticked_are_changed_together(
    site: Site, visitor: Visitor, script: bool
) -> None:
    page = await visitor.visit("/admin/keys", java_script_enabled=script, **ADMIN)
    status = page.get_by_role("status")
    await tick(page, ["alice at work", "bob"])
    await press(page, "Disable the keys that are ticked")
    await expect(status.first).to_contain_text("The keys are disabled")
    await expect(page.locator(".state-disabled")).to_have_count(2)
    await page.goto(f"{site.address}/admin/groups/friends")
    await press(page, "Enable all keys of the group")
    await expect(status.first).to_contain_text("The keys are enabled again")
    await press(page, "Change all keys of the group")
    await expect(page.get_by_text("All 2 keys of the group friends")).to_be_visible()
    await press(page, "Change all of them")
    await expect(page.get_by_role("alert")).to_contain_text("Fill in what is to change")
    assert "400" in visitor.complaints.pop()  # the console's way to say so
    await page.get_by_label("Models, one a line").fill("claude-*")
    await press(page, "Change all of them")
    await expect(status.first).to_contain_text("hold for all of these keys")
    await tick(page, ["bob"])
    await press(page, "Rotate the secrets of the keys that are ticked")
    await page.get_by_label("The old secrets work for another").fill("1h")
    await press(page, "Make new secrets")
    await expect(page.get_by_role("heading", level=1)).to_have_text("1 new secret")
    assert KEY.fullmatch(await page.locator(".key code").inner_text())
    await expect(page.get_by_role("button", name="Copy the key of bob")).to_be_visible(
        visible=script
    )


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
async def test_a_limit_is_raised_and_taken_back(site: Site, visitor: Visitor, script: bool) -> None:
    path = f"/admin/keys/{site.full.id}"
    page = await visitor.visit(path, java_script_enabled=script, **ADMIN)
    await page.get_by_role("link", name="Raise a limit for a while").click()
    await page.get_by_label("The limit, with its larger amount").fill("3 concurrent")
    await page.get_by_label("Until", exact=True).fill("2h")
    await press(page, "Raise it")
    await expect(page.get_by_text("Raised from 1 concurrent until")).to_be_visible()
    await page.get_by_role("link", name="Raise or lower again").click()
    await press(page, "Take it back now")
    await expect(page.get_by_role("status").first).to_contain_text("its own limits again")


@pytest.mark.long
@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 390), ("dark", 390), ("light", 1280), ("dark", 1280)]
)
async def test_the_pages_fit_and_everybody_can_use_them(
    site: Site, visitor: Visitor, scheme: Literal["light", "dark"], width: int
) -> None:
    size = {"width": width, "height": 900}
    page = await visitor.visit("/admin/groups", color_scheme=scheme, viewport=size, **ADMIN)
    for path in PAGES:
        await page.goto(site.address + path.format(key=site.live.id))
        await assert_fits(page)
        await assert_accessible(page)
    for button in ("Change the keys that are ticked", "Rotate the secrets of the keys"):
        await page.goto(f"{site.address}/admin/keys")
        await tick(page, ["alice at work", "bob"])
        await page.get_by_role("button", name=button).click()
        await assert_fits(page)
        await assert_accessible(page)
