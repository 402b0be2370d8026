"""Headers of OpenAI's wire format that stay on this side of the gateway."""

from __future__ import annotations

from typing import Final

from opuslive.dialects import PrivateHeaders

PRIVATE_HEADERS: Final = PrivateHeaders(
    request_names=frozenset({b"openai-organization", b"openai-project"}),
    answer_names=frozenset({b"openai-organization", b"openai-project"}),
    answer_prefixes=(b"x-ratelimit-",),
)
