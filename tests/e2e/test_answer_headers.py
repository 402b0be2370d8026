"""No header of an upstream can split the client's answer, or say anything about its framing."""

from __future__ import annotations

import pytest

from tests.support.provider import CLOSE, ScriptedUpstream
from tests.support.server import Server
from tests.support.wire import Answer, message_body, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = b'{"usage": {"input_tokens": 5, "output_tokens": 9}}'
LENGTH = b"content-length: %d" % len(BODY)
CHUNKED = b"transfer-encoding: chunked"
IN_CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
#: What an injected answer would look like.
SECOND = b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\ninjected"
#: What the gateway itself says.
OURS = {"content-type", "content-length", "date", "server", "request-id", "x-request-id"}


def answer(*fields: bytes, line: bytes = b"HTTP/1.1 200 OK", body: bytes = BODY) -> bytes:
    lines = (line, b"content-type: application/json", *fields, b"", body)
    return b"\r\n".join(lines)


#: Answers that can't be passed on.
REFUSED = {
    "a CR in a value": answer(LENGTH, b"x-a: b\rx-injected: c"),
    "a CR at a value's end": answer(LENGTH, b"x-a: b\r\r"),
    "a NUL in a value": answer(LENGTH, b"x-a: b\0x-injected: c"),
    "a control character in a value": answer(LENGTH, b"x-a: b\x01x-injected"),
    "a NUL in a name": answer(LENGTH, b"x\0injected: b"),
    "a space in a name": answer(LENGTH, b"x injected: b"),
    "a space before the colon": answer(LENGTH, b"x-injected : b"),
    "a high byte in a name": answer(LENGTH, b"x-injected\xe9: b"),
    "an empty name": answer(LENGTH, b": injected"),
    "no colon": answer(LENGTH, b"injected"),
    "a folded line": answer(LENGTH, b"x-a: b\r\n injected: c"),
    "a line folded with a tab": answer(LENGTH, b"x-a: b\r\n\tinjected: c"),
    "a bare LF": answer(LENGTH, b"x-a: b\nx-injected: c"),
    "two lengths": answer(LENGTH, b"content-length: 5"),
    "two equal lengths": answer(LENGTH, LENGTH),
    "a list of lengths": answer(b"content-length: %d, %d" % (len(BODY), len(BODY))),
    "a signed length": answer(b"content-length: +%d" % len(BODY)),
    "a length that overflows": answer(b"content-length: %d" % 2**64),
    "a length and a coding": answer(LENGTH, CHUNKED, body=IN_CHUNKS),
    "two codings": answer(CHUNKED, CHUNKED, body=IN_CHUNKS),
    "a coding in HTTP/1.0": answer(CHUNKED, line=b"HTTP/1.0 200 OK", body=IN_CHUNKS),
    "a value of 100 KB": answer(LENGTH, b"x-a: " + b"injected" * 13_000),
    "a thousand fields of 100 bytes": answer(LENGTH, *[b"x-a: " + b"b" * 100] * 1000),
    "HTTP/2.0": answer(LENGTH, line=b"HTTP/2.0 200 OK"),
    "an odd status": answer(LENGTH, line=b"HTTP/1.1 2000 OK"),
    "a status below 100": answer(LENGTH, line=b"HTTP/1.1 099 OK"),
    "a CR in the reason": answer(LENGTH, line=b"HTTP/1.1 200 O\rK"),
}

#: Answers that are passed on, with the names of the headers that come besides ours.
PASSED: dict[str, tuple[bytes, set[str]]] = {
    "a header named in Connection": (
        answer(LENGTH, b"connection: x-injected", b"x-injected: a"),
        set(),
    ),
    "in capitals, after others": (
        answer(
            LENGTH,
            b"Connection: close, X-Injected",
            b"connection: x-also",
            b"X-INJECTED: a",
            b"x-also: b",
        ),
        set(),
    ),
    "the framing, named in Connection": (
        answer(LENGTH, b"connection: content-length, content-type"),
        set(),
    ),
    "Keep-Alive and TE": (answer(LENGTH, b"keep-alive: timeout=5", b"te: a", b"upgrade: b"), set()),
    "proxies' own": (answer(LENGTH, b"proxy-authenticate: a", b"proxy-connection: b"), set()),
    "a trailer": (
        answer(CHUNKED, b"trailer: x-injected", body=IN_CHUNKS[:-2] + b"x-injected: a\r\n\r\n"),
        {"transfer-encoding"},
    ),
    "our ids, with an underscore": (answer(LENGTH, b"request_id: a", b"x_request_id: b"), set()),
    "a framing with an underscore": (
        answer(LENGTH, b"content_length: 5", b"transfer_encoding: a"),
        set(),
    ),
    "a second answer": (answer(LENGTH) + SECOND, set()),
    "a reason in other letters": (answer(LENGTH, line=b"HTTP/1.1 200 \xe9\xff injected"), set()),
    "a high byte in a value": (answer(LENGTH, b"x-a: \xff\xe9"), {"x-a"}),
    "a value of UTF-8's line ends": (answer(LENGTH, "x-a: a\u2028b\u0085c".encode()), {"x-a"}),
    "a value of escapes": (answer(LENGTH, b"x-a: %0d%0ax-injected: c"), {"x-a"}),
    "interim answers": (b"HTTP/1.1 103 Early\r\nx-injected: a\r\n\r\n" * 3 + answer(LENGTH), set()),
}


async def ask(gateway: Server, key: str) -> Answer:
    """The one answer on a connection, which must bring nothing else."""
    headers = [("Connection", "close")]
    async with await gateway.connect() as wire:
        body = message_body()
        await wire.send(request_bytes("POST", "/v1/messages", key=key, headers=headers, body=body))
        answer = await wire.answer()
        assert await wire.ending() == ("closed", b"")
    assert "defect" not in gateway.log
    return answer


@pytest.mark.parametrize("what", REFUSED)
async def test_an_answer_that_can_not_be_passed_on_is_a_502(
    gateway: Server, upstream: ScriptedUpstream, key: str, what: str
) -> None:
    upstream.will([REFUSED[what], CLOSE])
    answer = await ask(gateway, key)
    assert answer.error == (502, "api_error")
    assert "injected" not in str(answer).lower()
    assert "injected" not in gateway.log.lower()
    (record,) = await gateway.records(key, 1)
    assert record["status"] == 502


@pytest.mark.parametrize("what", PASSED)
async def test_an_answer_passes_without_headers_that_are_not_for_clients(
    gateway: Server, upstream: ScriptedUpstream, key: str, what: str
) -> None:
    sent, names = PASSED[what]
    upstream.will([sent, CLOSE])
    answer = await ask(gateway, key)
    assert (answer.status, answer.body) == (200, BODY)
    ours = OURS - {"content-length"} if "transfer-encoding" in names else OURS
    assert sorted(name for name, _ in answer.headers) == sorted(ours | names | {"connection"})
    assert answer.header("request-id") == answer.header("x-request-id") not in ("a", "b")
    (record,) = await gateway.records(key, 1)
    assert (record["status"], record["output_tokens"]) == (200, 9)


async def test_the_next_answer_is_not_the_one_sent_too_much(
    gateway: Server, upstream: ScriptedUpstream, key: str
) -> None:
    upstream.will([answer(LENGTH) + SECOND])
    for _ in range(2):
        assert b"injected" not in (await ask(gateway, key)).body
