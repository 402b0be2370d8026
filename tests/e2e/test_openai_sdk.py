"""OpenAI's own SDK against the real program: chat completions, responses, embeddings, refusals."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from tests.support.openai_streams import (
    DONE,
    chunk,
    content,
    delta,
    event,
    response,
    response_usage,
    usage,
)
from tests.support.provider import (
    CLOSE,
    STREAM_HEAD,
    Request,
    Script,
    ScriptedUpstream,
    json_answer,
    stream_answer,
)
from tests.support.provider import chunk as http_chunk
from tests.support.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = "gpt-5-mini"
MESSAGES: Any = [{"role": "user", "content": "Hello"}]
CALL = {"index": 0, "id": "call_1", "type": "function"}
PIECES = ['{"pla', 'ce":"Ulm"}']


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    return {
        "upstream": {"dialect": "openai", "models": ["gpt-*"]},
        "aliases": {"small": MODEL},
        "limits": {"reserve_output": "max_tokens"},
    }


@pytest_asyncio.fixture(loop_scope="module")
async def client(gateway: Server, key: str) -> AsyncIterator[openai.AsyncOpenAI]:
    base_url = f"http://127.0.0.1:{gateway.port}/v1"
    async with openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0) as client:
        yield client


def completion(**members: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "Hello"} | members
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": MODEL}
    return {**head, "choices": [choice], "usage": usage()}


def whole_response() -> dict[str, Any]:
    text = {"type": "output_text", "text": "Hello", "annotations": []}
    message = {"type": "message", "id": "m", "role": "assistant", "status": "completed"}
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": MODEL,
        "status": "completed",
        "output": [message | {"content": [text]}],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": response_usage(
            input_tokens_details={"cached_tokens": 4}, output_tokens_details={"reasoning_tokens": 2}
        ),
    }


def answer(request: Request) -> Script:
    """What the provider says."""
    asked = json.loads(request.body)
    if request.path.endswith("/embeddings"):
        vector = {"object": "embedding", "index": 0, "embedding": [0.5, -0.5]}
        read = {"prompt_tokens": 11, "total_tokens": 11}
        return json_answer({"object": "list", "model": MODEL, "data": [vector], "usage": read})
    if request.path.endswith("/responses"):
        if not asked.get("stream"):
            return json_answer(whole_response())
        end = {"type": "response.completed", "sequence_number": 9, "response": whole_response()}
        return stream_answer([event(delta("Hel")), event(delta("lo")), event(end)])
    if not asked.get("stream"):
        return json_answer(completion())
    told = [event(chunk(usage=usage()))] if asked["stream_options"]["include_usage"] else []
    if "tools" in asked:
        calls = [{"index": 0, "function": {"arguments": piece}} for piece in PIECES]
        named = CALL | {"function": {"name": "weather", "arguments": ""}}
        chunks = [chunk({"tool_calls": [call]}) for call in (named, *calls)]
    else:
        chunks = [content("Hel"), content("lo")]
    return stream_answer([*map(event, chunks), *told, DONE])


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
        assert got.choices[0].message.content == "Hello"
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
        assert "".join(texts) == "Hello"
        assert [each.usage.total_tokens for each in chunks if each.usage] == [18] * asks
        assert await tokens(gateway, key) == [(11, 7, 0)]

    async def test_a_call_of_a_tool_comes_in_pieces(
        self, upstream: ScriptedUpstream, client: openai.AsyncOpenAI
    ) -> None:
        upstream.always(answer)
        tool: Any = {"type": "function", "function": {"name": "weather", "parameters": {}}}
        stream = await client.chat.completions.create(
            model=MODEL, messages=MESSAGES, max_tokens=50, stream=True, tools=[tool]
        )
        pieces = [
            call.function.arguments
            async for each in stream
            for call in each.choices[0].delta.tool_calls or ()
            if call.function is not None
        ]
        assert pieces == ["", *PIECES]

    async def test_twenty_at_once(
        self, gateway: Server, upstream: ScriptedUpstream, key: str, client: openai.AsyncOpenAI
    ) -> None:
        upstream.always(answer)

        async def ask() -> str | None:
            got = await client.chat.completions.create(
                model=MODEL, messages=MESSAGES, max_tokens=50
            )
            return got.choices[0].message.content

        assert await asyncio.gather(*(ask() for _ in range(20))) == ["Hello"] * 20
        assert len(await gateway.records(key)) == 20


class TestResponses:
    async def test_in_one_piece_and_streamed(
        self, gateway: Server, upstream: ScriptedUpstream, key: str, client: openai.AsyncOpenAI
    ) -> None:
        upstream.always(answer)
        got = await client.responses.create(model=MODEL, input="Hello", max_output_tokens=50)
        assert got.output_text == "Hello"
        stream = await client.responses.create(
            model=MODEL, input="Hello", max_output_tokens=50, stream=True
        )
        kinds = [each.type async for each in stream]
        assert kinds == ["response.output_text.delta"] * 2 + ["response.completed"]
        assert await tokens(gateway, key) == [(7, 7, 4)] * 2

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
    async def test_a_wrong_key(self, gateway: Server, upstream: ScriptedUpstream) -> None:
        base_url = f"http://127.0.0.1:{gateway.port}/v1"
        async with openai.AsyncOpenAI(base_url=base_url, api_key="sk-ant-ol-wrong") as client:
            with pytest.raises(openai.AuthenticationError) as refused:
                await client.chat.completions.create(model=MODEL, messages=MESSAGES)
        assert refused.value.code == "invalid_api_key"
        assert upstream.inferences == []

    async def test_a_missing_bound_names_the_member(self, client: openai.AsyncOpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(model=MODEL, messages=MESSAGES)
        assert "max_completion_tokens" in refused.value.message

    async def test_an_unknown_model(self, client: openai.AsyncOpenAI) -> None:
        with pytest.raises(openai.NotFoundError) as refused:
            await client.chat.completions.create(
                model="claude-none", messages=MESSAGES, max_tokens=9
            )
        assert refused.value.code == "model_not_found"

    async def test_a_used_up_limit(self, gateway: Server, upstream: ScriptedUpstream) -> None:
        upstream.always(answer)
        key = await gateway.holder(limits=["1 requests/total"])
        base_url = f"http://127.0.0.1:{gateway.port}/v1"
        async with openai.AsyncOpenAI(base_url=base_url, api_key=key) as client:
            ask: Any = {"model": MODEL, "messages": MESSAGES, "max_tokens": 9}
            await client.chat.completions.create(**ask)
            with pytest.raises(openai.RateLimitError) as refused:
                await client.chat.completions.create(**ask)
        assert refused.value.code == "insufficient_quota"
        assert len(upstream.inferences) == 1

    async def test_a_stream_that_breaks_off(
        self, upstream: ScriptedUpstream, client: openai.AsyncOpenAI
    ) -> None:
        upstream.will([STREAM_HEAD, http_chunk(event(content("Hel"))), CLOSE])
        stream = await client.chat.completions.create(
            model=MODEL, messages=MESSAGES, max_tokens=9, stream=True
        )
        with pytest.raises(openai.APIConnectionError):
            [each async for each in stream]

    async def test_a_provider_that_fails(
        self, upstream: ScriptedUpstream, client: openai.AsyncOpenAI
    ) -> None:
        upstream.will(json_answer({"error": {"message": "Overloaded"}}, status=503))
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=9)


async def test_the_end_of_a_response_that_failed_is_seen(
    upstream: ScriptedUpstream, client: openai.AsyncOpenAI
) -> None:
    failed = response("failed", **{**whole_response(), "status": "failed"})
    upstream.will(stream_answer([event(delta("Hel")), event(failed)]))
    stream = await client.responses.create(
        model=MODEL, input="Hello", max_output_tokens=50, stream=True
    )
    assert [each.type async for each in stream][-1] == "response.failed"
