"""Pages of other origins: the listed ones may read every answer below /v1/, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from opuslive.config.sections import Config
from opuslive.web.app import public_app
from tests.support.app import App, OpenApp
from tests.support.provider import (
    ScriptedUpstream,
    anthropic_events,
    anthropic_message,
    json_answer,
    stream_answer,
)
from tests.support.wire import Answer, message_body, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")

LISTED = "https://chat.example.com"
OTHERS = [
    "https://chat.example.com.evil.example",
    "https://Chat.example.com",
    "https://chat.example.com:8443",
    "http://chat.example.com",
    f"{LISTED}, {LISTED}",
    "null",
    "*",
    "",
    None,
]
WANTED = "Access-Control-Request-Headers"
#: What the providers' SDKs send from a browser.
SDK = (
    "anthropic-beta,anthropic-dangerous-direct-browser-access,anthropic-version,authorization,"
    "content-type,idempotency-key,openai-beta,openai-organization,openai-project,x-api-key,"
    "x-stainless-arch,x-stainless-lang,x-stainless-os,x-stainless-package-version,"
    "x-stainless-retry-count,x-stainless-runtime,x-stainless-runtime-version,x-stainless-timeout"
)


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    return {
        "server": {"cors_origins": [LISTED, "http://localhost:3000"], "max_body": "64KB"},
        "limits": {"max_wait": "0s"},
    }


def cors(answer: Answer) -> dict[str, str]:
    """The headers of cross-origin requests, each of which stands once."""
    found = [(n, v) for n, v in answer.headers if n.startswith("access-control-")]
    assert len(found) == len(dict(found))
    return {name.removeprefix("access-control-"): value for name, value in found}


def of(origin: str | None) -> list[tuple[str, str]]:
    return [] if origin is None else [("Origin", origin)]


async def preflight(
    gateway: App, target: str, origin: str | None, wanted: str = SDK, method: str = "POST"
) -> Answer:
    headers = [*of(origin), ("Access-Control-Request-Method", method), (WANTED, wanted)]
    return await gateway.request("OPTIONS", target, headers=headers)


def assert_readable(answer: Answer, origin: str = LISTED) -> None:
    found = cors(answer)
    assert found["allow-origin"] == origin
    assert "allow-credentials" not in found
    assert ("vary", "Origin") in answer.headers
    exposed = found["expose-headers"].split(", ")
    assert {"request-id", "x-request-id", "retry-after", "x-should-retry"} <= set(exposed)
    told = {name for name, _ in answer.headers if "ratelimit" in name}
    assert told <= set(exposed)


class TestPreflight:
    @pytest.mark.parametrize("target", ["/v1/messages?beta=true", "/v1/responses", "/v1/nothing"])
    @pytest.mark.parametrize("origin", [LISTED, "http://localhost:3000"])
    async def test_is_answered_without_a_key(self, gateway: App, target: str, origin: str) -> None:
        answer = await preflight(gateway, target, origin)
        assert (answer.status, answer.body) == (204, b"")
        assert_readable(answer, origin)
        found = cors(answer)
        assert found["allow-methods"] == "GET, HEAD, POST"
        assert found["allow-headers"].split(", ") == SDK.split(",")
        assert found["max-age"] == "7200"

    async def test_allows_the_headers_of_clients_and_no_others(self, gateway: App) -> None:
        wanted = (
            "Content-Type, x-forwarded-for,cookie , X-Stainless-Made-Up,, x-stainless-\xe9,host,"
            "anthropic-x y,proxy-authorization"
        )
        found = cors(await preflight(gateway, "/v1/messages", LISTED, wanted))
        assert found["allow-headers"] == "content-type, x-stainless-made-up"

    @pytest.mark.parametrize("origin", OTHERS)
    async def test_of_another_origin_is_an_ordinary_request(
        self, gateway: App, origin: str | None
    ) -> None:
        answer = await preflight(gateway, "/v1/messages", origin)
        assert answer.error == (405, "invalid_request_error")
        assert cors(answer) == {}
        assert answer.header("vary") is None

    @pytest.mark.parametrize(
        "target", ["/", "/usage", "/healthz", "/admin/api/keys", "/api/oauth/usage", "/v1",
                   "//v1/messages", "/v2/messages"],
    )  # fmt: skip
    async def test_elsewhere_is_an_ordinary_request(self, gateway: App, target: str) -> None:
        answer = await preflight(gateway, target, LISTED)
        assert answer.status in (401, 404, 405)
        assert cors(answer) == {}

    async def test_without_a_method_is_none(self, gateway: App) -> None:
        answer = await gateway.request("OPTIONS", "/v1/messages", headers=of(LISTED))
        assert answer.status == 405

    async def test_of_a_gateway_that_drains_is_the_last_of_its_connection(
        self, gateway: App
    ) -> None:
        gateway.gateway.exchanges.draining = True
        try:
            answer = await preflight(gateway, "/v1/messages", LISTED)
        finally:
            gateway.gateway.exchanges.draining = False
        assert (answer.status, answer.header("connection")) == (204, "close")


class TestAnswers:
    async def test_of_every_kind_can_be_read(
        self, gateway: App, upstream: ScriptedUpstream
    ) -> None:
        key = await gateway.holder(limits=["3 requests/day", "9 requests/1m"])
        wrong = "sk-ant-ol-wrong"
        large = message_body(padding="x" * 70_000)
        upstream.will(stream_answer(anthropic_events("one two")))
        upstream.will(json_answer(anthropic_message("x")))
        upstream.will([b"HTTP/1.1 500 Error\r\ncontent-length: 2\r\n\r\n{}"])
        requests: list[tuple[str, str, str | None, bytes | None, int]] = [
            ("POST", "/v1/messages", key, message_body(stream=True), 200),
            ("POST", "/v1/messages", key, message_body(), 200),
            ("POST", "/v1/messages", key, message_body(), 500),
            ("POST", "/v1/messages", key, message_body(), 429),
            ("POST", "/v1/messages", key, b"not JSON", 400),
            ("POST", "/v1/messages", wrong, message_body(), 401),
            ("POST", "/v1/messages", None, message_body(), 401),
            ("POST", "/v1/messages", await gateway.holder(), large, 413),
            ("POST", "/v1/messages", await gateway.holder(), message_body("gpt-4"), 404),
            ("GET", "/v1/messages", key, None, 405),
            ("GET", "/v1/nothing", key, None, 404),
            ("GET", "/v1/models", key, None, 200),
            ("GET", "/v1/models", None, None, 401),
            ("GET", "/v1/usage", key, None, 200),
            ("GET", "/v1/usage/export", key, None, 200),
        ]
        for method, target, sent, body, status in requests:
            answer = await gateway.request(method, target, key=sent, body=body, headers=of(LISTED))
            assert answer.status == status, (method, target)
            assert_readable(answer)
        answer = await gateway.request("GET", "/v1/models", headers=of("https://evil.example"))
        assert cors(answer) == {}

    async def test_with_ratelimit_headers_show_them(
        self, gateway: App, upstream: ScriptedUpstream
    ) -> None:
        key = await gateway.holder(limits=["4 requests/day"])
        answer = await gateway.messages(key, message_body(), headers=of(LISTED))
        exposed = cors(answer)["expose-headers"].split(", ")
        assert "anthropic-ratelimit-requests-remaining" in exposed
        assert "anthropic-ratelimit-unified-overage-utilization" in exposed

    async def test_to_heads_that_are_too_large_can_be_read(self, gateway: App) -> None:
        many = [(f"x-filler-{number}", "x" * 30_000) for number in range(3)]
        answer = await gateway.request(
            "POST", "/v1/messages", headers=[*of(LISTED), *many], body=b""
        )
        assert answer.status == 431
        assert_readable(answer)

    async def test_say_what_the_gateway_allows_and_not_what_its_provider_does(
        self, gateway: App, upstream: ScriptedUpstream
    ) -> None:
        key = await gateway.holder()
        head = (
            b"HTTP/1.1 200 OK\r\naccess-control-allow-origin: *\r\nvary: Accept-Encoding\r\n"
            b"Access-Control-Allow-Credentials: true\r\ncontent-length: 2\r\n\r\n{}"
        )
        upstream.will([head], [head])
        answer = await gateway.messages(key, message_body(), headers=of(LISTED))
        assert_readable(answer)
        assert [v for n, v in answer.headers if n == "vary"] == ["Accept-Encoding", "Origin"]
        answer = await gateway.messages(key, message_body(), headers=of("https://evil.example"))
        assert cors(answer) == {}

    @pytest.mark.parametrize(
        "path", ["/", "/usage", "/healthz", "/api/oauth/usage", "/admin", "/v1"]
    )
    async def test_elsewhere_can_not(self, gateway: App, path: str) -> None:
        for method in ("GET", "HEAD", "POST"):
            async with await gateway.connect() as wire:
                await wire.send(request_bytes(method, path, headers=of(LISTED)))
                assert cors(await wire.answer(head_only=method == "HEAD")) == {}


@pytest.mark.asyncio
async def test_without_origins_nothing_is_in_the_way(open_app: OpenApp) -> None:
    gateway, client = await open_app(Config())
    app = public_app(gateway)
    assert (len(app.middlewares), len(app.on_response_prepare)) == (1, 1)
    answer = await client.options(
        "/v1/messages", headers={"Origin": LISTED, "Access-Control-Request-Method": "POST"}
    )
    assert answer.status == 405
    assert not any(name.lower().startswith("access-control") for name in answer.headers)
    answer = await client.get("/v1/models", headers={"Origin": LISTED})
    assert "Access-Control-Allow-Origin" not in answer.headers
