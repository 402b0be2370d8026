"""The port of plain HTTP: what it answers, what it sends on, and what it refuses."""

from __future__ import annotations

import json

import anthropic
import openai
import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient
from pytest_aiohttp.plugin import AiohttpClient

from opuslive.web.acme.forwarding import forwarding_app
from tests.support.wire import Wire
from tests.support.workplace import SERVED

pytestmark = SERVED

PUBLIC = "https://ai.example.com:8443"
TOKEN = "t-_0" * 10
Client = TestClient[web.Request, web.Application]


@pytest.fixture
async def client(aiohttp_client: AiohttpClient) -> Client:
    return await aiohttp_client(forwarding_app(PUBLIC + "/base", {TOKEN: f"{TOKEN}.thumbprint"}))


async def ask(client: Client, method: str, path: str, **more: object) -> ClientResponse:
    return await client.request(method, path, allow_redirects=False, **more)  # type: ignore[arg-type]


async def test_an_open_challenge_is_answered_and_nothing_else_under_its_path(
    client: Client,
) -> None:
    path = "/.well-known/acme-challenge/"
    answer = await ask(client, "GET", path + TOKEN)
    assert (answer.status, await answer.text()) == (200, f"{TOKEN}.thumbprint")
    assert answer.content_type == "text/plain"
    for other in (path, path + "x", path + TOKEN + "/", path + "..%2f" + TOKEN):
        assert (await ask(client, "GET", other)).status == 404
    assert (await ask(client, "POST", path + TOKEN)).status == 403


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "target",
    ["/", "/usage?since=7d", "//evil.example/x", "/%0D%0ASet-Cookie:x", "/@evil", "/v1/models"],
)
async def test_who_says_nothing_is_sent_on_to_the_public_host(
    client: Client, method: str, target: str
) -> None:
    """Whatever host the request names."""
    head = f"{method} {target} HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    async with await Wire.connect(client.port or 0) as wire:
        await wire.send(head.encode())
        answer = await wire.answer(head_only=method == "HEAD")
    assert (answer.status, answer.header("location")) == (301, PUBLIC + target)
    assert answer.header("connection") == "close"


async def test_two_hosts_in_one_request_are_refused(client: Client) -> None:
    async with await Wire.connect(client.port or 0) as wire:
        await wire.send(b"GET http://evil.example/ HTTP/1.1\r\nHost: ai.example.com\r\n\r\n")
        assert (await wire.answer()).status == 400


@pytest.mark.parametrize(
    "name", ["Authorization", "x-api-key", "API-KEY", "x-goog-api-key", "Cookie"]
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "OPTIONS"])
async def test_who_sends_a_credential_is_refused_and_told_to_replace_it(
    client: Client, method: str, name: str
) -> None:
    answer = await ask(client, method, "/v1/models", headers={name: "secret-Zq7"})
    assert answer.status == 403
    assert "Location" not in answer.headers
    assert answer.headers["x-should-retry"] == "false"
    text = await answer.text()
    assert "secret-Zq7" not in text
    if method != "HEAD":
        message = json.loads(text)["error"]["message"]
        assert f"the address is {PUBLIC}/base" in message
        assert "replace it" in message


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_what_is_no_reading_is_refused(client: Client, method: str) -> None:
    answer = await ask(client, method, "/v1/chat/completions")
    assert (answer.status, "Location" in answer.headers) == (403, False)
    assert PUBLIC in json.loads(await answer.text())["error"]["message"]


async def test_a_reading_with_a_body_is_refused(client: Client) -> None:
    assert (await ask(client, "GET", "/", data=b"x")).status == 403


async def test_the_anthropic_sdk_shows_the_address_to_use(client: Client) -> None:
    sdk = anthropic.AsyncAnthropic(base_url=str(client.make_url("/")), api_key="x", max_retries=0)
    with pytest.raises(anthropic.PermissionDeniedError, match=f"the address is {PUBLIC}"):
        await sdk.messages.create(
            model="m", max_tokens=1, messages=[{"role": "user", "content": "x"}]
        )
    await sdk.close()


async def test_the_openai_sdk_shows_the_address_to_use(client: Client) -> None:
    sdk = openai.AsyncOpenAI(base_url=str(client.make_url("/v1")), api_key="x", max_retries=0)
    with pytest.raises(openai.PermissionDeniedError, match=f"the address is {PUBLIC}"):
        await sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
    await sdk.close()
