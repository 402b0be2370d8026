"""A gateway for each module, in its process; and gateways for one test."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient
from pytest_aiohttp.plugin import AiohttpClient

from opuslive.bootstrap import Gateway
from opuslive.config.sections import Config
from opuslive.web.app import public_app
from tests.support.app import App, Apps, OpenApp, opened
from tests.support.provider import ScriptedUpstream


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(provider: ScriptedUpstream, sections: dict[str, Any]) -> AsyncIterator[App]:
    """The module's gateway, running."""
    apps = Apps()
    yield await apps.start(provider.base_url, **sections)
    await apps.close()


@pytest_asyncio.fixture(loop_scope="module")
async def apps() -> AsyncIterator[Apps]:
    """Makes gateways for one test."""
    made = Apps()
    yield made
    await made.close()


@pytest_asyncio.fixture
async def open_app(aiohttp_client: AiohttpClient, tmp_path: Path) -> AsyncIterator[OpenApp]:
    """Opens one gateway for a test, which aiohttp's client asks."""
    async with contextlib.AsyncExitStack() as stack:

        async def open_one(
            config: Config, **more: Any
        ) -> tuple[Gateway, TestClient[web.Request, web.Application]]:
            gateway = await stack.enter_async_context(opened(tmp_path, config, **more))
            return gateway, await aiohttp_client(public_app(gateway))

        yield open_one
