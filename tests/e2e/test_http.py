"""HTTP as strangers speak it: probes, wrong paths, old versions, requests made to confuse."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.provider import LAST_CHUNK, ScriptedUpstream, anthropic_events, chunk
from tests.support.server import Server
from tests.support.wire import message_body, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")

BASE_URL = "https://ai.example.test"


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    return {"server": {"public_url": BASE_URL, "max_body": "100KB"}}


class TestPaths:
    @pytest.mark.parametrize("target", ["/", "/api/hello"])
    async def test_a_probe_by_head_is_answered(self, gateway: Server, target: str) -> None:
        answer = await gateway.request("HEAD", target)
        assert answer.status == 200
        assert answer.header("request-id") == answer.header("x-request-id") is not None

    @pytest.mark.parametrize("target", ["/healthz", "/readyz"])
    async def test_health_checks_are_answered(self, gateway: Server, target: str) -> None:
        answer = await gateway.request("GET", target)
        assert (answer.status, answer.json()["status"]) == (200, "ok")

    @pytest.mark.parametrize(
        "target",
        [
            "//v1/messages",
            "/v1//messages",
            "/v1/v1/messages",
            "/v1/messages/",
            "/v1/messages/batches",
            "/v1/complete",
            "/v1",
            "/messages",
            "/V1/MESSAGES",
            "/v1/messages/../usage",
        ],
    )
    @pytest.mark.parametrize("method", ["GET", "POST"])
    async def test_what_is_not_served_names_the_base_url(
        self, gateway: Server, upstream: ScriptedUpstream, key: str, method: str, target: str
    ) -> None:
        body = message_body() if method == "POST" else None
        answer = await gateway.request(method, target, key=key, body=body)
        assert answer.error == (404, "not_found_error")
        assert BASE_URL in answer.message
        assert upstream.inferences == []

    @pytest.mark.parametrize(
        ("method", "target", "allowed"),
        [
            ("GET", "/v1/messages", "POST"),
            ("PUT", "/v1/messages", "POST"),
            ("OPTIONS", "/v1/messages", "POST"),
            ("POST", "/v1/models", "GET,HEAD"),
            ("DELETE", "/v1/models/claude-test-1", "GET,HEAD"),
            ("POST", "/v1/usage", "GET,HEAD"),
            ("PATCH", "/healthz", "GET,HEAD"),
        ],
    )
    async def test_a_wrong_method_names_the_right_one(
        self, gateway: Server, key: str, method: str, target: str, allowed: str
    ) -> None:
        answer = await gateway.request(method, target, key=key)
        assert answer.error == (405, "invalid_request_error")
        assert answer.header("allow") == allowed
        assert f"This path takes {allowed.removesuffix(',HEAD')} only." == answer.message

    @pytest.mark.parametrize(
        ("target", "status"), [("/v1/messages", 405), ("/v1/models", 200), ("/nothing", 404)]
    )
    async def test_an_answer_to_head_has_no_body(
        self, gateway: Server, key: str, target: str, status: int
    ) -> None:
        async with await gateway.connect() as wire:
            for _ in range(2):  # What came behind a head would be taken for the next answer.
                await wire.send(request_bytes("HEAD", target, key=key))
                assert (await wire.answer(head_only=True)).status == status

    async def test_every_answer_has_an_id_of_its_own(self, gateway: Server, key: str) -> None:
        ids = set()
        for target in (
            "/healthz",
            "/readyz",
            "/nothing",
            "/v1/usage",
            "/v1/models",
            "/v1/messages",
        ):
            answer = await gateway.request("GET", target, key=key)
            assert answer.header("server") == "OpusLive"
            assert answer.header("set-cookie") is None
            ids.add(answer.header("request-id"))
            assert answer.header("request-id") == answer.header("x-request-id")
        assert len(ids) == 6


class TestBodies:
    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b"{}",
            b'{"model": 5}',
            b'{"model": ""}',
            b"\xef\xbb\xbf{}",
            b'{"model": "claude-test-1", "x": "\xff"}',
            b'{"model": "claude-test-1", "max_tokens": -5}',
            b'{"model": "claude-test-1", "max_tokens": 1e22}',
            b'{"model": "claude-test-1", "stream": "yes"}',
            b'{"model": "claude-test-1", "stream": true, "stream": false}',
            b'{"model": "claude-test-1", "x": ' + b"[" * 50_000 + b"]" * 49_900 + b"}",
        ],
        ids=lambda body: str(body[:40]),
    )
    async def test_a_body_that_can_not_be_read_is_answered_400(
        self, gateway: Server, upstream: ScriptedUpstream, key: str, body: bytes
    ) -> None:
        answer = await gateway.messages(key, body)
        assert answer.error == (400, "invalid_request_error")
        assert answer.header("x-should-retry") == "false"
        assert upstream.inferences == []
        (record,) = await gateway.records(key)
        assert (record["status"], record["latency_ms"], record["model"]) == (400, None, None)

    async def test_a_body_that_is_too_large_is_answered_413(
        self, gateway: Server, upstream: ScriptedUpstream, key: str
    ) -> None:
        body = message_body(filler="x" * 200_000)
        answer = await gateway.messages(key, body)
        assert answer.error == (413, "request_too_large")
        assert answer.header("x-should-retry") == "false"
        headers = [("transfer-encoding", "chunked")]
        async with await gateway.connect() as wire:
            await wire.send(request_bytes("POST", "/v1/messages", key=key, headers=headers))
            await wire.send(chunk(body) + LAST_CHUNK)
            assert (await wire.answer()).error == (413, "request_too_large")
        assert upstream.inferences == []
        # Of refusals one a second is recorded.
        assert {record["status"] for record in await gateway.records(key)} == {413}

    async def test_a_large_body_without_a_key_is_not_waited_for(self, gateway: Server) -> None:
        headers = [("Content-Length", "90000")]
        async with await gateway.connect() as wire:
            await wire.send(request_bytes("POST", "/v1/messages", headers=headers) + b"{")
            assert (await wire.answer()).error == (401, "authentication_error")

    @pytest.mark.parametrize("with_key", [True, False])
    async def test_a_malformed_chunk_is_answered_400_and_closes(
        self, gateway: Server, upstream: ScriptedUpstream, key: str, with_key: bool
    ) -> None:
        headers = [("transfer-encoding", "chunked")]
        head = request_bytes("POST", "/v1/messages", key=key if with_key else None, headers=headers)
        async with await gateway.connect() as wire:
            await wire.send(head + chunk(b'{"model":'))
            if with_key:
                await wire.send(b"no chunk\r\n")
                assert (await wire.answer()).error == (400, "invalid_request_error")
            else:
                assert (await wire.answer()).error == (401, "authentication_error")
                await wire.send(b"no chunk\r\n")
            assert (await wire.ending())[1] == b""
        assert (await gateway.request("GET", "/healthz")).status == 200
        assert "defect" not in gateway.log
        assert upstream.inferences == []


class TestOldVersions:
    async def test_a_message_over_http_1_0_ends_with_the_connection(
        self, gateway: Server, upstream: ScriptedUpstream, key: str
    ) -> None:
        for stream in (False, True):
            async with await gateway.connect() as wire:
                body = message_body(stream=stream)
                request = request_bytes("POST", "/v1/messages", key=key, body=body, version="1.0")
                await wire.send(request)
                answer = await wire.answer()
                assert answer.header("transfer-encoding") is None
                assert await wire.ending() == ("closed", b"")
                if stream:
                    events = anthropic_events(
                        "Hello from the tests", input_tokens=11, output_tokens=7
                    )
                    assert answer.body == b"".join(events)
        assert [record["status"] for record in await gateway.records(key)] == [200, 200]

    async def test_a_connection_over_http_1_0_is_kept_if_asked(self, gateway: Server) -> None:
        headers = [("Connection", "keep-alive")]
        async with await gateway.connect() as wire:
            for _ in range(2):
                await wire.send(request_bytes("GET", "/healthz", headers=headers, version="1.0"))
                assert (await wire.answer()).status == 200


LINE = b"POST /v1/messages HTTP/1.1\r\n"


def confusing(key: bytes) -> dict[str, bytes]:
    """Requests that two servers in a row could read differently."""
    end = b"x-api-key: " + key + b"\r\n\r\n"
    host, length = b"Host: a\r\n", b"Content-Length: 2\r\n"
    chunked = b"Transfer-Encoding: chunked\r\n"
    return {
        "no Host": LINE + length + end + b"{}",
        "two Hosts": LINE + host + b"Host: b\r\n" + length + end + b"{}",
        "HTTP/1.0 in chunks": b"POST /v1/messages HTTP/1.0\r\n" + chunked + end + b"0\r\n\r\n",
        "two framings": LINE + host + length + chunked + end + b"0\r\n\r\n",
        "two lengths": LINE + host + length + b"Content-Length: 3\r\n" + end + b"{}",
        "an underscore": LINE + host + b"Content_Length: 5\r\n" + length + end + b"{}",
        "another underscore": LINE
        + host
        + b"Transfer_Encoding: chunked\r\n"
        + length
        + end
        + b"{}",
        "another coding": LINE
        + host
        + b"Transfer-Encoding: gzip, chunked\r\n"
        + end
        + b"0\r\n\r\n",
        "chunked twice": LINE + host + chunked + chunked + end + b"0\r\n\r\n",
        "a space before the colon": LINE + host + b"Content-Length : 2\r\n" + end + b"{}",
        "a bare line feed": LINE + host + b"x-a: b\nContent-Length: 2\r\n" + end + b"{}",
        "a folded line": LINE + host + b"x-a: b\r\n c\r\n" + length + end + b"{}",
        "a NUL": LINE + host + b"x-a: \0\r\n" + length + end + b"{}",
        "another host": b"POST http://b/v1/messages HTTP/1.1\r\n" + host + length + end + b"{}",
        "HTTP/1.2": b"POST /v1/messages HTTP/1.2\r\n" + host + length + end + b"{}",
        "HTTP/2.0": b"POST /v1/messages HTTP/2.0\r\n" + host + length + end + b"{}",
        "an upgrade of two framings": LINE
        + host
        + b"Connection: upgrade\r\nUpgrade: h2c\r\n"
        + chunked
        + length
        + end
        + b"{}",
        "CONNECT": b"CONNECT a:80 HTTP/1.1\r\n" + host + end,
        "a signed length": LINE + host + b"Content-Length: +2\r\n" + end + b"{}",
        "a huge line": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n" + host + end,
        "a huge header": LINE + host + b"x-a: " + b"a" * 100_000 + b"\r\n" + end,
        "many headers": LINE + host + b"x-a: b\r\n" * 1000 + end,
    }


async def test_a_client_that_offers_http2_with_every_request_is_served(
    gateway: Server, upstream: ScriptedUpstream, key: str
) -> None:
    """The JDK's HttpClient with its defaults, on one connection."""
    offer = [
        ("Connection", "Upgrade, HTTP2-Settings"),
        ("HTTP2-Settings", "AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA"),
        ("Upgrade", "h2c"),
    ]
    bodies = [message_body(), message_body(stream=True), message_body(text="x" * 90_000)]
    async with await gateway.connect() as wire:
        for body in bodies:
            await wire.send(
                request_bytes("POST", "/v1/messages", key=key, headers=offer, body=body)
            )
            assert (await wire.answer()).status == 200
    assert [received.body for received in upstream.inferences] == bodies
    assert len(upstream.inferences) == 3
    for received in upstream.inferences:
        names = {name for name, _ in received.headers}
        assert names.isdisjoint({"connection", "upgrade", "http2-settings"})


