"""Which headers travel through the gateway.

Requests keep everything a client may have put there for the model provider (betas,
versions, its own tags), and lose what speaks of the connection, of the holder's key, of
cookies, and of where the client is. Answers lose what speaks of the connection, of the
provider's own edge, and of the administrator's account: its organisation and its limits
(the dialects name those headers).

A name with an underscore in place of a hyphen is taken for the hyphened one: servers
behind CGI-like interfaces can't tell them apart, and must not be told twice.
"""

from __future__ import annotations

from opuslive.dialects import RawHeaders
from opuslive.dialects.registry import PRIVATE_HEADERS

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

_REQUEST_NAMES = _HOP_BY_HOP.union(*(each.request_names for each in PRIVATE_HEADERS)) | {
    b"accept-encoding",
    b"api-key",
    b"authorization",
    b"cookie",
    b"expect",
    b"forwarded",
    b"host",
    b"x-api-key",
    b"x-goog-api-key",
    b"x-real-ip",
}
_REQUEST_PREFIXES = (b"proxy-", b"x-forwarded-", b"cf-")

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
    b"proxy-",
    b"cf-",
    b"x-envoy-",
    *(prefix for each in PRIVATE_HEADERS for prefix in each.answer_prefixes),
)


def forward_request_headers(raw: RawHeaders) -> list[tuple[bytes, bytes]]:
    """A client's headers as they go upstream, in their order, with ``accept-encoding: identity``.

    The caller adds ``host``, ``content-length`` and the upstream's credential.
    """
    kept = _filtered(raw, _REQUEST_NAMES, _REQUEST_PREFIXES)
    # Usage can't be read out of compressed bytes; without the header any coding would do.
    kept.append((b"accept-encoding", b"identity"))
    return kept


def forward_response_headers(raw: RawHeaders) -> list[tuple[bytes, bytes]]:
    """An upstream's headers as they go back, in their order.

    The caller adds the framing, the gateway's request ids and the key's own limits.
    """
    return _filtered(raw, _RESPONSE_NAMES, _RESPONSE_PREFIXES)


def _filtered(
    raw: RawHeaders, names: frozenset[bytes], prefixes: tuple[bytes, ...]
) -> list[tuple[bytes, bytes]]:
    kept = []
    connection = b""
    for header in raw:
        name = header[0].lower().replace(b"_", b"-")
        if name in names:
            if name == b"connection":
                connection += b"," + header[1]
        elif not name.startswith(prefixes):
            kept.append(header)
    if connection:
        named = {option.strip().lower().replace(b"_", b"-") for option in connection.split(b",")}
        # "keep-alive" and "close" alone, the usual values, name no header that was kept.
        if not named <= {b"", b"keep-alive", b"close"}:
            kept = [h for h in kept if h[0].lower().replace(b"_", b"-") not in named]
    return kept
