"""Set-up lines: those of each dialect that has a template, and nothing for the others."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpClient

from opuslive.config.in_force import ConfigInForce
from opuslive.config.sections import Config, UpstreamConfig
from opuslive.web.answers import REQUEST_ID_KEY
from opuslive.web.pages.templating import Templates
from tests.support.clock import NOW


@pytest.mark.parametrize(
    ("dialects", "shown"),
    [
        ((), []),
        (("anthropic",), ["Anthropic clients"]),
        (("openai", "anthropic", "openai"), ["Anthropic clients", "OpenAI clients"]),
        (("openai", "nobody-s"), ["OpenAI clients"]),
    ],
)
async def test_the_landing_page_has_a_section_for_each_dialect(
    aiohttp_client: AiohttpClient, dialects: tuple[Any, ...], shown: list[str]
) -> None:
    upstreams = tuple(UpstreamConfig("one", "https://a.example", name) for name in dialects)
    in_force = ConfigInForce(Config(upstreams=upstreams), NOW)
    templates = Templates(in_force, None, lambda: False)

    async def landing(request: web.Request) -> web.Response:
        request[REQUEST_ID_KEY] = "req_1"
        return templates.render(request, "landing.html", base="https://ai.example")

    app = web.Application()
    app.router.add_get("/", landing)
    client = await aiohttp_client(app)
    page = await (await client.get("/")).text()
    titles = ("Anthropic clients", "OpenAI clients")
    assert [title for title in titles if f">{title}</h2>" in page] == shown
    assert ("This gateway has no model provider yet." in page) == (not dialects)
