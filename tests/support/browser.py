"""A visitor of a site's pages in a browser, and what holds of every page."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, BrowserContext, Page, Request

from tests.support.history import Holder
from tests.support.server import Server

#: ms that something may take to appear.
PATIENCE_MS = 10_000


@dataclass(frozen=True, slots=True)
class Site:
    """A gateway with keys that were used, one of which is used up."""

    server: Server
    live: Holder
    full: Holder

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"


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


async def assert_accessible(page: Page) -> None:
    """No violation of any rule that axe knows."""
    results = await Axe().run(page)
    assert results.violations_count == 0, results.generate_report()


async def assert_fits(page: Page) -> None:
    """Nothing but what scrolls by itself is wider than the window."""
    assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


#: What is told of every table is what reads a table to somebody who does not see it.
_ROLES = {"TABLE": "table", "THEAD": "rowgroup", "TBODY": "rowgroup", "TR": "row", "TD": "cell"}


async def assert_whole_on_phones(page: Page) -> None:
    """In windows as narrow as phones, upright or not, nothing scrolls sideways, ends outside of the
    window or is cut; rows of tables are cards, whose values stand below their columns' names."""
    size = page.viewport_size
    assert size is not None
    for width in (844, 390, 320):
        await page.set_viewport_size({"width": width, "height": 800})
        cut = await page.evaluate(_CUT)
        assert cut == [], f"at {width} pixels: {cut}"
    cells, nameless = await page.evaluate(_TABLES)
    assert all(_ROLES.get(tag, role) == role for tag, role in cells)
    assert nameless == []
    await page.set_viewport_size(size)


#: The elements that are not to be seen whole, but for those that only a screen reader reads.
_CUT = """() => {
  const edge = document.documentElement.clientWidth;
  return [...document.querySelectorAll("body *")].filter((element) => {
    const box = element.getBoundingClientRect();
    if (element.closest(".skip, .cards thead:not(.orders)")) return false;
    const style = getComputedStyle(element);
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    const inside = style.overflowX !== "visible" && element.scrollWidth > element.clientWidth;
    return inside || (own && (box.left < -0.5 || box.right > edge + 0.5));
  }).map((element) => element.outerHTML.slice(0, 200));
}"""

#: The elements of tables with their roles, and the cells that don't have their column's title.
_TABLES = """() => [
  [...document.querySelectorAll("table, thead, tbody, tr, td")].map(
    (element) => [element.tagName, element.getAttribute("role")]),
  [...document.querySelectorAll("tbody :is(th, td)")].filter((cell) => {
    const head = cell.closest("table").querySelectorAll("thead th")[cell.cellIndex];
    return !cell.closest(".cards") || head.textContent.trim() !== cell.dataset.title
      || (cell.tagName === "TH" && cell.getAttribute("role") !== "rowheader");
  }).map((cell) => cell.outerHTML),
]"""


async def unfold(page: Page) -> None:
    """Open whatever can be opened."""
    for summary in await page.locator("summary").all():
        if await summary.evaluate("summary => !summary.parentElement.open"):
            await summary.click()


async def focused(page: Page) -> str:
    """The id, label or text of what has the focus."""
    name: str = await page.evaluate(
        "(e => e.id || e.getAttribute('aria-label') || e.textContent.trim())"
        "(document.activeElement)"
    )
    return name


async def reach(page: Page, name: str, *, back: bool = False) -> None:
    """Press Tab until this has the focus."""
    for _ in range(30):
        await page.keyboard.press("Shift+Tab" if back else "Tab")
        if await focused(page) == name:
            return
    raise AssertionError(f"{name} can't be reached")


async def focusable(page: Page) -> list[str]:
    """Everything that Tab reaches, to the end of the page."""
    found: list[str] = []
    await page.locator("main").focus()
    for _ in range(40):
        await page.keyboard.press("Tab")
        name = await focused(page)
        found.append(name)
        if re.fullmatch("Privacy policy", name):
            return found
    raise AssertionError(f"no end: {found}")
