"""Lists of models in OpenAI's shape, both ways: an upstream's, and the gateway's own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from opuslive.dialects import EPOCH, Model, ModelPage

#: Seconds since the epoch, exclusive: the year 10000.
_MAX_SECONDS = 253_402_300_800
#: OpenAI's own models for everything, by their version. Others in its list hear, speak, draw or
#: embed, or are small.
_GENERAL = re.compile(r"gpt-([0-9]{1,3})(?:\.([0-9]{1,3}))?")


def read_model_list(body: bytes) -> ModelPage | None:
    """An upstream's list, which is one page; None for a body that is no such list.

    An entry without an id is left out. A list of nothing but such entries is none.
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
    return None if entries and not models else ModelPage(models)


def choose_model(models: Sequence[str]) -> str:
    """The newest of OpenAI's own models for everything; the first of all if there is none."""

    def version(model: str) -> tuple[int, int]:
        general = _GENERAL.fullmatch(model)
        return (0, 0) if general is None else (int(general[1]), int(general[2] or 0))

    return max(models, key=version)


def models_document(models: Sequence[Model]) -> Mapping[str, object]:
    """All models: OpenAI's clients know no pages."""
    return {"object": "list", "data": [model_document(model) for model in models]}


def model_document(model: Model) -> Mapping[str, object]:
    """One model."""
    return {
        "id": model.id,
        "object": "model",
        "created": _seconds(model.created_at),
        "owned_by": "opuslive",
    }


def _read_model(entry: object) -> Model | None:
    name = entry.get("id") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(name, str):
        return None
    if not name or not name.isprintable():
        return None
    return Model(name, name, _moment(entry.get("created")))


def _moment(created: object) -> str:
    """Seconds since the epoch in ISO 8601; the epoch if that is none."""
    # A bool is an int, and no moment.
    if type(created) is not int or not 0 <= created < _MAX_SECONDS:
        return EPOCH
    return datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _seconds(created_at: str) -> int:
    """A moment in ISO 8601 as seconds since the epoch; 0 if it can't be read."""
    try:
        return int(datetime.fromisoformat(created_at).timestamp())
    except ValueError:
        return 0
