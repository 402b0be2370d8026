"""The pages in a browser: what a holder sees and does."""

from __future__ import annotations

import pytest
from playwright.async_api import Page, expect

from tests.support.browser import (
    Site,
    Visitor,
    assert_accessible,
    assert_fits,
    assert_whole_on_phones,
    focusable,
    reach,
    unfold,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

UNKNOWN = "sk-ant-ol-abcdefgh-" + "0123456789" * 4
#: The console's way to say that an answer was a 401, which for an unknown key it should be.
REFUSED = "Failed to load resource: the server responded with a status of 401 (Unauthorized)"


async def check(page: Page, key: str) -> None:
    await page.get_by_label("Your key").fill(key)
    await page.get_by_role("button", name="Show usage").click()


@pytest.mark.parametrize("script", [True, False])
class TestCheckUsage:
    async def test_a_live_key_shows_its_limits_and_usage(
        self, site: Site, visitor: Visitor, script: bool
    ) -> None:
        page = await visitor.visit("/usage", java_script_enabled=script)
        await check(page, site.live.key)
        await expect(page.get_by_role("heading", level=1)).to_have_text("alice at work")
        await expect(page.get_by_text("This key works.")).to_be_visible()
        gauges = page.locator(".gauge")
        await expect(gauges).to_have_count(4)
        await expect(gauges.nth(0)).to_contain_text("2M tokens in any 5 hours")
        await expect(gauges.nth(0)).to_contain_text("Begins to free at")
        for name in ("Tokens by day", "Cost by day", "Tokens by hour", "Cost by hour"):
            await expect(page.get_by_role("img", name=name)).to_be_visible()
        await expect(page.locator(".bars li")).to_have_count(4)
        await expect(page.get_by_text("The latest 25 of 400")).to_be_visible()
        table = page.get_by_role("region", name="The figures by day")
        await expect(table).to_be_hidden()
        await page.get_by_text("The figures by day").first.click()
        await expect(table).to_be_visible()
        assert page.url == f"{site.address}/usage"
        assert site.live.key not in await page.content()

    async def test_an_exhausted_key_says_that_it_is_used_up(
        self, site: Site, visitor: Visitor, script: bool
    ) -> None:
        page = await visitor.visit("/usage", java_script_enabled=script)
        await check(page, site.full.key)
        await expect(page.get_by_text("This key is used up for now.")).to_be_visible()
        gauge = page.locator(".gauge")
        await expect(gauge).to_contain_text("0 left")
        await expect(gauge).to_contain_text("used up")

    async def test_an_unknown_key_is_refused(self, visitor: Visitor, script: bool) -> None:
        page = await visitor.visit("/usage", java_script_enabled=script)
        await check(page, UNKNOWN)
        await expect(page.get_by_role("alert")).to_contain_text("not a key of this gateway")
        await expect(page.get_by_label("Your key")).to_have_value("")
        assert [text for text in visitor.complaints if text != REFUSED] == []
        visitor.complaints.clear()

    async def test_usage_is_downloaded(self, site: Site, visitor: Visitor, script: bool) -> None:
        page = await visitor.visit("/usage", java_script_enabled=script)
        await check(page, site.full.key)
        await page.locator("#export-key").fill(site.full.key)
        async with page.expect_download() as downloading:
            await page.get_by_role("button", name="Download CSV").click()
        download = await downloading.value
        assert download.suggested_filename == "opuslive-usage.csv"
        assert (await download.path()).read_text().count("\n") == 1 + len(site.full.records)


@pytest.mark.parametrize("script", [True, False])
class TestSetUp:
    async def test_the_lines_of_a_client_are_found_and_copied(
        self, visitor: Visitor, script: bool
    ) -> None:
        page = await visitor.visit(
            "/",
            java_script_enabled=script,
            permissions=["clipboard-read", "clipboard-write"],
        )
        first = page.get_by_role("region", name="Set-up for Claude Code, bash")
        await expect(first).to_contain_text(f"ANTHROPIC_BASE_URL={visitor.address}")
        lines = page.get_by_role("region", name="Set-up for AI SDK, Anthropic format")
        await expect(lines).to_have_count(0)
        await page.get_by_role("heading", name="AI SDK").click()
        await expect(lines).to_contain_text(f"{visitor.address}/v1")
        button = page.get_by_role("button", name="Copy the lines for AI SDK, Anthropic format")
        await expect(button).to_be_visible(visible=script)
        if script:
            await button.click()
            await expect(page.get_by_role("status").filter(has_text="Copied.")).to_have_count(1)
            copied = await page.evaluate("navigator.clipboard.readText()")
            assert copied == await lines.inner_text()

    async def test_an_address_may_lead_to_a_client(self, visitor: Visitor, script: bool) -> None:
        page = await visitor.visit("/#curl", java_script_enabled=script)
        lines = page.get_by_role("region", name="Set-up for curl, Anthropic format")
        await expect(lines).to_be_in_viewport()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
async def test_every_page_is_accessible(
    site: Site, visitor: Visitor, scheme: str, width: int
) -> None:
    holder = site.live if scheme == "light" else site.full
    page = await visitor.visit("/", color_scheme=scheme, viewport={"width": width, "height": 800})
    for path in ("/", "/privacy", "/usage"):
        await page.goto(site.address + path)
        await unfold(page)
        await assert_accessible(page)
        await assert_fits(page)
        await assert_whole_on_phones(page)
    for key in (holder.key, UNKNOWN):
        await page.goto(f"{site.address}/usage")
        await check(page, key)
        await unfold(page)
        await assert_accessible(page)
        await assert_fits(page)
        await assert_whole_on_phones(page)
    assert visitor.complaints == [REFUSED]
    visitor.complaints.clear()


async def test_every_page_fits_at_200_percent(site: Site, visitor: Visitor) -> None:
    """Zooming a window of 1280 pixels to 200 % leaves 640 of them, each twice as large."""
    page = await visitor.visit(
        "/usage", viewport={"width": 640, "height": 400}, device_scale_factor=2
    )
    await check(page, site.live.key)
    for path in ("", "/", "/privacy"):
        if path:
            await page.goto(site.address + path)
        await assert_fits(page)


async def test_check_usage_works_by_keyboard_alone(site: Site, visitor: Visitor) -> None:
    page = await visitor.visit("/")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator("main")).to_be_focused()
    await reach(page, "Check usage", back=True)
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/usage")
    await reach(page, "key")
    await page.keyboard.type(site.live.key)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("alice at work")
    # Whatever can be operated or scrolled can be reached, in the order of the page.
    found = await focusable(page)
    assert [name for name in found if name.startswith("The figures")] == [
        "The figures by day",
        "The figures by hour",
    ]
    assert found.index("Table of the latest requests") < found.index("export-key")
    assert found[-4:-1] == ["export-key", "Download CSV", "Download JSON lines"]


async def test_the_report_prints_whole(site: Site, visitor: Visitor) -> None:
    page = await visitor.visit("/usage")
    await check(page, site.live.key)
    await expect(page.locator("#export")).to_be_visible()
    await page.emulate_media(media="print")
    await expect(page.locator("#export")).to_be_hidden()
    await expect(page.get_by_role("heading", level=1)).to_be_visible()
    assert (await page.pdf()).startswith(b"%PDF")
