"""When pages say that the model is simulated."""

from __future__ import annotations

import pytest

from opuslive.config.sections import AdminConfig, Config, UpstreamConfig
from tests.support.admin_pages import HASH, RIGHT
from tests.support.app import OpenApp

PATHS = ("/", "/usage", "/privacy", "/admin")


@pytest.mark.parametrize("simulated_model", ["a-simulated-model", None])
async def test_the_sandbox_alone_is_labelled_whatever_an_upstream_is_called(
    open_app: OpenApp, simulated_model: str | None
) -> None:
    upstream = UpstreamConfig(name="sandbox", base_url="http://127.0.0.1:9")
    config = Config(admin=AdminConfig(password_hash=HASH), upstreams=(upstream,))
    _, client = await open_app(config, simulated_model=simulated_model)
    for path in PATHS:
        page = await client.get(path, headers={"Authorization": RIGHT})
        assert page.status == 200
        assert ("is simulated" in await page.text()) == (simulated_model is not None)
    landing = await (await client.get("/")).text()
    assert f"{simulated_model or 'claude-opus-4-8'}&#34;" in landing
