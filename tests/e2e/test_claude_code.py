"""Claude Code itself through the gateway, beside what it sends and shows without one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.claude_code import MODEL, ClaudeCode
from tests.support.limited import Gated
from tests.support.provider import (
    CLOSE,
    STREAM_HEAD,
    Request,
    Script,
    ScriptedUpstream,
    anthropic_call,
    anthropic_events,
    chunk,
    json_answer,
    stream_answer,
)
from tests.support.sealed import Turn
from tests.support.server import CREDENTIAL, Server
from tests.support.waiting import PATIENCE
from tests.support.wire import message_body

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

#: What it is given where there is no gateway.
PROVIDERS_KEY = "sk-ant-api03-of-the-provider"
#: Set anew by the gateway, or not passed on.
NOT_AS_SENT = ("host", "connection", "accept-encoding", "authorization", "x-api-key")


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    """Nobody waits here."""
    return {"limits": {"max_wait": "0s"}, "admin": {"contact": "ops@example.com"}}


class Compared:
    """Does the same thing twice: at the provider, and through the gateway."""

    def __init__(
        self, claude_code: ClaudeCode, gateway: Server, upstream: ScriptedUpstream
    ) -> None:
        self._claude_code = claude_code
        self._gateway = gateway
        self._upstream = upstream

    async def ask(self, key: str, prompt: str, *options: str, says: list[Script]) -> Turn:
        """Return what it showed through the gateway. Order is no matter among equal paths."""
        self._upstream.will(*says)
        alone = await self._claude_code.ask(self._upstream.port, PROVIDERS_KEY, prompt, *options)
        direct = _told_apart(self._upstream.inferences)
        self._upstream.forget()
        self._upstream.will(*says)
        turn = await self._claude_code.ask(self._gateway.port, key, prompt, *options)
        through = _told_apart(self._upstream.inferences)
        assert through == direct
        assert turn == alone
        assert all(
            dict(request.headers).items()
            >= {
                ("host", f"127.0.0.1:{self._upstream.port}"),
                ("x-api-key", CREDENTIAL),
                ("accept-encoding", "identity"),
            }
            and request.header("authorization") is None
            for request in self._upstream.inferences
        )
        return turn


def _told_apart(requests: list[Request]) -> list[tuple[str, bytes, list[tuple[str, str]]]]:
    """The requests without what a gateway is there to change, in an order of their own."""
    return sorted(
        (
            request.line,
            request.body,
            [field for field in request.headers if field[0] not in NOT_AS_SENT],
        )
        for request in requests
    )


@pytest.fixture
def compared(claude_code: ClaudeCode, gateway: Server, upstream: ScriptedUpstream) -> Compared:
    return Compared(claude_code, gateway, upstream)


async def test_a_plain_turn(compared: Compared, gateway: Server, key: str) -> None:
    told = stream_answer(anthropic_events("Good morning", input_tokens=11, output_tokens=7))
    turn = await compared.ask(key, "Say good morning", says=[told])
    assert (turn.status, turn.out.strip(), turn.requests) == (0, "Good morning", 1)
    (record,) = await gateway.records(key)
    assert (record["model"], record["input_tokens"], record["output_tokens"]) == (MODEL, 11, 7)


async def test_a_turn_with_a_tool(compared: Compared, gateway: Server, key: str) -> None:
    call = anthropic_call(
        "Bash", ['{"command":"echo he', 'llo","description":"Greet"}'], input_tokens=3
    )
    says = [stream_answer(call), stream_answer(anthropic_events("Done", input_tokens=5))]
    turn = await compared.ask(key, "Greet me", "--allowedTools", "Bash", says=says)
    assert (turn.status, turn.out.strip(), turn.requests) == (0, "Done", 2)
    assert [record["status"] for record in await gateway.records(key)] == [200, 200]


async def test_the_parts_of_the_context_are_counted(compared: Compared, gateway: Server) -> None:
    """Dozens of counts at once are for nothing, whatever the limits are."""
    key = await gateway.holder(limits=["1 concurrent", "1 requests/7d"])
    turn = await compared.ask(key, "/context", says=[])
    assert turn.status == 0
    assert "Estimated usage by category" in turn.out
    assert await gateway.records(key) == []


@pytest.mark.long
async def test_a_stream_that_is_cut_once_is_asked_for_again(compared: Compared, key: str) -> None:
    events = anthropic_events("Once more", input_tokens=3)
    says: list[Script] = [[STREAM_HEAD, *map(chunk, events[:4]), CLOSE], stream_answer(events)]
    turn = await compared.ask(key, "Hello", says=says)
    assert (turn.status, turn.out.strip(), turn.requests) == (0, "Once more", 2)


@pytest.mark.long
@pytest.mark.parametrize("status", [400, 413])
async def test_what_the_provider_refuses(compared: Compared, key: str, status: int) -> None:
    error = {"type": "invalid_request_error", "message": "prompt: is not to my liking"}
    says = [json_answer({"type": "error", "error": error}, status=status)] * 8
    turn = await compared.ask(key, "Hello", says=says)
    assert turn.status == 1


@pytest.mark.long
class TestRefusals:
    """What the gateway refuses is told once, in its own words."""

    async def test_a_limit_that_others_fill_is_waited_for(
        self, claude_code: ClaudeCode, gateway: Server, upstream: ScriptedUpstream
    ) -> None:
        key = await gateway.holder(limits=["1 concurrent"])
        gated = Gated(upstream)
        async with gateway.asking(key, message_body(stream=True)) as running:
            await running.head()
            asked = asyncio.ensure_future(claude_code.ask(gateway.port, key, "Hello"))
            while 429 not in [record["status"] for record in await gateway.records(key)]:
                assert not asked.done()
            gated.open.set()
            turn = await asked
        assert (turn.status, turn.out.strip()) == (0, "Hello from the tests")
        assert turn.requests >= 2

    @pytest.mark.parametrize("limit", ["1 requests/7d", "1 requests/day", "1 requests/total"])
    async def test_a_limit_that_is_used_up(
        self, claude_code: ClaudeCode, gateway: Server, upstream: ScriptedUpstream, limit: str
    ) -> None:
        key = await gateway.holder(limits=[limit])
        assert (await gateway.messages(key, message_body())).status == 200
        sentence = (await gateway.messages(key, message_body())).message
        turn = await claude_code.ask(gateway.port, key, "Hello")
        assert (turn.status, turn.out.strip(), turn.requests) == (1, sentence, 1)
        turn = await claude_code.ask(gateway.port, key, "Hello", CLAUDE_CODE_USE_GATEWAY="")
        told = f"API Error: Request rejected (429) · {sentence}"
        assert (turn.status, turn.out.strip(), turn.requests) == (1, told, 1)

    async def test_a_key_that_has_expired(
        self, claude_code: ClaudeCode, gateway: Server, upstream: ScriptedUpstream
    ) -> None:
        key = await gateway.holder(expires="1s")
        async with asyncio.timeout(PATIENCE):
            while (answer := await gateway.messages(key, message_body())).status == 200:
                pass
        upstream.forget()
        turn = await claude_code.ask(gateway.port, key, "Hello")
        told = f"Failed to authenticate. API Error: 401 {answer.message}"
        assert "expired" in answer.message
        assert (turn.status, turn.out.strip(), turn.requests) == (1, told, 1)
        assert upstream.inferences == []

    async def test_a_key_that_is_none(self, claude_code: ClaudeCode, gateway: Server) -> None:
        """The client replaces a sentence in which it finds the name of the other header."""
        turn = await claude_code.ask(gateway.port, "sk-ant-ol-nonsense", "Hello")
        assert "API Error: 401 Invalid API key" in turn.out
        assert (turn.status, turn.requests) == (1, 1)

    async def test_a_model_that_is_not_served(
        self, claude_code: ClaudeCode, gateway: Server, upstream: ScriptedUpstream, key: str
    ) -> None:
        turn = await claude_code.ask(gateway.port, key, "Hello", "--model", "gpt-none")
        assert "There's an issue with the selected model (gpt-none)" in turn.out
        assert turn.status == 1
        assert upstream.inferences == []


#: What is only the administrator's to know.
OF_THE_PROVIDER = "of organisation org-canary"


@pytest.mark.long
class TestProvider:
    """What the provider refuses the gateway is not told of as its holder's own."""

    def failure(self, kind: str, status: int, *headers: tuple[str, str]) -> Script:
        error = {"type": kind, "message": OF_THE_PROVIDER}
        return json_answer({"type": "error", "error": error}, status=status, headers=headers)

    async def test_a_short_pause_is_made(
        self, claude_code: ClaudeCode, gateway: Server, upstream: ScriptedUpstream, key: str
    ) -> None:
        upstream.will(self.failure("rate_limit_error", 429, ("retry-after", "1")))
        turn = await claude_code.ask(gateway.port, key, "Hello")
        assert (turn.status, turn.out.strip()) == (0, "Hello from the tests")
        assert turn.requests == 2

    async def test_a_long_pause_is_not(
        self, claude_code: ClaudeCode, gateway: Server, upstream: ScriptedUpstream, key: str
    ) -> None:
        upstream.always(lambda _: self.failure("rate_limit_error", 429, ("retry-after", "3600")))
        turn = await claude_code.ask(gateway.port, key, "Hello")
        assert "The model provider is limiting the gateway's requests" in turn.out
        assert "org-canary" not in turn.out + turn.err
        assert (turn.status, turn.requests) == (1, 1)

    async def test_an_account_that_is_refused(
        self, claude_code: ClaudeCode, gateway: Server, upstream: ScriptedUpstream, key: str
    ) -> None:
        upstream.always(lambda _: self.failure("authentication_error", 401))
        turn = await claude_code.ask(gateway.port, key, "Hello")
        assert "502 The gateway could not use its account with the model provider" in turn.out
        assert "org-canary" not in turn.out + turn.err
        assert (turn.status, turn.requests) == (1, 1)

    async def test_an_overload_passes(
        self, claude_code: ClaudeCode, gateway: Server, upstream: ScriptedUpstream, key: str
    ) -> None:
        upstream.will(self.failure("overloaded_error", 529))
        turn = await claude_code.ask(gateway.port, key, "Hello")
        assert (turn.status, turn.out.strip()) == (0, "Hello from the tests")

    async def test_a_stream_that_never_ends_well(
        self, claude_code: ClaudeCode, gateway: Server, upstream: ScriptedUpstream, key: str
    ) -> None:
        """It must not pass for a short answer."""
        cut: Script = [STREAM_HEAD, *map(chunk, anthropic_events("Half of it")[:4]), CLOSE]
        upstream.always(lambda _: cut)
        turn = await claude_code.ask(gateway.port, key, "Hello", CLAUDE_CODE_MAX_RETRIES="1")
        assert "Connection to the API was lost" in turn.out
        assert turn.status == 1
