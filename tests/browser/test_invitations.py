"""Invitations and a holder's own hand in a browser, with and without a script."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import bcrypt
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from tests.support.browser import Visitor, assert_accessible, assert_fits
from tests.support.server import Server, Servers

pytestmark = pytest.mark.asyncio(loop_scope="module")

PASSWORD = "a long password"
HASH = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
ADMIN = {"http_credentials": {"username": "admin", "password": PASSWORD}}
KEY = re.compile(r"sk-ant-ol-\w{8}-\w{40}")
#: Windows of a telephone and of a desk, by day and by night.
LOOKS = [
    pytest.param({"width": 390, "height": 844}, "light", id="390-light"),
    pytest.param({"width": 390, "height": 844}, "dark", id="390-dark"),
    pytest.param({"width": 1280, "height": 800}, "light", id="1280-light"),
    pytest.param({"width": 1280, "height": 800}, "dark", id="1280-dark"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[Server]:
    """Its links lead to an address that is not its own here: the tests put the right one in."""
    servers = Servers()
    yield await servers.start(
        "https://models.example",
        server={"public_url": "https://ai.example.com"},
        admin={"password_hash": HASH, "contact": "ops@example.com"},
    )
    await servers.close()


@pytest_asyncio.fixture(loop_scope="module")
async def visitor(browser: Browser, server: Server) -> AsyncIterator[Visitor]:
    made = Visitor(browser, f"http://127.0.0.1:{server.port}")
    yield made
    await made.close()
    assert made.complaints == []


async def invited(server: Server, name: str) -> str:
    """The path of a new key's link."""
    link: str = (await server.admin("POST", "keys", name=name, invite=True))["link"]
    return link.removeprefix("https://ai.example.com")


async def status(server: Server, key: str) -> int:
    return (await server.request("GET", "/v1/models", key=key)).status


def told(visitor: Visitor, *statuses: int) -> None:
    """The console's way to say that answers had these statuses, which they should have."""
    found = [re.search(r"status of (\d+)", text) for text in visitor.complaints]
    assert [int(each[1]) for each in found if each] == list(statuses)
    assert len(found) == len(statuses)
    visitor.complaints.clear()


async def press(page: Page, name: str) -> None:
    await page.get_by_role("button", name=name, exact=True).click()


@pytest.mark.parametrize("script", [True, False])
async def test_a_link_becomes_a_key_that_only_its_holder_sees(
    server: Server, visitor: Visitor, script: bool
) -> None:
    name = f"alice, {'with' if script else 'without'} a script"
    path = await invited(server, name)
    code = path.rpartition("#")[2]
    page = await visitor.visit(path, java_script_enabled=script)
    field = page.get_by_label("Link of the invitation")
    if script:
        # Out of the address, and of what a browser remembers of it.
        assert page.url == f"{visitor.address}/invite"
        await expect(field).to_have_value(code)
        await expect(page.get_by_text("there is nothing to paste")).to_be_visible()
    else:
        await expect(field).to_have_value("")
        await expect(page.get_by_text("there is nothing to paste")).to_be_hidden()
        await field.fill(f"https://ai.example.com{path}")
    # Opening it has used nothing up.
    assert (await server.admin("GET", "keys", name))["state"] == "invited"
    await press(page, "Make my key")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Your key")
    key = await page.locator("#secret").inner_text()
    assert KEY.fullmatch(key)
    assert page.url == f"{visitor.address}/invite"
    assert code not in await page.content()
    await expect(page.get_by_role("button", name="Copy the key")).to_be_visible(visible=script)
    lines = page.get_by_role("region", name="Set-up for Claude Code, bash")
    await expect(lines).to_contain_text(key)
    assert await status(server, key) == 200
    # Loaded again, the page asks for another key with the same code, and is told why there is none.
    await page.reload()
    await expect(page.get_by_role("alert")).to_contain_text("This invitation is not good")
    told(visitor, 404)
    assert await status(server, key) == 200


