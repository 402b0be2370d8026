"""The dialect: errors both ways, the headers about limits, the guess of the input."""

from __future__ import annotations

import json

import pytest

from opuslive.dialects import Dialect
from opuslive.dialects.openai.dialect import OpenAIDialect
from opuslive.errors import Code, OpusLiveError
from opuslive.limits.grammar import parse_limits
from opuslive.limits.windows import LimitStatus

DIALECT: Dialect = OpenAIDialect()
NOW = 1_790_000_000_000


@pytest.mark.parametrize("code", Code)
def test_every_error_is_written_as_openai_writes_errors(code: Code) -> None:
    document = json.loads(DIALECT.error_body(OpusLiveError(code, "Why."), "req_1"))
    assert set(document) == {"error"}
    error = document["error"]
    assert (error["message"], error["param"]) == ("Why.", None)
    assert isinstance(error["type"], str)
    assert error["code"] == {
        Code.INVALID_KEY: "invalid_api_key",
        Code.MODEL_NOT_FOUND: "model_not_found",
        Code.RATE_LIMITED: "rate_limit_exceeded",
        Code.UPSTREAM_RATE_LIMITED: "rate_limit_exceeded",
        Code.QUOTA_EXHAUSTED: "insufficient_quota",
    }.get(code)


def test_the_credential_is_a_bearer_token() -> None:
    assert DIALECT.credential_headers("sk-1") == [(b"authorization", b"Bearer sk-1")]


def error(code: str | None = None, message: str = "m", kind: str = "t") -> bytes:
    return json.dumps({"error": {"message": message, "type": kind, "code": code}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (401, b"", Code.UPSTREAM_ACCOUNT),
        (402, b"Insufficient credits", Code.UPSTREAM_ACCOUNT),
        (401, error("invalid_api_key", "Incorrect API key provided: sk-proj-***"),
         Code.UPSTREAM_ACCOUNT),
        (403, error("account_deactivated"), Code.UPSTREAM_ACCOUNT),
        (429, error("insufficient_quota"), Code.UPSTREAM_ACCOUNT),
        (429, error(None, kind="insufficient_quota"), Code.UPSTREAM_ACCOUNT),
        (400, error("billing_hard_limit_reached"), Code.UPSTREAM_ACCOUNT),
        (429, error("rate_limit_exceeded", "in organization org-abcdefghij"),
         Code.UPSTREAM_RATE_LIMITED),
        (429, b"", Code.UPSTREAM_RATE_LIMITED),
        (403, error("model_not_found", "Project `proj_Ab3kQ9aZx` does not have access to it"),
         Code.MODEL_NOT_FOUND),
        (404, error("model_not_found", "organization org-Ab3kQ9aZx must be verified"),
         Code.MODEL_NOT_FOUND),
        (404, error("model_not_found", "The model `x` does not exist"), None),
        (403, error("unsupported_country_region_territory"), None),
        # What a client wrote raises no alarm.
        (400, error("invalid_value", "insufficient_quota: 'org-Ab3kQ9aZx'"), None),
        (400, error(None, '{"code":"invalid_api_key"}'), None),
        (400, b"x", None),
        (500, error("insufficient_quota"), None),
    ],
)  # fmt: skip
def test_nothing_about_the_account_reaches_clients(
    status: int, body: bytes, code: Code | None
) -> None:
    told = DIALECT.account_error(status, [(b"retry-after", b"7")], body, NOW)
    assert (told and told.code) is code
    if told is not None:
        assert told.retry_after == (7 if code is Code.UPSTREAM_RATE_LIMITED else None)
        assert "org" not in told.message
        assert "proj" not in told.message


def status_of(limit: str, used: int, resets_at: int | None) -> LimitStatus:
    (parsed,) = parse_limits([limit])
    return LimitStatus(parsed, 60, used, 0, parsed.amount - used, resets_at, resets_at)


def test_headers_tell_how_the_key_stands() -> None:
    limits = [
        status_of("60 requests/1m", 2, NOW + 59_001),
        status_of("2M tokens/5h", 0, None),
        status_of("5 output_tokens/1m", 2, NOW),
    ]
    assert dict(DIALECT.limit_headers(limits, NOW)) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "58",
        "x-ratelimit-reset-requests": "60s",
        "x-ratelimit-limit-tokens": "2000000",
        "x-ratelimit-remaining-tokens": "2000000",
    }
