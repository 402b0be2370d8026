"""The administration's pages in a browser: what an administrator sees and does, and what a
client notices of it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import bcrypt
import pytest
import pytest_asyncio
from playwright.async_api import Page, Route, expect

from tests.support.browser import (
    Site,
    Visitor,
    assert_accessible,
    assert_fits,
    assert_whole_on_phones,
    focusable,
    focused,
    reach,
    unfold,
)
from tests.support.history import write_history
from tests.support.provider import ScriptedUpstream
from tests.support.server import Servers
from tests.support.wire import message_body

pytestmark = pytest.mark.asyncio(loop_scope="module")

PASSWORD = "a long password"
HASH = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
ADMIN = {"http_credentials": {"username": "admin", "password": PASSWORD}}
KEY = re.compile(r"sk-ant-ol-\w{8}-\w{40}")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site() -> AsyncIterator[Site]:
    """A gateway with a password and a provider behind it, and keys that were used."""
    upstream, servers = ScriptedUpstream(), Servers()
    await upstream.start()
    sections: dict[str, Any] = {
        "admin": {"password_hash": HASH},
        "limits": {"gateway": ["50M tokens/day"]},
        "limits.groups": {"friends": ["90M tokens/month"]},
    }
    server = servers.make(upstream.base_url, **sections)
    limits = ("--limit", "2M tokens/5h", "--limit", "8 concurrent")
    live = await write_history(server, "alice at work", 200, *limits, "--group", "friends")
    full = await write_history(server, "bob", 60, "--limit", "10k output_tokens/30d")
    await server.start()
    yield Site(server, live, full)
    await servers.close()
    await upstream.close()


async def status(site: Site, key: str) -> int:
    """What a client with the key is told."""
    return (await site.server.messages(key, message_body())).status


def refused(visitor: Visitor, *statuses: int) -> None:
    """The console's way to say that answers had these statuses, which they should have."""
    told = [re.search(r"status of (\d+)", text) for text in visitor.complaints]
    assert [int(found[1]) for found in told if found] == list(statuses)
    assert len(told) == len(statuses)
    visitor.complaints.clear()


async def go(page: Page, name: str) -> None:
    await page.get_by_role("link", name=name, exact=True).first.click()


async def press(page: Page, name: str) -> None:
    await page.get_by_role("button", name=name, exact=True).click()


@pytest.mark.parametrize("script", [True, False])
async def test_a_key_is_made_changed_rotated_and_deleted(
    site: Site, visitor: Visitor, script: bool
) -> None:
    page = await visitor.visit("/admin", java_script_enabled=script, **ADMIN)
    heading = page.get_by_role("heading", level=1)
    name = f"carol, {'with' if script else 'without'} a script"
    await go(page, "New key")
    await page.get_by_label("Name", exact=True).fill(name)
    await page.get_by_label("Limits, one a line").fill("2M tokens/5h\n8 concurrent")
    await press(page, "Make the key")
    await expect(heading).to_have_text(f"A key for {name}")
    key = await page.locator("#secret").inner_text()
    assert KEY.fullmatch(key)
    assert key not in page.url
    await expect(page.get_by_role("button", name="Copy the key")).to_be_visible(visible=script)
    await expect(page.get_by_role("region", name="Set-up for Claude Code, bash")).to_contain_text(
        key
    )
    assert await status(site, key) == 200

    await go(page, "Go to the key")
    await expect(heading).to_have_text(name)
    # Two of its own, and the one that all keys share.
    await expect(page.locator(".gauge")).to_have_count(3)
    await expect(page.get_by_role("heading", name="Shared with all keys")).to_be_visible()
    await expect(page.get_by_text("This key works.")).to_be_visible()
    assert key not in await page.content()
    await go(page, "Change")
    await page.get_by_label("Limits, one a line").fill("1 requests/total")
    await press(page, "Save changes")
    await expect(page.get_by_role("status")).to_contain_text("hold from the next request on")
    await expect(page.get_by_text("This key is used up for now.")).to_be_visible()
    assert await status(site, key) == 429
    await go(page, "Change")
    await expect(page.get_by_label("Limits, one a line")).to_have_value("1 requests/total")
    await page.get_by_label("Limits, one a line").fill("")
    await press(page, "Save changes")
    assert await status(site, key) == 200

    await press(page, "Disable")
    await expect(page.get_by_text("This key is disabled.")).to_be_visible()
    assert await status(site, key) == 401
    await press(page, "Enable")
    await expect(page.get_by_text("This key works.")).to_be_visible()
    assert await status(site, key) == 200

    await go(page, "Rotate secret")
    await press(page, "Make a new secret")
    rotated = await page.locator("#secret").inner_text()
    assert rotated != key
    assert (await status(site, key), await status(site, rotated)) == (401, 200)

    await go(page, "Go to the key")
    await go(page, "Delete")
    await page.get_by_label("Type its name to confirm").fill("somebody else")
    await press(page, "Delete for good")
    await expect(page.get_by_text("Nothing was deleted.")).to_be_visible()
    refused(visitor, 400)
    assert await status(site, rotated) == 200
    await page.get_by_label("Type its name to confirm").fill(name)
    await press(page, "Delete for good")
    await expect(page.get_by_role("status")).to_contain_text("erased")
    await expect(page.get_by_role("link", name=name)).to_have_count(0)
    assert await status(site, rotated) == 401


