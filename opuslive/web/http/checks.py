"""A request's head: its credentials, and what two servers in a row could read differently."""

from __future__ import annotations

import re
from collections.abc import Sequence

from aiohttp import web
from aiohttp.hdrs import AUTHORIZATION, CONNECTION, EXPECT, HOST, TRANSFER_ENCODING
from aiohttp.http import HttpVersion10, HttpVersion11

from opuslive.errors import Code, OpusLiveError

#: A credential is at most 72 bytes (bcrypt's limit); anything much longer is none.
MAX_CREDENTIAL = 256
#: Bytes of all header fields together. (The parser bounds each field, and their number.)
MAX_HEAD = 64 * 1024
#: Bytes of a body. (The parser takes a length of 2**64 - 1 for no body at all.)
MAX_LENGTH = 2**62
#: Headers that decide where a request ends, whose it is, or where it goes.
_FRAMING = frozenset(
    {
        b"authorization",
        b"connection",
        b"content-encoding",
        b"content-length",
        b"expect",
        b"host",
        b"transfer-encoding",
        b"upgrade",
        b"x-api-key",
    }
)
#: Headers that mean something to every server on a request's way.
_END_TO_END = frozenset({"content-length", "host", "transfer-encoding"})
#: A name or an address, and a port (RFC 9110, 7.2). RFC 3986 allows more punctuation in a name;
#: no real name has it.
_HOST = re.compile(r"(?:[A-Za-z0-9._~%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
_ABSOLUTE = re.compile(r"https?://([^/?#]*)", re.IGNORECASE)


def credentials_of(request: web.Request) -> Sequence[str]:
    """The values of ``Authorization: Bearer`` and ``x-api-key``, any of which may be a key.

    A client may send both headers with different values; either may be the valid one.
    """
    found = []
    for value in request.headers.getall(AUTHORIZATION, ()):
        scheme, _, credential = value.partition(" ")
        if scheme.lower() == "bearer":
            found.append(credential.strip())
    found += request.headers.getall("X-Api-Key", ())
    return tuple(dict.fromkeys(text for text in found[:4] if 0 < len(text) <= MAX_CREDENTIAL))


def check_request(request: web.Request) -> None:
    """Raise for a request that the parser takes and that two servers could read differently.

    The connection must be closed after the answer: servers may disagree on where such a request
    ends. Raises OpusLiveError (invalid_request, head_too_large or expectation_failed).
    """
    version = request.version
    if version not in (HttpVersion10, HttpVersion11):
        raise _malformed("only HTTP/1.0 and HTTP/1.1 are spoken here")
    size = 0
    for name, field in request.raw_headers:
        size += len(name) + len(field) + 4
        if b"_" in name and name.lower().replace(b"_", b"-") in _FRAMING:
            raise _malformed("a header's name imitates another one")
    if size > MAX_HEAD:
        raise head_too_large()
    if request.method == "CONNECT":
        raise _malformed("there are no tunnels here")
    _check_target(request)
    headers = request.headers
    if TRANSFER_ENCODING in headers:
        if version == HttpVersion10:
            raise _malformed("HTTP/1.0 has no Transfer-Encoding")
        if headers[TRANSFER_ENCODING].strip().lower() != "chunked":
            raise _malformed("the only Transfer-Encoding taken is chunked")
    for value in headers.getall(CONNECTION, ()):
        if _option_frames(value):
            raise _malformed("its Connection header names a header that every server needs")
    length = request.content_length
    if length is not None and length > MAX_LENGTH:
        raise _malformed("nothing is as long as its Content-Length says")
    for value in headers.getall(EXPECT, ()):
        if value.lower() != "100-continue":
            raise OpusLiveError(
                Code.EXPECTATION_FAILED, "The only expectation known here is 100-continue."
            )


def head_too_large() -> OpusLiveError:
    return OpusLiveError(
        Code.HEAD_TOO_LARGE,
        "The request's target and headers are too long; most of what is sent belongs into its "
        "body.",
    )


def _option_frames(value: str) -> bool:
    """Whether a server that obeys a value of ``Connection`` drops what tells the request's length,
    or whom it is for (RFC 9110, 7.6.1)."""
    return any(option.strip().lower() in _END_TO_END for option in value.split(","))


def _check_target(request: web.Request) -> None:
    """Check that the target and the Host header name one host and one path.

    Raises OpusLiveError (invalid_request).
    """
    hosts = request.headers.getall(HOST, ())
    if len(hosts) > 1 or (not hosts and request.version == HttpVersion11):
        raise _malformed("it needs exactly one Host header")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise _malformed("its Host header names no host")
    target = request.raw_path
    if "#" in target:
        raise _malformed("a fragment is not part of a request's target")
    if not target.startswith("/"):
        absolute = _ABSOLUTE.match(target)
        if not hosts or absolute is None or absolute[1].lower() != hosts[0].lower():
            raise _malformed("its target and its Host header disagree")


def _malformed(why: str) -> OpusLiveError:
    return OpusLiveError(Code.INVALID_REQUEST, f"This request is refused: {why}.")
