"""Who may ask, as far as HTTP goes: credentials, and requests that are not what they seem."""

from __future__ import annotations

import re
from collections.abc import Sequence

from aiohttp import web
from aiohttp.http import HttpVersion10, HttpVersion11

from opuslive.errors import Code, OpusLiveError

#: A credential is at most 72 bytes (bcrypt's limit); anything much longer is none.
MAX_CREDENTIAL = 256
#: Bytes of all header fields together: the parser bounds each of them, and their number.
MAX_HEAD = 64 * 1024
#: Bytes of a body, as far as it can be read at all: at 2**64 - 1 the parser takes it for none.
MAX_LENGTH = 2**62
#: Headers that decide where a request ends, who sends it, or where it goes.
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
#: A name or an address, and a port (RFC 9110, 7.2), without the punctuation that RFC 3986 would
#: allow in a name, and that no name has.
_HOST = re.compile(r"(?:[A-Za-z0-9._~%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
_ABSOLUTE = re.compile(r"https?://([^/?#]*)", re.IGNORECASE)


def credentials_of(request: web.Request) -> Sequence[str]:
    """What may be a key of this gateway, from ``Authorization: Bearer`` and ``x-api-key``.

    A client may send both, with different values; either may be the valid one.
    """
    found = []
    for value in request.headers.getall("Authorization", ()):
        scheme, _, credential = value.partition(" ")
        if scheme.lower() == "bearer":
            found.append(credential.strip())
    found += request.headers.getall("X-Api-Key", ())
    return tuple(dict.fromkeys(text for text in found[:4] if 0 < len(text) <= MAX_CREDENTIAL))


def check_request(request: web.Request) -> None:
    """Refuse what the parser lets pass and two servers in a row could read differently.

    Raises OpusLiveError (invalid_request, head_too_large or expectation_failed). Nothing that
    comes behind such a request may be served: where it ends is a matter of opinion.
    """
    version = request.version
    if version not in (HttpVersion10, HttpVersion11):
        raise _malformed("only HTTP/1.0 and HTTP/1.1 are spoken here")
    if sum(len(name) + len(value) + 4 for name, value in request.raw_headers) > MAX_HEAD:
        raise head_too_large()
    if request.method == "CONNECT":
        raise _malformed("there are no tunnels here")
    _check_target(request)
    headers = request.headers
    if "Transfer-Encoding" in headers:
        if version == HttpVersion10:
            raise _malformed("HTTP/1.0 has no Transfer-Encoding")
        if headers["Transfer-Encoding"].strip().lower() != "chunked":
            raise _malformed("the only Transfer-Encoding taken is chunked")
    length = request.content_length
    if length is not None and length > MAX_LENGTH:
        raise _malformed("nothing is as long as its Content-Length says")
    if "Upgrade" in headers and request.body_exists:
        raise _malformed("an Upgrade can't have a body")
    for name, _ in request.raw_headers:
        if b"_" in name and name.lower().replace(b"_", b"-") in _FRAMING:
            raise _malformed("a header's name imitates another one")
    for value in headers.getall("Expect", ()):
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


def _check_target(request: web.Request) -> None:
    """Raises OpusLiveError (invalid_request) unless one host is asked for one path."""
    hosts = request.headers.getall("Host", ())
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
