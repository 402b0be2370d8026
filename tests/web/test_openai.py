"""OpenAI's endpoints over real HTTP, as its clients and compatible servers write their bytes.

The kinds: each endpoint, in one piece and as a stream, asked with and without ``stream_options``;
limits and what tells of them; what is refused, and errors of the provider; streams that break off.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from tests.support.app import App, Apps
from tests.support.canaries import Flock
from tests.support.openai_streams import (
    DONE,
    chunk,
    content,
    delta,
    event,
    joined,
    response,
    response_usage,
    usage,
)
from tests.support.provider import CLOSE, STREAM_HEAD, ScriptedUpstream, json_answer, stream_answer
from tests.support.provider import chunk as http_chunk
from tests.support.server import CREDENTIAL
from tests.support.wire import Answer, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RESPONSES, EMBEDDINGS = "/v1/responses", "/v1/embeddings"
OPENAI = {"dialect": "openai", "models": ["gpt-*"]}
MESSAGES = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    return {"upstream": OPENAI, "aliases": {"small": "gpt-5-mini"}}


def body(model: str = "gpt-5-mini", **members: object) -> bytes:
    return json.dumps({"model": model, **members}).encode()


async def post(gateway: App, key: str, path: str, data: bytes) -> Answer:
    return await gateway.request(
        "POST", path, headers=[("Authorization", f"Bearer {key}")], body=data
    )


async def used(gateway: App, key: str) -> tuple[int, int, int, int]:
    """The status and the tokens of the one record: input, output, cached."""
    (record,) = await gateway.records(key, 1)
    assert record["model"] == "gpt-5-mini"
    names = ("status", "input_tokens", "output_tokens", "cache_read_tokens")
    return tuple(record[name] for name in names)


def error_of(answer: Answer) -> tuple[int, str, str | None]:
    document = answer.json()
    assert document.keys() == {"error"}
    assert document["error"].keys() == {"message", "type", "param", "code"}
    assert answer.header("request-id") == answer.header("x-request-id")
    return answer.status, document["error"]["type"], document["error"]["code"]


TOLD = usage(prompt_tokens_details={"cached_tokens": 4})
CHUNKS = [content("Hel"), content("lo"), chunk({})]


def events(asked: bool) -> Iterable[bytes]:
    """A stream as OpenAI writes it to whoever ``asked`` for usage."""
    told = [{**each, "usage": None} for each in CHUNKS] if asked else CHUNKS
    return [event(each) for each in told] + ([event(chunk(usage=TOLD)), DONE] if asked else [DONE])


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_a_stream_is_metered_though_its_client_did_not_ask(
    gateway: App, upstream: ScriptedUpstream, key: str, path: str
) -> None:
    upstream.will(stream_answer(events(asked=True)))
    answer = await post(gateway, key, path, body("small", stream=True, messages=MESSAGES))
    assert answer.status == 200
    assert answer.body == b"".join(events(asked=False))
    assert await used(gateway, key) == (200, 7, 7, 4)
    (request,) = upstream.inferences
    assert request.path == path
    assert request.header("authorization") == f"Bearer {CREDENTIAL}"
    assert request.header("x-api-key") is None
    asked = b'{"stream_options":{"include_usage":true},'
    assert request.body == asked + body(stream=True, messages=MESSAGES)[1:]


async def test_a_client_that_asks_for_usage_gets_every_byte(
    gateway: App, upstream: ScriptedUpstream, key: str
) -> None:
    upstream.will(stream_answer(events(asked=True)))
    asking = body(stream=True, stream_options={"include_usage": True}, messages=MESSAGES)
    answer = await post(gateway, key, CHAT, asking)
    assert answer.body == b"".join(events(asked=True))
    assert await used(gateway, key) == (200, 7, 7, 4)
    assert upstream.inferences[0].body == asking


@pytest.mark.parametrize(
    ("path", "told", "tokens"),
    [
        (CHAT, TOLD, (200, 7, 7, 4)),
        (COMPLETIONS, usage(), (200, 11, 7, 0)),
        (RESPONSES, response_usage(), (200, 11, 7, 0)),
        (EMBEDDINGS, {"prompt_tokens": 11, "total_tokens": 11}, (200, 11, 0, 0)),
    ],
)
async def test_an_answer_in_one_piece_is_metered(
    gateway: App,
    upstream: ScriptedUpstream,
    key: str,
    path: str,
    told: object,
    tokens: tuple[int, ...],
) -> None:
    document = {"object": "x", "data": [{"embedding": "AAAA"}], "usage": told}
    upstream.will(json_answer(document, headers=[("x-ratelimit-limit-requests", "9")]))
    sent = body(input="Hello", store=True)
    answer = await post(gateway, key, path, sent)
    assert answer.json() == document
    assert answer.header("x-ratelimit-limit-requests") is None
    assert upstream.inferences[0].body == sent
    assert await used(gateway, key) == tokens


async def test_a_response_whose_end_has_8_mb_is_metered(
    gateway: App, upstream: ScriptedUpstream, key: str
) -> None:
    large = "x" * (8 << 20)
    stream = [
        event(response("created", instructions=large)),
        event(delta("Hello")),
        event(response("completed", instructions=large, usage=response_usage())),
    ]
    upstream.will(stream_answer(stream))
    answer = await post(gateway, key, RESPONSES, body(stream=True, input="Hello"))
    assert answer.body == b"".join(stream)
    assert await used(gateway, key) == (200, 11, 7, 0)


async def test_the_end_of_a_response_takes_memory_that_request_bodies_share(
    apps: Apps,
) -> None:
    """Of 8 MB in all: too little for one end, and enough for six, one after the other."""
    provider = ScriptedUpstream()
    await provider.start()
    try:
        server = await apps.start(provider.base_url, upstream=OPENAI, server={"max_body": "1MB"})
        key = await server.holder()
        sent = body(stream=True, input="Hello")
        for size, whole in ((9 << 20, False), *[(3 << 19, True)] * 6):
            last = event(response("completed", instructions="x" * size, usage=response_usage()))
            provider.will(stream_answer([event(delta("Hello")), last]))
            async with await server.connect() as wire:
                await wire.send(request_bytes("POST", RESPONSES, key=key, body=sent))
                if whole:
                    assert (await wire.answer()).body.endswith(last)
                else:
                    assert (await wire.ending())[0] == "reset"
        statuses = [record["status"] for record in await server.records(key, 7)]
        assert sorted(statuses) == [*[200] * 6, 503]
    finally:
        await server.kill()
        await provider.close()


async def test_a_server_that_tells_no_usage_is_estimated(
    gateway: App, upstream: ScriptedUpstream, key: str
) -> None:
    upstream.will(stream_answer([event(content("x" * 400)), DONE]))
    sent = body(stream=True, messages=MESSAGES)
    answer = await post(gateway, key, CHAT, sent)
    assert answer.body == event(content("x" * 400)) + DONE
    assert await used(gateway, key) == (200, len(sent) // 4, 100, 0)
    assert "does not say how many tokens its answers use" in gateway.log


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
async def test_a_stream_that_breaks_off_never_looks_whole_and_is_recorded(
    gateway: App, upstream: ScriptedUpstream, key: str, path: str
) -> None:
    text = event(content("x" * 400) if path == CHAT else delta("x" * 400))
    upstream.will([STREAM_HEAD, http_chunk(text), CLOSE])
    sent = body(stream=True, input="Hello")
    async with await gateway.connect() as wire:
        await wire.send(request_bytes("POST", path, key=key, body=sent))
        end, received = await wire.ending()
    assert end == "reset"
    assert text in received
    assert await used(gateway, key) == (502, len(sent) // 4, 100, 0)


async def test_a_provider_that_gives_up_in_the_midst_is_passed_on(
    gateway: App, upstream: ScriptedUpstream, key: str
) -> None:
    gave_up = event({"error": {"message": "overloaded", "type": "server_error"}})
    upstream.will(stream_answer([event(content("x" * 400)), gave_up, DONE]))
    answer = await post(gateway, key, CHAT, body(stream=True, messages=MESSAGES))
    assert answer.body == event(content("x" * 400)) + gave_up + DONE
    assert (await used(gateway, key))[0] == 502


class TestRefusals:
    async def test_errors_have_openais_shape(self, gateway: App, key: str) -> None:
        wrong = await post(gateway, "sk-wrong", CHAT, body())
        assert error_of(wrong) == (401, "invalid_request_error", "invalid_api_key")
        missing = await post(gateway, key, CHAT, body("gemini"))
        assert error_of(missing) == (404, "invalid_request_error", "model_not_found")
        for path in (CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS):
            broken = await post(gateway, key, path, b"{")
            assert error_of(broken) == (400, "invalid_request_error", None)

    async def test_what_reaches_beyond_the_request_is_refused_and_not_sent(
        self, gateway: App, upstream: ScriptedUpstream, key: str
    ) -> None:
        for members in (
            {"previous_response_id": "resp_1"},
            {"conversation": "conv_1"},
            {"input": [{"type": "item_reference", "id": "msg_1"}]},
            {"background": True},
        ):
            answer = await post(gateway, key, RESPONSES, body(**members))
            assert error_of(answer) == (400, "invalid_request_error", None)
            assert "is not offered: " in answer.message
        assert upstream.inferences == []

    async def test_a_model_of_the_other_dialect_is_said_to_be_there(
        self, gateway: App, upstream: ScriptedUpstream, key: str
    ) -> None:
        answer = await gateway.messages(key, body("small", max_tokens=1))
        assert answer.error == (404, "not_found_error")
        assert answer.message == (
            "This model is served at /v1/chat/completions only: "
            "nothing is converted between formats."
        )

    @pytest.mark.parametrize(
        "members", [{"service_tier": "priority"}, {"tools": [{"type": "web_search"}]}]
    )
    async def test_what_has_no_price_is_refused_where_money_is_limited(
        self, gateway: App, upstream: ScriptedUpstream, members: dict[str, Any]
    ) -> None:
        limited = await gateway.holder(limits=["20 usd/month"])
        answer = await post(gateway, limited, RESPONSES, body(input="Hello", **members))
        assert error_of(answer) == (400, "invalid_request_error", None)
        assert "no price is known" in answer.json()["error"]["message"]
        assert upstream.inferences == []

    async def test_limits_are_told_as_openai_tells_them(
        self, gateway: App, upstream: ScriptedUpstream
    ) -> None:
        key = await gateway.holder(limits=["1 requests/1h", "50k tokens/1h"])
        upstream.will(json_answer({"usage": usage()}))
        answer = await post(gateway, key, CHAT, body(messages=MESSAGES))
        assert answer.header("x-ratelimit-limit-requests") == "1"
        assert answer.header("x-ratelimit-remaining-requests") == "0"
        assert answer.header("x-ratelimit-limit-tokens") == "50000"
        reset = answer.header("x-ratelimit-reset-requests")
        assert reset is not None
        assert reset.removesuffix("s").isdecimal()
        refused = await post(gateway, key, CHAT, body(messages=MESSAGES))
        assert error_of(refused) == (429, "insufficient_quota", "insufficient_quota")
        assert refused.header("x-should-retry") == "false"
        assert refused.header("x-ratelimit-remaining-requests") == "0"

    @pytest.mark.parametrize(
        ("status", "code", "seen"),
        [
            (401, "invalid_api_key", (502, "server_error", None)),
            (429, "insufficient_quota", (502, "server_error", None)),
            (429, "rate_limit_exceeded", (429, "rate_limit_error", "rate_limit_exceeded")),
            (403, "model_not_found", (404, "invalid_request_error", "model_not_found")),
        ],
    )
    async def test_what_a_provider_says_of_the_account_stays_here(
        self,
        gateway: App,
        upstream: ScriptedUpstream,
        key: str,
        status: int,
        code: str,
        seen: tuple[int, str, str | None],
    ) -> None:
        error = {"message": "Project proj_Ab3kQ9aZx of org-Ab3kQ9aZx", "type": code, "code": code}
        upstream.will(json_answer({"error": error}, status=status))
        answer = await post(gateway, key, CHAT, body(messages=MESSAGES))
        assert error_of(answer) == seen
        assert b"Ab3kQ9aZx" not in answer.body

    async def test_any_other_error_of_the_provider_goes_on(
        self, gateway: App, upstream: ScriptedUpstream, key: str
    ) -> None:
        error = {"error": {"message": "m", "type": "invalid_request_error", "code": "unknown"}}
        upstream.will(json_answer(error, status=400))
        answer = await post(gateway, key, RESPONSES, body(input="x"))
        assert (answer.status, answer.json()) == (400, error)
        assert (await used(gateway, key)) == (400, 0, 0, 0)

    async def test_under_max_tokens_the_missing_bound_is_named(self, apps: Apps) -> None:
        provider = ScriptedUpstream()
        await provider.start()
        try:
            server = await apps.start(
                provider.base_url, upstream=OPENAI, limits={"reserve_output": "max_tokens"}
            )
            key = await server.holder()
            for path, name in (
                (CHAT, "max_completion_tokens"),
                (COMPLETIONS, "max_tokens"),
                (RESPONSES, "max_output_tokens"),
            ):
                refused = await post(server, key, path, body(messages=MESSAGES))
                assert error_of(refused) == (400, "invalid_request_error", None)
                assert repr(name) in refused.message
            provider.will(json_answer({"usage": {"prompt_tokens": 2}}))
            assert (await post(server, key, EMBEDDINGS, body(input="x"))).status == 200
        finally:
            await server.kill()
            await provider.close()


async def test_models_are_listed_and_asked_for_with_the_credential(
    apps: Apps,
) -> None:
    provider = ScriptedUpstream()
    provider.models = ("gpt-5-mini", "whisper")
    await provider.start()
    try:
        server = await apps.start(provider.base_url, upstream=OPENAI)
        key = await server.holder()
        while not (listed := await server.request("GET", "/v1/models", key=key)).json()["data"]:
            pass
        assert [model["id"] for model in listed.json()["data"]] == ["gpt-5-mini"]
        asked = next(each for each in provider.requests if each.path == "/v1/models")
        assert asked.header("authorization") == f"Bearer {CREDENTIAL}"
    finally:
        await server.kill()
        await provider.close()


async def test_nothing_that_is_said_is_kept(
    gateway: App, upstream: ScriptedUpstream, key: str
) -> None:
    bird = Flock()
    said = [content(bird("an answer")), chunk(usage=usage(), model=bird("a model"))]
    failed = response("failed", error={"code": bird("a code"), "message": bird("an error")})
    upstream.will(
        stream_answer([joined(said), DONE]),
        stream_answer([event(delta(bird("an answer"))), event(failed)]),
        json_answer({"error": {"message": bird("an error")}}, status=500),
        json_answer({"error": {"message": bird("an error")}}, status=401),
    )
    messages = [{"role": "user", "content": bird("a prompt")}]
    asked = body(stream=True, messages=messages, user=bird("a user"), n=1)
    for path in (CHAT, RESPONSES, CHAT, COMPLETIONS):
        await post(gateway, key, path, asked)
    for wrong in (
        body(f"gpt-{bird('a model')}", n=bird("a number")),
        body(bird("a model")),
        body(models=[bird("a model")]),
        body(conversation=bird("an id")),
        body(stream_options=bird("options")),
    ):
        for path in (CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS):
            refused = await post(gateway, key, path, wrong)
            assert bird.caught(refused.body) == []
    await gateway.records(key)
    assert bird.caught(gateway.log.encode()) == []
    for file, kept in gateway.files().items():
        assert bird.caught(kept) == [], file
