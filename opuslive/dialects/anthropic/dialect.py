"""Anthropic's wire format: its endpoints, its credentials, its errors, its prices of caching."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import Final

import msgspec

from opuslive.dialects import (
    Buffer,
    InputGuess,
    Meter,
    Model,
    ModelListRequest,
    ModelPage,
    Operation,
    PrivateHeaders,
    RawHeaders,
    RequestMembers,
    Unserved,
)
from opuslive.dialects.anthropic import content
from opuslive.dialects.anthropic import models as lists
from opuslive.dialects.anthropic.conversations import conversation
from opuslive.dialects.anthropic.meter import ErrorMeter, answer_meter
from opuslive.dialects.anthropic.named_models import named_models
from opuslive.dialects.anthropic.standing import REFUSAL_HEADERS, standing_headers
from opuslive.dialects.anthropic.surcharges import surcharges
from opuslive.dialects.body import read_members, replace_model
from opuslive.dialects.documents import read_json
from opuslive.dialects.waits import retry_after
from opuslive.errors import Code, OpusLiveError
from opuslive.limits.accounts import tightest_of
from opuslive.limits.grammar import Metric
from opuslive.limits.windows import LimitStatus
from opuslive.pricing.prices import CacheFactors
from opuslive.times import iso_seconds

_ERROR_TYPES: Final[Mapping[Code, str]] = MappingProxyType(
    {
        Code.INVALID_KEY: "authentication_error",
        Code.FORBIDDEN: "permission_error",
        Code.MODEL_NOT_FOUND: "not_found_error",
        Code.NOT_FOUND: "not_found_error",
        Code.INVALID_REQUEST: "invalid_request_error",
        Code.BODY_TIMEOUT: "invalid_request_error",
        Code.HEAD_TOO_LARGE: "invalid_request_error",
        Code.EXPECTATION_FAILED: "invalid_request_error",
        Code.METHOD_NOT_ALLOWED: "invalid_request_error",
        Code.CONFLICT: "invalid_request_error",
        Code.BODY_TOO_LARGE: "request_too_large",
        Code.RATE_LIMITED: "rate_limit_error",
        Code.UPSTREAM_RATE_LIMITED: "rate_limit_error",
        Code.QUOTA_EXHAUSTED: "billing_error",
        Code.UPSTREAM_UNREACHABLE: "api_error",
        Code.UPSTREAM_ACCOUNT: "api_error",
        Code.INTERNAL: "api_error",
        Code.UPSTREAM_TIMEOUT: "timeout_error",
        Code.OVERLOADED: "overloaded_error",
    }
)

#: What the headers about rate limits call the metrics that they know.
_RATE_LIMITS: Final[Mapping[Metric, str]] = MappingProxyType(
    {
        Metric.REQUESTS: "anthropic-ratelimit-requests",
        Metric.TOKENS: "anthropic-ratelimit-tokens",
        Metric.INPUT_TOKENS: "anthropic-ratelimit-input-tokens",
        Metric.OUTPUT_TOKENS: "anthropic-ratelimit-output-tokens",
    }
)

# How the provider says that the account can't pay, under various types and statuses.
_ACCOUNT_EXHAUSTED = re.compile(
    r"(?:you|your|this|the)\b.*(?:"
    r"\bcredit balance is too low\b"
    r"|\b(?:reach|exceed)\w*\b.*\b(?:usage|spend|spending) limits?\b"
    r"|\borganization has been disabled\b)",
    re.IGNORECASE | re.DOTALL,
)
#: Characters of a message that are searched for it.
_MESSAGE_LENGTH = 500
_ACCOUNT_TYPES = frozenset({"authentication_error", "billing_error"})


class _Error(msgspec.Struct):
    type: str = ""
    message: str = ""


class _ErrorDocument(msgspec.Struct):
    error: _Error


_ERROR_DOCUMENT = msgspec.json.Decoder(_ErrorDocument)


class AnthropicDialect:
    """Anthropic's Messages API. A ``Dialect``."""

    name = "anthropic"
    operations = (
        Operation("/v1/messages"),
        Operation("/v1/messages/count_tokens", metered=False),
    )
    unserved = (
        Unserved("/v1/messages/batches", "Message batches"),
        Unserved("/v1/complete", "Text completions"),
        Unserved("/v1/files", "Files"),
        Unserved("/v1/skills", "Skills"),
        Unserved("/v1/agents", "Managed agents"),
        Unserved("/v1/sessions", "Managed agents"),
        Unserved("/v1/environments", "Managed agents"),
        Unserved("/v1/organizations", "Organizations and their settings"),
    )
    #: The published multiples of the input price:
    #: https://platform.claude.com/docs/en/build-with-claude/prompt-caching#pricing
    cache_factors = CacheFactors(read=Decimal("0.1"), write_5m=Decimal("1.25"), write_1h=Decimal(2))
    private_headers = PrivateHeaders(
        request_names=frozenset(
            {
                b"anthropic-organization-id",
                # Whose bill it is may depend on it.
                b"anthropic-user-profile-id",
                b"anthropic-workspace-id",
            }
        ),
        answer_names=frozenset({b"anthropic-organization-id", b"anthropic-workspace-id"}),
        answer_prefixes=(
            b"anthropic-ratelimit-",
            # The same figures of the account for its other service tiers.
            b"anthropic-priority-",
            b"anthropic-fast-",
        ),
    )
    account_statuses = frozenset({400, 401, 402, 403, 429})
    known_model = "claude-opus-4-8"
    model_list_request = ModelListRequest(
        "/v1/models", lists.FIRST_PAGE, ((b"anthropic-version", b"2023-06-01"),)
    )

    def recognises(self, header_names: Collection[str]) -> bool:
        return "anthropic-version" in header_names

    def read_request(self, body: Buffer, operation: Operation | None = None) -> RequestMembers:
        return read_members(body, models_elsewhere=named_models, surcharges=surcharges)

    def input_guess(self, body: Buffer) -> InputGuess:
        return content.input_guess(body)

    def prepare(self, body: Buffer, members: RequestMembers, model: str) -> Sequence[Buffer]:
        return [body] if model == members.model else replace_model(body, model)

    def conversation(self, headers: RawHeaders, body: Buffer) -> bytes | None:
        return conversation(headers, body)

    def credential_headers(self, api_key: str) -> RawHeaders:
        return [(b"x-api-key", api_key.encode())]

    def meter(self, members: RequestMembers | None = None, *, stream: bool) -> Meter:
        return answer_meter(stream=stream)

    def error_meter(self) -> Meter:
        return ErrorMeter()

    def limit_headers(self, limits: Sequence[LimitStatus], now: int) -> Sequence[tuple[str, str]]:
        headers = standing_headers(limits)
        tightest = tightest_of(limits)
        for metric, limit_status in tightest.items():
            prefix = _RATE_LIMITS.get(metric)
            if prefix is None:
                continue
            headers += [
                (f"{prefix}-limit", str(limit_status.limit.amount)),
                (f"{prefix}-remaining", str(limit_status.remaining)),
            ]
            if limit_status.resets_at is not None:
                headers.append((f"{prefix}-reset", iso_seconds(limit_status.resets_at + 999)))
        return headers

    def error_headers(self, error: OpusLiveError) -> Sequence[tuple[str, str]]:
        return REFUSAL_HEADERS if error.code is Code.QUOTA_EXHAUSTED else ()

    def error_body(self, error: OpusLiveError, request_id: str) -> bytes:
        return msgspec.json.encode(
            {
                "type": "error",
                "error": {"type": _ERROR_TYPES[error.code], "message": error.message},
                "request_id": request_id,
            }
        )

    def account_error(
        self, status: int, headers: RawHeaders, body: bytes, now_ms: int
    ) -> OpusLiveError | None:
        """The error to answer with instead of an upstream's answer about the gateway's account.

        A 403 of type permission_error is none: it says that a model or a feature is not open to
        the account. Another account may have it; else the client can act on it by not asking.
        """
        if status not in self.account_statuses:
            return None
        if status in (401, 402) or _blames_account(body):
            return OpusLiveError(
                Code.UPSTREAM_ACCOUNT,
                "The gateway could not use its account with the model provider; "
                "tell its administrator.",
            )
        if status == 429:
            return OpusLiveError(
                Code.UPSTREAM_RATE_LIMITED,
                "The model provider is limiting the gateway's requests at the moment; "
                "try again later.",
                retry_after=retry_after(headers, now_ms),
            )
        return None

    def owns_model_list(self, body: bytes) -> bool:
        return lists.owns_model_list(body)

    def choose_model(self, models: Sequence[str]) -> str:
        # The provider lists the newest first.
        return self.known_model if self.known_model in models else models[0]

    def read_model_list(self, body: bytes) -> ModelPage | None:
        return lists.read_model_list(body)

    def models_document(
        self, models: Sequence[Model], query: Mapping[str, str]
    ) -> Mapping[str, object]:
        return lists.models_document(models, query)

    def model_document(self, model: Model) -> Mapping[str, object]:
        return lists.model_document(model)


def _blames_account(body: bytes) -> bool:
    document = read_json(_ERROR_DOCUMENT, body)
    if document is None:
        return False
    error = document.error
    if error.type in _ACCOUNT_TYPES:
        return True
    # Complaints about a request may repeat words of it before a ": " ("…: Extra inputs are not
    # permitted"). They don't count: no holder shall be able to raise this alarm.
    return ": " not in error.message and bool(
        _ACCOUNT_EXHAUSTED.match(error.message[:_MESSAGE_LENGTH])
    )
