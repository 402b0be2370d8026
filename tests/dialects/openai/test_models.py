"""Lists of models in OpenAI's shape."""

from __future__ import annotations

import pytest

from opuslive.dialects import EPOCH, Model
from opuslive.dialects.openai.models import OpenAIModelDocuments


@pytest.mark.parametrize(
    ("created_at", "created"), [(EPOCH, 0), ("2026-02-03T00:00:00Z", 1_770_076_800), ("soon", 0)]
)
def test_a_model_is_listed_as_openai_lists_it(created_at: str, created: int) -> None:
    model = Model("gpt-5", "GPT", created_at)
    listed = {"id": "gpt-5", "object": "model", "created": created, "owned_by": "opuslive"}
    documents = OpenAIModelDocuments()
    assert documents.model_document(model) == listed
    assert documents.models_document([model], {"limit": "0"}) == {
        "object": "list",
        "data": [listed],
    }