async def test_the_keys_buttons_copy_what_they_say(server: Server, visitor: Visitor) -> None:
    path = await invited(server, "copied")
    page = await visitor.visit(path, permissions=["clipboard-read", "clipboard-write"])
    await press(page, "Make my key")
    key = await page.locator("#secret").inner_text()
    await press(page, "Copy the key")
    assert await page.evaluate("navigator.clipboard.readText()") == key
    await press(page, "Copy the lines for Claude Code, bash")
    assert key in await page.evaluate("navigator.clipboard.readText()")


@pytest.mark.parametrize("script", [True, False])
async def test_the_administrator_makes_a_link_and_calls_it_back(
    server: Server, visitor: Visitor, script: bool
) -> None:
    page = await visitor.visit("/admin/keys/new", java_script_enabled=script, **ADMIN)
    name = f"bob, {'with' if script else 'without'} a script"
    await page.get_by_label("Name", exact=True).fill(name)
    await press(page, "Make an invitation instead")
    await expect(page.get_by_role("heading", level=1)).to_have_text(f"An invitation for {name}")
    link = await page.locator("#link").inner_text()
    assert re.fullmatch(r"https://ai\.example\.com/invite#\w{32}", link)
    assert "#" not in page.url
    await page.get_by_role("link", name="Go to the key").click()
    await expect(page.get_by_text("This key has no secret yet.")).to_be_visible()
    await page.get_by_role("link", name="Invite", exact=True).click()
    await press(page, "Call the link back")
    await expect(page.get_by_role("status")).to_contain_text("called back")
    await expect(page.get_by_text("This key has no secret.")).to_be_visible()


@pytest.mark.parametrize("script", [True, False])
async def test_a_holder_replaces_the_key_on_check_usage(
    server: Server, visitor: Visitor, script: bool
) -> None:
    key = await server.holder()
    page = await visitor.visit("/usage", java_script_enabled=script)
    await page.get_by_label("Your key").fill(key)
    await press(page, "Show usage")
    replace = page.get_by_role("region", name="Replace it")
    await replace.get_by_label("Your key").fill(key)
    await replace.get_by_label("The old secret goes on working for").select_option("an hour")
    await replace.get_by_label("Cut the requests that run now, too").check()
    await press(page, "Replace my key")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Your key has a new secret")
    new = await page.locator("#secret").inner_text()
    assert KEY.fullmatch(new)
    assert new != key
    assert (await status(server, key), await status(server, new)) == (200, 200)
    assert key not in await page.content()
    await page.goto(f"{visitor.address}/usage")
    await page.get_by_label("Your key").fill(new)
    await press(page, "Show usage")
    cut = page.get_by_role("region", name="Cut what runs")
    await cut.get_by_label("Your key").fill(new)
    await press(page, "Cut what runs")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Nothing was running")


@pytest.mark.parametrize(("window", "scheme"), LOOKS)
async def test_every_page_is_accessible_and_fits(
    server: Server, visitor: Visitor, window: Any, scheme: str
) -> None:
    look = {"viewport": window, "color_scheme": scheme}

    async def looked_at(page: Page) -> None:
        await assert_accessible(page)
        await assert_fits(page)

    name = f"seen at {window['width']}, {scheme}"
    page = await visitor.visit(await invited(server, name), **look)
    await looked_at(page)
    await press(page, "Make my key")
    await looked_at(page)
    key = await page.locator("#secret").inner_text()
    await page.goto(f"{visitor.address}/invite")
    await page.get_by_label("Link of the invitation").fill("x")
    await press(page, "Make my key")
    await looked_at(page)
    await page.goto(f"{visitor.address}/usage")
    await page.get_by_label("Your key").fill(key)
    await press(page, "Show usage")
    await looked_at(page)
    await page.get_by_role("region", name="Replace it").get_by_label("Your key").fill(key)
    await press(page, "Replace my key")
    await looked_at(page)
    told(visitor, 400)
    admin = await visitor.visit("/admin/keys/new", **look, **ADMIN)
    await looked_at(admin)
    await admin.get_by_label("Name", exact=True).fill(f"made at {window['width']}, {scheme}")
    await press(admin, "Make an invitation instead")
    await looked_at(admin)
    await admin.get_by_role("link", name="Go to the key").click()
    await looked_at(admin)
    await admin.get_by_role("link", name="Invite", exact=True).click()
    await looked_at(admin)