@pytest.mark.parametrize("what", confusing(b""))
async def test_a_request_that_could_be_read_in_two_ways_is_answered_400(
    gateway: Server, upstream: ScriptedUpstream, key: str, what: str
) -> None:
    async with await gateway.connect() as wire:
        await wire.send(confusing(key.encode())[what])
        answer = await wire.answer()
    assert answer.error == (431 if "huge" in what else 400, "invalid_request_error")
    assert answer.header("server") == "OpusLive"
    assert upstream.inferences == []
    assert "defect" not in gateway.log


async def test_an_absolute_target_of_this_host_is_served(gateway: Server) -> None:
    async with await gateway.connect() as wire:
        await wire.send(b"GET http://a:1/healthz HTTP/1.1\r\nHost: a:1\r\n\r\n")
        assert (await wire.answer()).json() == {"status": "ok"}


async def test_options_of_everything_is_answered_400(gateway: Server) -> None:
    async with await gateway.connect() as wire:
        await wire.send(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await wire.answer()).status == 400
    assert "defect" not in gateway.log


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/"),
        ("HEAD", "/"),
        ("HEAD", "/api/hello"),
        ("GET", "/usage"),
        ("POST", "/usage"),
        ("GET", "/privacy"),
        ("GET", "/static/style.css"),
        ("GET", "/healthz"),
        ("GET", "/v1/models"),
        ("POST", "/v1/messages"),
        ("GET", "/admin/api/keys"),
        ("GET", "/nothing"),
    ],
)
async def test_an_unknown_expectation_is_answered_417_and_not_repeated(
    gateway: Server, method: str, target: str, version: str
) -> None:
    headers = [("Expect", "kanarienvogel")]
    async with await gateway.connect() as wire:
        await wire.send(request_bytes(method, target, headers=headers, version=version))
        answer = await wire.answer(head_only=method == "HEAD")
        assert (await wire.ending())[1] == b""
    assert answer.status == 417
    assert "kanarienvogel" not in str(answer).lower()
    assert "defect" not in gateway.log


async def test_a_form_that_waits_for_100_is_told_to_come(gateway: Server) -> None:
    form = b"key=wrong"
    headers = [
        ("Expect", "100-continue"),
        ("Content-Type", "application/x-www-form-urlencoded"),
        ("Content-Length", str(len(form))),
    ]
    async with await gateway.connect() as wire:
        await wire.send(request_bytes("POST", "/usage", headers=headers))
        assert await wire.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await wire.send(form)
        assert (await wire.answer()).status == 401
