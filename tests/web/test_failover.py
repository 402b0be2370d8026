"""What a client gets on the wire when several upstreams were asked, and none had an answer."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.support.app import App, Apps
from tests.support.provider import LAST_CHUNK, ScriptedUpstream, anthropic_answer, chunk
from tests.support.server import gateway_config
from tests.support.wire import message_body, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")

OVERLOADED = b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'


async def app_with_another_that_is_gone(apps: Apps, upstream: ScriptedUpstream) -> App:
    config = gateway_config(upstream.base_url)
    gone = {"name": "gone", "base_url": "http://127.0.0.1:9", "api_key": "x", "priority": 1}
    config["upstreams"].append(gone)
    return await apps.start(None, **config)


@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_an_error_that_was_kept_comes_whole_and_the_connection_goes_on(
    apps: Apps, upstream: ScriptedUpstream, framing: str
) -> None:
    app = await app_with_another_that_is_gone(apps, upstream)
    key = await app.holder()
    head = b"HTTP/1.1 529 Overloaded\r\ncontent-type: application/json\r\nx-of: provider\r\n"
    if framing == "length":
        upstream.will([head + b"content-length: %d\r\n\r\n" % len(OVERLOADED), OVERLOADED])
    else:
        pieces = [chunk(OVERLOADED[:20]), chunk(OVERLOADED[20:]), LAST_CHUNK]
        upstream.will([head + b"transfer-encoding: chunked\r\n\r\n", *pieces])
    upstream.always(lambda request: anthropic_answer(json.loads(request.body)))
    async with await app.connect() as wire:
        await wire.send(request_bytes("POST", "/v1/messages", key=key, body=message_body()))
        answer = await wire.answer()
        assert (answer.status, answer.body) == (529, OVERLOADED)
        assert answer.header("x-of") == "provider"
        assert answer.header("content-length") == str(len(OVERLOADED))
        await wire.send(request_bytes("POST", "/v1/messages", key=key, body=message_body()))
        assert (await wire.answer()).status == 200
    assert [record["status"] for record in await app.records(key, 2)] == [529, 200]


async def test_a_wait_is_told_to_the_client_in_its_own_format(
    apps: Apps, upstream: ScriptedUpstream
) -> None:
    app = await app_with_another_that_is_gone(apps, upstream)
    key = await app.holder()
    limited = b"HTTP/1.1 429 Limited\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n"
    upstream.always(lambda request: [limited])
    answers = await asyncio.gather(*(app.messages(key, message_body()) for _ in range(5)))
    for answer in answers:
        assert answer.error == (429, "rate_limit_error")
        assert answer.header("retry-after") == "7"
