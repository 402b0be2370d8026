"""The official SDKs, as clients use them: the current one, and the 0.x that many still have."""

from __future__ import annotations

import asyncio
import json
import subprocess
import venv
from pathlib import Path
from typing import Any

import anthropic
import pytest

from tests.support import sdk_session
from tests.support.doors import Door
from tests.support.provider import (
    CLOSE,
    STREAM_HEAD,
    Request,
    Script,
    ScriptedUpstream,
    anthropic_answer,
    anthropic_events,
    chunk,
    json_answer,
)
from tests.support.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: Kept between runs; see .gitignore.
OLD_SDK = Path(__file__).parents[2] / ".venv-sdk0"
OLD_REQUIREMENT = "anthropic>=0.125,<1"


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    return {"server": {"max_body": "1MB"}, "aliases": {"test": "claude-test-1"}}


@pytest.fixture(scope="module")
def old_python() -> str:
    """An interpreter that has the SDK of before 2.0."""
    python = OLD_SDK / "bin" / "python"
    ready = OLD_SDK / "ready"
    if not ready.exists():
        venv.create(OLD_SDK, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "-q"]
        installed = subprocess.run(
            [*pip, "install", OLD_REQUIREMENT], capture_output=True, text=True
        )
        if installed.returncode:
            index = subprocess.run([*pip, "download", "--no-deps", "-d", OLD_SDK, "pip"])
            if index.returncode:
                pytest.skip("no package index can be reached")
            pytest.fail(installed.stderr)
        ready.touch()
    return str(python)


def answer(request: Request) -> Script:
    """What the provider says to a model's name."""
    asked = json.loads(request.body)
    match asked["model"]:
        case "claude-limited":
            return json_answer(
                {"type": "error", "error": {"type": "rate_limit_error", "message": "org-canary"}},
                status=429,
                headers=[("retry-after", "17")],
            )
        case "claude-overloaded":
            return json_answer(
                {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
                status=529,
            )
        case "claude-cut":
            return [STREAM_HEAD, *map(chunk, anthropic_events("x")[:4]), CLOSE]
    if request.path.endswith("count_tokens"):
        return json_answer({"input_tokens": 42})
    return anthropic_answer(asked)


def check(seen: dict[str, Any], upstream: ScriptedUpstream) -> None:
    message = {"stop_reason": "end_turn", "input_tokens": 11, "output_tokens": 7}
    assert seen["created"] == message | {"text": "Hello from the tests"}
    assert seen["streamed"] == message | {"text": "Hello from the tests "}
    assert seen["text"] == "Hello from the tests "
    assert seen["events"][0] == "message_start"
    assert seen["events"][-1] == "message_stop"
    assert seen["counted"] == 42
    assert seen["models"] == ["test", "claude-test-1", "claude-test-2"]
    assert seen["model"] == "claude-test-2"

    unknown, limited, overloaded, cut, large, wrong_key = seen["failures"]
    assert "NotFoundError" in unknown["classes"]
    assert "RateLimitError" in limited["classes"]
    assert limited["retry_after"] == "17"
    assert "org-canary" not in limited["message"]
    assert "OverloadedError" in overloaded["classes"]
    assert (overloaded["status"], overloaded["message"]) == (529, "Overloaded")
    assert cut["status"] is None
    assert large["status"] == 413
    assert "RequestTooLargeError" in large["classes"] or "APIStatusError" in large["classes"]
    assert "AuthenticationError" in wrong_key["classes"]
    assert wrong_key["status"] == 401
    assert all(failure["request_id"].startswith("req_") for failure in (unknown, wrong_key, large))

    asked = [request.path for request in upstream.inferences]
    assert asked.count("/v1/messages") == 6
    assert asked.count("/v1/messages/count_tokens") == 1


#: Of the refusals, the gateway's (404, 413) and the provider's (429), one a second is recorded.
REFUSED = {404, 413, 429}
#: All others are recorded.
SENT = [200, 200, 200, 529, 502]


async def test_the_current_sdk_works(gateway: Server, upstream: ScriptedUpstream, key: str) -> None:
    assert anthropic.__version__.startswith("2.")
    upstream.always(answer)
    base_url = f"http://127.0.0.1:{gateway.port}"
    seen = await asyncio.to_thread(sdk_session.report, base_url, key)
    check(seen, upstream)
    records = await gateway.records(key)
    assert [r["status"] for r in records if r["status"] not in REFUSED] == SENT
    assert len(records) > len(SENT)


async def test_the_sdk_before_version_2_works(
    gateway: Server, upstream: ScriptedUpstream, key: str, old_python: str
) -> None:
    upstream.always(answer)
    base_url = f"http://127.0.0.1:{gateway.port}/"
    command = [old_python, sdk_session.__file__, base_url, key]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["version"].startswith("0.")
    check(seen, upstream)
    records = await gateway.records(key)
    assert [r["status"] for r in records if r["status"] not in REFUSED] == SENT
    assert len(records) > len(SENT)


async def test_the_asynchronous_sdk_streams_twenty_answers_at_once(
    gateway: Server, upstream: ScriptedUpstream, key: str
) -> None:
    base_url = f"http://127.0.0.1:{gateway.port}"
    async with anthropic.AsyncAnthropic(base_url=base_url, api_key=key, max_retries=0) as client:

        async def ask() -> str:
            async with client.messages.stream(**sdk_session.MESSAGE) as stream:
                return await stream.get_final_text()

        texts = await asyncio.gather(*(ask() for _ in range(20)))
    assert set(texts) == {"Hello from the tests "}
    assert len(await gateway.records(key)) == 20


async def test_a_key_that_may_not_use_the_model(
    gateway: Server, upstream: ScriptedUpstream
) -> None:
    key = await gateway.holder(models=["claude-test-2"])
    base_url = f"http://127.0.0.1:{gateway.port}"
    async with anthropic.AsyncAnthropic(base_url=base_url, api_key=key) as client:
        with pytest.raises(anthropic.NotFoundError) as refused:
            await client.messages.create(**sdk_session.MESSAGE)
        assert refused.value.response.headers["x-should-retry"] == "false"
        assert [model.id async for model in client.models.list()] == ["claude-test-2"]
        with pytest.raises(anthropic.NotFoundError):
            await client.models.retrieve("claude-test-1")
    assert upstream.inferences == []
    assert [record["status"] for record in await gateway.records(key)] == [404]


async def test_a_refused_key_is_tried_once(provider: ScriptedUpstream, gateway: Server) -> None:
    door = Door(gateway.port)
    await door.open()
    base_url = f"http://127.0.0.1:{door.port}"
    async with anthropic.AsyncAnthropic(base_url=base_url, api_key="sk-ant-ol-wrong") as client:
        with pytest.raises(anthropic.AuthenticationError):
            await client.messages.create(**sdk_session.MESSAGE)
    await door.close()
    assert door.count(b"POST /v1/messages") == 1
