"""No two servers in a row can be made to read a request differently: one by one, as raw bytes."""

from __future__ import annotations

import contextlib

import pytest
import pytest_asyncio

from tests.support.documents import page
from tests.support.provider import LAST_CHUNK, ScriptedUpstream, chunk
from tests.support.server import Server
from tests.support.smuggling_probes import (
    BODY,
    CANARY,
    CHUNKED,
    HOST,
    IN_CHUNKS,
    KEY,
    LENGTH,
    PROBES,
    Probe,
    request,
)
from tests.support.wire import Answer, Wire, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def holder(gateway: Server) -> str:
    """The one key of all probes."""
    return await gateway.holder()


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
async def test_a_raw_probe_reaches_the_provider_as_one_request_or_not_at_all(
    gateway: Server, upstream: ScriptedUpstream, holder: str, probe: Probe
) -> None:
    data = probe.request.replace(KEY, holder.encode())
    behind = request_bytes("POST", "/v1/messages", key=holder, body=BODY)
    answer = None
    async with await gateway.connect() as wire:
        if probe.passed or probe.kept:
            await wire.send(data)
            answer = await wire.answer()
            with contextlib.suppress(ConnectionError):
                await wire.send(behind)
            if probe.kept:
                assert (await wire.answer()).status == 200
        else:
            with contextlib.suppress(ConnectionError):  # It need not read on once it refuses.
                await wire.send(data + behind)
            if probe.status is None:
                wire.half_close()
            else:
                answer = await wire.answer()
        if not probe.kept:
            assert (await wire.ending())[1] == b""
    check(answer, probe)
    seen = [BODY] * (probe.passed + probe.kept)
    assert [received.body for received in upstream.inferences] == seen
    for received in upstream.inferences:
        assert received.path.partition("?")[0] == "/v1/messages"
        assert CANARY.decode() not in str(received).lower()
    assert CANARY.decode() not in gateway.log.lower()
    assert "defect" not in gateway.log


def check(answer: Answer | None, probe: Probe) -> None:
    """It says what it should, and nothing of the request."""
    assert (answer.status if answer is not None else None) == probe.status
    if answer is None:
        return
    assert CANARY not in str(answer).lower().encode()
    if answer.status >= 400:
        assert answer.error[1] in ("invalid_request_error", "not_found_error", "request_too_large")


async def told_to_go_on(gateway: Server, key: str) -> Wire:
    """A connection on which the head of a request in chunks has been read."""
    wire = await gateway.connect()
    head = request(CHUNKED, b"Expect: 100-continue", body=b"").replace(KEY, key.encode())
    await wire.send(head)
    assert await wire.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    return wire


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"%x;" % len(BODY) + b"a" * 40_000 + IN_CHUNKS[2:], id="an extension"),
        pytest.param(
            b"".join(b"1;" + b"a" * 900 + b"\r\n%c\r\n" % byte for byte in BODY) + LAST_CHUNK,
            id="extensions",
        ),
        pytest.param(IN_CHUNKS[:-2] + b"x-a: %b\r\n" % (b"b" * 1000) * 100, id="trailers"),
        pytest.param(b"%x;" % len(BODY) + b"a" * 200_000, id="an endless extension"),
        pytest.param(b"0" * 200_000, id="an endless size"),
    ],
)
async def test_what_frames_a_body_has_a_bound(
    gateway: Server, upstream: ScriptedUpstream, holder: str, body: bytes
) -> None:
    async with await told_to_go_on(gateway, holder) as wire:
        with contextlib.suppress(ConnectionError):
            await wire.send(body)
        assert (await wire.answer()).error == (400, "invalid_request_error")
        assert (await wire.ending())[1] == b""
    assert upstream.inferences == []


async def test_a_body_in_the_smallest_chunks_is_within_it(
    gateway: Server, upstream: ScriptedUpstream, holder: str
) -> None:
    body = BODY + b" " * 100_000
    async with await told_to_go_on(gateway, holder) as wire:
        await wire.send(b"".join(chunk(b"%c" % byte) for byte in body) + LAST_CHUNK)
        assert (await wire.answer()).status == 200
    assert [received.body for received in upstream.inferences] == [body]


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n", b"x-a: " + b"b" * 1000 + b"\r\n"),
        (b"", b"\r\n" * 500),
    ],
    ids=["fields", "empty lines"],
)
async def test_a_head_that_does_not_end_is_refused(
    gateway: Server, start: bytes, piece: bytes
) -> None:
    """Before it has ended, and whatever its deadline."""
    async with await gateway.connect() as wire:
        await wire.send(start)
        with contextlib.suppress(ConnectionError):
            for _ in range(90):
                await wire.send(piece)
        assert (await wire.answer()).error == (431, "invalid_request_error")
        assert (await wire.ending())[1] == b""


async def test_a_trailer_is_no_header_of_the_next_request(
    gateway: Server, upstream: ScriptedUpstream, holder: str
) -> None:
    """Nor of one that another client of the same front proxy sends."""
    first = request(CHUNKED, body=IN_CHUNKS[:-2] + b"x-injected: " + CANARY + b"\r\n\r\n")
    async with await gateway.connect() as wire:
        await wire.send(first.replace(KEY, holder.encode()))
        answer = await wire.answer()
        assert (answer.status, answer.header("connection")) == (200, "close")
        with contextlib.suppress(ConnectionError):
            await wire.send(request(LENGTH).replace(KEY, holder.encode()))
        assert (await wire.ending())[1] == b""
    assert len(upstream.inferences) == 1


async def test_there_are_as_many_probes_as_the_page_of_reliability_says() -> None:
    assert len({probe.name for probe in PROBES}) == len(PROBES)
    passed = sum(probe.passed for probe in PROBES)
    said = f"of {len(PROBES)} raw probes {passed} reach the provider as exactly one request, "
    assert f"{said}{len(PROBES) - passed} not at all" in page("reliability")
