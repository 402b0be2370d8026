"""Pages of other origins in a browser: what they can do with a key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Browser, Page

from tests.support.provider import ScriptedUpstream, anthropic_events, stream_answer
from tests.support.server import Server, Servers
from tests.support.wire import message_body

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: Ask as the providers' SDKs do. Returns the status, some headers and the pieces of the body, or
#: the error that the browser makes of what the page may not read; ``seen`` is called with each
#: piece as it comes.
ASK = """async ([address, path, key, body]) => {
  try {
    const answer = await fetch(address + path, {
      method: "POST", body, headers: {
        authorization: "Bearer " + key, "content-type": "application/json",
        "anthropic-version": "2023-06-01", "anthropic-dangerous-direct-browser-access": "true",
        "x-stainless-lang": "js", "x-stainless-retry-count": "0"}});
    const reader = answer.body.getReader(), pieces = [], text = new TextDecoder();
    for (let piece; !(piece = await reader.read()).done;) {
      pieces.push(text.decode(piece.value, {stream: true}));
      await window.seen(pieces.length);
    }
    const names = ["request-id", "retry-after", "anthropic-ratelimit-requests-remaining",
                   "anthropic-ratelimit-unified-overage-utilization", "server"];
    const headers = Object.fromEntries(names.map(name => [name, answer.headers.get(name)]));
    return {status: answer.status, headers, pieces};
  } catch (error) { return {error: error.name}; }
}"""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A gateway, and a page that is served on two other origins, one of which it knows."""

    server: Server
    listed: str
    unlisted: str


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def elsewhere(provider: ScriptedUpstream) -> AsyncIterator[Elsewhere]:
    async def empty(request: web.Request) -> web.Response:
        return web.Response(
            text="<!doctype html><link rel=icon href=data:>", content_type="text/html"
        )

    app = web.Application()
    app.router.add_get("/", empty)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    listed, unlisted = f"http://127.0.0.1:{port}", f"http://localhost:{port}"
    servers = Servers()
    server = await servers.start(
        provider.base_url, server={"cors_origins": [listed]}, limits={"max_wait": "0s"}
    )
    yield Elsewhere(server, listed, unlisted)
    await servers.close()
    await runner.cleanup()


async def opened(browser: Browser, origin: str, pieces: asyncio.Queue[int]) -> Page:
    page = await (await browser.new_context()).new_page()
    await page.expose_function("seen", pieces.put)
    await page.goto(origin)
    return page


async def ask(
    page: Page, server: Server, key: str, path: str = "/v1/messages"
) -> Mapping[str, Any]:
    body = message_body(stream=True).decode()
    answer: Mapping[str, Any] = await page.evaluate(
        ASK, [f"http://127.0.0.1:{server.port}", path, key, body]
    )
    return answer


async def test_a_page_of_a_listed_origin_reads_a_stream_as_it_comes(
    browser: Browser, elsewhere: Elsewhere, upstream: ScriptedUpstream
) -> None:
    server = elsewhere.server
    key = await server.holder(limits=["4 requests/day"])
    go_on = asyncio.Event()
    events = anthropic_events("one two three")
    head, *rest = stream_answer(events)
    upstream.will([head, *rest[:3], go_on, *rest[3:]])
    pieces: asyncio.Queue[int] = asyncio.Queue()
    page = await opened(browser, elsewhere.listed, pieces)
    asking = asyncio.ensure_future(ask(page, server, key))
    await asyncio.wait_for(pieces.get(), 20)
    assert not asking.done()
    go_on.set()
    answer = await asking
    assert answer["status"] == 200
    assert "".join(answer["pieces"]).encode() == b"".join(events)
    assert answer["headers"].pop("request-id").startswith("req_")
    assert answer["headers"] == {
        "retry-after": None,
        "anthropic-ratelimit-requests-remaining": "3",
        "anthropic-ratelimit-unified-overage-utilization": "0.25",
        "server": None,
    }
    await page.context.close()


async def test_a_page_of_a_listed_origin_reads_why_it_is_refused(
    browser: Browser, elsewhere: Elsewhere, upstream: ScriptedUpstream
) -> None:
    server = elsewhere.server
    page = await opened(browser, elsewhere.listed, asyncio.Queue())
    refused = await ask(page, server, "sk-ant-ol-wrong")
    assert refused["status"] == 401
    assert "Invalid API key" in refused["pieces"][0]
    key = await server.holder(limits=["1 requests/1m"])
    assert (await ask(page, server, key))["status"] == 200
    full = await ask(page, server, key)
    assert full["status"] == 429
    assert int(full["headers"]["retry-after"]) > 0
    await page.context.close()


async def test_a_page_of_any_other_origin_does_nothing(
    browser: Browser, elsewhere: Elsewhere, upstream: ScriptedUpstream
) -> None:
    server = elsewhere.server
    key = await server.holder()
    page = await opened(browser, elsewhere.unlisted, asyncio.Queue())
    assert await ask(page, server, key) == {"error": "TypeError"}
    assert upstream.inferences == []
    await page.context.close()


async def test_a_page_of_a_listed_origin_reads_nothing_but_the_api(
    browser: Browser, elsewhere: Elsewhere
) -> None:
    page = await opened(browser, elsewhere.listed, asyncio.Queue())
    key = await elsewhere.server.holder()
    assert await ask(page, elsewhere.server, key, "/usage") == {"error": "TypeError"}
    await page.context.close()
