from __future__ import annotations

import pytest

from opuslive.dialects.headers import forward_request_headers, forward_response_headers

IDENTITY = (b"accept-encoding", b"identity")

#: What proxies add about a person, and about where the person is. Whatever else may be added is of
#: the same kind: only what clients of the providers send on purpose goes on.
IDENTITY_OF_A_PERSON = [
    "True-Client-IP",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "X-Original-Forwarded-For",
    "X-Originating-IP",
    "X-Envoy-External-Address",
    "X-Azure-ClientIP",
    "X-AppEngine-User-IP",
    "X-AppEngine-City",
    "Fastly-Client-IP",
    "Fly-Client-IP",
    "Fly-Region",
    "CloudFront-Viewer-Address",
    "CF-IPCountry",
    "Cf-Access-Authenticated-User-Email",
    "Client-IP",
    "Via",
    "Remote-User",
    "REMOTE_ADDR",
    "From",
    "Tailscale-User-Login",
    "Tailscale-User-Name",
    "Tailscale-User-Profile-Pic",
    "X-Auth-Request-User",
    "X-Auth-Request-Email",
    "X-Auth-Request-Access-Token",
    "X-Authenticated-User",
    "X-Authentik-Email",
    "X-Goog-Authenticated-User-Email",
    "X-Goog-IAP-JWT-Assertion",
    "X-MS-Client-Principal-Name",
    "X-Amzn-Oidc-Data",
    "X-Amzn-Trace-Id",
    "X-Amzn-Tls-Cipher-Suite",
    "X-Client-Cert",
    "SSL-Client-S-DN",
    "X-Remote-User",
    "X-User",
    "X-Vercel-IP-City",
    "Accept-Language",
    "Referer",
    "Origin",
    "Sec-CH-UA-Platform",
    "traceparent",
    "baggage",
    "X-Request-Id",
    "X-Correlation-Id",
    "x-unknown",
]

REQUEST_DROPPED = [
    *IDENTITY_OF_A_PERSON,
    "Connection",
    "Keep-Alive",
    "Proxy-Authorization",
    "Proxy-Connection",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
    "HTTP2-Settings",
    "Host",
    "Content-Length",
    "Expect",
    "Authorization",
    "X-Api-Key",
    "Api-Key",
    "X-Goog-Api-Key",
    "Cookie",
    "Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Real-IP",
    "CF-Connecting-IP",
    "CF-Ray",
    "OpenAI-Organization",
    "OpenAI-Project",
    "Anthropic-Organization-Id",
    "anthropic-workspace-id",
    "anthropic-user-profile-id",
    "Accept-Encoding",
    "anthropic",
    "x-appx",
    "my-anthropic-beta",
]

REQUEST_KEPT = [
    "Accept",
    "Content-Type",
    "User-Agent",
    "anthropic-version",
    "anthropic-beta",
    "X-Claude-Code-Session-Id",
    "x-app",
    "X-Stainless-Lang",
    "X-Stainless-Retry-Count",
    "X-Stainless-unknown",
    "X-Claude-Remote-Session-Id",
    "x-client-app",
    "x-anthropic-additional-protection",
    "anthropic-dangerous-direct-browser-access",
    "anthropic-unknown",
    "OpenAI-Beta",
    "openai-unknown",
    "X-Client-Request-Id",
    "originator",
    "session-id",
    "thread-id",
    "x-codex-beta-features",
    "X-Codex-unknown",
    "Idempotency-Key",
    "anthropic_version",
]

RESPONSE_DROPPED = [
    "Connection",
    "Keep-Alive",
    "Proxy-Authenticate",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
    "Content-Length",
    "Set-Cookie",
    "Server",
    "Via",
    "Alt-Svc",
    "Strict-Transport-Security",
    "CF-Ray",
    "CF-Cache-Status",
    "X-Envoy-Upstream-Service-Time",
    "NEL",
    "Report-To",
    "X-Robots-Tag",
    "Anthropic-Organization-Id",
    "anthropic-workspace-id",
    "OpenAI-Organization",
    "openai-project",
    "anthropic-ratelimit-requests-limit",
    "anthropic-ratelimit-unified-status",
    "anthropic-priority-input-tokens-limit",
    "anthropic-fast-output-tokens-remaining",
    "X-RateLimit-Remaining-Tokens",
    "Request-Id",
    "X-Request-Id",
]

RESPONSE_KEPT = [
    "Content-Type",
    "Retry-After",
    "X-Should-Retry",
    "Date",
    "openai-processing-ms",
    "x-unknown",
    "anthropic-beta-note",
    "content-encoding",
]


def spellings(name: str) -> list[bytes]:
    return [
        spelling.encode() for spelling in (name, name.lower(), name.upper(), name.replace("-", "_"))
    ]


@pytest.mark.parametrize("name", REQUEST_DROPPED)
def test_requests_lose_headers_that_are_not_for_the_provider(name: str) -> None:
    for spelling in spellings(name):
        assert forward_request_headers([(spelling, b"x-other")]) == [IDENTITY]


@pytest.mark.parametrize("name", REQUEST_KEPT)
def test_requests_keep_headers_for_the_provider(name: str) -> None:
    header = (name.encode(), b"Value, \xff")
    assert forward_request_headers([header]) == [header, IDENTITY]


@pytest.mark.parametrize("name", RESPONSE_DROPPED)
def test_answers_lose_headers_that_are_not_for_clients(name: str) -> None:
    for spelling in spellings(name):
        assert forward_response_headers([(spelling, b"x-other")]) == []


@pytest.mark.parametrize("name", RESPONSE_KEPT)
def test_answers_keep_headers_for_clients(name: str) -> None:
    header = (name.encode(), b"Value, \xff")
    assert forward_response_headers([header]) == [header]


def test_compressed_answers_are_never_asked_for() -> None:
    # Without the header, any coding would be acceptable: it is always there, once.
    assert forward_request_headers([]) == [IDENTITY]
    assert forward_request_headers([(b"Accept-Encoding", b"gzip, br")] * 2) == [IDENTITY]


@pytest.mark.parametrize("forward", [forward_request_headers, forward_response_headers])
def test_headers_that_connection_names_stay_behind(forward: object) -> None:
    assert callable(forward)
    headers = [
        (b"Anthropic-First", b"1"),
        (b"Connection", b"keep-alive, anthropic-FIRST ,,"),
        (b"anthropic-second", b"2"),
        (b"user_agent", b"3"),
        (b"connection", b"User-Agent"),
        (b"content-type", b"4"),
    ]
    assert [h for h in forward(headers) if h != IDENTITY] == [
        (b"anthropic-second", b"2"),
        (b"content-type", b"4"),
    ]


def test_headers_keep_their_order_and_repetitions() -> None:
    betas = [(b"anthropic-beta", b"x"), (b"anthropic-beta", b"y")]
    headers = [(b"x-app", b"1"), *betas, (b"accept", b"2")]
    assert forward_request_headers(headers) == [*headers, IDENTITY]
    assert forward_response_headers(headers) == headers
