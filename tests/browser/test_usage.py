"""Usage of any range in a browser: it is chosen with and without a script, and reads well."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import bcrypt
import pytest
import pytest_asyncio
from playwright.async_api import expect

from tests.support.browser import Site, Visitor, assert_accessible, assert_fits
from tests.support.history import write_history
from tests.support.server import Servers

pytestmark = pytest.mark.asyncio(loop_scope="module")

PASSWORD = "a long password"
HASH = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
ADMIN: Any = {"http_credentials": {"username": "admin", "password": PASSWORD}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site() -> AsyncIterator[Site]:
    servers = Servers()
    sections: dict[str, Any] = {
        "admin": {"password_hash": HASH},
        "limits": {"gateway": ["50M tokens/day"]},
        "limits.groups": {"friends": ["90M tokens/month"]},
    }
    server = servers.make("https://models.example", **sections)
    live = await write_history(server, "alice", 200, "--group", "friends")
    full = await write_history(server, "bob", 60, "--limit", "10k output_tokens/30d")
    await server.start()
    yield Site(server, live, full)
    await servers.close()


@pytest.mark.parametrize("script", [True, False])
@pytest.mark.parametrize("of", ["all", "one"])
async def test_a_range_is_chosen(site: Site, visitor: Visitor, script: bool, of: str) -> None:
    path = "/admin" if of == "all" else f"/admin/keys/{site.live.id}"
    page = await visitor.visit(path, java_script_enabled=script, **ADMIN)
    ranges = page.get_by_role("navigation", name="Range")
    chosen = ranges.locator("[aria-current]")
    await expect(chosen).to_have_text("30 days")
    await expect(page.get_by_role("heading", name="By day")).to_be_visible()
    await ranges.get_by_role("link", name="Today").click()
    await expect(page).to_have_url(f"{site.address}{path}?since=today")
    await expect(chosen).to_have_text("Today")
    await expect(page.get_by_role("heading", name="By hour")).to_be_visible()
    await ranges.get_by_role("link", name="This month").click()
    await expect(chosen).to_have_text("This month")

    yesterday = datetime.now(UTC) - timedelta(days=1)
    for name in ("From", "To, that day included"):
        await page.get_by_label(name).fill(f"{yesterday:%Y-%m-%d}")
    await page.get_by_role("button", name="Show").click()
    await expect(chosen).to_have_count(0)
    day = f"{yesterday.day} {yesterday:%b %Y}"
    await expect(page.locator("#live-usage, main").first).to_contain_text(f"From {day}, 00:00:00")
    await expect(page.get_by_label("From")).to_have_value(f"{yesterday:%Y-%m-%d}")
    await expect(page.locator(".change").first).to_contain_text("the day before")


async def test_what_is_no_range_is_told_beside_the_fields(visitor: Visitor) -> None:
    page = await visitor.visit("/admin?since=2026-11-10&until=2026-11-01", **ADMIN)
    await expect(page.get_by_role("alert")).to_contain_text("That is no range.")
    await expect(page.get_by_label("From")).to_have_accessible_description(re.compile("no range"))
    await assert_accessible(page)


@pytest.mark.parametrize("file_format", ["csv", "jsonl"])
async def test_records_are_downloaded(site: Site, visitor: Visitor, file_format: str) -> None:
    name = {"csv": "Download CSV", "jsonl": "Download JSON lines"}[file_format]
    page = await visitor.visit(f"/admin/keys/{site.live.id}", **ADMIN)
    async with page.expect_download() as one:
        await page.get_by_role("button", name=name).click()
    lines = (await (await one.value).path()).read_text().splitlines()
    assert len(lines) == len(site.live.records) + (file_format == "csv")
    await page.goto(f"{site.address}/admin")
    for index, records in enumerate(
        (len(site.live.records) + len(site.full.records), len(site.live.records))
    ):
        async with page.expect_download() as several:
            await page.get_by_role("button", name=name).nth(index).click()
        lines = (await (await several.value).path()).read_text().splitlines()
        assert len(lines) == records + (file_format == "csv")


@pytest.mark.parametrize(
    ("scheme", "width", "query"),
    [("light", 1280, ""), ("dark", 390, "?since=today"), ("light", 390, "?since=2001-01-01")],
)
async def test_every_range_is_accessible_and_fits(
    site: Site, visitor: Visitor, scheme: str, width: int, query: str
) -> None:
    page = await visitor.visit(
        f"/admin{query}",
        color_scheme=scheme,
        viewport={"width": width, "height": 800},
        **ADMIN,
    )
    for path in ("/admin", f"/admin/keys/{site.live.id}"):
        await page.goto(f"{site.address}{path}{query}")
        for summary in await page.locator("summary").all():
            await summary.click()
        await assert_accessible(page)
        await assert_fits(page)
