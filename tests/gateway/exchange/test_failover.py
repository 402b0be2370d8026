"""Several upstreams: another one is asked before a byte goes to the client, and when it is not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Sequence

import pytest

from opuslive.dialects import registry
from opuslive.errors import Code, OpusLiveError
from opuslive.gateway import forwarding
from opuslive.gateway.holder import Cut
from opuslive.gateway.relay import HIGH_WATER
from opuslive.gateway.upstreams.health import (
    ACCOUNT_PROBE_MS,
    DOWN_FAILURES,
    DOWN_MS,
    PROBE_MS,
    UpstreamState,
)
from opuslive.usage import TokenCounts
from tests.support.listener import Listener, Peer, answer
from tests.support.provider import LAST_CHUNK, STREAM_HEAD, chunk
from tests.support.rig import (
    BODY,
    COUNTING,
    COUNTS,
    EVENTS,
    LATENCY,
    MESSAGE,
    STREAM,
    Caller,
    Rig,
    cut,
    denied,
)
from tests.support.waiting import eventually, soon, turns

OPENAI = registry.DIALECTS["openai"]
OVERLOADED = b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'
NO_CREDIT = (
    b'{"type":"error","error":{"type":"invalid_request_error",'
    b'"message":"Your credit balance is too low to access the API."}}'
)
NOT_OPEN = (
    b'{"type":"error","error":{"type":"permission_error",'
    b'"message":"Your API key does not have permission to use the specified resource."}}'
)


def closing(body: bytes, *headers: bytes, status: int = 200) -> bytes:
    """An answer behind which the connection is closed, so that the next request makes one."""
    return answer(body, b"connection: close", *headers, status=status)


LIMITED = closing(b"", b"retry-after: 17", status=429)
WHOLE_STREAM = (STREAM_HEAD, *map(chunk, EVENTS), LAST_CHUNK)


class Several:
    """The gateway's upstreams, in the order in which they are asked, as a test plays them."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.listeners: list[Listener] = []

    def add(self, *, priority: int | None = None) -> Listener:
        listener = Listener()
        self.rig.upstream(
            listener.port, priority=len(self.listeners) if priority is None else priority
        )
        self.listeners.append(listener)
        return listener

    async def gets(self, number: int) -> Peer:
        """A request arrives at this upstream."""
        peer = await self.listeners[number].accept()
        head = await peer.request()
        assert await peer.exactly(len(BODY)) == BODY
        assert b"content-length: %d" % len(BODY) in head
        return peer

    async def served_by(self, *before: tuple[int, bytes], caller: Caller | None = None) -> int:
        """Which upstream serves the next request, after these answers of others."""
        serving = self.rig.serve(caller or self.rig.caller())
        for number, sent in before:
            (await self.gets(number)).send(sent)
        accepting = {
            asyncio.ensure_future(listener.accept()): number
            for number, listener in enumerate(self.listeners)
        }
        done, others = await asyncio.wait(accepting, return_when=asyncio.FIRST_COMPLETED)
        for other in others:
            other.cancel()
        (task,) = done
        peer = task.result()
        await peer.request()
        peer.send(closing(MESSAGE))
        await soon(serving)
        return accepting[task]


@pytest.fixture
async def several(rig: Rig) -> AsyncIterator[Several]:
    made = Several(rig)
    yield made
    for listener in made.listeners:
        listener.close()


