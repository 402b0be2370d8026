"""Requests that end with an error for the client: its record is on disk before."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import weakref
from dataclasses import replace

import pytest

from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.cutting import ExchangeCut
from opuslive.gateway.upstreams.health import UpstreamState
from opuslive.gateway.upstreams.wire import FailureKind, Timeouts
from opuslive.usage import UsageRecord
from tests.support.clock import NOW
from tests.support.listener import Listener, answer
from tests.support.pools import PATIENT
from tests.support.rig import (
    BODY,
    COUNTING,
    DIALECT,
    LATENCY,
    MESSAGE,
    MESSAGES,
    Caller,
    Rig,
    denied,
)
from tests.support.waiting import soon, turns

SHORT = Timeouts(60.0, 0.05, 0.05)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"not JSON", Code.INVALID_REQUEST),
        (b'{"model":"gpt"}', Code.MODEL_NOT_FOUND),
        (OpusLiveError(Code.BODY_TOO_LARGE, "large"), Code.BODY_TOO_LARGE),
        (OpusLiveError(Code.BODY_TIMEOUT, "late"), Code.BODY_TIMEOUT),
    ],
)
async def test_a_request_that_is_wrong_is_denied_and_recorded_before_anything_is_sent(
    rig: Rig, listener: Listener, body: bytes | OpusLiveError, code: Code
) -> None:
    rig.upstream(listener.port)
    caller = rig.caller(body)
    assert (await denied(rig.serve(caller))).code is code
    record = await rig.record()
    assert record == UsageRecord(rig.key.id, NOW, None, code.status, None)
    assert (caller.head, caller.resets) == (None, 0)
    assert (await denied(rig.serve(rig.caller(body), COUNTING))).code is code
    assert await rig.records() == [record]


async def test_a_model_that_the_key_may_not_use_is_denied(rig: Rig, listener: Listener) -> None:
    rig.upstream(listener.port)
    rig.holders.change(rig.holder, replace(rig.key, models=("claude-other*",)))
    error = await denied(rig.serve(rig.caller()))
    assert error.code is Code.MODEL_NOT_FOUND
    assert (await rig.record()).model == "claude-known"


async def test_a_credential_that_proves_nothing_is_denied_and_leaves_no_record(
    rig: Rig, listener: Listener
) -> None:
    rig.upstream(listener.port)
    assert (await denied(rig.serve(Caller("guess")))).code is Code.INVALID_KEY
    assert await rig.records() == []


async def test_a_request_is_denied_while_the_gateway_drains(
    rig: Rig, listener: Listener, caller: Caller
) -> None:
    rig.upstream(listener.port)
    rig.exchanges.draining = True
    error = await denied(rig.serve(caller))
    assert (error.code, error.retry_after) == (Code.OVERLOADED, 5)
    assert [record.status for record in await rig.records()] == [503]


async def test_a_request_is_denied_if_no_upstream_can_be_reached(rig: Rig, caller: Caller) -> None:
    for _ in range(2):
        closed = Listener()
        closed.close()
        rig.upstream(closed.port)
    assert (await denied(rig.serve(caller))).code is Code.UPSTREAM_UNREACHABLE
    record = await rig.record()
    assert (record.status, record.latency_ms, record.model) == (502, None, "claude-known")


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (b"", Code.UPSTREAM_UNREACHABLE),
        (b"HTTP/1.1 200 OK\r\ncontent", Code.UPSTREAM_UNREACHABLE),
        (b"garbage", Code.UPSTREAM_UNREACHABLE),
        (answer(MESSAGE, b"location: /", status=307), Code.UPSTREAM_UNREACHABLE),
        (answer(MESSAGE, b"content-encoding: gzip"), Code.UPSTREAM_UNREACHABLE),
        (answer(MESSAGE, status=400)[:-1], Code.UPSTREAM_UNREACHABLE),
        (None, Code.UPSTREAM_TIMEOUT),
    ],
)
async def test_a_request_whose_answer_does_not_come_is_denied_and_never_sent_again(
    rig: Rig, listener: Listener, caller: Caller, wire: bytes | None, code: Code
) -> None:
    """The upstream may be at work on it: so it is not sent to another one, either."""
    rig.upstream(listener.port, SHORT if wire is None else PATIENT)
    other = Listener()
    rig.upstream(other.port)
    serving = rig.serve(caller)
    peer = await rig.arrived(listener)
    if wire:
        peer.send(wire)
        await turns()
    if wire is not None:
        peer.reset()
    assert (await denied(serving)).code is code
    record = await rig.record()
    assert (record.status, record.latency_ms) == (code.status, LATENCY)
    assert (caller.head, caller.writes, caller.resets) == (None, [], 0)
    assert other.accept_now() is None
    other.close()
    assert rig.states == [UpstreamState.FAILING, UpstreamState.UNUSED]


@pytest.mark.parametrize(
    ("wire", "code", "state"),
    [
        (answer(MESSAGE, status=401), Code.UPSTREAM_ACCOUNT, UpstreamState.CREDENTIAL_REFUSED),
        (answer(MESSAGE, status=402), Code.UPSTREAM_ACCOUNT, UpstreamState.CREDENTIAL_REFUSED),
        (
            answer(MESSAGE, b"retry-after: 17", status=429),
            Code.UPSTREAM_RATE_LIMITED,
            UpstreamState.RATE_LIMITED,
        ),
    ],
)
async def test_a_request_is_denied_for_what_the_only_upstream_says_of_the_account(
    rig: Rig,
    listener: Listener,
    caller: Caller,
    wire: bytes,
    code: Code,
    state: UpstreamState,
) -> None:
    rig.upstream(listener.port)
    serving = rig.serve(caller)
    (await rig.arrived(listener)).send(wire)
    error = await denied(serving)
    assert error.code is code
    assert error.retry_after == (17 if code is Code.UPSTREAM_RATE_LIMITED else None)
    record = await rig.record()
    assert (record.status, record.latency_ms) == (code.status, LATENCY)
    assert (caller.head, caller.writes, caller.resets) == (None, [], 0)
    assert rig.states == [state]


async def test_a_request_is_denied_if_its_upstream_is_silent(
    rig: Rig, listener: Listener, caller: Caller
) -> None:
    rig.upstream(listener.port, SHORT)
    serving = rig.serve(caller)
    peer = await rig.arrived(listener)
    assert (await denied(serving)).code is Code.UPSTREAM_TIMEOUT
    record = await rig.record()
    assert (record.status, record.latency_ms) == (504, LATENCY)
    assert await peer.closed()
    assert rig.health[0].last_failure is FailureKind.HEAD_TIMEOUT


async def test_the_log_tells_of_a_refused_account_and_the_client_hears_nothing_of_it(
    rig: Rig,
    listener: Listener,
    caller: Caller,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig.upstream(listener.port)
    serving = rig.serve(caller)
    (await rig.arrived(listener)).send(answer(b'{"error":"secret account 7"}', status=401))
    error = await denied(serving)
    (line,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert "upstream 0 refuses this gateway's account" in line.message
    assert "secret" not in caplog.text + error.message


async def test_an_upstream_that_is_down_fills_no_log(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """One line a second until the circuit opens, with the number of those left out; then one."""
    closed = Listener()
    closed.close()
    rig.upstream(closed.port)
    for _ in range(3):
        await denied(rig.serve(rig.caller(), COUNTING))
    said = "upstream upstream 0 could not be reached: Connection refused"
    assert caplog.messages == [said]
    rig.machine.elapsed += 1_000
    await denied(rig.serve(rig.caller(), COUNTING))
    assert caplog.messages[1:] == [f"{said} (2 more since it was last said)"]
    for _ in range(3):
        rig.machine.elapsed += 1_000
        await denied(rig.serve(rig.caller(), COUNTING))
    assert caplog.messages[2:] == [
        "upstream upstream 0 failed 5 times in a row and is asked last for 30 s; "
        "now it could not be reached: Connection refused"
    ]


async def test_an_upstream_that_breaks_off_fills_no_log(
    rig: Rig, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    rig.upstream(listener.port)
    for _ in range(3):
        serving = rig.serve(rig.caller(), COUNTING)
        (await rig.arrived(listener)).close()
        await denied(serving)
    assert caplog.messages == ["upstream upstream 0 broke the connection off"]


async def test_an_upstream_that_refuses_the_account_fills_no_log(
    rig: Rig, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    rig.upstream(listener.port)
    for _ in range(3):
        serving = rig.serve(rig.caller(), COUNTING)
        (await rig.arrived(listener)).send(answer(MESSAGE, b"connection: close", status=401))
        assert (await denied(serving)).code is Code.UPSTREAM_ACCOUNT
    assert caplog.messages == [
        "upstream upstream 0 refuses this gateway's account (status 401): "
        "check its credential and its credit; it is asked last until it works"
    ]


class Body(bytearray):
    """Bytes that tell when they are gone."""


@pytest.mark.parametrize(
    "why", ["model", "limit", "unreachable", "refused", "broken off", "client gone"]
)
async def test_the_body_of_a_request_that_fails_waits_for_no_garbage_collection(
    rig: Rig, listener: Listener, why: str
) -> None:
    if why == "unreachable":
        listener.close()
    if why == "limit":
        await rig.limit("1 usd/total")  # The model has no price.
    rig.upstream(listener.port)
    body = Body(BODY.replace(b"claude-known", b"unknown") if why == "model" else BODY)
    gone = weakref.ref(body)
    caller = rig.caller(body)
    del body

    async def serve() -> None:
        with contextlib.suppress(OpusLiveError, ExchangeCut):
            await rig.exchanges.serve(DIALECT, MESSAGES, caller)

    gc.collect()
    gc.disable()
    try:
        serving = asyncio.ensure_future(serve())
        if why in ("refused", "broken off", "client gone"):
            peer = await rig.arrived(listener)
            if why == "refused":
                peer.send(answer(b"", status=401))
            else:
                peer.reset() if why == "broken off" else caller.leave()
        await soon(serving)
        assert gone() is None
    finally:
        gc.enable()