class TestWhileTyping:
    async def test_limits_are_explained(self, visitor: Visitor) -> None:
        page = await visitor.visit("/admin/keys/new", **ADMIN)
        limits = page.get_by_label("Limits, one a line")
        meaning = page.locator("#limits-meaning")
        await expect(meaning).to_have_attribute("aria-live", "polite")
        await page.get_by_label("Name", exact=True).fill("never made")
        await limits.fill("2000k tokens/300m\n60 request/1m")
        await expect(meaning.locator("li").nth(0)).to_contain_text("2M tokens in any 5 hours")
        await expect(meaning.locator("li").nth(1)).to_contain_text("did you mean 'requests'?")
        await expect(limits).to_have_attribute("aria-invalid", "true")
        # What is known to be wrong is not even sent.
        await press(page, "Make the key")
        assert "did you mean" in await limits.evaluate("field => field.validationMessage")
        await expect(limits).to_be_focused()
        await limits.fill("60 requests/1m")
        await expect(meaning).to_have_text(re.compile("^\\W*60 requests/1m 60 requests in any"))
        await expect(limits).to_have_attribute("aria-invalid", "false")
        assert await limits.evaluate("field => field.validationMessage") == ""

    async def test_markup_is_text(self, visitor: Visitor) -> None:
        page = await visitor.visit("/admin/keys/new", **ADMIN)
        await page.get_by_label("Limits, one a line").fill("<img src=x onerror=alert(1)>")
        meaning = page.locator("#limits-meaning")
        await expect(meaning).to_contain_text("<img src=x onerror=alert(1)>")
        assert await meaning.locator("img").count() == 0


@pytest.mark.parametrize("script", [True, False])
async def test_what_is_wrong_is_said_beside_the_field(visitor: Visitor, script: bool) -> None:
    page = await visitor.visit("/admin/keys/new", java_script_enabled=script, **ADMIN)
    await page.get_by_label("Name", exact=True).fill("never made")
    await page.get_by_label("Expires").fill("yesterday")
    await press(page, "Make the key")
    await expect(page.get_by_role("alert")).to_contain_text("No key was made.")
    expires = page.get_by_label("Expires")
    await expect(expires).to_have_value("yesterday")
    await expect(expires).to_have_accessible_description(re.compile("neither a span"))
    await expect(page.get_by_label("Name", exact=True)).to_have_value("never made")
    refused(visitor, 400)


async def test_the_key_can_be_copied(visitor: Visitor) -> None:
    page = await visitor.visit(
        "/admin/keys/new", permissions=["clipboard-read", "clipboard-write"], **ADMIN
    )
    await page.get_by_label("Name", exact=True).fill("copied")
    await press(page, "Make the key")
    await press(page, "Copy the key")
    await expect(page.get_by_role("status").first).to_have_text("Copied.")
    copied = await page.evaluate("navigator.clipboard.readText()")
    assert copied == await page.locator("#secret").inner_text()
    await press(page, "Copy the lines for Claude Code, bash")
    await expect(page.get_by_role("status").nth(1)).to_have_text("Copied.")
    assert f"ANTHROPIC_AUTH_TOKEN={copied}" in await page.evaluate("navigator.clipboard.readText()")


