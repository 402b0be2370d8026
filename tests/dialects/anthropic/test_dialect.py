from __future__ import annotations

import json

import pytest

from opuslive.dialects import Dialect, RequestMembers
from opuslive.dialects.anthropic.dialect import AnthropicDialect
from opuslive.dialects.anthropic.meter import ErrorMeter
from opuslive.dialects.sniffing import SniffingMeter
from opuslive.errors import Code, OpusLiveError
from tests.support.clock import WEDNESDAY

DIALECT: Dialect = AnthropicDialect()

# The provider's own types by status, from its documentation.
TYPE_BY_CODE = {
    "INVALID_KEY": "authentication_error",
    "FORBIDDEN": "permission_error",
    "MODEL_NOT_FOUND": "not_found_error",
    "NOT_FOUND": "not_found_error",
    "INVALID_REQUEST": "invalid_request_error",
    "BODY_TIMEOUT": "invalid_request_error",
    "HEAD_TOO_LARGE": "invalid_request_error",
    "EXPECTATION_FAILED": "invalid_request_error",
    "METHOD_NOT_ALLOWED": "invalid_request_error",
    "CONFLICT": "invalid_request_error",
    "BODY_TOO_LARGE": "request_too_large",
    "RATE_LIMITED": "rate_limit_error",
    "UPSTREAM_RATE_LIMITED": "rate_limit_error",
    "QUOTA_EXHAUSTED": "billing_error",
    "UPSTREAM_UNREACHABLE": "api_error",
    "UPSTREAM_ACCOUNT": "api_error",
    "INTERNAL": "api_error",
    "UPSTREAM_TIMEOUT": "timeout_error",
    "OVERLOADED": "overloaded_error",
}


@pytest.mark.parametrize("code", Code)
def test_every_code_has_its_type(code: Code) -> None:
    body = DIALECT.error_body(OpusLiveError(code, 'A "quoted" – sentence.'), "req_1")
    assert json.loads(body) == {
        "type": "error",
        "error": {"type": TYPE_BY_CODE[code.name], "message": 'A "quoted" – sentence.'},
        "request_id": "req_1",
    }


def test_requests_and_credentials_are_as_the_provider_wants_them() -> None:
    assert DIALECT.name == "anthropic"
    body = b'{"model":"opus","max_tokens":5,"stream":true}'
    members = DIALECT.read_request(body, DIALECT.operations[0])
    assert members == RequestMembers("opus", 5, True)
    assert b"".join(DIALECT.prepare(body, members, "claude-opus-4-8")) == (
        b'{"model":"claude-opus-4-8","max_tokens":5,"stream":true}'
    )
    (same,) = DIALECT.prepare(body, members, "opus")
    assert same is body
    assert DIALECT.credential_headers("sk-1") == [(b"x-api-key", b"sk-1")]


def test_a_meter_for_each_kind_of_answer() -> None:
    assert isinstance(DIALECT.meter(RequestMembers("opus"), stream=True), SniffingMeter)
    # What tells nothing is what it was declared to be: only a stream lacks its end.
    assert not DIALECT.meter(RequestMembers("opus"), stream=True).end()
    assert DIALECT.meter(RequestMembers("opus"), stream=False).end()
    assert isinstance(DIALECT.error_meter(), ErrorMeter)


def error(kind: str, message: str = "canary-7f3a") -> bytes:
    return json.dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, error("authentication_error", "invalid x-api-key canary-7f3a")),
        (401, b""),
        (401, b"<html>"),
        (402, error("billing_error")),
        (402, b"oops"),
        (403, error("billing_error")),
        (403, error("authentication_error")),
        (400, error("billing_error")),
        (429, error("billing_error")),
        (
            400,
            error(
                "invalid_request_error",
                "Your credit balance is too low to access the Anthropic API. "
                "Please go to Plans & Billing to upgrade or purchase credits.",
            ),
        ),
        (
            400,
            error(
                "invalid_request_error",
                "You have reached your specified API usage limits. "
                "You will regain access on 2026-12-01 at 00:00 UTC.",
            ),
        ),
        (
            400,
            error(
                "invalid_request_error",
                "You have reached your specified workspace API usage limits.",
            ),
        ),
        (
            429,
            error("rate_limit_error", "This request would exceed your monthly spend limit."),
        ),
        (403, error("permission_error", "You exceeded the spending limit of this month.")),
        (400, error("invalid_request_error", "This organization has been disabled.")),
    ],
)
def test_the_account_is_the_administrators_business(status: int, body: bytes) -> None:
    account_error = DIALECT.account_error(status, [(b"retry-after", b"9")], body, WEDNESDAY)
    assert account_error is not None
    assert account_error.code is Code.UPSTREAM_ACCOUNT
    assert account_error.retry_after is None
    assert "administrator" in account_error.message
    for word in ("canary", "key", "credit", "limit", "organization", "bill"):
        assert word not in account_error.message


def test_only_statuses_that_may_speak_of_the_account_are_judged() -> None:
    telling = error("billing_error", "Your credit balance is too low.")
    judged = {
        status
        for status in range(100, 600)
        if DIALECT.account_error(status, [], telling, WEDNESDAY)
    }
    assert judged == DIALECT.account_statuses


@pytest.mark.parametrize(
    ("headers", "retry_after"),
    [
        ([], None),
        ([(b"Retry-After", b"17")], 17),
        ([(b"retry-after", b" 0 ")], 0),
        ([(b"retry-after", b"-3")], None),
        ([(b"retry-after", b"7200")], 7200),
        ([(b"retry-after", b"1.5")], 2),
        ([(b"retry-after", b"Wed, 21 Oct 2026 07:28:07 GMT")], 7),
        ([(b"retry-after", b"9" * 5000)], None),
        ([(b"retry-after", b"")], None),
        ([(b"retry-after", "٣".encode())], None),
        ([(b"retry-after-ms", b"9")], 1),
    ],
)
def test_a_rate_limit_keeps_its_wait_and_loses_its_text(
    headers: list[tuple[bytes, bytes]], retry_after: int | None
) -> None:
    text = "This request would exceed the rate limit for your organization canary-7f3a of 50,000."
    account_error = DIALECT.account_error(429, headers, error("rate_limit_error", text), WEDNESDAY)
    assert account_error is not None
    assert account_error.code is Code.UPSTREAM_RATE_LIMITED
    assert account_error.retry_after == retry_after
    assert "canary" not in account_error.message
    assert "organization" not in account_error.message


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, error("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum")),
        (403, error("permission_error")),
        (403, b"<html>Forbidden</html>"),
        (404, error("not_found_error", "model: claude-9")),
        (413, error("request_too_large")),
        (500, error("api_error")),
        (529, error("overloaded_error")),
        (502, b"<html>Bad Gateway</html>"),
        (200, error("billing_error")),
        (400, b'{"error":"billing_error"}'),
        (400, b'{"error":{"type":7,"message":"Your credit balance is too low"}}'),
        (400, b"[" * 100_000),
        # A holder's own words in the provider's message raise no alarm.
        (
            400,
            error(
                "invalid_request_error",
                "Your credit balance is too low: Extra inputs are not permitted",
            ),
        ),
        (
            400,
            error("invalid_request_error", "messages.0: your credit balance is too low"),
        ),
    ],
)
def test_any_other_answer_goes_on_as_it_came(status: int, body: bytes) -> None:
    assert DIALECT.account_error(status, [(b"retry-after", b"9")], body, WEDNESDAY) is None
