"""Times where the reader is, beside those in UTC: the browser adds them, and tells nobody."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.support.browser import Site, Visitor

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: In summer time, in winter time, and on the day when one ends and the other begins.
MOMENTS = {
    "2031-07-01T22:30:00Z": {
        "Europe/Madrid": "2 Jul, 00:30 here",
        "America/New_York": "18:30 here",
        "Asia/Kathmandu": "2 Jul, 04:15 here",
    },
    "2031-01-31T23:30:00Z": {
        "Europe/Madrid": "1 Feb, 00:30 here",
        "America/New_York": "18:30 here",
        "Europe/London": "",
    },
    "2031-10-26T00:30:00Z": {
        "Europe/Madrid": "02:30 here",
        "Europe/London": "01:30 here",
        "Pacific/Honolulu": "25 Oct, 14:30 here",
    },
    "2031-10-26T01:30:00Z": {"Europe/Madrid": "02:30 here", "Europe/London": ""},
}


async def usage_of(key: str, visitor: Visitor, **options: Any) -> Page:
    page = await visitor.visit("/usage", **options)
    await page.get_by_label("Your key").fill(key)
    await page.get_by_role("button", name="Show usage").click()
    await expect(page.locator(".record")).to_be_visible()
    return page


async def local_times(page: Page, within: str) -> list[str]:
    """What the browser has added there."""
    texts = await page.locator(f"{within} .here").all_inner_texts()
    return [text.replace("\N{NO-BREAK SPACE}", " ") for text in texts]


@pytest.mark.parametrize("moment", MOMENTS)
async def test_local_times_stand_beside_utc(site: Site, visitor: Visitor, moment: str) -> None:
    made = await site.server.admin("POST", "keys", name=f"until {moment}", expires=moment)
    for zone, told in MOMENTS[moment].items():
        page = await usage_of(made["key"], visitor, timezone_id=zone)
        time = page.locator(f".record time[datetime='{moment}']")
        await expect(time).to_contain_text(f"UTC\N{NO-BREAK SPACE}{told}" if told else "UTC")
        shown = [told] if told else []
        assert await local_times(page, ".standing") == shown
        assert await local_times(page, f".record time[datetime='{moment}']") == shown
    await site.server.admin("DELETE", "keys", made["id"])


async def test_the_foot_of_the_page_names_the_zone(site: Site, visitor: Visitor) -> None:
    for zone, told in (("Australia/Adelaide", "Australia/Adelaide"), ("UTC", "Times are in UTC. ")):
        page = await usage_of(site.live.key, visitor, timezone_id=zone)
        await expect(page.locator("footer")).to_contain_text(told)
        assert bool(await local_times(page, "main")) == (zone != "UTC")


async def test_without_a_script_times_are_in_utc_alone(site: Site, visitor: Visitor) -> None:
    page = await usage_of(
        site.live.key, visitor, timezone_id="Australia/Adelaide", java_script_enabled=False
    )
    await expect(page.locator(".gauge").first).to_contain_text("UTC")
    await expect(page.locator("body")).not_to_contain_text("Adelaide")
    await expect(page.locator(".here")).to_have_count(0)


async def test_nothing_of_it_is_sent_or_kept(site: Site, visitor: Visitor) -> None:
    page = await visitor.visit("/usage", timezone_id="Asia/Kathmandu")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(f"{request.method} {request.url}"))
    await page.get_by_label("Your key").fill(site.live.key)
    await page.get_by_role("button", name="Show usage").click()
    await expect(page.locator(".record .here").first).to_be_visible()
    assert [each for each in asked if "/static/" not in each] == [f"POST {site.address}/usage"]
    assert await page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 0]


async def test_what_comes_in_later_is_told_too(site: Site, visitor: Visitor) -> None:
    page = await usage_of(site.live.key, visitor, timezone_id="Asia/Kathmandu")
    await page.evaluate(
        """() => {
          const time = document.createElement("time");
          time.dateTime = "2031-07-01T22:30:00.123Z";
          time.title = "in UTC";
          document.querySelector("main").append(time);
        }"""
    )
    await expect(page.locator("time[title]")).to_have_attribute(
        "title", "in UTC \N{MIDDLE DOT} 2\N{NO-BREAK SPACE}Jul, 04:15\N{NO-BREAK SPACE}here"
    )
