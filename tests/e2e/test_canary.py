"""Nothing of what clients and providers say stays anywhere: every file is searched for it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.canaries import SOURCE, Flock, ask, malformed
from tests.support.provider import (
    CLOSE,
    STREAM_HEAD,
    ScriptedUpstream,
    anthropic_events,
    chunk,
    json_answer,
    stream_answer,
)
from tests.support.server import Servers
from tests.support.wire import message_body, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_nothing_of_a_requests_content_is_kept(
    provider: ScriptedUpstream, upstream: ScriptedUpstream, servers: Servers, log_format: str
) -> None:
    log = {"level": "debug", "format": log_format, "access": True}
    server = await servers.start(provider.base_url, log=log)
    key = (await server.admin("POST", "keys", name="a name that is kept"))["key"]
    bird = Flock()
    echoed = bird("an id that the provider sends back")

    def dressed(model: str, *, stream: bool = False) -> bytes:
        """A request with canaries wherever a client may put one."""
        messages: Any = [{"role": "user", "content": bird("a prompt")}]
        metadata = {"user_id": bird("a user's id")}
        body = message_body(model, messages=messages, metadata=metadata, stream=stream)
        return request_bytes(
            "POST",
            f"/v1/messages?q={bird('the query')}",
            key=key,
            headers=[
                ("User-Agent", bird("the user agent")),
                *bird.identity(),
                ("Anthropic-Beta", bird("a header")),
                ("X-Client-Request-Id", echoed),
                ("Authorization", f"Bearer {bird('another credential')}"),
            ],
            body=body,
        )

    async def send(request: bytes) -> int:
        async with await server.connect(SOURCE) as wire:
            await wire.send(request)
            answer = await wire.answer()
        return answer.status

    back = [("x-note", bird("a header of the answer")), ("set-cookie", bird("a set cookie"))]
    back.append(("request-id", echoed))
    upstream.will(
        json_answer({"content": bird("an answer"), "id": bird("an id")}, headers=back),
        stream_answer(anthropic_events(bird("a stream"))),
        json_answer(
            {"error": {"type": "x", "message": bird("an error")}},
            status=400,
            headers=[("request-id", f"an id, {bird('said to be one')}")],
        ),
        json_answer(
            {"error": {"type": "authentication_error", "message": bird("401")}}, status=401
        ),
        json_answer({"error": {"type": "rate_limit_error", "message": bird("429")}}, status=429),
        json_answer({}, status=302, headers=[("location", f"http://{bird('a redirect')}/")]),
        [f"{bird('not HTTP')}\r\n\r\n".encode()],
        [f"HTTP/1.1 200 OK\r\ncontent-length: {bird('a length')}\r\n\r\n".encode()],
    )
    statuses = [
        await send(dressed("claude-test-1")),
        await send(dressed("claude-test-1", stream=True)),
    ]
    statuses += [await send(dressed("claude-test-1")) for _ in range(6)]
    assert statuses == [200, 200, 400, 502, 429, 502, 502, 502]

    # Cut in the middle, from either side.
    events = anthropic_events(f"{bird('a broken stream')} two")
    upstream.will([STREAM_HEAD, *map(chunk, events[:5]), CLOSE])
    async with await server.connect(SOURCE) as wire:
        await wire.send(dressed("claude-test-1", stream=True))
        assert (await wire.ending())[0] == "reset"
    async with await server.connect(SOURCE) as wire:
        await wire.send(dressed("claude-test-1")[:-20])

    # Names of models that are the client's own words, whether a glob matches them or not.
    assert await send(dressed(f"claude-{bird('a model that a glob matches')}")) == 200
    assert await send(dressed(bird("a model that nothing matches"))) == 404

    # Keys: wrong ones, and the secret of the right one.
    secret = key.rpartition("-")[2]
    for wrong in (bird("a wrong key"), key[:-1] + ("0" if key[-1] != "0" else "1")):
        assert await send(request_bytes("POST", "/v1/messages", key=wrong, body=b"{}")) == 401
    assert await send(request_bytes("GET", f"/v1/usage?since={bird('since')}", key=key)) == 400
    assert await send(request_bytes("GET", f"/v1/models/{bird('a model id')}", key=key)) == 404
    assert await send(request_bytes("GET", f"/{bird('a path')}?{bird('its query')}")) == 404
    count = request_bytes(
        "POST", "/v1/messages/count_tokens", key=key, body=message_body(bird("a counted model"))
    )
    assert await send(count) == 404

    for name, request in malformed(bird, key).items():
        answer = await ask(await server.connect(SOURCE), request)
        assert bird.caught(answer) == [], name
        assert b"HTTP/1.1 2" not in answer or name in ("an expectation", "an upgrade"), name
        assert b"aiohttp" not in answer, name
        assert (await server.request("GET", "/healthz")).status == 200

    reached = b"".join(str(received).encode() for received in upstream.inferences)
    assert bird.identities_in(reached) == []
    assert "the user agent" in bird.caught(reached)

    while_running = server.files()
    assert await server.stop() == 0
    kept = {f"{path} while running": content for path, content in while_running.items()}
    kept |= {str(path): content for path, content in server.files().items()}
    kept |= {"stdout": server.out.encode(), "stderr": server.log.encode()}
    assert any(name.endswith("opuslive.db-wal while running") for name in kept)
    assert b"a name that is kept" in b"".join(kept.values())  # the search finds what is there
    for name, content in kept.items():
        assert bird.caught(content) == [], name
        assert secret.encode() not in content, name
        assert SOURCE.encode() not in content, name
    assert "Traceback" not in server.log
    assert "defect" not in server.log
    if log_format == "json":
        for line in server.log.splitlines():
            assert json.loads(line)["level"] in ("debug", "info", "warning", "error")


async def test_no_client_address_is_kept_as_a_number(
    provider: ScriptedUpstream, servers: Servers
) -> None:
    """Nor the client's port, nor its address as four bytes."""
    server = await servers.start(provider.base_url)
    key = await server.holder()
    async with await server.connect(SOURCE) as wire:
        await wire.send(request_bytes("POST", "/v1/messages", key=key, body=message_body()))
        assert (await wire.answer()).status == 200
    assert await server.stop() == 0
    assert b"127.0.0." not in server.database_files()
    assert bytes([127, 0, 0, 9]) not in server.database_files()
    assert "127.0.0." not in server.log
