"""What goes wrong is answered by one ladder, and shown in three ways."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import ClientPayloadError, web
from pytest_aiohttp.plugin import AiohttpClient

from opuslive.config.sections import AdminConfig, Config
from opuslive.dialects import registry
from opuslive.errors import Code, OpusLiveError, UsageError
from opuslive.web.answers import REQUEST_ID_KEY
from opuslive.web.errors import (
    HttpProblem,
    answering,
    dialect_document,
    problem_document,
    problem_of,
)
from tests.support.admin_pages import HASH, RIGHT
from tests.support.app import OpenApp


@pytest.mark.parametrize(
    ("error", "status", "sentence", "headers"),
    [
        (UsageError("Not so."), 400, "Not so.", {}),
        (
            OpusLiveError(Code.OVERLOADED, "Wait.", retry_after=5),
            503,
            "Wait.",
            {"retry-after": "5"},
        ),
        (HttpProblem(403, "No.", {"x": "y"}), 403, "No.", {"x": "y"}),
        (
            web.HTTPMethodNotAllowed("PUT", ["POST", "GET"]),
            405,
            "This path takes GET and POST only.",
            {"allow": "GET,POST"},
        ),
        (web.HTTPNotFound(), 404, "This path is not served here.", {}),
        (web.HTTPRequestEntityTooLarge(1, 2), 413, "Entity is too large.", {}),
    ],
)
def test_every_exception_gets_its_status_sentence_and_headers(
    error: HttpProblem | OpusLiveError | web.HTTPException,
    status: int,
    sentence: str,
    headers: dict[str, str],
) -> None:
    problem = problem_of(error)
    assert (problem.status, problem.sentence, problem.headers) == (status, sentence, headers)


@pytest.mark.parametrize(
    ("status", "kind"), [(415, "invalid_request_error"), (500, "api_error"), (403, "invalid")]
)
async def test_a_dialect_s_document_goes_with_the_problem_s_own_status(
    aiohttp_client: AiohttpClient, status: int, kind: str
) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        request[REQUEST_ID_KEY] = "req_1"
        return dialect_document(registry.DEFAULT)(request, HttpProblem(status, "No.", code=code))

    code = Code.INTERNAL if status >= 500 else Code.INVALID_REQUEST
    app = web.Application()
    app.router.add_get("/", handler)
    answer = await (await aiohttp_client(app)).get("/")
    assert answer.status == status
    assert (await answer.json())["error"]["type"].startswith(kind)


async def test_the_same_error_is_a_dialect_s_document_a_problem_and_a_page(
    open_app: OpenApp,
) -> None:
    _, client = await open_app(Config(admin=AdminConfig(password_hash=HASH)))
    signed_in = {"Authorization": RIGHT}
    dialect = await client.put("/v1/usage")
    assert (await dialect.json())["error"]["message"] == "This path takes GET only."
    problem = await client.put("/admin/api/usage", headers=signed_in)
    assert problem.content_type == "application/problem+json"
    document = await problem.json(content_type=None)
    assert document["detail"] == "This path takes GET only."
    page = await client.put("/admin/keys", headers=signed_in)
    assert page.content_type == "text/html"
    assert re.search("This path takes GET only.", await page.text())
    for answer in (dialect, problem, page):
        assert answer.status == 405
        assert "GET" in answer.headers["Allow"]
        assert answer.headers["request-id"]


async def test_an_answer_that_has_begun_is_broken_off(aiohttp_client: AiohttpClient) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"begun")
        raise OpusLiveError(Code.OVERLOADED, "Too late to say.")

    @web.middleware
    async def identify(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        request[REQUEST_ID_KEY] = "req_1"
        return await handler(request)

    app = web.Application(middlewares=[identify, answering(problem_document)])
    app.router.add_get("/", handler)
    client = await aiohttp_client(app)
    answer = await client.get("/")
    with pytest.raises(ClientPayloadError):
        await answer.read()


async def test_who_is_not_let_in_is_told_on_a_page_without_the_administration_s_own(
    open_app: OpenApp,
) -> None:
    _, client = await open_app(Config(admin=AdminConfig(password_hash=HASH)))
    page = await client.get("/admin")
    assert page.status == 401
    assert page.headers["WWW-Authenticate"].startswith("Basic ")
    assert "<script" not in await page.text()
