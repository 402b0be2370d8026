"""Which headers travel through the gateway.

Requests keep what clients of the model providers put there for them (betas, versions, their own
tags), under the names and beginnings of names that are listed here, and lose all else: what speaks
of the connection, of the holder's key, of cookies, of where the client is and who its user is.
Proxies in front of a gateway tell that under names that nobody can list. Answers lose what speaks
of the connection, of the provider's own edge, and of the administrator's account: its organisation
and its limits (the dialects name those headers, those that a client may send as well).

A name with an underscore in place of a hyphen is taken for the hyphened one: servers
behind CGI-like interfaces can't tell them apart, and must not be told twice.
"""

from __future__ import annotations

import re

from opuslive.dialects import RawHeaders
from opuslive.dialects.registry import PRIVATE_HEADERS

#: What makes the name of a header comparable: lower case, hyphens in place of underscores.
_COMPARABLE = bytes.maketrans(bytes(range(65, 91)) + b"_", bytes(range(97, 123)) + b"-")

#: Meant for one connection only (RFC 9110, 7.6.1), with what frames a message on it.
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"content-length",
        # What HTTP/1.1 offers of HTTP/2 (RFC 7540, 3.2.1).
        b"http2-settings",
        b"keep-alive",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

#: What clients of the providers' APIs send on purpose, by their documentation and by recordings of
#: the SDKs and of Claude Code. A language, a referrer or a trace context is not needed by any.
_REQUEST_NAMES = frozenset(
    {
        b"accept",
        b"content-encoding",
        b"content-type",
        b"idempotency-key",
        b"user-agent",
        b"x-app",
        b"x-client-app",
        b"x-client-request-id",
    }
)
_NAME = re.compile(rb"[a-z0-9-]+")
#: So that what they send tomorrow goes on, too.
_REQUEST_PREFIXES = (b"anthropic-", b"x-stainless-", b"x-claude-", b"openai-", b"x-anthropic-")
#: What begins so and stays all the same: it chooses something in the administrator's account.
_REQUEST_PRIVATE = frozenset[bytes]().union(*(each.request_names for each in PRIVATE_HEADERS))

_RESPONSE_NAMES = _HOP_BY_HOP.union(*(each.answer_names for each in PRIVATE_HEADERS)) | {
    b"alt-svc",
    b"nel",
    b"report-to",
    b"request-id",
    b"server",
    b"set-cookie",
    b"strict-transport-security",
    b"via",
    b"x-request-id",
    b"x-robots-tag",
}
_RESPONSE_PREFIXES = (
    # Which pages may read an answer is the gateway's to say.
    b"access-control-",
    b"proxy-",
    b"cf-",
    b"x-envoy-",
    *(prefix for each in PRIVATE_HEADERS for prefix in each.answer_prefixes),
)


def comes_from_clients(name: bytes) -> bool:
    """Whether clients of the providers' APIs send a header of this name, in lower case."""
    known = name in _REQUEST_NAMES or name.startswith(_REQUEST_PREFIXES)
    return known and _NAME.fullmatch(name) is not None


def forward_request_headers(raw: RawHeaders) -> list[tuple[bytes, bytes]]:
    """A client's headers as they go upstream, in their order, with ``accept-encoding: identity``.

    The caller adds ``host``, ``content-length`` and the upstream's credential.
    """
    kept = []
    connection = b""
    for header in raw:
        name = header[0].translate(_COMPARABLE)
        if name in _REQUEST_NAMES:
            kept.append(header)
        elif name.startswith(_REQUEST_PREFIXES):
            if name not in _REQUEST_PRIVATE:
                kept.append(header)
        elif name == b"connection":
            connection += b"," + header[1]
    kept = _without_named(kept, connection)
    # Usage can't be read out of compressed bytes; without the header any coding would do.
    kept.append((b"accept-encoding", b"identity"))
    return kept


def forward_response_headers(raw: RawHeaders) -> list[tuple[bytes, bytes]]:
    """An upstream's headers as they go back, in their order.

    The caller adds the framing, the gateway's request ids and the key's own limits.
    """
    kept = []
    connection = b""
    for header in raw:
        name = header[0].translate(_COMPARABLE)
        if name in _RESPONSE_NAMES:
            if name == b"connection":
                connection += b"," + header[1]
        elif not name.startswith(_RESPONSE_PREFIXES):
            kept.append(header)
    return _without_named(kept, connection)


def _without_named(
    headers: list[tuple[bytes, bytes]], connection: bytes
) -> list[tuple[bytes, bytes]]:
    """The headers less those that ``Connection`` names."""
    if not connection:
        return headers
    named = {option.strip().translate(_COMPARABLE) for option in connection.split(b",")}
    # "keep-alive" and "close" alone, the usual values, name no header that was kept.
    if named <= {b"", b"keep-alive", b"close"}:
        return headers
    return [h for h in headers if h[0].translate(_COMPARABLE) not in named]
