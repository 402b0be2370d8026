"""OpenAI's wire format, which many servers speak: its endpoints, its credential, its headers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Final

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
from opuslive.dialects.conversations import text_member
from opuslive.dialects.openai import content, errors, requests
from opuslive.dialects.openai import models as lists
from opuslive.dialects.openai.meter import ErrorMeter, answer_meter
from opuslive.errors import OpusLiveError
from opuslive.limits.accounts import tightest_of
from opuslive.limits.grammar import Metric
from opuslive.limits.windows import LimitStatus
from opuslive.pricing.prices import CacheFactors

#: What the headers about rate limits call the metrics that they know.
_RATE_LIMITS: Final[Mapping[Metric, str]] = MappingProxyType(
    {Metric.REQUESTS: "requests", Metric.TOKENS: "tokens"}
)


class OpenAIDialect:
    """OpenAI's chat completions, completions, responses and embeddings. A ``Dialect``."""

    name = "openai"
    operations = (requests.CHAT, requests.COMPLETIONS, requests.RESPONSES, requests.EMBEDDINGS)
    unserved = tuple(
        Unserved(f"/v1/{path}", "OpenAI's other endpoints")
        for path in (
            "assistants",
            "audio",
            "batches",
            "conversations",
            "fine_tuning",
            "images",
            "moderations",
            "realtime",
            "responses/compact",
            "responses/input_tokens",
            "threads",
            "uploads",
            "vector_stores",
            "videos",
        )
    )
    #: What is read from the cache costs a half to a tenth, by model, and at most servers nothing is
    #: said of it: the full price is the safe side.
    cache_factors = CacheFactors()
    private_headers = PrivateHeaders(
        request_names=frozenset({b"openai-organization", b"openai-project"}),
        answer_names=frozenset({b"openai-organization", b"openai-project"}),
        answer_prefixes=(b"x-ratelimit-",),
    )
    account_statuses = errors.ACCOUNT_STATUSES
    known_model = None
    model_list_request = ModelListRequest("/v1/models")

    def recognises(self, header_names: Collection[str]) -> bool:
        """Its clients send no header of their own; they are those that no dialect recognises."""
        return False

    def read_request(self, body: Buffer, operation: Operation) -> RequestMembers:
        return requests.read_request(body, operation)

    def input_guess(self, body: Buffer) -> InputGuess:
        return content.input_guess(body)

    def prepare(self, body: Buffer, members: RequestMembers, model: str) -> Sequence[Buffer]:
        return requests.prepare(body, members, model)

    def conversation(self, headers: RawHeaders, body: Buffer) -> bytes | None:
        named = text_member(body, "prompt_cache_key")
        return named.encode("utf-8", "replace") if named else None

    def credential_headers(self, api_key: str) -> RawHeaders:
        return [(b"authorization", b"Bearer " + api_key.encode())]

    def meter(self, members: RequestMembers, *, stream: bool) -> Meter:
        return answer_meter(members, stream=stream)

    def error_meter(self) -> Meter:
        return ErrorMeter()

    def limit_headers(self, limits: Sequence[LimitStatus], now: int) -> Sequence[tuple[str, str]]:
        headers = []
        tightest = tightest_of(limits)
        for metric, name in _RATE_LIMITS.items():
            limit_status = tightest.get(metric)
            if limit_status is None:
                continue
            headers += [
                (f"x-ratelimit-limit-{name}", str(limit_status.limit.amount)),
                (f"x-ratelimit-remaining-{name}", str(limit_status.remaining)),
            ]
            if limit_status.resets_at is not None:
                seconds = max(0, -(-(limit_status.resets_at - now) // 1000))
                headers.append((f"x-ratelimit-reset-{name}", f"{seconds}s"))
        return headers

    def error_headers(self, error: OpusLiveError) -> Sequence[tuple[str, str]]:
        return ()

    def error_body(self, error: OpusLiveError, request_id: str) -> bytes:
        return errors.error_body(error)

    def account_error(
        self, status: int, headers: RawHeaders, body: bytes, now_ms: int
    ) -> OpusLiveError | None:
        """The error to answer with instead of an upstream's answer about the gateway's account.

        A 403 or 404 goes on as it is unless it names the account.
        """
        return errors.account_error(status, headers, body, now_ms)

    def owns_model_list(self, body: bytes) -> bool:
        """Its servers mark their lists in many ways; theirs are those that no dialect owns."""
        return False

    def choose_model(self, models: Sequence[str]) -> str:
        return lists.choose_model(models)

    def read_model_list(self, body: bytes) -> ModelPage | None:
        return lists.read_model_list(body)

    def models_document(
        self, models: Sequence[Model], query: Mapping[str, str]
    ) -> Mapping[str, object]:
        return lists.models_document(models)

    def model_document(self, model: Model) -> Mapping[str, object]:
        return lists.model_document(model)
