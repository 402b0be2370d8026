"""Libraries remember nothing of a request once it is answered, or its client has left."""

from __future__ import annotations

import functools

import aiohttp.helpers
import pytest
import yarl._parse
import yarl._url
from aiohttp import web
from yarl import URL

from opuslive.web.http.caches import forget_requests
from tests.support.connections import Acceptor
from tests.support.waiting import eventually
from tests.support.wire import request_bytes


def remembered() -> int:
    """How much the libraries' caches hold."""
    modules = (aiohttp.helpers, yarl._parse, yarl._url)
    values = [value for module in modules for value in vars(module).values()]
    caches = [value for value in values if isinstance(value, functools._lru_cache_wrapper)]
    assert len(caches) > 5
    return sum(cache.cache_info().currsize for cache in caches)


def test_caches_can_be_emptied() -> None:
    URL("https://user@example.com:80/a/path?a=query").with_path("/other").human_repr()
    assert remembered() > 0
    forget_requests()
    assert remembered() == 0


@pytest.mark.parametrize("leaves", [False, True])
async def test_caches_are_empty_after_each_request(listener: Acceptor, leaves: bool) -> None:
    seen = 0

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal seen
        assert request.url.query_string == "a=query"
        assert request.content_type == "text/x-strange"
        seen = remembered()
        return web.Response(text="answered")

    await listener.start(handler)
    headers = [("Content-Type", "text/x-strange")]
    async with await listener.connect() as wire:
        await wire.send(request_bytes("GET", "/a/path?a=query", headers=headers))
        if not leaves:
            assert (await wire.answer()).status == 200
    await eventually(lambda: seen > 0 and remembered() == 0)
