"""The one error type of the gateway, and the codes it can carry.

A code says *what happened*; it fixes the HTTP status and whether a client should
try again. What the answer then looks like is a dialect's business: each dialect
maps the code to its own error body, in one place.

A message is one plain sentence for the reader of the answer, and names the remedy.
It never holds a secret, a path, or anything about another key.
"""

from __future__ import annotations

import enum


class Code(enum.Enum):
    """What went wrong: ``(label, HTTP status, x-should-retry)``.

    The label makes every value unique: Python makes one member of two that have equal values.
    The third member is the value of the ``x-should-retry`` header that the official
    SDKs and Claude Code obey: ``False`` stops them from repeating a request that can
    only fail again; ``None`` leaves the decision to them.
    """

    INVALID_KEY = ("invalid_key", 401, False)
    FORBIDDEN = ("forbidden", 403, False)
    MODEL_NOT_FOUND = ("model_not_found", 404, False)
    INVALID_REQUEST = ("invalid_request", 400, False)
    BODY_TOO_LARGE = ("body_too_large", 413, False)
    BODY_TIMEOUT = ("body_timeout", 408, None)
    HEAD_TOO_LARGE = ("head_too_large", 431, False)
    EXPECTATION_FAILED = ("expectation_failed", 417, False)
    RATE_LIMITED = ("rate_limited", 429, None)
    QUOTA_EXHAUSTED = ("quota_exhausted", 429, False)
    NOT_FOUND = ("not_found", 404, None)
    METHOD_NOT_ALLOWED = ("method_not_allowed", 405, None)
    UPSTREAM_UNREACHABLE = ("upstream_unreachable", 502, None)
    UPSTREAM_ACCOUNT = ("upstream_account", 502, False)
    UPSTREAM_RATE_LIMITED = ("upstream_rate_limited", 429, None)
    UPSTREAM_TIMEOUT = ("upstream_timeout", 504, None)
    OVERLOADED = ("overloaded", 503, None)
    INTERNAL = ("internal", 500, None)
    CONFLICT = ("conflict", 409, False)

    def __init__(self, label: str, status: int, should_retry: bool | None) -> None:
        self.label = label
        self.status = status
        self.should_retry = should_retry


class OpusLiveError(Exception):
    """A failure with a code and a message fit for the person it is shown to.

    ``retry_after`` is in whole seconds, and ``None`` where waiting does not help.
    """

    def __init__(self, code: Code, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after = retry_after


class UsageError(OpusLiveError):
    """A value of an administrator that OpusLive does not accept. The message says which values
    it accepts."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.INVALID_REQUEST, message)
