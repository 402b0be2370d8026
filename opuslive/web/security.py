"""Who may ask, as far as HTTP goes: credentials, and requests that are not what they seem."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web
from aiohttp.http import HttpVersion10, HttpVersion11

from opuslive.errors import Code, OpusLiveError

#: A credential is at most 72 bytes (bcrypt's limit); anything much longer is none.
MAX_CREDENTIAL = 256
#: Headers that decide where a request ends, who sends it, or where it goes.
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"host", b"authorization"})


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

    Raises OpusLiveError (invalid_request).
    """
    version = request.version
    if version not in (HttpVersion10, HttpVersion11):
        raise _malformed("only HTTP/1.0 and HTTP/1.1 are spoken here")
    hosts = request.headers.getall("Host", ())
    if len(hosts) > 1 or (not hosts and version == HttpVersion11):
        raise _malformed("it needs exactly one Host header")
    if "Transfer-Encoding" in request.headers:
        if version == HttpVersion10:
            raise _malformed("HTTP/1.0 has no Transfer-Encoding")
        if request.headers["Transfer-Encoding"].strip().lower() != "chunked":
            raise _malformed("the only Transfer-Encoding taken is chunked")
    if "Upgrade" in request.headers and request.body_exists:
        raise _malformed("an Upgrade can't have a body")
    target = request.raw_path
    if not target.startswith("/") and (len(hosts) != 1 or _authority(target) != hosts[0].lower()):
        raise _malformed("its target and its Host header disagree")
    for name, _ in request.raw_headers:
        if b"_" in name and name.lower().replace(b"_", b"-") in _FRAMING:
            raise _malformed("a header's name imitates another one")


def _authority(target: str) -> str:
    """The authority of an absolute-form target, such as ``example.com:8080``."""
    return target.partition("://")[2].partition("/")[0].partition("?")[0].lower()


def _malformed(why: str) -> OpusLiveError:
    return OpusLiveError(Code.INVALID_REQUEST, f"This request is refused: {why}.")