async def test_a_form_is_sent_once_however_often_its_button_is_pressed(visitor: Visitor) -> None:
    page = await visitor.visit("/admin/keys/new", **ADMIN)
    sent: list[str] = []

    async def note(route: Route) -> None:
        sent.append(route.request.method)
        await route.continue_()

    await page.route("**/admin/keys/new", note)
    await page.get_by_label("Name", exact=True).fill("pressed twice")
    button = page.get_by_role("button", name="Make the key")
    # Again and again, while the form that was sent is under way.
    await button.evaluate("button => setInterval(() => button.click(), 1)")
    await expect(page.get_by_role("heading", level=1)).to_have_text("A key for pressed twice")
    assert sent == ["POST"]
    await page.go_back()
    await expect(button).to_be_enabled()


async def test_a_name_that_is_taken_leads_to_its_key(site: Site, visitor: Visitor) -> None:
    page = await visitor.visit("/admin/keys/new", **ADMIN)
    await page.get_by_label("Name", exact=True).fill("bob")
    await press(page, "Make the key")
    await expect(page.get_by_role("alert")).to_contain_text("No other key was made.")
    refused(visitor, 409)
    await go(page, "rotate it")
    await expect(page).to_have_url(f"{site.address}/admin/keys/{site.full.id}/rotate")


async def test_a_name_is_shown_as_it_is_to_be_typed(site: Site, visitor: Visitor) -> None:
    made = await site.server.admin("POST", "keys", name="two  spaces")
    page = await visitor.visit(f"/admin/keys/{made['id']}/delete", **ADMIN)
    told = await page.locator("#name-hint strong").inner_text()
    await page.get_by_label("Type its name to confirm").fill(told)
    await press(page, "Delete for good")
    await expect(page.get_by_role("status")).to_contain_text("erased")


async def test_the_new_key_is_named_as_a_group(visitor: Visitor) -> None:
    page = await visitor.visit("/admin/keys/new", **ADMIN)
    await page.get_by_label("Name", exact=True).fill("grouped")
    await press(page, "Make the key")
    await expect(page.get_by_role("group", name="Key", exact=True)).to_contain_text(KEY)


async def test_keys_are_sorted_by_their_headings_and_filtered(site: Site, visitor: Visitor) -> None:
    page = await visitor.visit("/admin/keys", java_script_enabled=False, **ADMIN)
    names = page.locator("tbody th")
    await go(page, "Tokens")
    heading = page.get_by_role("columnheader", name="Tokens")
    await expect(heading).to_have_attribute("aria-sort", "descending")
    await expect(names.first).to_have_text("alice at work")
    await go(page, "Tokens")
    await expect(heading).to_have_attribute("aria-sort", "ascending")
    await expect(names.last).to_have_text("alice at work")
    await page.get_by_label("State").select_option("exhausted")
    await press(page, "Filter")
    await expect(names).to_have_text(["bob"])
    await expect(page.locator(".mini")).to_contain_text("100 % of 10k output_tokens/30d")
    await go(page, "Show all")
    await page.get_by_label("Name, group or id").fill("FRIENDS")
    await page.keyboard.press("Enter")
    await expect(names).to_have_text(["alice at work"])
    await go(page, "alice at work")
    await expect(page).to_have_url(f"{site.address}/admin/keys/{site.live.id}")


async def test_the_overview_leads_to_the_keys(site: Site, visitor: Visitor) -> None:
    page = await visitor.visit("/admin", **ADMIN)
    for name in ("Requests by day", "Tokens by day", "Cost by day"):
        await expect(page.get_by_role("img", name=name)).to_be_visible()
    await expect(page.locator(".gauge")).to_have_count(2)
    await page.get_by_text("The figures by day").first.click()
    await expect(page.get_by_role("region", name="The figures by day")).to_be_visible()
    await expect(page.get_by_role("region", name="Table of upstreams")).to_contain_text("provider")
    await go(page, "bob")
    await expect(page).to_have_url(f"{site.address}/admin/keys/{site.full.id}")
    for name in ("Requests by day", "Tokens by day", "Cost by day"):
        await expect(page.get_by_role("img", name=name)).to_be_visible()


