"""A browser for each module: the system's Chromium, headless.

Tests are skipped where there is none. Every page is watched: it may not ask another host for
anything, nor report an error on its console.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, BrowserContext, Page, Request, async_playwright

from tests.browser.history import Holder, write_history
from tests.e2e.conftest import Servers
from tests.support.server import Server

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: ms that something may take to appear.
PATIENCE_MS = 10_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    async with async_playwright() as playwright:
        # Its sandbox needs privileges that containers don't give; only our own pages are opened.
        launched = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        await launched.close()


@dataclass(frozen=True, slots=True)
class Site:
    """A gateway with keys that were used, one of which is used up."""

    server: Server
    live: Holder
    full: Holder

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site() -> AsyncIterator[Site]:
    servers = Servers()
    server = servers.make(
        "https://models.example",
        admin={"contact": "ops@example.com"},
        upstream={"name": "provider of models"},
    )
    limits = ("2M tokens/5h", "60 requests/1m", "200 usd/month", "8 concurrent")
    options = [word for limit in limits for word in ("--limit", limit)]
    live = await write_history(server, "alice at work", 400, *options, "--expires", "90d")
    full = await write_history(server, "bob", 90, "--limit", "10k output_tokens/30d")
    await server.start()
    yield Site(server, live, full)
    await servers.close()


@dataclass
class Visitor:
    """Opens pages of one site and notes what they do that they must not."""

    browser: Browser
    address: str
    complaints: list[str] = field(default_factory=list)
    _contexts: list[BrowserContext] = field(default_factory=list)

    async def visit(self, path: str, **options: Any) -> Page:
        """Open a page in a context of its own."""
        context = await self.browser.new_context(**options)
        context.set_default_timeout(PATIENCE_MS)
        self._contexts.append(context)
        page = await context.new_page()
        page.on("request", self._asked)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on(
            "console",
            lambda message: (
                self.complaints.append(message.text) if message.type == "error" else None
            ),
        )
        await page.goto(self.address + path)
        return page

    def _asked(self, request: Request) -> None:
        if urlsplit(request.url).netloc != urlsplit(self.address).netloc:
            self.complaints.append(f"asked for {request.url}")

    async def close(self) -> None:
        for context in self._contexts:
            assert await context.cookies() == []
            await context.close()


@pytest_asyncio.fixture(loop_scope="module")
async def visitor(browser: Browser, site: Site) -> AsyncIterator[Visitor]:
    made = Visitor(browser, site.address)
    yield made
    await made.close()
    assert made.complaints == []


async def assert_accessible(page: Page) -> None:
    """No violation of any rule that axe knows."""
    results = await Axe().run(page)
    assert results.violations_count == 0, results.generate_report()


async def assert_fits(page: Page) -> None:
    """Nothing but what scrolls by itself is wider than the window."""
    assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
