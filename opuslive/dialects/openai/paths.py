"""The endpoints of OpenAI's API."""

from __future__ import annotations

from typing import Final

from opuslive.dialects import Unserved

_NAME = "OpenAI's endpoints"

#: None of them is forwarded.
UNSERVED: Final = tuple(
    Unserved(f"/v1/{path}", _NAME)
    for path in (
        "assistants",
        "audio",
        "batches",
        "chat",
        "completions",
        "conversations",
        "embeddings",
        "fine_tuning",
        "images",
        "moderations",
        "realtime",
        "responses",
        "threads",
        "uploads",
        "vector_stores",
        "videos",
    )
)