async def open_every_page(site: Site, visitor: Visitor, page: Page) -> AsyncIterator[str]:
    """Open one page of the administration after the other."""
    key = f"/admin/keys/{site.live.id}"
    paths = ("/admin", "/admin/keys", "/admin/keys/new", f"{key}?done=changed")
    for path in (*paths, f"{key}/change", f"{key}/rotate", f"{key}/delete"):
        await page.goto(site.address + path)
        yield path
    await page.goto(f"{site.address}/admin/keys/{site.full.id}/rotate")
    await press(page, "Make a new secret")
    yield "a new secret"
    await page.goto(f"{site.address}/admin")
    await press(page, "Reload the configuration")
    await expect(page.get_by_role("heading", level=1)).to_have_text(
        "The configuration was reloaded"
    )
    yield "a reload"
    await page.goto(f"{site.address}/admin/keys/new")
    await page.get_by_label("Name", exact=True).fill("bob")
    await page.get_by_label("Models, one a line").fill("no model")
    await page.get_by_label("Limits, one a line").fill("8 concurrent")
    await press(page, "Make the key")
    await expect(page.get_by_role("alert")).to_be_visible()
    yield "a form with an error"
    for path in ("/admin/nothing", "/nothing"):
        await page.goto(site.address + path)
        yield path
    refused(visitor, 400, 404, 404)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
async def test_every_page_is_accessible(
    site: Site, visitor: Visitor, scheme: str, width: int
) -> None:
    page = await visitor.visit(
        "/admin", color_scheme=scheme, viewport={"width": width, "height": 800}, **ADMIN
    )
    async for path in open_every_page(site, visitor, page):
        await unfold(page)
        await assert_accessible(page)
        await assert_fits(page)
        await assert_whole_on_phones(page)
        assert await page.title() != "", path


async def test_every_page_fits_at_200_percent(site: Site, visitor: Visitor) -> None:
    page = await visitor.visit(
        "/admin", viewport={"width": 640, "height": 400}, device_scale_factor=2, **ADMIN
    )
    for path in ("", "/keys", "/keys/new", f"/keys/{site.live.id}", f"/keys/{site.live.id}/delete"):
        await page.goto(f"{site.address}/admin{path}")
        await assert_fits(page)


async def test_no_page_opens_without_the_password(visitor: Visitor) -> None:
    """A browser shows this page to whoever closes its dialog, which there is none of here."""

    async def as_if_closed(route: Route) -> None:
        answer = await route.fetch()
        assert answer.status == 401
        headers = {name: answer.headers[name] for name in ("content-type", "cache-control")}
        await route.fulfill(status=200, headers=headers, body=await answer.body())

    page = await visitor.visit("/privacy")
    await page.route("**/admin", as_if_closed)
    await page.goto(f"{visitor.address}/admin")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    await assert_accessible(page)


async def test_a_key_is_made_by_keyboard_alone(visitor: Visitor) -> None:
    page = await visitor.visit("/admin", **ADMIN)
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await reach(page, "New key")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/admin/keys/new")
    await reach(page, "name")
    await page.keyboard.type("made by keyboard")
    await reach(page, "limits")
    await page.keyboard.type("9 concurrent")
    await expect(page.locator("#limits-meaning")).to_contain_text("9 requests at once")
    await reach(page, "Make the key")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("A key for made by keyboard")
    await reach(page, "Go to the key")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("made by keyboard")
    found = await focusable(page)
    assert found[1:6] == ["Change", "Disable", "Rotate secret", "Invite", "Delete"]
    await reach(page, "Disable", back=True)
    await page.keyboard.press("Space")
    await expect(page.get_by_text("This key is disabled.")).to_be_visible()
    assert await focused(page) != ""
