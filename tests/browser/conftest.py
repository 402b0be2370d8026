"""A browser for each module: the system's Chromium, headless.

Tests are skipped where there is none. Every page is watched: it may not ask another host for
anything, nor report an error on its console.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright

from tests.support.browser import Site, Visitor
from tests.support.history import write_history
from tests.support.server import Servers

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


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


@pytest_asyncio.fixture(loop_scope="module")
async def visitor(browser: Browser, site: Site) -> AsyncIterator[Visitor]:
    made = Visitor(browser, site.address)
    yield made
    await made.close()
    assert made.complaints == []