@pytest.mark.parametrize(
    "first",
    [
        LIMITED,
        closing(b"", status=429),
        closing(b"", status=401),
        closing(b"", status=402),
        closing(NO_CREDIT, status=400),
        closing(NO_CREDIT.replace(b"invalid_request_error", b"billing_error"), status=403),
        closing(OVERLOADED, status=529),
        closing(b"", status=500),
        closing(b"Bad gateway", b"content-encoding: gzip", status=502),
        closing(b"x" * (HIGH_WATER + 1), status=503),
        closing(b"xx", status=503)[:-1],
        closing(NOT_OPEN, status=403),
        closing(NOT_OPEN, b"content-encoding: gzip", status=403),
    ],
)
async def test_another_upstream_answers_where_the_first_one_does_not(
    several: Several, caller: Caller, first: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client sees nothing of it; there is one record."""
    monkeypatch.setattr(forwarding, "HEAR_OUT_SECONDS", 0.01)
    several.add()
    several.add()
    serving = several.rig.serve(caller)
    (await several.gets(0)).send(first)
    peer = await several.gets(1)
    several.rig.machine.elapsed += LATENCY
    peer.send(*WHOLE_STREAM)
    await soon(serving)
    assert caller.head is not None
    assert (caller.head.status, caller.written, caller.resets) == (200, STREAM, 0)
    record = await several.rig.record()
    assert (record.status, record.latency_ms, record.tokens) == (200, LATENCY, COUNTS)


async def test_a_request_that_uses_up_no_limit_is_sent_on_too(
    several: Several, caller: Caller
) -> None:
    several.add()
    several.add()
    serving = several.rig.serve(caller, COUNTING)
    (await several.gets(0)).send(LIMITED)
    (await several.gets(1)).send(closing(b'{"input_tokens":7}'))
    await soon(serving)
    assert caller.written == b'{"input_tokens":7}'
    assert await several.rig.records() == []


@pytest.mark.parametrize(
    ("status", "error", "state"),
    [
        (429, {"code": "rate_limit_exceeded"}, UpstreamState.RATE_LIMITED),
        (429, {"code": "insufficient_quota"}, UpstreamState.CREDENTIAL_REFUSED),
        (403, {"code": "account_deactivated"}, UpstreamState.CREDENTIAL_REFUSED),
        # The account lacks this model alone.
        (404, {"message": "No such model for org-AbCdEfGh1234"}, UpstreamState.UNUSED),
        (500, {"message": "no"}, UpstreamState.FAILING),
    ],
)
async def test_what_openai_says_of_the_account_sends_the_request_on(
    rig: Rig, caller: Caller, status: int, error: dict[str, str], state: UpstreamState
) -> None:
    first, second = Listener(), Listener()
    for priority, listener in enumerate((first, second)):
        rig.upstream(listener.port, priority=priority, dialect=OPENAI)
    serving = rig.serve(caller, OPENAI.operations[0], OPENAI)
    body = json.dumps({"error": error}).encode()
    (await rig.arrived(first)).send(closing(body, status=status))
    peer = await rig.arrived(second)
    usage = b'{"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":7}}'
    peer.send(closing(usage))
    await soon(serving)
    assert caller.written == usage
    assert rig.states == [state, UpstreamState.OK]
    assert (await rig.record()).tokens == COUNTS
    first.close()
    second.close()


@pytest.mark.parametrize("status", [400, 404, 413])
async def test_an_answer_about_the_request_is_the_answer(
    several: Several, caller: Caller, status: int
) -> None:
    several.add()
    other = several.add()
    serving = several.rig.serve(caller)
    body = b'{"type":"error","error":{"type":"invalid_request_error","message":"no"}}'
    (await several.gets(0)).send(closing(body, status=status))
    await soon(serving)
    assert caller.written == body
    assert other.accept_now() is None


async def test_a_stream_that_has_begun_is_not_sent_on(several: Several, caller: Caller) -> None:
    several.add()
    other = several.add()
    serving = several.rig.serve(caller)
    peer = await several.gets(0)
    peer.send(STREAM_HEAD, chunk(EVENTS[0]))
    await eventually(lambda: caller.writes)
    peer.reset()
    assert await cut(serving) is Cut.UPSTREAM_GONE
    assert other.accept_now() is None


class TestAllAreOut:
    """The client gets the best of the answers."""

    async def asked(
        self, several: Several, caller: Caller, answers: Sequence[bytes | None]
    ) -> OpusLiveError | None:
        """None is an upstream that can't be reached."""
        for sent in answers:
            listener = several.add()
            if sent is None:
                listener.close()
        serving = several.rig.serve(caller)
        for number, sent in enumerate(answers):
            if sent is not None:
                (await several.gets(number)).send(sent)
        try:
            await soon(serving)
        except OpusLiveError as error:
            return error
        return None

    @pytest.mark.parametrize(
        ("answers", "code", "wait"),
        [
            ([LIMITED, closing(b"", b"retry-after: 3", status=429)], 429, 3),
            ([closing(b"", b"retry-after: 3", status=429), LIMITED], 429, 3),
            ([LIMITED, closing(b"", status=429)], 429, None),
            ([LIMITED, closing(OVERLOADED, status=529)], 429, 17),
            ([closing(OVERLOADED, status=529), LIMITED], 429, 17),
            ([None, LIMITED], 429, 17),
            ([LIMITED, None], 429, 17),
            ([closing(b"", status=401), LIMITED], 429, 17),
            ([closing(b"", status=401), None], 502, None),
            ([LIMITED, closing(NOT_OPEN, status=403)], 429, 17),
            ([closing(NOT_OPEN, status=403), LIMITED], 429, 17),
            ([closing(NOT_OPEN, status=403), None], 502, None),
            ([None, closing(NOT_OPEN, status=403)], 502, None),
        ],
    )
    async def test_a_limit_of_the_rate_with_the_shortest_wait_comes_first(
        self,
        several: Several,
        caller: Caller,
        answers: Sequence[bytes | None],
        code: int,
        wait: int | None,
    ) -> None:
        error = await self.asked(several, caller, answers)
        assert error is not None
        assert (error.code.status, error.retry_after) == (code, wait)
        assert error.code is not Code.UPSTREAM_ACCOUNT
        record = await several.rig.record()
        assert (record.status, record.tokens) == (code, TokenCounts())
        assert record.latency_ms is not None

    @pytest.mark.parametrize(
        "answers",
        [
            [closing(OVERLOADED, b"x-which: kept", status=529), None],
            [closing(OVERLOADED, b"x-which: kept", status=529), closing(b"", status=401)],
            [closing(b"", status=401), closing(OVERLOADED, b"x-which: kept", status=529)],
            [None, closing(OVERLOADED, b"x-which: kept", status=529)],
            [
                closing(OVERLOADED, b"x-which: kept", status=529),
                closing(b"x" * (HIGH_WATER + 1), status=500),
            ],
        ],
    )
    async def test_an_error_of_the_provider_comes_as_it_came(
        self, several: Several, caller: Caller, answers: Sequence[bytes | None]
    ) -> None:
        assert await self.asked(several, caller, answers) is None
        assert caller.head is not None
        assert (b"x-which", b"kept") in caller.head.headers
        assert (caller.head.status, caller.head.length) == (529, len(OVERLOADED))
        assert (caller.written, caller.resets) == (OVERLOADED, 0)
        record = await several.rig.record()
        assert (record.status, record.tokens) == (529, TokenCounts())

    @pytest.mark.parametrize(
        "answers",
        [
            [closing(NOT_OPEN, status=403)],
            [closing(NOT_OPEN, status=403), closing(b"", status=401)],
            [closing(b"", status=401), closing(NOT_OPEN, status=403)],
        ],
    )
    async def test_what_is_open_to_no_account_is_told_in_the_words_of_the_provider(
        self, several: Several, caller: Caller, answers: Sequence[bytes | None]
    ) -> None:
        assert await self.asked(several, caller, answers) is None
        assert caller.head is not None
        assert (caller.head.status, caller.written) == (403, NOT_OPEN)
        record = await several.rig.record()
        assert (record.status, record.tokens) == (403, TokenCounts())

    async def test_a_refused_account_is_told_where_there_is_nothing_else(
        self, several: Several, caller: Caller
    ) -> None:
        answers = [closing(b"", status=401), closing(NO_CREDIT, status=400)]
        error = await self.asked(several, caller, answers)
        assert error is not None
        assert error.code is Code.UPSTREAM_ACCOUNT
        assert several.rig.states == [UpstreamState.CREDENTIAL_REFUSED] * 2


async def test_what_an_error_says_that_it_used_counts_though_another_upstream_answers(
    several: Several, caller: Caller
) -> None:
    several.add()
    several.add()
    serving = several.rig.serve(caller)
    used = json.dumps({"type": "error", "usage": {"input_tokens": 5, "output_tokens": 2}})
    (await several.gets(0)).send(closing(used.encode(), status=529))
    (await several.gets(1)).send(*WHOLE_STREAM)
    await soon(serving)
    assert (await several.rig.record()).tokens == TokenCounts(input=16, output=9)


@pytest.mark.parametrize("first", [LIMITED, closing(b"xx", status=503)[:-1]])
@pytest.mark.parametrize("why", [Cut.CLIENT_GONE, Cut.KEY_DELETED, Cut.SHUTDOWN])
async def test_what_ends_a_request_ends_it_between_two_upstreams(
    several: Several, caller: Caller, first: bytes, why: Cut
) -> None:
    """It waits for the rest of an answer that it won't use, or for the other upstream's answer."""
    await several.rig.limit("1M tokens/day")
    several.add()
    second = several.add()
    serving = several.rig.serve(caller)
    peer = await several.gets(0)
    peer.send(first)
    if first == LIMITED:
        peer = await several.gets(1)
    else:
        await turns()
        assert second.accept_now() is None
    if why is Cut.CLIENT_GONE:
        caller.leave()
        assert await cut(serving) is why
    else:
        several.rig.holder.cut(why)
        code = Code.INVALID_KEY if why is Cut.KEY_DELETED else Code.OVERLOADED
        assert (await denied(serving)).code is code
    assert await peer.closed()
    assert second.accept_now() is None
    record = await several.rig.record()
    assert record.status == (499 if why is Cut.CLIENT_GONE else 503)
    (status,) = several.rig.holder.account.statuses(several.rig.date)
    assert status.reserved == 0


async def test_a_client_that_leaves_while_another_upstream_is_connected_to_leaves_nothing_to_pay(
    several: Several, caller: Caller
) -> None:
    several.add()
    with contextlib.ExitStack() as stack:
        # A listener that takes no more connections leaves who comes waiting.
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        several.rig.upstream(full.getsockname()[1], priority=1)
        for _ in range(2):
            filling = stack.enter_context(socket.socket())
            filling.setblocking(False)
            filling.connect_ex(full.getsockname())
        serving = several.rig.serve(caller)
        (await several.gets(0)).send(LIMITED)
        await eventually(lambda: several.rig.states[0] is UpstreamState.RATE_LIMITED)
        await turns()
        assert not serving.done()
        caller.leave()
        assert await cut(serving) is Cut.CLIENT_GONE
    record = await several.rig.record()
    assert (record.status, record.tokens) == (499, TokenCounts())


class TestCooldown:
    """Who goes where, request by request."""

    async def test_a_limited_upstream_is_left_alone_for_as_long_as_it_asks(
        self, several: Several
    ) -> None:
        several.add()
        several.add()
        assert await several.served_by((0, LIMITED)) == 1
        assert several.rig.states[0] is UpstreamState.RATE_LIMITED
        several.rig.machine.elapsed += 16_999
        assert await several.served_by() == 1
        several.rig.machine.elapsed += 1
        assert await several.served_by() == 0

    async def test_a_refused_account_is_tried_once_in_a_while(self, several: Several) -> None:
        several.add()
        several.add()
        refused = closing(NO_CREDIT, status=400)
        assert await several.served_by((0, refused)) == 1
        several.rig.machine.elapsed += ACCOUNT_PROBE_MS - 1
        assert await several.served_by() == 1
        several.rig.machine.elapsed += 1
        assert await several.served_by((0, refused)) == 1
        assert await several.served_by() == 1
        several.rig.machine.elapsed += ACCOUNT_PROBE_MS
        assert await several.served_by() == 0
        assert several.rig.states[0] is UpstreamState.OK

    async def test_a_failing_upstream_is_probed_by_one_request(self, several: Several) -> None:
        several.add()
        several.add()
        for _ in range(DOWN_FAILURES):
            assert await several.served_by((0, closing(b"", status=503))) == 1
        assert several.rig.states == [UpstreamState.OUT, UpstreamState.OK]
        assert await several.served_by() == 1
        several.rig.machine.elapsed += DOWN_MS
        probe = several.rig.serve(several.rig.caller())
        peer = await several.gets(0)
        # While it is under way the others go elsewhere.
        assert await several.served_by() == 1
        several.rig.machine.elapsed += PROBE_MS - 1
        assert await several.served_by() == 1
        peer.send(closing(MESSAGE))
        await soon(probe)
        assert several.rig.states == [UpstreamState.OK, UpstreamState.OK]
        assert await several.served_by() == 0

    async def test_an_upstream_that_is_aside_is_the_last_resort(self, several: Several) -> None:
        several.add()
        several.add()
        assert await several.served_by((0, LIMITED)) == 1
        assert await several.served_by((1, closing(b"", status=503))) == 0

    async def test_the_log_has_one_line_of_what_changes(
        self, several: Several, caplog: pytest.LogCaptureFixture
    ) -> None:
        several.add()
        several.add()
        for _ in range(DOWN_FAILURES):
            await several.served_by((0, closing(b"", status=503)))
        for _ in range(20):
            await several.served_by()
        several.rig.machine.elapsed += DOWN_MS
        await several.served_by()
        await several.served_by()
        assert caplog.messages == [
            "upstream upstream 0 answered with status 503",
            "upstream upstream 0 failed 5 times in a row and is asked last for 30 s; "
            "now it answered with status 503",
            "upstream upstream 0 answers again",
        ]

    async def test_a_burst_of_limited_requests_has_one_line_in_the_log(
        self, several: Several, caplog: pytest.LogCaptureFixture
    ) -> None:
        several.add()
        several.add()
        serving = [several.rig.serve(several.rig.caller()) for _ in range(20)]
        for _ in serving:
            (await several.gets(0)).send(LIMITED)
        for _ in serving:
            (await several.gets(1)).send(closing(MESSAGE))
        await soon(asyncio.gather(*serving))
        assert caplog.messages == [
            "upstream upstream 0 limits the rate of requests, and is asked last for 17 s"
        ]


async def test_a_conversation_stays_on_one_upstream_and_others_are_spread(
    several: Several,
) -> None:
    for _ in range(2):
        several.add(priority=0)

    async def served_by(session: bytes | None) -> int:
        caller = several.rig.caller()
        if session is not None:
            caller.headers = [(b"X-Claude-Code-Session-Id", session)]
        return await several.served_by(caller=caller)

    homes = {session: await served_by(session) for session in (b"a", b"b", b"c", b"d", b"e", b"f")}
    assert set(homes.values()) == {0, 1}
    assert [await served_by(session) for session in homes] == list(homes.values())
    assert sorted([await served_by(None) for _ in range(6)]) == [0, 0, 0, 1, 1, 1]
