"""A request that was sent is never free: what is not told is estimated.

What belongs to the kind: a client that leaves before the answer's head, behind it, in its midst; an
upstream that times out, breaks off, redirects, compresses, or sends what is no HTTP, no JSON, no
usage; the process that ends, or is killed; a body of which only a part went out. Not: a request of
which nothing was sent, and an error of the provider, which costs what it tells.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from opuslive.dialects import Buffer
from opuslive.errors import Code
from opuslive.gateway.upstreams.failures import LONG_PAUSE_MS
from opuslive.gateway.upstreams.wire import Timeouts
from opuslive.usage import ModelTokens, TokenCounts
from tests.support.anthropic_streams import delta, event, start, text
from tests.support.clock import NOW
from tests.support.listener import Listener, Peer, answer
from tests.support.provider import LAST_CHUNK, STREAM_HEAD, chunk
from tests.support.rig import (
    BODY,
    COUNTING,
    COUNTS,
    DIALECT,
    EVENTS,
    INPUT_GUESS,
    MESSAGE,
    MESSAGES,
    Caller,
    Rig,
    cut,
    denied,
)
from tests.support.waiting import eventually, soon, turns

SHORT = Timeouts(60.0, 0.05, 0.05)
GUESSED = TokenCounts(input=INPUT_GUESS)
UNTOLD = b'{"type":"message","content":[{"type":"text","text":"' + b"x" * 4_000 + b'"}]}'
UNTOLD_OUTPUT = (len(UNTOLD) - 400) // 4
SAID = "does not say how many tokens its answers use: they are estimated"


def large(tokens: int) -> bytes:
    """A request that is guessed to have so many tokens of input, or a few more."""
    return json.dumps({"model": "claude-known", "max_tokens": 1, "x": "x" * 4 * tokens}).encode()


async def test_who_hangs_up_early_uses_up_the_limit(rig: Rig, listener: Listener) -> None:
    """Two prompts of 50,000 tokens fill a limit of 100,000, whoever waits for their answers."""
    await rig.limit("100k tokens/1h")
    rig.upstream(listener.port)
    for _ in range(2):
        caller = rig.caller(large(49_950))
        serving = rig.serve(caller)
        await rig.arrived(listener)
        caller.leave()
        await cut(serving)
    (limit_status,) = rig.admission.statuses(rig.key.id)
    assert 99_900 <= limit_status.used <= 100_000
    assert (await denied(rig.serve(rig.caller(large(49_950))))).code is Code.QUOTA_EXHAUSTED


@pytest.mark.parametrize(
    ("wire", "tokens"),
    [
        (b"", GUESSED),
        (b"garbage\r\n\r\n", GUESSED),
        (b"HTTP/1.1 200 OK\r\n", GUESSED),
        (answer(MESSAGE, b"location: /", status=307), GUESSED),
        (answer(MESSAGE, b"location: /", status=304), GUESSED),
        (answer(MESSAGE, b"content-encoding: gzip"), GUESSED),
        # An error costs what it tells.
        (answer(b"{}", b"content-encoding: gzip", status=500), TokenCounts()),
        (answer(b'{"type":"error"}', status=401), TokenCounts()),
        (answer(b'{"type":"error","usage":{"input_tokens":3}}', status=429), TokenCounts(3)),
        (answer(b'{"type":"error","usage":{"input_tokens":3}}', status=402), TokenCounts(3)),
        (answer(MESSAGE, status=400)[:-1], TokenCounts()),
    ],
)
async def test_an_upstream_that_sends_nothing_readable_is_charged_by_estimate(
    rig: Rig, listener: Listener, caller: Caller, wire: bytes, tokens: TokenCounts
) -> None:
    rig.upstream(listener.port)
    serving = rig.serve(caller)
    peer = await rig.arrived(listener)
    if wire:
        peer.send(wire)
        await turns()
    peer.reset()
    await denied(serving)
    assert (await rig.record()).tokens == tokens


async def test_a_request_to_a_silent_upstream_is_charged_by_estimate(
    rig: Rig, listener: Listener, caller: Caller
) -> None:
    rig.upstream(listener.port, SHORT)
    serving = rig.serve(caller)
    await rig.arrived(listener)
    assert (await denied(serving)).code is Code.UPSTREAM_TIMEOUT
    assert (await rig.record()).tokens == GUESSED


def leave(phase: tuple[Rig, Caller, Peer, asyncio.Task[None]]) -> None:
    phase[1].leave()


def break_off(phase: tuple[Rig, Caller, Peer, asyncio.Task[None]]) -> None:
    phase[2].reset()


def shut_down(phase: tuple[Rig, Caller, Peer, asyncio.Task[None]]) -> None:
    phase[0].exchanges.cut_all()


def cancel(phase: tuple[Rig, Caller, Peer, asyncio.Task[None]]) -> None:
    phase[3].cancel()


@pytest.mark.parametrize("end", [leave, break_off, shut_down, cancel])
@pytest.mark.parametrize(
    ("wire", "tokens"),
    [
        (STREAM_HEAD, GUESSED),
        (STREAM_HEAD + chunk(b": hello\n\n"), GUESSED),
        (STREAM_HEAD + chunk(event(text("x" * 400))), TokenCounts(INPUT_GUESS, 100)),
        (
            STREAM_HEAD + chunk(event(start(input_tokens=11)) + event(text("x" * 400))),
            TokenCounts(11, 100),
        ),
        (
            STREAM_HEAD
            + chunk(event(start(input_tokens=11)) + event(text("=" * 8_000)))
            + chunk(event(delta(output_tokens=63))),
            TokenCounts(11, 63),
        ),
        (answer(UNTOLD)[:-2], TokenCounts(INPUT_GUESS, (len(UNTOLD) - 402) // 4)),
        (answer(b'{"usage":{"input_tokens":5,"output_tokens":6},"x":1}')[:-1], TokenCounts(5, 6)),
    ],
)
async def test_an_answer_that_is_cut_short_is_charged_for_what_was_read(
    rig: Rig,
    listener: Listener,
    caller: Caller,
    wire: bytes,
    tokens: TokenCounts,
    end: Callable[[tuple[Rig, Caller, Peer, asyncio.Task[None]]], None],
) -> None:
    rig.upstream(listener.port)
    serving = rig.serve(caller)
    peer = await rig.arrived(listener)
    peer.send(wire)
    await eventually(lambda: caller.head)
    rest = wire.partition(b"\r\n\r\n")[2]
    await eventually(lambda: caller.writes or not rest)
    await turns()
    end((rig, caller, peer, serving))
    await asyncio.wait([serving])
    assert (await rig.record()).tokens == tokens
    learnt = rig.holder.experience
    assert learnt.input(1_000, "adaptive") == 1_000
    assert learnt.output("claude-known", None, "adaptive") == 4_096


@pytest.mark.parametrize("body", [UNTOLD, b"no JSON " * 500, b"[" * 4_000, b"x"])
async def test_a_whole_answer_that_does_not_tell_its_usage(
    rig: Rig, listener: Listener, caller: Caller, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """It goes on as it came, and the log says which upstream sends such answers."""
    rig.upstream(listener.port)
    output = max(0, len(body) - 400) // 4
    serving = rig.serve(caller)
    (await rig.arrived(listener)).send(answer(body))
    await soon(serving)
    assert (caller.written, caller.resets) == (body, 0)
    assert (await rig.record()).tokens == TokenCounts(INPUT_GUESS, output)
    assert caplog.messages == [f"upstream upstream 0 {SAID}"]
    assert rig.holder.experience.input(1_000, "adaptive") == 1_000


async def test_the_log_says_again_after_an_hour_who_does_not_tell_its_usage(
    rig: Rig, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    rig.upstream(listener.port)
    for half_hours in range(3):
        rig.machine.elapsed = NOW + half_hours * LONG_PAUSE_MS // 2
        for operation in (COUNTING, MESSAGES):  # Counting uses nothing.
            serving = rig.serve(rig.caller(), operation)
            peer = await listener.accept()
            await peer.request()
            await peer.exactly(len(BODY))
            peer.send(answer(UNTOLD, b"connection: close"))
            await soon(serving)
    said = f"upstream upstream 0 {SAID}"
    assert caplog.messages == [said, f"{said} (1 more since it was last said)"]


async def test_an_error_within_a_stream_is_not_said_to_lack_usage(
    rig: Rig, listener: Listener, caller: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    rig.upstream(listener.port)
    serving = rig.serve(caller)
    error = event({"type": "error", "error": {"type": "overloaded_error"}})
    (await rig.arrived(listener)).send(STREAM_HEAD, chunk(error), LAST_CHUNK)
    await soon(serving)
    assert (await rig.record()).tokens == GUESSED
    assert not any(SAID in line for line in caplog.messages)


@pytest.mark.parametrize("kind", [b"text/plain", b"application/json", b"text/event-stream", None])
async def test_a_stream_under_any_name_is_metered_and_its_end_held(
    rig: Rig, listener: Listener, caller: Caller, kind: bytes | None
) -> None:
    rig.upstream(listener.port)
    serving = rig.serve(caller)
    peer = await rig.arrived(listener)
    named = b"" if kind is None else b"content-type: " + kind + b"\r\n"
    head = b"HTTP/1.1 200 OK\r\n" + named + b"transfer-encoding: chunked\r\n\r\n"
    await peer.send_apart(head, *map(chunk, EVENTS), LAST_CHUNK)
    await soon(serving)
    assert caller.written == b"".join(EVENTS)
    assert (await rig.record()).tokens == COUNTS


async def test_a_document_that_is_called_a_stream_is_metered(
    rig: Rig, listener: Listener, caller: Caller
) -> None:
    rig.upstream(listener.port)
    serving = rig.serve(caller)
    (await rig.arrived(listener)).send(answer(MESSAGE, b"content-type: text/event-stream"))
    await soon(serving)
    assert (caller.written, (await rig.record()).tokens) == (MESSAGE, COUNTS)


async def test_a_request_of_which_a_part_was_sent_counts_as_sent(
    rig: Rig, listener: Listener
) -> None:
    """Nobody can tell how much of it arrived."""
    rig.upstream(listener.port)
    body = large(10_000_000)
    serving = rig.serve(rig.caller(body))
    peer = await listener.accept()
    await peer.request()
    peer.reset()
    await denied(serving)
    assert (await rig.record()).tokens == TokenCounts(DIALECT.input_guess(body).seen)


async def test_a_request_of_which_nothing_was_sent_is_free(rig: Rig) -> None:
    closed = Listener()
    closed.close()
    rig.upstream(closed.port)
    await denied(rig.serve(rig.caller()))
    assert (await rig.record()).tokens == TokenCounts()


async def test_a_kill_makes_no_request_free_that_was_sent(
    rig: Rig, listener: Listener, caller: Caller
) -> None:
    """The open record, which the next process completes, bears the estimate."""
    rig.upstream(listener.port)
    serving = rig.serve(caller)
    peer = await rig.arrived(listener)
    rig.exchanges.keep_open(NOW + 1_000)
    await rig.storage.flush()
    assert (await rig.record()).tokens == GUESSED
    peer.send(STREAM_HEAD, chunk(event(text("x" * 400))))
    await eventually(lambda: caller.writes)
    rig.exchanges.keep_open(NOW + 11_000)
    await rig.storage.flush()
    assert (await rig.record()).tokens == TokenCounts(INPUT_GUESS, 100)
    peer.send(chunk(event(start(input_tokens=11))))
    await eventually(lambda: len(caller.writes) > 1)
    rig.exchanges.keep_open(NOW + 12_000)
    await rig.storage.flush()
    assert (await rig.record()).tokens == TokenCounts(11, 100)
    serving.cancel()


async def test_what_a_running_answer_used_by_now_is_held_against_the_limits(
    rig: Rig, listener: Listener, caller: Caller
) -> None:
    """Its request reserved one token of output; the answer goes on."""
    await rig.limit("1k output_tokens/1h")
    rig.upstream(listener.port)
    for _ in range(20):
        rig.holder.experience.learn("claude-known", 0, 0, 1)
    serving = rig.serve(caller)
    peer = await rig.arrived(listener)
    peer.send(STREAM_HEAD, chunk(event(start(input_tokens=11)) + event(text("x" * 2_000))))
    await eventually(lambda: caller.writes)
    assert reserved(rig) < 100
    rig.exchanges.keep_open(NOW + 1)
    assert reserved(rig) == 500
    serving.cancel()


def reserved(rig: Rig) -> int:
    (status,) = rig.admission.statuses(rig.key.id)
    return status.reserved


async def test_experience_corrects_the_guess_that_counts(rig: Rig, listener: Listener) -> None:
    """What admission reserved is what a request costs that tells nothing."""
    rig.upstream(listener.port)
    body: Buffer = large(10_000)
    guess = DIALECT.input_guess(body).seen
    message = b'{"usage":{"input_tokens":%d,"output_tokens":1}}' % (2 * guess)
    first = rig.serve(rig.caller(body))
    (await rig.arrived(listener)).send(answer(message, b"connection: close"))
    await soon(first)
    corrected = rig.holder.experience.input(guess, "adaptive")
    assert corrected == pytest.approx(1.5 * guess, abs=1)
    second = rig.serve(rig.caller(body))
    (await rig.arrived(listener)).reset()
    await denied(second)
    records = {record.status: record.tokens.input for record in await rig.records()}
    assert records == {200: 2 * guess, 502: corrected}
    assert rig.holder.experience.input(guess, "adaptive") == corrected


async def test_the_record_names_the_model_that_answered(
    rig: Rig, listener: Listener, caller: Caller
) -> None:
    usage: dict[str, Any] = {
        "input_tokens": 2,
        "output_tokens": 3,
        "iterations": [
            {"type": "message", "model": "claude-known", "input_tokens": 7, "output_tokens": 8},
            {"type": "fallback_message", "model": "unknown", "input_tokens": 2, "output_tokens": 3},
        ],
    }
    rig.upstream(listener.port)
    serving = rig.serve(caller)
    (await rig.arrived(listener)).send(answer(json.dumps({"usage": usage}).encode()))
    await soon(serving)
    record = await rig.record()
    assert (record.model, record.tokens) == (None, TokenCounts(2, 3))
    meter = DIALECT.meter(stream=False)
    meter.feed(json.dumps({"usage": usage}).encode())
    meter.end()
    assert meter.parts() == [ModelTokens("claude-known", TokenCounts(7, 8))]
