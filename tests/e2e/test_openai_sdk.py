"""OpenAI's own SDK against the real program: chat completions, responses, embeddings, refusals."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from tests.support.answering import CANARY, PIECES, PLACE, answer
from tests.support.doors import door_to
from tests.support.openai_streams import DONE, content, delta, event, response
from tests.support.provider import (
    CLOSE,
    LAST_CHUNK,
    STREAM_HEAD,
    ScriptedUpstream,
    stream_answer,
)
from tests.support.provider import chunk as http_chunk
from tests.support.server import CREDENTIAL, Server
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = "gpt-5-mini"
MESSAGES: Any = [{"role": "user", "content": "Hello"}]
TEXT = "Hello from the tests"
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": {}}}
ASK: Any = {"model": MODEL, "messages": MESSAGES, "max_tokens": 50}


@pytest.fixture(scope="module")
def sections(provider: ScriptedUpstream) -> dict[str, Any]:
    """A provider that answers, and one that is not there. Nobody waits here."""
    common = {"dialect": "openai", "api_key": CREDENTIAL}
    there = {"name": "there", "base_url": provider.base_url, "models": ["gpt-*"]}
    gone = {"name": "gone", "base_url": "http://127.0.0.1:9", "models": ["gone-*"]}
    return {
        "server": {"max_body": "8MB"},
        "upstreams": [common | there, common | gone],
        "aliases": {"small": MODEL},
        "limits": {"reserve_output": "max_tokens", "max_wait": "0s"},
    }


@pytest_asyncio.fixture(loop_scope="module")
async def client(gateway: Server, key: str) -> AsyncIterator[openai.AsyncOpenAI]:
    base_url = f"http://127.0.0.1:{gateway.port}/v1"
    async with openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0) as client:
        yield client


async def tokens(gateway: Server, key: str) -> list[tuple[int, int, int]]:
    """Input, output and cached tokens of each record, the first one first."""
    names = ("input_tokens", "output_tokens", "cache_read_tokens")
    return [tuple(record[name] for name in names) for record in await gateway.records(key)]


class TestChatCompletions:
    async def test_in_one_piece(
        self, gateway: Server, upstream: ScriptedUpstream, key: str, client: openai.AsyncOpenAI
    ) -> None:
        upstream.always(answer)
        got = await client.chat.completions.create(
            model="small", messages=MESSAGES, max_completion_tokens=50
        )
        assert got.choices[0].message.content == TEXT
        assert json.loads(upstream.inferences[0].body)["model"] == MODEL
        assert await tokens(gateway, key) == [(11, 7, 0)]

    @pytest.mark.parametrize("asks", [True, False])
    async def test_streamed(
        self,
        gateway: Server,
        upstream: ScriptedUpstream,
        key: str,
        client: openai.AsyncOpenAI,
        asks: bool,
    ) -> None:
        """Who asks for the usage sees it; who does not is metered all the same."""
        upstream.always(answer)
        options: Any = {"stream_options": {"include_usage": True}} if asks else {}
        stream = await client.chat.completions.create(
            model=MODEL, messages=MESSAGES, max_tokens=50, stream=True, **options
        )
        chunks = [each async for each in stream]
        texts = [choice.delta.content or "" for each in chunks for choice in each.choices]
        assert "".join(texts) == TEXT
        assert [each.usage.total_tokens for each in chunks if each.usage] == [18] * asks
        assert await tokens(gateway, key) == [(11, 7, 0)]

    async def test_a_call_of_a_tool_comes_in_pieces(
        self, upstream: ScriptedUpstream, client: openai.AsyncOpenAI
    ) -> None:
        upstream.always(answer)
        stream = await client.chat.completions.create(
            model=MODEL, messages=MESSAGES, max_tokens=50, stream=True, tools=[TOOL]
        )
        pieces = [
            call.function.arguments
            async for each in stream
            for call in each.choices[0].delta.tool_calls or ()
            if call.function is not None
        ]
        assert pieces == ["", *PIECES]

    async def test_what_a_tool_found_is_answered(
        self, upstream: ScriptedUpstream, client: openai.AsyncOpenAI
    ) -> None:
        upstream.always(answer)
        message = (await client.chat.completions.create(**ASK, tools=[TOOL])).choices[0].message
        assert message.tool_calls is not None
        (call,) = message.tool_calls
        assert call.type == "function"
        assert json.loads(call.function.arguments) == PLACE
        result: Any = {"role": "tool", "tool_call_id": call.id, "content": "Rain"}
        turns: Any = [*MESSAGES, message, result]
        after = await client.chat.completions.create(**{**ASK, "messages": turns}, tools=[TOOL])
        assert after.choices[0].message.content == TEXT

    async def test_pictures_and_long_texts_arrive_as_they_were_sent(
        self, upstream: ScriptedUpstream, client: openai.AsyncOpenAI
    ) -> None:
        upstream.always(answer)
        picture = "data:image/png;base64," + base64.b64encode(bytes(range(256)) * 512).decode()
        contents: list[Any] = [
            [{"type": "image_url", "image_url": {"url": picture}}],
            'né "¿" \\ \n' * 100_000,
        ]
        for number, content_ in enumerate(contents):
            asked = {**ASK, "messages": [{"role": "user", "content": content_}]}
            got = await client.chat.completions.create(**asked)
            assert got.choices[0].message.content == TEXT
            sent = json.loads(upstream.inferences[number].body)
            assert sent["messages"][0]["content"] == content_

    async def test_twenty_at_once(
        self, gateway: Server, upstream: ScriptedUpstream, key: str, client: openai.AsyncOpenAI
    ) -> None:
        upstream.always(answer)

        async def ask() -> str | None:
            got = await client.chat.completions.create(
                model=MODEL, messages=MESSAGES, max_tokens=50
            )
            return got.choices[0].message.content

        assert await asyncio.gather(*(ask() for _ in range(20))) == [TEXT] * 20
        assert len(await gateway.records(key)) == 20


class TestResponses:
    async def test_in_one_piece_and_streamed(
        self, gateway: Server, upstream: ScriptedUpstream, key: str, client: openai.AsyncOpenAI
    ) -> None:
        upstream.always(answer)
        got = await client.responses.create(model=MODEL, input="Hello", max_output_tokens=50)
        assert got.output_text == TEXT
        stream = await client.responses.create(
            model=MODEL, input="Hello", max_output_tokens=50, stream=True
        )
        events = [each async for each in stream]
        texts = [each.delta for each in events if each.type == "response.output_text.delta"]
        assert "".join(texts) == TEXT
        assert events[-1].type == "response.completed"
        assert await tokens(gateway, key) == [(7, 7, 4)] * 2

    async def test_a_call_of_a_tool_comes_in_pieces(
        self, upstream: ScriptedUpstream, client: openai.AsyncOpenAI
    ) -> None:
        upstream.always(answer)
        tool: Any = {"type": "function", "name": "weather", "parameters": {}, "strict": None}
        stream = await client.responses.create(
            model=MODEL, input="Hello", max_output_tokens=50, stream=True, tools=[tool]
        )
        kind = "response.function_call_arguments.delta"
        pieces = [each.to_dict()["delta"] async for each in stream if each.type == kind]
        assert pieces == list(PIECES)

    async def test_one_that_is_kept_is_refused(
        self, upstream: ScriptedUpstream, client: openai.AsyncOpenAI
    ) -> None:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(
                model=MODEL, input="Hello", max_output_tokens=50, previous_response_id="resp_0"
            )
        assert "'previous_response_id' is not offered" in refused.value.message
        assert upstream.inferences == []


async def test_embeddings_cost_their_input(
    gateway: Server, upstream: ScriptedUpstream, key: str, client: openai.AsyncOpenAI
) -> None:
    upstream.always(answer)
    got = await client.embeddings.create(model=MODEL, input="Hello", encoding_format="float")
    assert got.data[0].embedding == [0.5, -0.5]
    assert await tokens(gateway, key) == [(11, 0, 0)]


async def test_models_are_listed(client: openai.AsyncOpenAI) -> None:
    assert "small" in [model.id async for model in client.models.list()]
    assert (await client.models.retrieve("small")).id == "small"


class TestRefusals:
    async def refused(self, gateway: Server, key: str) -> openai.APIStatusError:
        """How it is refused, with the retries that are usual, of which none may be made."""
        async with door_to(gateway.port) as door:
            base_url = f"http://127.0.0.1:{door.port}/v1"
            async with openai.AsyncOpenAI(base_url=base_url, api_key=key) as client:
                with pytest.raises(openai.APIStatusError) as refused:
                    await client.chat.completions.create(**ASK)
        assert door.count(b"POST ") == 1
        assert refused.value.request_id is not None
        assert refused.value.request_id.startswith("req_")
        return refused.value

    async def test_keys_that_are_none(self, gateway: Server, upstream: ScriptedUpstream) -> None:
        upstream.always(answer)
        disabled, deleted = await gateway.holder(), await gateway.holder()
        expired = await gateway.holder(expires="1s")
        await gateway.admin("PATCH", "keys", disabled.rpartition("-")[0], enabled=False)
        await gateway.admin("DELETE", "keys", deleted.rpartition("-")[0])
        body = json.dumps(ASK).encode()
        async with asyncio.timeout(PATIENCE):
            path = "/v1/chat/completions"
            while (await gateway.request("POST", path, key=expired, body=body)).status == 200:
                pass
        upstream.forget()
        for key in ("sk-ant-ol-wrong", disabled, deleted, expired):
            refused = await self.refused(gateway, key)
            assert isinstance(refused, openai.AuthenticationError)
            assert refused.code == "invalid_api_key"
        assert upstream.inferences == []

    @pytest.mark.parametrize("limit", ["1 requests/7d", "1 requests/total"])
    async def test_a_used_up_limit(
        self, gateway: Server, upstream: ScriptedUpstream, limit: str
    ) -> None:
        upstream.always(answer)
        key = await gateway.holder(limits=[limit])
        base_url = f"http://127.0.0.1:{gateway.port}/v1"
        async with openai.AsyncOpenAI(base_url=base_url, api_key=key) as client:
            await client.chat.completions.create(**ASK)
        refused = await self.refused(gateway, key)
        assert isinstance(refused, openai.RateLimitError)
        assert refused.code == "insufficient_quota"
        assert limit in refused.message
        assert len(upstream.inferences) == 1

    async def test_a_limit_that_others_fill_is_waited_for(
        self, gateway: Server, upstream: ScriptedUpstream
    ) -> None:
        upstream.always(answer)
        key = await gateway.holder(limits=["1 concurrent"])
        hold = asyncio.Event()
        begun, ended = http_chunk(event(content("Hel"))), http_chunk(DONE) + LAST_CHUNK
        upstream.will([STREAM_HEAD, begun, hold, ended])
        base_url = f"http://127.0.0.1:{gateway.port}/v1"
        async with (
            door_to(gateway.port) as door,
            openai.AsyncOpenAI(base_url=base_url, api_key=key) as first,
            openai.AsyncOpenAI(
                base_url=f"http://127.0.0.1:{door.port}/v1", api_key=key, max_retries=5
            ) as second,
        ):
            running = await first.chat.completions.create(**ASK, stream=True)
            waiting = asyncio.ensure_future(second.chat.completions.create(**ASK))
            while 429 not in [record["status"] for record in await gateway.records(key)]:
                assert not waiting.done()
            hold.set()
            [each async for each in running]
            assert (await waiting).choices[0].message.content == TEXT
        assert door.count(b"POST ") >= 2

    async def test_a_limit_that_frees_soon_says_when(
        self, gateway: Server, upstream: ScriptedUpstream
    ) -> None:
        upstream.always(answer)
        key = await gateway.holder(limits=["1 requests/1m"])
        base_url = f"http://127.0.0.1:{gateway.port}/v1"
        async with openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0) as client:
            await client.chat.completions.create(**ASK)
            with pytest.raises(openai.RateLimitError) as refused:
                await client.chat.completions.create(**ASK)
        assert refused.value.code == "rate_limit_exceeded"
        assert 1 <= int(refused.value.response.headers["retry-after"]) <= 60

    async def test_a_missing_bound_names_the_member(self, client: openai.AsyncOpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(model=MODEL, messages=MESSAGES)
        assert "max_completion_tokens" in refused.value.message

    @pytest.mark.parametrize(
        ("asked", "kind", "status", "code"),
        [
            pytest.param(
                {"model": "claude-1"}, "NotFoundError", 404, "model_not_found", id="unknown"
            ),
            pytest.param({"max_tokens": -1}, "BadRequestError", 400, None, id="invalid"),
            pytest.param(
                {"messages": [{"role": "user", "content": "x" * 9_000_000}]},
                *("APIStatusError", 413, None),
                id="too large",
            ),
            pytest.param({"model": "gone-1"}, "InternalServerError", 502, None, id="gone"),
            pytest.param({"model": "gpt-account"}, "InternalServerError", 502, None, id="account"),
            pytest.param(
                {"model": "gpt-limited"}, "RateLimitError", 429, "rate_limit_exceeded", id="limited"
            ),
            pytest.param(
                {"model": "gpt-unavailable"}, "InternalServerError", 503, None, id="unavailable"
            ),
        ],
    )
    async def test_what_is_asked_for(
        self,
        upstream: ScriptedUpstream,
        client: openai.AsyncOpenAI,
        asked: dict[str, Any],
        kind: str,
        status: int,
        code: str | None,
    ) -> None:
        upstream.always(answer)
        with pytest.raises(openai.APIStatusError) as refused:
            await client.chat.completions.create(**ASK | asked, stream=True)
        assert kind in [base.__name__ for base in type(refused.value).__mro__]
        assert (refused.value.status_code, refused.value.code) == (status, code)
        # The provider's own words are its account's; those about the request are its client's.
        assert (CANARY in refused.value.message) == (status == 503)

    async def test_a_stream_that_breaks_off(
        self, upstream: ScriptedUpstream, client: openai.AsyncOpenAI
    ) -> None:
        upstream.will([STREAM_HEAD, http_chunk(event(content("Hel"))), CLOSE])
        stream = await client.chat.completions.create(
            model=MODEL, messages=MESSAGES, max_tokens=9, stream=True
        )
        with pytest.raises(openai.APIConnectionError):
            [each async for each in stream]


async def test_the_end_of_a_response_that_failed_is_seen(
    upstream: ScriptedUpstream, client: openai.AsyncOpenAI
) -> None:
    failed = response("failed", object="response", status="failed", output=[], model=MODEL)
    upstream.will(stream_answer([event(delta("Hel")), event(failed)]))
    stream = await client.responses.create(
        model=MODEL, input="Hello", max_output_tokens=50, stream=True
    )
    assert [each.type async for each in stream][-1] == "response.failed"
