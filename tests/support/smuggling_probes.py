"""Requests made to be read in two ways, and malformed ones: what each is, and what it gets.

Every probe carries a valid key, so that nothing but its form stands in its way to the
upstream, and ``CANARY`` in the place that is wrong with it. What follows the request on the
wire is ``BEHIND``, a whole request that would be answered by 200 and seen by the upstream: a
server that ends the probe at another byte than this one takes it, or a part of it, for a request
of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.wire import message_body

CANARY = b"kanarienvogel"
#: Replaced by a key's credential.
KEY = b"{key}"
BODY = message_body()
#: ``BODY``'s framing.
LENGTH = b"Content-Length: %d" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked"
IN_CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
MESSAGES = b"POST /v1/messages HTTP/1.1"
HOST = b"Host: gateway.localhost"


@dataclass(frozen=True, slots=True)
class Probe:
    """``request`` as raw bytes.

    ``status``: of its answer; None if more of it is waited for. ``passed``: whether the upstream
    sees it, as one request with the body ``BODY``. ``kept``: whether the connection goes on to
    answer what follows.
    """

    name: str
    request: bytes
    status: int | None = 400
    passed: bool = False
    kept: bool = False


def request(
    *fields: bytes, line: bytes = MESSAGES, host: bytes = HOST + b"\r\n", body: bytes = BODY
) -> bytes:
    """A request with these header fields, ``Host`` first and the key last."""
    lines = b"".join(field + b"\r\n" for field in fields)
    return line + b"\r\n" + host + lines + b"x-api-key: " + KEY + b"\r\n\r\n" + body


def in_chunks(body: bytes) -> bytes:
    """A request whose body is framed like this."""
    return request(CHUNKED, body=body)


def passed(name: str, data: bytes, *, kept: bool = True) -> Probe:
    """A probe that is a good request after all, and read in one way only."""
    return Probe(name, data, 200, passed=True, kept=kept)


def _lengths() -> Iterator[Probe]:
    size = len(BODY)
    yield Probe("both framings", request(LENGTH, CHUNKED, body=IN_CHUNKS))
    yield Probe("both framings, the other way round", request(CHUNKED, LENGTH, body=IN_CHUNKS))
    yield Probe("two equal lengths", request(LENGTH, LENGTH))
    yield Probe("two lengths", request(LENGTH, b"Content-Length: 3"))
    for name, value in (
        ("a list of equal lengths", b"%d, %d" % (size, size)),
        ("a list of lengths", b"%d, 3" % size),
        ("a length with a plus", b"+%d" % size),
        ("a negative length", b"-1"),
        ("a hexadecimal length", b"0x%x" % size),
        ("a length with a fraction", b"%d.0" % size),
        ("a length with an exponent", b"1e2"),
        ("a length with a separator", b"1_0"),
        ("an empty length", b""),
        ("a length of blanks", b"   "),
        ("a length that overflows 64 bits", b"%d" % (2**64 + size)),
        ("a length of a thousand digits", b"9" * 1000),
        ("a length and a word", b"%d %b" % (size, CANARY)),
        ("two lengths and a blank", b"1 %d" % size),
        ("a word for a length", CANARY),
        ("a length in other digits", "\u0665".encode()),
        ("a length behind a vertical tab", b"\x0b%d" % size),
    ):
        yield Probe(name, request(b"Content-Length: " + value))
    yield Probe("a length just below 2**64", request(b"Content-Length: %d" % (2**64 - 1)))
    yield passed("blanks around a length", request(b"Content-Length:  \t%d \t " % size))
    yield passed("a length with zeros before it", request(b"Content-Length: 000%d" % size))


def _codings() -> Iterator[Probe]:
    for name, field in (
        ("chunked, then identity", b"Transfer-Encoding: chunked, identity"),
        ("identity", b"Transfer-Encoding: identity"),
        ("identity, then chunked", b"Transfer-Encoding: identity, chunked"),
        ("xchunked", b"Transfer-Encoding: xchunked"),
        ("chunkedx", b"Transfer-Encoding: chunkedx"),
        ("chunked with a parameter", b"Transfer-Encoding: chunked;a=" + CANARY),
        ("chunked in quotes", b'Transfer-Encoding: "chunked"'),
        ("chunked twice", b"Transfer-Encoding: chunked, chunked"),
        ("chunked twice, in two fields", CHUNKED + b"\r\n" + CHUNKED),
        ("chunked, then a field of identity", CHUNKED + b"\r\nTransfer-Encoding: identity"),
        ("gzip, then chunked", b"Transfer-Encoding: gzip, chunked"),
        ("gzip", b"Transfer-Encoding: gzip"),
        ("a trailing comma", b"Transfer-Encoding: chunked,"),
        ("a leading comma", b"Transfer-Encoding: ,chunked"),
        ("an empty coding", b"Transfer-Encoding:"),
        ("an unknown coding", b"Transfer-Encoding: " + CANARY),
        ("a space before the colon", b"Transfer-Encoding : chunked"),
        ("a tab before the colon", b"Transfer-Encoding\t: chunked"),
        ("a space before the name", b" Transfer-Encoding: chunked"),
        ("a folded coding", b"Transfer-Encoding:\r\n chunked"),
        ("a coding after a vertical tab", b"Transfer-Encoding: \x0bchunked"),
        ("a coding before a NUL", b"Transfer-Encoding: chunked\0"),
        ("a coding behind a bare CR", b"x-a: b\rTransfer-Encoding: chunked"),
        ("a coding behind a bare LF", b"x-a: b\nTransfer-Encoding: chunked"),
    ):
        yield Probe("coding: " + name, request(field, body=IN_CHUNKS))
    old = MESSAGES.replace(b"1.1", b"1.0")
    yield Probe("a coding in HTTP/1.0", request(CHUNKED, line=old, body=IN_CHUNKS))
    yield Probe("a coding in HTTP/1.0, besides a length", request(LENGTH, CHUNKED, line=old))
    # A body in chunks is passed on with a length, and is the last of its connection.
    for name, coding in (("Chunked", b" Chunked"), ("blanks around chunked", b" \tchunked  ")):
        data = request(b"Transfer-Encoding:" + coding, body=IN_CHUNKS)
        yield passed("coding: " + name, data, kept=False)


def _chunks() -> Iterator[Probe]:
    size = b"%x" % len(BODY)
    data = b"\r\n" + BODY + b"\r\n0\r\n\r\n"
    for name, body in (
        ("with a plus", b"+" + size + data),
        ("with a minus", b"-" + size + data),
        ("with 0x", b"0x" + size + data),
        ("with a space before", b" " + size + data),
        ("with a tab before", b"\t" + size + data),
        ("with a space behind", size + b" " + data),
        ("with an underscore", b"0_" + size + data),
        ("that overflows 64 bits", b"1" + b"0" * 16 + data),
        ("of a thousand digits", b"f" * 1000 + data),
        ("that is a word", CANARY + data),
        ("that is empty", data),
        ("before an empty extension", size + b"; " + data),
        ("before a NUL in its extension", size + b";a=\0" + data),
        ("before a CR in its extension", size + b";a=\rb" + data),
        ("before a LF in its extension", size + b";a=\nb" + data),
        ("before a control character in its extension", size + b";a=\x01" + CANARY + data),
        ("before an extension in open quotes", size + b';a="' + CANARY + data),
    ):
        yield Probe("a chunk size " + name, in_chunks(body))
    yield Probe("a chunk longer than its size", in_chunks(b"%x" % (len(BODY) - 1) + data))
    yield Probe("a chunk shorter than its size", in_chunks(b"%x" % (len(BODY) + 1) + data))
    yield Probe("no CRLF behind a chunk", in_chunks(size + b"\r\n" + BODY + b"0\r\n\r\n"))
    yield Probe("a LF behind a chunk", in_chunks(size + b"\r\n" + BODY + b"\n0\r\n\r\n"))
    yield Probe("a LF behind a chunk's size", in_chunks(size + b"\n" + BODY + b"\r\n0\r\n\r\n"))
    yield Probe("a CR behind a chunk's size", in_chunks(size + b"\r" + BODY + b"\r\n0\r\n\r\n"))
    yield Probe("a LF behind the last chunk", in_chunks(IN_CHUNKS[:-4] + b"\n\r\n"))
    yield Probe("a LF at the very end", in_chunks(IN_CHUNKS[:-2] + b"\n"))
    yield Probe("no last chunk", in_chunks(IN_CHUNKS[:-5]))
    yield Probe("a chunk of 2**64-1 bytes", in_chunks(b"f" * 16 + data), None)
    for name, body in (
        ("a chunk with an extension", size + b';a=b;c="d e"' + data),
        ("a chunk's size in capitals, with zeros", b"000" + size.upper() + data),
        # Trailers may be dropped (RFC 9112, 7.1.2), and are: none may show up anywhere.
        ("a trailer", IN_CHUNKS[:-2] + b"x-a: " + CANARY + b"\r\n\r\n"),
        ("a credential in a trailer", IN_CHUNKS[:-2] + b"X-Api-Key: " + CANARY + b"\r\n\r\n"),
        ("a host in a trailer", IN_CHUNKS[:-2] + b"Host: " + CANARY + b"\r\n\r\n"),
    ):
        yield passed(name, in_chunks(body), kept=False)
    for name, trailer in (
        ("a length in a trailer", b"Content-Length: 5"),
        ("a coding in a trailer", b"Transfer-Encoding: chunked"),
        ("a trailer with a NUL", b"x-a: \0"),
        ("a trailer without a colon", CANARY),
        ("a folded trailer", b"x-a: b\r\n c"),
    ):
        yield Probe(name, in_chunks(IN_CHUNKS[:-2] + trailer + b"\r\n\r\n"))


def _fields() -> Iterator[Probe]:
    for name, field in (
        ("a folded line", b"x-a: b\r\n " + CANARY),
        ("a line folded with a tab", b"x-a: b\r\n\t" + CANARY),
        ("a fold before the first field", b" x-a: b"),
        ("a bare LF", b"x-a: b\nx-b: c"),
        ("a bare CR", b"x-a: b\rx-b: c"),
        ("CR twice", b"x-a: b\r\r\nx-b: c"),
        ("a NUL in a value", b"x-a: b\0" + CANARY),
        ("a NUL in a name", b"x\0a: " + CANARY),
        ("a control character in a value", b"x-a: \x01" + CANARY),
        ("an escape in a value", b"x-a: \x1b[31m" + CANARY),
        ("a DEL in a value", b"x-a: \x7f" + CANARY),
        ("a control character in a name", b"x\x01a: " + CANARY),
        ("a high byte in a name", b"x-\xe9: " + CANARY),
        ("a space in a name", b"x a: " + CANARY),
        ("a space before the colon", b"x-a : " + CANARY),
        ("a parenthesis in a name", b"x(a): " + CANARY),
        ("an at sign in a name", b"x@a: " + CANARY),
        ("an empty name", b": " + CANARY),
        ("no colon", CANARY),
        ("Content_Length", b"Content_Length: 5"),
        ("content_length in capitals", b"CONTENT_LENGTH: 5"),
        ("Transfer_Encoding", b"Transfer_Encoding: chunked"),
        ("X_Api_Key", b"X_Api_Key: " + CANARY),
        ("X-Api_Key", b"X-Api_Key: " + CANARY),
        ("Content_Encoding", b"Content_Encoding: " + CANARY),
        ("a compressed body", b"Content-Encoding: gzip"),
        ("a body compressed twice", b"Content-Encoding: identity, br"),
        ("an unknown encoding of the body", b"Content-Encoding: " + CANARY),
    ):
        yield Probe("field: " + name, request(LENGTH, field))
    for single in (b"Content-Type", b"User-Agent"):
        data = request(LENGTH, single + b": a", single + b": b")
        yield Probe(f"field: two of {single.decode()}", data)
    yield passed("a high byte in a value", request(LENGTH, b"x-a: \xe9\xff"))
    yield passed("a tab in a value", request(LENGTH, b"x-a: b\tc"))
    yield passed("an underscore in another name", request(LENGTH, b"x_a: b"))
    yield passed("an empty value", request(LENGTH, b"x-a:"))
    yield Probe("a field of 40 KB", request(LENGTH, b"x-a: " + b"a" * 40_000), 431)
    yield Probe("a name of 40 KB", request(LENGTH, b"x" * 40_000 + b": a"), 431)
    yield Probe("129 fields", request(LENGTH, *[b"x-a: b"] * 129))
    yield Probe("fields of 100 KB in all", request(LENGTH, *[b"x-a: " + b"a" * 1000] * 100), 431)


def _hosts() -> Iterator[Probe]:
    for name, host in (
        ("none", b""),
        ("two equal ones", (HOST + b"\r\n") * 2),
        ("two", HOST + b"\r\nHost: other.test\r\n"),
        ("an empty one", b"Host:\r\n"),
        ("a list", b"Host: a, b\r\n"),
        ("two words", b"Host: a b\r\n"),
        ("a path", b"Host: a/b\r\n"),
        ("a user", b"Host: a@b\r\n"),
        ("a query", b"Host: a?b\r\n"),
        ("a fragment", b"Host: a#b\r\n"),
        ("a bad port", b"Host: a:b\r\n"),
        ("two ports", b"Host: a:1:2\r\n"),
        ("a high byte", b"Host: \xe9\r\n"),
        ("a backslash", b"Host: a\\b\r\n"),
        ("an open bracket", b"Host: [::1\r\n"),
        ("a space before the colon", b"Host : gateway.localhost\r\n"),
    ):
        yield Probe("host: " + name, request(LENGTH, host=host))
    yield passed("host: an IPv6 address with a port", request(LENGTH, host=b"Host: [::1]:80\r\n"))
    yield passed("host: a name with an underscore", request(LENGTH, host=b"Host: a_b:8080\r\n"))


def _lines() -> Iterator[Probe]:
    for name, line, status in (
        ("an absolute target of another host", b"POST http://other.test/v1/messages HTTP/1.1", 400),
        (
            "an absolute target with a user",
            b"POST http://a@gateway.localhost/v1/messages HTTP/1.1",
            400,
        ),
        ("an absolute target without a host", b"POST http:///v1/messages HTTP/1.1", 400),
        (
            "an absolute target of another kind",
            b"POST ftp://gateway.localhost/v1/messages HTTP/1.1",
            400,
        ),
        ("a target without a slash", b"POST v1/messages HTTP/1.1", 400),
        ("a target that is an authority", b"POST gateway.localhost:80 HTTP/1.1", 400),
        ("a star", b"POST * HTTP/1.1", 400),
        ("OPTIONS *", b"OPTIONS * HTTP/1.1", 400),
        ("CONNECT", b"CONNECT gateway.localhost:80 HTTP/1.1", 400),
        ("CONNECT to a path", b"CONNECT /v1/messages HTTP/1.1", 400),
        ("TRACE", b"TRACE /v1/messages HTTP/1.1", 405),
        ("a lower-case method", b"post /v1/messages HTTP/1.1", 400),
        ("an unknown method", b"KANARIENVOGEL /v1/messages HTTP/1.1", 400),
        ("a method with a space before it", b" POST /v1/messages HTTP/1.1", 400),
        ("a method with a tab", b"PO\tST /v1/messages HTTP/1.1", 400),
        ("a method with a hyphen too many", b"M--SEARCH /v1/messages HTTP/1.1", 400),
        ("another protocol's method", b"DESCRIBE /v1/messages HTTP/1.1", 400),
        ("another protocol's name", b"POST /v1/messages ICE/1.0", 400),
        ("a tab for a space", b"POST\t/v1/messages HTTP/1.1", 400),
        ("a tab for the second space", b"POST /v1/messages\tHTTP/1.1", 400),
        ("a space in the target", b"POST /v1/messages kanarienvogel HTTP/1.1", 400),
        ("HTTP/0.9 with a version", b"POST /v1/messages HTTP/0.9", 400),
        ("HTTP/0.9", b"GET /v1/usage", 400),
        ("HTTP/1.2", b"POST /v1/messages HTTP/1.2", 400),
        ("HTTP/2.0", b"POST /v1/messages HTTP/2.0", 400),
        ("HTTP/3", b"POST /v1/messages HTTP/3", 400),
        ("http/1.1", b"POST /v1/messages http/1.1", 400),
        ("a space behind the version", b"POST /v1/messages HTTP/1.1 ", 400),
        ("a word behind the version", b"POST /v1/messages HTTP/1.1 " + CANARY, 400),
        ("a version of two digits", b"POST /v1/messages HTTP/1.10", 400),
        ("a version with zeros", b"POST /v1/messages HTTP/01.1", 400),
        ("a CR before the CRLF", b"POST /v1/messages HTTP/1.1\r", 400),
        ("a NUL in the target", b"POST /v1/messages\0 HTTP/1.1", 400),
        ("a control character in the target", b"POST /v1/messages\x01 HTTP/1.1", 400),
        ("a high byte in the target", b"POST /v1/messages?\xff HTTP/1.1", 400),
        ("a high byte in UTF-8 in the target", b"POST /v1/messages?\xc3\xa9 HTTP/1.1", 400),
        ("a fragment", b"POST /v1/messages#" + CANARY + b" HTTP/1.1", 400),
        ("a fragment behind a query", b"POST /v1/messages?a#b HTTP/1.1", 400),
        ("a target of 9 KB", b"POST /v1/messages?" + b"a" * 9000 + b" HTTP/1.1", 431),
        ("a target of 100 KB", b"POST /v1/messages?" + b"a" * 100_000 + b" HTTP/1.1", 431),
    ):
        yield Probe("line: " + name, request(LENGTH, line=line), status, kept=status in (404, 405))
    yield Probe(
        "the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", 400
    )
    yield Probe("a bare LF behind the line", request(LENGTH).replace(b"\r\n", b"\n", 1), 400)
    yield Probe("bare LFs throughout", request(LENGTH).replace(b"\r\n", b"\n"), 400)
    # RFC 9112, 3: the parts of the line may be told apart by any run of blanks.
    yield passed("two spaces", request(LENGTH, line=b"POST  /v1/messages HTTP/1.1"))
    yield passed(
        "two spaces before the version", request(LENGTH, line=b"POST /v1/messages  HTTP/1.1")
    )
    # llhttp knows this protocol by name too; it is read as HTTP/1.0 would be, and alone.
    yield passed("RTSP", request(LENGTH, line=b"POST /v1/messages RTSP/1.0"), kept=False)
    yield passed(
        "an absolute target of this host",
        request(LENGTH, line=b"POST http://gateway.localhost/v1/messages HTTP/1.1"),
    )
    yield passed("empty lines before a request", b"\r\n\r\n" + request(LENGTH))


def _paths() -> Iterator[Probe]:
    for path in (
        b"/v1/messages/",
        b"//v1/messages",
        b"/v1//messages",
        b"/v1/./messages",
        b"/v1/x/../messages",
        b"/v1/%2e%2e/v1/messages",
        b"/v1/messages/%2e%2e/messages",
        b"/v1%2fmessages",
        b"/v1%2Fmessages",
        b"/v1%5cmessages",
        b"/v1/messages%00",
        b"/v1/messages%20",
        b"/v1/messages%0d%0a",
        b"/v1/messages%3fbeta=true",
        b"/v1/messages%253f",
        b"/v1/messages;x=y",
        b"/v1/messages%3b",
        b"/v1/messages%23",
        b"/V1/messages",
        b"/v1/Messages",
        b"/v1/messages%",
        b"/v1/messages%zz",
        b"/v1/messages\\",
        b"/v1/messages&a=b",
        b"/v1/messages%ff",
        b"/v1/%256dessages",
    ):
        line = b"POST " + path + b" HTTP/1.1"
        yield Probe(f"path: {path.decode()}", request(LENGTH, line=line), 404, kept=True)
    # An escape that means the letter itself: one path, in two spellings (RFC 3986, 6.2.2.2).
    yield passed("path: an escaped letter", request(LENGTH, line=b"POST /v1/%6dessages HTTP/1.1"))


def _more() -> Iterator[Probe]:
    # An upgrade that is not wanted is ignored (RFC 9110, 7.8): its body is read by its framing.
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\nUpgrade: h2c"
    yield passed("an upgrade to HTTP/2", request(LENGTH, upgrade))
    yield passed(
        "an upgrade of a body in chunks", request(CHUNKED, upgrade, body=IN_CHUNKS), kept=False
    )
    websocket = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: YQ=="
    yield passed("an upgrade to a socket", request(LENGTH, websocket))
    for name, fields in (
        ("two upgrades", (upgrade, b"Upgrade: websocket")),
        ("a list of upgrades", (b"Connection: upgrade", b"Upgrade: websocket, h2c, " + CANARY)),
        ("an upgrade that Connection does not name", (b"Upgrade: h2c",)),
        ("an upgrade to nothing", (b"Connection: upgrade", b"Upgrade:")),
        ("an upgrade to TLS", (b"Connection: upgrade", b"Upgrade: TLS/1.2")),
        ("settings of HTTP/2 that Connection does not name", (b"HTTP2-Settings: " + CANARY,)),
        ("an upgrade that does not wait for 100-continue", (upgrade, b"Expect: 100-continue")),
    ):
        yield passed(name, request(LENGTH, *fields))
    yield passed(
        "an upgrade in HTTP/1.0",
        request(LENGTH, upgrade, line=MESSAGES.replace(b"1.1", b"1.0")),
        kept=False,
    )
    for name, framing in (
        ("both framings", (LENGTH, CHUNKED)),
        ("two lengths", (LENGTH, b"Content-Length: 3")),
        ("a coding that is not chunked", (b"Transfer-Encoding: identity",)),
        ("a list of codings", (b"Transfer-Encoding: gzip, chunked",)),
        ("a hidden upgrade", (LENGTH, b"Up_grade: h2c", b"Content_Length: 3")),
        ("a length behind a bare LF", (b"x-a: b\nContent-Length: 3",)),
        ("a length that is for this hop", (LENGTH, b"Connection: Upgrade, Content-Length")),
        ("a coding that is for this hop", (CHUNKED, b"Connection: Transfer-Encoding")),
        ("a host that is for this hop", (LENGTH, b"Connection: close, host")),
    ):
        body = IN_CHUNKS if CHUNKED in framing else BODY
        yield Probe("an upgrade and " + name, request(upgrade, *framing, body=body))
    yield Probe("another expectation", request(LENGTH, b"Expect: " + CANARY), 417)
    yield Probe("an expectation besides 100", request(LENGTH, b"Expect: 100-continue, a"), 417)
    yield Probe("two expectations", request(LENGTH, b"Expect: 100-continue", b"Expect: a"), 417)
    old = MESSAGES.replace(b"1.1", b"1.0")
    yield passed(
        "100-continue in HTTP/1.0", request(LENGTH, b"Expect: 100-continue", line=old), kept=False
    )
    yield passed("TE", request(LENGTH, b"TE: trailers", b"Connection: TE"))
    yield Probe(
        "a GET with a body", request(LENGTH, line=b"GET /v1/messages HTTP/1.1"), 405, kept=True
    )
    yield Probe(
        "a GET with a body in chunks",
        request(CHUNKED, line=b"GET /v1/messages HTTP/1.1", body=IN_CHUNKS),
        405,
    )
    yield passed(
        "a body that does not wait for 100-continue", request(LENGTH, b"Expect: 100-continue")
    )
    plain = request(websocket, line=b"GET /healthz HTTP/1.1", body=b"")
    yield Probe("an upgrade without a body", plain, 200, kept=True)
    yield Probe("a TLS handshake", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + CANARY)
    yield Probe("SSH", b"SSH-2.0-" + CANARY + b"\r\n")
    yield Probe("a proxy's own line", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n" + request(LENGTH))


PROBES = [
    *_lengths(),
    *_codings(),
    *_chunks(),
    *_fields(),
    *_hosts(),
    *_lines(),
    *_paths(),
    *_more(),
]
