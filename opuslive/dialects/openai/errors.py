"""Errors in OpenAI's wire format: the gateway's own, and those that speak of its account."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from opuslive.dialects import RawHeaders
from opuslive.dialects.documents import members, read_string
from opuslive.dialects.waits import retry_after
from opuslive.errors import Code, OpusLiveError

#: What happened → the error's type and code.
_ERRORS: Final[Mapping[Code, tuple[str, str | None]]] = MappingProxyType(
    {
        Code.INVALID_KEY: ("invalid_request_error", "invalid_api_key"),
        Code.FORBIDDEN: ("invalid_request_error", None),
        Code.MODEL_NOT_FOUND: ("invalid_request_error", "model_not_found"),
        Code.NOT_FOUND: ("invalid_request_error", None),
        Code.INVALID_REQUEST: ("invalid_request_error", None),
        Code.BODY_TIMEOUT: ("invalid_request_error", None),
        Code.HEAD_TOO_LARGE: ("invalid_request_error", None),
        Code.EXPECTATION_FAILED: ("invalid_request_error", None),
        Code.METHOD_NOT_ALLOWED: ("invalid_request_error", None),
        Code.CONFLICT: ("invalid_request_error", None),
        Code.BODY_TOO_LARGE: ("invalid_request_error", None),
        Code.RATE_LIMITED: ("rate_limit_error", "rate_limit_exceeded"),
        Code.UPSTREAM_RATE_LIMITED: ("rate_limit_error", "rate_limit_exceeded"),
        Code.QUOTA_EXHAUSTED: ("insufficient_quota", "insufficient_quota"),
        Code.UPSTREAM_UNREACHABLE: ("server_error", None),
        Code.UPSTREAM_ACCOUNT: ("server_error", None),
        Code.INTERNAL: ("server_error", None),
        Code.UPSTREAM_TIMEOUT: ("server_error", None),
        Code.OVERLOADED: ("server_error", None),
    }
)

#: The statuses of answers that may speak of the gateway's account.
ACCOUNT_STATUSES: Final = frozenset({400, 401, 402, 403, 404, 429})
#: Types and codes that say that the account can't pay, or is not there.
_ACCOUNT_CODES = frozenset(
    {
        "account_deactivated",
        "authentication_error",
        "billing_error",
        "billing_hard_limit_reached",
        "billing_not_active",
        "insufficient_quota",
        "invalid_api_key",
    }
)
#: An organisation's or a project's id.
_ACCOUNT_ID = re.compile(rb"\b(?:org|proj)[-_][A-Za-z0-9]{8,}")


def error_body(error: OpusLiveError) -> bytes:
    """The error as JSON."""
    kind, code = _ERRORS[error.code]
    document = {"message": error.message, "type": kind, "param": None, "code": code}
    return msgspec.json.encode({"error": document})


def account_error(
    status: int, headers: RawHeaders, body: bytes, now_ms: int
) -> OpusLiveError | None:
    """See ``Dialect.account_error``."""
    if status not in ACCOUNT_STATUSES:
        return None
    if status in (401, 402) or _names(body) & _ACCOUNT_CODES:
        return OpusLiveError(
            Code.UPSTREAM_ACCOUNT,
            "The gateway could not use its account with the model provider; "
            "tell its administrator.",
        )
    if status == 429:
        return OpusLiveError(
            Code.UPSTREAM_RATE_LIMITED,
            "The model provider is limiting the gateway's requests at the moment; try again later.",
            retry_after=retry_after(headers, now_ms),
        )
    if status in (403, 404) and _ACCOUNT_ID.search(body):
        return OpusLiveError(
            Code.MODEL_NOT_FOUND,
            "The model provider does not offer this model to the gateway's account.",
        )
    return None


def _names(body: bytes) -> frozenset[str | None]:
    """The type and the code of an error."""
    return frozenset(
        read_string(value)
        for _, error in members(body, "error")
        for _, value in members(error, "type", "code")
    )
