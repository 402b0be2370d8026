"""Lists of models in Anthropic's shape, both ways: an upstream's, and the gateway's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from opuslive.dialects import EPOCH, Model
from opuslive.dialects.documents import read_json

#: Models on a page of a list, at most; also if nothing is said.
MAX_PAGE = 1000


class _ListedModel(msgspec.Struct):
    id: str
    display_name: str | None = None
    created_at: str | None = None


class _ModelList(msgspec.Struct):
    data: list[_ListedModel]


_MODEL_LIST = msgspec.json.Decoder(_ModelList)


def read_model_list(body: bytes) -> Sequence[Model] | None:
    """The models in an upstream's list; None for a body that is no such list."""
    document = read_json(_MODEL_LIST, body)
    if document is None:
        return None
    return [
        Model(model.id, model.display_name or model.id, model.created_at or EPOCH)
        for model in document.data
    ]


def models_document(models: Sequence[Model], query: Mapping[str, str]) -> Mapping[str, object]:
    """The page that the parameters ``limit``, ``after_id`` and ``before_id`` ask for."""
    page, has_more = _page(models, query)
    return {
        "data": [model_document(model) for model in page],
        "has_more": has_more,
        "first_id": page[0].id if page else None,
        "last_id": page[-1].id if page else None,
    }


def model_document(model: Model) -> Mapping[str, object]:
    return {
        "type": "model",
        "id": model.id,
        "display_name": model.display_name,
        "created_at": model.created_at,
    }


def _page(models: Sequence[Model], query: Mapping[str, str]) -> tuple[Sequence[Model], bool]:
    """The models of the page, and whether more follow (or precede, after ``before_id``)."""
    ids = [model.id for model in models]
    after, before = query.get("after_id"), query.get("before_id")
    text = query.get("limit", "")
    limit = max(1, min(int(text), MAX_PAGE)) if text.isdecimal() and len(text) < 10 else MAX_PAGE
    if before in ids:
        end = ids.index(before)
        return models[max(0, end - limit) : end], end > limit
    start = ids.index(after) + 1 if after in ids else 0
    return models[start : start + limit], start + limit < len(models)
