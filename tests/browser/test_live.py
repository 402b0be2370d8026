"""The overview refreshes itself: what it changes, what it leaves alone, and when it rests."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import bcrypt
import pytest
import pytest_asyncio
from playwright.async_api import Page, Request, Route, expect

from tests.support.browser import Site, Visitor, assert_accessible, assert_fits
from tests.support.history import write_history
from tests.support.provider import ScriptedUpstream
from tests.support.server import Servers
from tests.support.wire import message_body

pytestmark = pytest.mark.asyncio(loop_scope="module")

PASSWORD = "a long password"
HASH = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
ADMIN: Any = {"http_credentials": {"username": "admin", "password": PASSWORD}}
#: ms after which the script asks for what goes on, and for the whole page; see static/live.js.
SOON, LATER = 5_000, 61_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site() -> AsyncIterator[Site]:
    upstream, servers = ScriptedUpstream(), Servers()
    await upstream.start()
    server = servers.make(upstream.base_url, admin={"password_hash": HASH})
    live = await write_history(server, "alice", 60)
    full = await write_history(server, "bob", 30, "--limit", "10k output_tokens/30d")
    await server.start()
    yield Site(server, live, full)
    await servers.close()
    await upstream.close()


async def opened(visitor: Visitor) -> tuple[Page, list[str]]:
    """The overview, whose time a test may let pass, and what it asks for from now on."""
    page = await visitor.visit("/privacy", **ADMIN)
    await page.clock.install()
    await page.goto(f"{visitor.address}/admin")
    asked: list[str] = []

    def note(request: Request) -> None:
        if request.resource_type == "fetch":
            asked.append(request.url.removeprefix(visitor.address))

    page.on("request", note)
    return page, asked


async def passes(page: Page, ms: int) -> None:
    await page.clock.run_for(ms)


def figure(page: Page, name: str) -> Any:
    return page.locator(".totals div", has_text=name).first.locator("dd")


async def hide(page: Page, hidden: bool) -> None:
    """Put the tab behind others, or before them."""
    await page.evaluate(
        """hidden => {
            Object.defineProperty(document, "hidden", { configurable: true, value: hidden });
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


async def test_what_goes_on_is_renewed_and_the_focus_stays(site: Site, visitor: Visitor) -> None:
    page, asked = await opened(visitor)
    requests = figure(page, "Requests, last minute")
    before = int(await requests.inner_text())
    link = page.locator("#live-now").get_by_role("link", name="bob")
    await link.focus()
    assert (await site.server.messages(site.live.key, message_body())).status == 200
    await passes(page, SOON)
    await expect(requests).to_have_text(str(before + 1))
    await expect(page.get_by_text("Busiest in the last minute: alice")).to_be_visible()
    await expect(link).to_be_focused()
    assert asked == ["/admin/live"]
    await assert_accessible(page)


async def test_the_rest_is_renewed_too_and_what_is_open_stays_open(
    site: Site, visitor: Visitor
) -> None:
    page, asked = await opened(visitor)
    await page.get_by_text("The figures by day").first.click()
    table = page.get_by_role("region", name="The figures by day")
    cell = table.locator("tbody tr").first.locator("td").first
    before = int(await cell.inner_text())
    heading = page.get_by_role("heading", name="Upstreams")
    kept = await heading.element_handle()
    await page.evaluate("getSelection().selectAllChildren(document.getElementById('upstreams'))")
    started = page.locator("#process ~ dl time").first
    await started.evaluate("time => { time.append(' here'); time.title = 'told'; }")
    assert (await site.server.messages(site.live.key, message_body())).status == 200
    await passes(page, LATER)
    await expect(started).to_have_text(re.compile("UTC here$"))
    await expect(started).to_have_attribute("title", "told")
    await expect(cell).to_have_text(str(before + 1))
    await expect(table).to_be_visible()
    assert "/admin" in asked
    assert kept is not None
    assert await kept.evaluate("heading => heading.isConnected")
    assert await page.evaluate("getSelection().toString()") == "Upstreams"


async def test_nothing_is_asked_for_while_nobody_looks(visitor: Visitor) -> None:
    page, asked = await opened(visitor)
    await hide(page, True)
    await passes(page, LATER)
    assert asked == []
    await hide(page, False)
    await page.wait_for_load_state("networkidle")
    assert asked == ["/admin"]
    await page.get_by_role("button", name="Pause").click()
    await expect(page.get_by_text("Paused.")).to_be_visible()
    asked.clear()
    await passes(page, LATER)
    assert asked == []
    await page.get_by_role("button", name="Go on").click()
    await passes(page, SOON)
    assert asked != []


async def test_a_server_that_is_away_is_asked_ever_more_seldom(
    site: Site, visitor: Visitor
) -> None:
    page, asked = await opened(visitor)

    async def away(route: Route) -> None:
        await route.abort("connectionrefused")

    await page.route("**/admin**", away)
    said = page.locator("#live [role=status]")
    await passes(page, SOON)
    await expect(said).to_contain_text("The server does not answer")
    now = figure(page, "Requests in flight")
    await expect(now).to_have_text("0")
    # After 5 s the first time, then after 10 s, and then after 20 s: half a minute has three.
    for _ in range(30):
        await passes(page, 1_000)
    assert 2 <= len(asked) <= 4
    await page.unroute("**/admin**")
    # A second at a time: an answer that takes longer than the page's patience is none.
    for _ in range(LATER // 1_000):
        await passes(page, 1_000)
        if await said.inner_text() == "The server answers again.":
            break
    await expect(said).to_have_text("The server answers again.")
    await passes(page, SOON)
    await expect(said).to_have_text("")
    await assert_accessible(page)
    assert all("ERR_CONNECTION_REFUSED" in text for text in visitor.complaints)
    visitor.complaints.clear()


async def test_a_password_that_changed_is_told_without_a_dialog(visitor: Visitor) -> None:
    page, asked = await opened(visitor)

    async def refused(route: Route) -> None:
        await route.fulfill(status=401, body="Sign in")

    await page.route("**/admin/live", refused)
    await passes(page, SOON)
    said = page.locator("#live [role=status]")
    await expect(said).to_contain_text("reload this page to sign in")
    asked.clear()
    await passes(page, 50_000)
    assert asked == []
    assert all("401" in text for text in visitor.complaints)
    visitor.complaints.clear()


async def test_without_a_script_a_link_loads_it_anew(site: Site, visitor: Visitor) -> None:
    page = await visitor.visit(
        "/admin", java_script_enabled=False, viewport={"width": 390, "height": 800}, **ADMIN
    )
    await expect(page.get_by_role("button", name="Pause")).to_be_hidden()
    await expect(page.get_by_text("Refreshes itself")).to_be_hidden()
    await assert_fits(page)
    requests = figure(page, "Requests, last minute")
    before = int(await requests.inner_text())
    assert (await site.server.messages(site.live.key, message_body())).status == 200
    await page.get_by_role("link", name="Reload", exact=True).click()
    await expect(requests).to_have_text(re.compile(f"^{before + 1}$"))
