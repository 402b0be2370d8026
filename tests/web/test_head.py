"""HEAD is answered as GET is, without the body: monitors ask so, and caches.

The kind: every route that takes GET (but those of the administrator's API, whose document names
its methods), when all is well and when it is not (no key, an unknown id, a
gateway that drains), on a connection that then goes on with another request.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from aiohttp import web

from opuslive.web.admin.openapi import ROOT as ADMIN_API
from opuslive.web.app import public_app
from tests.support.admin_pages import HASH, RIGHT
from tests.support.app import App
from tests.support.wire import Answer, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: What differs from one answer to the next.
OWN = {"date", "request-id", "x-request-id"}


@pytest.fixture(scope="module")
def sections() -> dict[str, object]:
    return {"admin": {"password_hash": HASH}}


def paths(gateway: App, key_id: str) -> Iterable[str]:
    """An address for each route that takes GET, and some for which there is none."""
    for route in public_app(gateway.gateway).router.routes():
        assert isinstance(route.resource, web.Resource)
        path = route.resource.canonical
        if route.method == "GET" and not path.startswith(ADMIN_API):
            yield path.replace("{name}", "style.css").replace(
                "{id}", "claude-test-1" if path.startswith("/v1") else key_id
            )
    yield from ("/nothing", "/v1/nothing", "/admin/nothing", "/static/nothing")


async def heads(gateway: App, path: str, key: str | None, *, auth: bool) -> tuple[Answer, Answer]:
    """The answers to GET and HEAD."""
    headers = [("Authorization", RIGHT)] if auth else []
    answers = []
    for method in ("GET", "HEAD"):
        async with await gateway.connect() as wire:
            await wire.send(request_bytes(method, path, key=key, headers=headers))
            answer = await wire.answer() if method == "GET" else await wire.head()
            answers.append(answer)
            if method == "HEAD" and answer.header("connection") != "close":
                # What follows is the next answer, and nothing else.
                await wire.send(request_bytes("GET", "/healthz"))
                assert (await wire.answer()).json() == {"status": "ok"}
            elif method == "HEAD":
                assert (await wire.ending())[1] == b""
    return answers[0], answers[1]


@pytest.mark.parametrize("auth", [True, False], ids=["with credentials", "without"])
async def test_head_is_get_without_the_body(gateway: App, key: str, auth: bool) -> None:
    item, *_ = (await gateway.admin("GET", "keys"))["items"]
    seen = set()
    for path in paths(gateway, item["id"]):
        admin = auth and path.startswith("/admin")
        get, head = await heads(gateway, path, key if auth and not admin else None, auth=admin)
        assert head.status == get.status, path
        # How a body is framed need not be told where there is none (RFC 9110, 9.3.2).
        own = OWN | {"transfer-encoding"} | ({"content-length"} if not get.body else set())
        assert {(name, value) for name, value in head.headers if name not in own} == {
            (name, value) for name, value in get.headers if name not in own
        }, path
        seen.add(get.status)
    assert seen >= ({200, 404} if auth else {200, 401, 404})


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_a_monitor_may_ask_with_head(gateway: App, path: str) -> None:
    get, head = await heads(gateway, path, None, auth=False)
    assert (get.status, head.status) == (200, 200)
    assert head.header("content-length") == str(len(get.body))


async def test_head_tells_too_that_a_gateway_is_not_ready(gateway: App) -> None:
    gateway.gateway.exchanges.stopping = True
    try:
        get, head = await heads(gateway, "/readyz", None, auth=False)
    finally:
        gateway.gateway.exchanges.stopping = False
    assert (get.status, head.status) == (503, 503)


async def test_what_takes_no_get_takes_no_head(gateway: App, key: str) -> None:
    get, head = await heads(gateway, "/v1/messages", key, auth=False)
    assert (get.status, head.status) == (405, 405)
    assert head.header("allow") == "POST"
