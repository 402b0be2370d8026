"""What goes through the gateway arrives as it was sent: bodies, queries, headers."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from tests.support.provider import (
    LAST_CHUNK,
    STREAM_HEAD,
    ScriptedUpstream,
    anthropic_events,
    chunk,
    json_answer,
)
from tests.support.server import CREDENTIAL, Server
from tests.support.waiting import soon
from tests.support.wire import message_body, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")

MB = 1024 * 1024
MAX_BODY = 31 * MB

#: White space, escapes, an order and a repetition that no encoder would write again.
ODD = (
    b'\n{ "messages" : [ {"role":"user","content":"h\\u00e9 \xc3\xa9 \\/ \\u0000"} ] ,\t"x":1.0e0,'
    b'"x":1, "max_tokens"\r\n:7 ,"model":\t"claude-test-1" }  \n'
)


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    return {
        "server": {"max_body": "31MB"},
        "aliases": {"opus": "claude-test-1", "nowhere": "gpt-none"},
    }


class TestRequests:
    async def test_a_body_arrives_as_it_was_sent(
        self, gateway: Server, upstream: ScriptedUpstream, key: str
    ) -> None:
        assert (await gateway.messages(key, ODD)).status == 200
        received = await soon(upstream.request())
        assert received.body == ODD
        assert received.line == "POST /v1/messages HTTP/1.1"

    async def test_a_large_body_arrives_as_it_was_sent(
        self, gateway: Server, upstream: ScriptedUpstream, key: str
    ) -> None:
        body = message_body(filler='0123456789 \\"é ' * (30 * MB // 22))
        assert 30 * MB < len(body) <= MAX_BODY
        assert (await gateway.messages(key, body)).status == 200
        received = await soon(upstream.request())
        assert hashlib.sha256(received.body).digest() == hashlib.sha256(body).digest()

    async def test_a_body_in_chunks_arrives_with_a_length(
        self, gateway: Server, upstream: ScriptedUpstream, key: str
    ) -> None:
        head = request_bytes(
            "POST", "/v1/messages", key=key, headers=[("Transfer-Encoding", "chunked")]
        )
        async with await gateway.connect() as wire:
            await wire.send(head)
            for start in range(0, len(ODD), 5):
                await wire.send(chunk(ODD[start : start + 5]))
            await wire.send(LAST_CHUNK)
            assert (await wire.answer()).status == 200
        received = await soon(upstream.request())
        assert received.body == ODD
        assert received.header("content-length") == str(len(ODD))
        assert received.header("transfer-encoding") is None

    @pytest.mark.parametrize(
        ("spelled", "sent_on"),
        [(b'"opus"', b'"claude-test-1"'), (b'"\\u006fpus"', b'"claude-test-1"')],
    )
    async def test_an_alias_changes_the_bytes_of_the_model_only(
        self, gateway: Server, upstream: ScriptedUpstream, key: str, spelled: bytes, sent_on: bytes
    ) -> None:
        body = ODD.replace(b'"claude-test-1"', spelled)
        assert (await gateway.messages(key, body)).status == 200
        assert (await soon(upstream.request())).body == ODD.replace(b'"claude-test-1"', sent_on)
        assert [record["model"] for record in await gateway.records(key)] == ["claude-test-1"]

    async def test_an_alias_of_what_no_upstream_serves(self, gateway: Server, key: str) -> None:
        answer = await gateway.messages(key, message_body("nowhere"))
        assert answer.error == (404, "not_found_error")

    @pytest.mark.parametrize("query", ["beta=true", "a=%41&b=+&&c", "q=caf%C3%A9/?;:@'"])
    async def test_the_query_is_kept(
        self, gateway: Server, upstream: ScriptedUpstream, key: str, query: str
    ) -> None:
        answer = await gateway.request(
            "POST", f"/v1/messages?{query}", key=key, body=message_body()
        )
        assert answer.status == 200
        assert (await soon(upstream.request())).path == f"/v1/messages?{query}"

    @pytest.mark.parametrize("name", [b'"model"', b'"m\\u006fdel"', b'"MODEL"'])
    async def test_two_models_in_one_body_are_refused(
        self, gateway: Server, upstream: ScriptedUpstream, key: str, name: bytes
    ) -> None:
        body = ODD.rstrip().removesuffix(b"}") + b"," + name + b':"claude-test-2"}'
        assert (await gateway.messages(key, body)).error == (400, "invalid_request_error")
        assert upstream.inferences == []


class TestExpectContinue:
    """100 is answered only when the key and the size are known to be good."""

    EXPECT = ("Expect", "100-continue")

    async def ask(self, gateway: Server, key: str | None, length: int) -> Any:
        wire = await gateway.connect()
        headers = [self.EXPECT, ("Content-Length", str(length))]
        await wire.send(request_bytes("POST", "/v1/messages", key=key, headers=headers))
        return wire

    async def test_a_good_one_is_told_to_go_on(
        self, gateway: Server, upstream: ScriptedUpstream, key: str
    ) -> None:
        async with await self.ask(gateway, key, len(ODD)) as wire:
            assert await wire.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            await wire.send(ODD)
            assert (await wire.answer()).status == 200
        received = await soon(upstream.request())
        assert received.body == ODD
        assert received.header("expect") is None

    async def test_a_wrong_key_is_refused_without_100_continue(self, gateway: Server) -> None:
        async with await self.ask(gateway, "sk-ant-ol-wrong", len(ODD)) as wire:
            assert (await wire.answer()).error == (401, "authentication_error")

    async def test_too_large_a_body_is_refused_without_100_continue(
        self, gateway: Server, key: str
    ) -> None:
        async with await self.ask(gateway, key, MAX_BODY + 1) as wire:
            assert (await wire.answer()).error == (413, "request_too_large")

    @pytest.mark.parametrize("target", ["/v1/nothing", "/v1/usage", "/healthz"])
    async def test_a_path_that_takes_no_body_is_not(self, gateway: Server, target: str) -> None:
        async with await gateway.connect() as wire:
            headers = [self.EXPECT, ("Content-Length", "5")]
            await wire.send(request_bytes("POST", target, headers=headers))
            assert (await wire.head()).status in (404, 405)


class TestRequestHeaders:
    async def test_only_headers_for_the_provider_reach_it(
        self, gateway: Server, upstream: ScriptedUpstream, key: str
    ) -> None:
        travels = [
            ("anthropic-version", "2023-06-01"),
            ("Anthropic-Beta", "one-2025-01-01,two"),
            ("anthropic-beta", "three"),
            ("X-Claude-Code-Session-Id", "session"),
            ("x-app", "cli"),
            ("X-Stainless-Retry-Count", "0"),
            ("User-Agent", "claude-cli/2"),
            ("content-type", "application/x-www-form-urlencoded"),
            ("anthropic-note", "caf\xe9"),
        ]
        stays = [
            ("Authorization", "Bearer someone-elses"),
            ("api-key", "no"),
            ("x-goog-api-key", "no"),
            ("Cookie", "no=1"),
            ("Connection", "keep-alive, x-stainless-private"),
            ("x-stainless-private", "no"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Authorization", "no"),
            ("TE", "trailers"),
            ("Forwarded", "for=1.2.3.4"),
            ("X-Forwarded-For", "1.2.3.4"),
            ("X-Real-IP", "1.2.3.4"),
            ("CF-Connecting-IP", "1.2.3.4"),
            ("True-Client-IP", "1.2.3.4"),
            ("Via", "1.1 desk-of-erika"),
            ("Tailscale-User-Login", "erika@example.com"),
            ("x_auth_request_email", "erika@example.com"),
            ("x-unknown", "no"),
            ("openai-organization", "no"),
            ("Accept-Encoding", "gzip, br"),
        ]
        answer = await gateway.messages(key, ODD, [*stays[:7], *travels, *stays[7:]])
        assert answer.status == 200
        received = await soon(upstream.request())
        ours = [
            ("host", f"127.0.0.1:{upstream.port}"),
            ("x-api-key", CREDENTIAL),
            ("content-length", str(len(ODD))),
            ("accept-encoding", "identity"),
        ]
        expected = [*((name.lower(), value) for name, value in travels), *ours]
        assert sorted(received.headers) == sorted(expected)
        names = [name for name, _ in received.headers]
        assert names.index("x-app") < names.index("user-agent")

    async def test_either_of_two_keys_may_be_the_valid_one(self, gateway: Server, key: str) -> None:
        other = "sk-ant-api03-something-else"
        for headers in (
            [("Authorization", f"Bearer {key}"), ("x-api-key", other)],
            [("Authorization", f"Bearer {other}"), ("x-api-key", key)],
            [("authorization", f"bEARER {key}")],
        ):
            answer = await gateway.request(
                "POST", "/v1/messages", headers=headers, body=message_body()
            )
            assert answer.status == 200


class TestAnswers:
    async def test_a_message_comes_back_as_it_was_sent(
        self, gateway: Server, upstream: ScriptedUpstream, key: str
    ) -> None:
        body = (
            b'\r\n{ "usage" : {"output_tokens":3,\t"input_tokens":2} , "x" : "\\u00e9\xc3\xa9"}\n\n'
        )
        head = b"HTTP/1.1 200 Fine\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        upstream.will([head % len(body) + body])
        answer = await gateway.messages(key, ODD)
        assert answer.body == body
        (record,) = await gateway.records(key)
        assert (record["input_tokens"], record["output_tokens"]) == (2, 3)

    async def test_a_stream_comes_back_as_it_was_sent(
        self, gateway: Server, upstream: ScriptedUpstream, key: str
    ) -> None:
        events = b"".join(anthropic_events("one two", input_tokens=2, output_tokens=3))
        sent = b": a comment\r\n\r\n" + events.replace(b"\n\n", b"\r\n\r\n") + b"\n: after all\n\n"
        upstream.will(
            [STREAM_HEAD, *(chunk(sent[i : i + 7]) for i in range(0, len(sent), 7)), LAST_CHUNK]
        )
        answer = await gateway.messages(key, message_body(stream=True))
        assert answer.body == sent
        assert answer.header("cache-control") == "no-cache"
        assert answer.header("x-accel-buffering") == "no"
        (record,) = await gateway.records(key)
        assert (record["input_tokens"], record["output_tokens"]) == (2, 3)

    async def test_an_error_of_the_request_comes_back_as_it_was_sent(
        self, gateway: Server, upstream: ScriptedUpstream, key: str
    ) -> None:
        error = {"type": "error", "error": {"type": "invalid_request_error", "message": "tools: x"}}
        upstream.will(json_answer(error, status=422, headers=[("x-should-retry", "false")]))
        answer = await gateway.messages(key, ODD)
        assert (answer.status, answer.json()) == (422, error)
        assert answer.header("x-should-retry") == "false"

    async def test_only_headers_for_clients_come_back(
        self, gateway: Server, upstream: ScriptedUpstream, key: str
    ) -> None:
        back = [("retry-after", "7"), ("anthropic-note", "kept"), ("x-latin", "caf\xe9")]
        stays = [
            ("Set-Cookie", "a=b"),
            ("Server", "cloudflare"),
            ("Via", "1.1 google"),
            ("alt-svc", "h3"),
            ("strict-transport-security", "max-age=1"),
            ("CF-RAY", "1"),
            ("x-envoy-upstream-service-time", "1"),
            ("nel", "{}"),
            ("report-to", "{}"),
            ("x-robots-tag", "none"),
            ("anthropic-organization-id", "org"),
            ("anthropic-workspace-id", "wrkspc"),
            ("anthropic-ratelimit-tokens-limit", "1"),
            ("x-ratelimit-limit-requests", "1"),
            ("request-id", "req_upstream"),
            ("x-request-id", "req_upstream"),
            ("Connection", "x-private, keep-alive"),
            ("x-private", "no"),
            ("Keep-Alive", "timeout=60"),
        ]
        upstream.will(json_answer({}, headers=[*stays, *back]))
        answer = await gateway.messages(key, ODD)
        left = {"content-type", "content-length", "date", "server", "request-id", "x-request-id"}
        assert {name for name, _ in answer.headers} == left | {name for name, _ in back}
        assert answer.header("server") == "OpusLive"
        assert answer.header("retry-after") == "7"
        request_id = answer.header("request-id")
        assert request_id == answer.header("x-request-id") != "req_upstream"
        assert json.loads(answer.body) == {}

    async def test_counting_tokens_leaves_no_record(
        self, gateway: Server, upstream: ScriptedUpstream, key: str
    ) -> None:
        answer = await gateway.request("POST", "/v1/messages/count_tokens", key=key, body=ODD)
        assert answer.json() == {"input_tokens": 42}
        assert (await soon(upstream.request())).body == ODD
        assert await gateway.records(key) == []
