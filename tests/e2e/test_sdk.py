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
import pytest_asyncio

from tests.support import sdk_session
from tests.support.answering import CANARY, PLACE, answer
from tests.support.doors import door_to
from tests.support.provider import ScriptedUpstream
from tests.support.server import CREDENTIAL, Server
from tests.support.waiting import PATIENCE
from tests.support.wire import message_body

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: Kept between runs; see .gitignore.
OLD_SDK = Path(__file__).parents[2] / ".venv-sdk0"
OLD_REQUIREMENT = "anthropic>=0.125,<1"


@pytest.fixture(scope="module")
def sections(provider: ScriptedUpstream) -> dict[str, Any]:
    """A provider that answers, and one that is not there. Nobody waits here."""
    common = {"api_key": CREDENTIAL}
    there = {"name": "there", "base_url": provider.base_url, "models": ["claude-test-*"]}
    gone = {"name": "gone", "base_url": "http://127.0.0.1:9", "models": ["claude-gone-*"]}
    return {
        "server": {"max_body": "8MB"},
        "limits": {"max_wait": "0s"},
        "aliases": {"test": "claude-test-1"},
        "upstreams": [common | there, common | gone],
    }


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


@pytest_asyncio.fixture(loop_scope="module")
async def keys(gateway: Server, upstream: ScriptedUpstream) -> dict[str, str]:
    """What each is good for → the key."""
    expired = await gateway.holder(expires="1s")
    disabled, deleted = await gateway.holder(), await gateway.holder()
    await gateway.admin("PATCH", "keys", disabled.rpartition("-")[0], enabled=False)
    await gateway.admin("DELETE", "keys", deleted.rpartition("-")[0])
    keys = {
        "good": await gateway.holder(),
        "malformed": "sk-ant-ol-wrong",
        "expired": expired,
        "disabled": disabled,
        "deleted": deleted,
        "busy": await gateway.holder(limits=["1 requests/1m"]),
        "used up": await gateway.holder(limits=["1 requests/7d"]),
        "used up for ever": await gateway.holder(limits=["1 requests/total"]),
    }
    for name in ("busy", "used up", "used up for ever"):
        assert (await gateway.messages(keys[name], message_body())).status == 200
    async with asyncio.timeout(PATIENCE):
        while (await gateway.messages(expired, message_body())).status == 200:
            pass
    upstream.forget()
    upstream.always(answer)
    return keys


#: How each failure shows: class and status, type in the body, whether to repeat it.
FAILURES = {
    "unknown": ("NotFoundError", 404, "not_found_error", "false"),
    "gone": ("InternalServerError", 502, "api_error", None),
    "limited": ("RateLimitError", 429, "rate_limit_error", None),
    "overloaded": ("OverloadedError", 529, "overloaded_error", None),
    "unavailable": ("ServiceUnavailableError", 503, "api_error", None),
    "account": ("InternalServerError", 502, "api_error", "false"),
    "too large": ("RequestTooLargeError", 413, "request_too_large", "false"),
    "invalid": ("BadRequestError", 400, "invalid_request_error", "false"),
    "malformed": ("AuthenticationError", 401, "authentication_error", "false"),
    "expired": ("AuthenticationError", 401, "authentication_error", "false"),
    "disabled": ("AuthenticationError", 401, "authentication_error", "false"),
    "deleted": ("AuthenticationError", 401, "authentication_error", "false"),
    "busy": ("RateLimitError", 429, "rate_limit_error", None),
    "used up": ("RateLimitError", 429, "billing_error", "false"),
    "used up for ever": ("RateLimitError", 429, "billing_error", "false"),
}


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
    assert list(seen["tool"]) == [PLACE, "Hello from the tests "]
    assert seen["picture"] == seen["long"] == "Hello from the tests"
    contents = [json.loads(each.body)["messages"][-1]["content"] for each in upstream.inferences]
    assert any(content == sdk_session.LONG for content in contents)
    assert any(sdk_session.PICTURE in str(content) for content in contents)
    assert all(len(content) < 2_000_000 for content in contents)


def check_failures(failures: dict[str, Any], requests: int) -> None:
    assert failures.pop("cut")["status"] is None
    assert failures.keys() == FAILURES.keys()
    for name, (kind, status, type_, should_retry) in FAILURES.items():
        failure = failures[name]
        assert {kind, "APIStatusError"}.intersection(failure["classes"]), (name, failure)
        assert (failure["status"], failure["kind"]) == (status, type_), (name, failure)
        assert failure["should_retry"] == should_retry, (name, failure)
        assert failure["request_id"].startswith("req_")
        # The provider's own words are its account's; those about the request are its client's.
        told = CANARY in failure["message"]
        assert told == (name in ("overloaded", "unavailable")), (name, failure)
    assert failures["limited"]["retry_after"] == "17"
    assert 1 <= int(failures["busy"]["retry_after"]) <= 60
    assert int(failures["used up"]["retry_after"]) > 60
    assert failures["used up for ever"]["retry_after"] is None
    for name in ("expired", "disabled"):
        assert name in failures[name]["message"]
    # Seven answers, a failure each, and one that was cut: nothing was asked for twice.
    assert requests == 7 + len(FAILURES) + 1


async def check_records(gateway: Server, key: str) -> None:
    """Of refusals, the provider's of the gateway too, one a second is recorded."""
    records = await gateway.records(key)
    statuses = [record["status"] for record in records]
    assert [status for status in statuses if status in (200, 529, 503)] == [200] * 7 + [529, 503]
    assert {404, 502}.issubset(statuses)
    assert {(r["input_tokens"], r["output_tokens"]) for r in records[:7]} == {(11, 7)}


async def test_the_current_sdk_works(
    gateway: Server, upstream: ScriptedUpstream, keys: dict[str, str]
) -> None:
    assert anthropic.__version__.startswith("2.")
    async with door_to(gateway.port) as door:
        base_url = f"http://127.0.0.1:{door.port}"
        seen = await asyncio.to_thread(sdk_session.report, base_url, keys)
    check(seen, upstream)
    check_failures(seen["failures"], door.count(b"POST /v1/messages HTTP"))
    await check_records(gateway, keys["good"])


async def test_the_sdk_before_version_2_works(
    gateway: Server, upstream: ScriptedUpstream, keys: dict[str, str], old_python: str
) -> None:
    async with door_to(gateway.port) as door:
        command = [old_python, sdk_session.__file__, f"http://127.0.0.1:{door.port}/"]
        done = await asyncio.to_thread(
            subprocess.run,
            [*command, json.dumps(keys)],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["version"].startswith("0.")
    check(seen, upstream)
    check_failures(seen["failures"], door.count(b"POST /v1/messages HTTP"))
    await check_records(gateway, keys["good"])


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
