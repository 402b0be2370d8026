"""Lists of models in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from opuslive.dialects import Model


class OpenAIModelDocuments:
    """What ``GET /v1/models`` answers OpenAI's clients, which know no pages."""

    def models_document(
        self, models: Sequence[Model], query: Mapping[str, str]
    ) -> Mapping[str, object]:
        return {"object": "list", "data": [self.model_document(model) for model in models]}

    def model_document(self, model: Model) -> Mapping[str, object]:
        return {
            "id": model.id,
            "object": "model",
            "created": _seconds(model.created_at),
            "owned_by": "opuslive",
        }


def _seconds(created_at: str) -> int:
    """A moment in ISO 8601 as seconds since the epoch; 0 if it can't be read."""
    try:
        return int(datetime.fromisoformat(created_at).timestamp())
    except ValueError:
        return 0
