"""Lists of models in Anthropic's shape, both ways: an upstream's, and the gateway's own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from urllib.parse import quote

from opuslive.dialects import EPOCH, Model, ModelPage

#: Models on a page of a list, at most; also if nothing is said.
MAX_PAGE = 1000
#: Characters of a text in an upstream's list; a longer one is taken for missing.
MAX_TEXT = 256

#: What asks an upstream for the first page of its list.
FIRST_PAGE = b"limit=%d" % MAX_PAGE


def read_model_list(body: bytes) -> ModelPage | None:
    """A page of an upstream's list; None for a body that is no such list.

    An entry without an id is left out, and a member that is not as it should be is taken for
    missing. A list of nothing but such entries is none.
    """
    try:
        # Not msgspec, for which one escape that means no character spoils the whole document.
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    entries = document.get("data") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        return None
    models = [model for entry in entries if (model := _read_model(entry)) is not None]
    if not models:
        return None if entries else ModelPage(())
    if document.get("has_more") is not True:
        return ModelPage(models)
    last = _text(document.get("last_id")) or models[-1].id
    return ModelPage(models, FIRST_PAGE + b"&after_id=" + quote(last, safe="").encode())


def owns_model_list(body: bytes) -> bool:
    """Whether a list that can be read has entries of Anthropic's type."""
    entries = json.loads(body)["data"]
    return any(isinstance(entry, dict) and entry.get("type") == "model" for entry in entries)


def _read_model(entry: object) -> Model | None:
    name = _text(entry.get("id")) if isinstance(entry, dict) else ""
    if not isinstance(entry, dict) or not name:
        return None
    created_at = _text(entry.get("created_at"))
    return Model(
        name,
        _text(entry.get("display_name")) or name,
        created_at if _is_moment(created_at) else EPOCH,
    )


def _text(value: object) -> str:
    """The value if it is a text fit for showing; "" else."""
    fit = isinstance(value, str) and len(value) <= MAX_TEXT and value.isprintable()
    return str(value) if fit else ""


def _is_moment(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


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
