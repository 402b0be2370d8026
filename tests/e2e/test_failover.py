"""Several upstreams behind the real program: one is pulled, or one of two credentials fails."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.provider import (
    STALL,
    Request,
    Script,
    ScriptedUpstream,
    anthropic_answer,
    json_answer,
)
from tests.support.server import Servers
from tests.support.waiting import PATIENCE, eventually, turns
from tests.support.wire import message_body

#: Requests that are under way at any time, and how many each of those who send them sends.
CONCURRENT = 200
EACH = 5


def upstream(name: str, base_url: str, **members: object) -> dict[str, Any]:
    return {"name": name, "base_url": base_url, "api_key": name, "models": ["claude-*"]} | members


@pytest.fixture
async def two() -> AsyncIterator[tuple[ScriptedUpstream, ScriptedUpstream]]:
    first, second = ScriptedUpstream(), ScriptedUpstream()
    for each in (first, second):
        await each.start()
        each.always(lambda request: anthropic_answer(json.loads(request.body)))
    yield first, second
    for each in (first, second):
        await each.close()


def mark(request: Request) -> str:
    """What tells one request from another."""
    marked: str = json.loads(request.body)["messages"][0]["content"]
    return marked


async def test_pulling_one_of_two_upstreams_fails_only_what_it_was_sent(
    two: tuple[ScriptedUpstream, ScriptedUpstream], servers: Servers
) -> None:
    """Those are answered with a 502 and not sent again; whoever comes later is served."""
    dying, other = two
    upstreams = [upstream("dying", dying.base_url), upstream("other", other.base_url)]
    server = await servers.start(None, upstreams=upstreams)
    key = await server.holder()
    statuses: dict[str, int] = {}
    hanging: set[str] = set()
    pulled = asyncio.Event()
    late: set[str] = set()

    def hang(request: Request) -> Script:
        hanging.add(mark(request))
        return [STALL]

    async def client(number: int) -> None:
        for turn in range(EACH):
            marked = f"{number}/{turn}"
            if pulled.is_set():
                late.add(marked)
            body = message_body(messages=[{"role": "user", "content": marked}], stream=True)
            statuses[marked] = (await server.messages(key, body)).status

    clients = [asyncio.ensure_future(client(number)) for number in range(CONCURRENT)]
    await eventually(lambda: len(dying.inferences) >= CONCURRENT // 2)
    dying.always(hang)
    await eventually(lambda: len(hanging) >= CONCURRENT // 4)
    await dying.close()
    await turns()
    dying.hang_up()  # What was being accepted.
    pulled.set()
    async with asyncio.timeout(3 * PATIENCE):
        await asyncio.gather(*clients)

    failed = {marked for marked, status in statuses.items() if status != 200}
    assert {statuses[marked] for marked in failed} == {502}
    assert hanging <= failed
    assert late
    assert not late & failed
    sent = Counter(mark(request) for each in two for request in each.inferences)
    assert set(sent.values()) == {1}
    assert not failed & {mark(request) for request in other.inferences}
    records = await server.records(key, len(statuses))
    assert Counter(record["status"] for record in records) == Counter(statuses.values())
    shown = (await server.admin("GET", "status"))["upstreams"]
    assert [each["failures_in_a_row"] >= 5 for each in shown] == [True, False]
    assert server.log.count("upstream dying failed 5 times in a row") == 1


REFUSALS = {
    "limited": json_answer({}, status=429, headers=[("retry-after", "60")]),
    "refused": json_answer(
        {"type": "error", "error": {"type": "authentication_error", "message": "no"}}, status=401
    ),
    "without credit": json_answer(
        {
            "type": "error",
            "error": {
                "type": "invalid_request_error",
                "message": "Your credit balance is too low to access the Anthropic API.",
            },
        },
        status=400,
    ),
}


@pytest.mark.parametrize("why", REFUSALS)
async def test_no_client_sees_that_one_of_two_credentials_fails(
    two: tuple[ScriptedUpstream, ScriptedUpstream], servers: Servers, why: str
) -> None:
    provider, _ = two

    def script(request: Request) -> Script:
        if request.header("x-api-key") == "bad":
            return REFUSALS[why]
        return anthropic_answer(json.loads(request.body))

    provider.always(script)
    upstreams = [
        upstream("bad", provider.base_url, weight=3),
        upstream("good", provider.base_url),
        # What is of no use is asked last.
        upstream("gone", "http://127.0.0.1:9", priority=1),
    ]
    server = await servers.start(None, upstreams=upstreams)
    key = await server.holder()

    async def ask() -> int:
        return (await server.messages(key, message_body())).status

    at_once = await asyncio.gather(*(ask() for _ in range(50)))
    assert set(at_once) == {200}
    tried = Counter(request.header("x-api-key") for request in provider.inferences)
    assert 1 <= tried["bad"] <= 50
    assert [await ask() for _ in range(10)] == [200] * 10
    again = Counter(request.header("x-api-key") for request in provider.inferences)
    # It is aside by now.
    assert again["bad"] == tried["bad"]
    assert {record["status"] for record in await server.records(key, 60)} == {200}
    assert server.log.count("asked last") == 1
