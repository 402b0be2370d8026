"""Set-up lines: those of clients of each dialect, and nothing for dialects without clients."""

from __future__ import annotations

import html
import json
import re
import shlex
from typing import Any

import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpClient

from opuslive.config.in_force import ConfigInForce
from opuslive.config.sections import Config, UpstreamConfig
from opuslive.web.answers import REQUEST_ID_KEY
from opuslive.web.pages.templating import Templates
from tests.support.app import OpenApp
from tests.support.clock import NOW


@pytest.mark.parametrize(
    ("dialects", "shown"),
    [
        ((), []),
        (("anthropic",), ["Claude Code", "Anthropic SDK", "AI SDK", "curl"]),
        (
            ("openai", "anthropic", "openai"),
            ["Claude Code", "Codex CLI", "Anthropic SDK", "OpenAI SDK", "AI SDK", "curl"],
        ),
        (("openai", "nobody-s"), ["Codex CLI", "OpenAI SDK", "AI SDK", "curl"]),
        (("nobody-s",), []),
    ],
)
async def test_the_landing_page_has_the_clients_of_each_dialect(
    aiohttp_client: AiohttpClient, dialects: tuple[Any, ...], shown: list[str]
) -> None:
    upstreams = tuple(UpstreamConfig("one", "https://a.example", name) for name in dialects)
    in_force = ConfigInForce(Config(upstreams=upstreams), NOW)
    templates = Templates(in_force, None, lambda: False)

    async def landing(request: web.Request) -> web.Response:
        request[REQUEST_ID_KEY] = "req_1"
        models = dict.fromkeys(dialects, "a-model")
        return templates.render(request, "landing.html", base="https://ai.example", models=models)

    app = web.Application()
    app.router.add_get("/", landing)
    client = await aiohttp_client(app)
    page = await (await client.get("/")).text()
    assert re.findall("<summary><h3>(.*?)</h3>", page) == shown
    assert ("Set up your client" in page) == bool(shown)
    # The first one is open.
    assert page.count("<details open>") == (1 if shown else 0)
    assert ("This gateway has no model provider yet." in page) == (not dialects)
    assert ("export CLAUDE_CODE_USE_GATEWAY=1" in page) == ("anthropic" in dialects)
    assert ("[model_providers.opuslive]" in page) == ("openai" in dialects)


async def test_the_landing_page_names_models_that_are_served_here(open_app: OpenApp) -> None:
    odd = """it's <b>"odd"</b>"""
    upstreams = (
        UpstreamConfig("one", "http://127.0.0.1:9", models=("claude-*", odd)),
        UpstreamConfig("two", "http://127.0.0.1:9", "openai", models=("qwen-*",)),
    )
    _, client = await open_app(Config(upstreams=upstreams))
    page = html.unescape(await (await client.get("/")).text())
    assert f"export ANTHROPIC_MODEL={shlex.quote(odd)}\n" in page
    assert "$env:ANTHROPIC_MODEL = 'it''s <b>\"odd\"</b>'\n" in page
    assert f'"ANTHROPIC_MODEL": {json.dumps(odd)}\n' in page
    # Nobody knows what that upstream has.
    codex = page.partition("config.toml</h4>")[2].partition("</code></pre>")[0]
    assert "model_provider =" in codex
    assert "model =" not in codex
    assert "and <code>MODEL</code> by the name of a model" in page
