"""Lists of models in Anthropic's shape."""

from __future__ import annotations

import json

import pytest

from opuslive.dialects import EPOCH, Dialect, Model
from opuslive.dialects.anthropic.dialect import AnthropicDialect

DIALECT: Dialect = AnthropicDialect()
MODELS = [Model(f"claude-{number}", f"Claude {number}", EPOCH) for number in range(5)]


def listed(**query: str) -> tuple[list[str], object]:
    document = DIALECT.models_document(MODELS, query)
    data = document["data"]
    assert isinstance(data, list)
    ids = [model["id"] for model in data]
    assert (document["first_id"], document["last_id"]) == ((ids or [None])[0], (ids or [None])[-1])
    return [id_.removeprefix("claude-") for id_ in ids], document["has_more"]


def test_a_model_as_it_is_listed() -> None:
    assert DIALECT.model_document(Model("claude-1", "Claude One", "2026-02-03T00:00:00Z")) == {
        "type": "model",
        "id": "claude-1",
        "display_name": "Claude One",
        "created_at": "2026-02-03T00:00:00Z",
    }


@pytest.mark.parametrize(
    ("query", "ids", "has_more"),
    [
        ({}, "01234", False),
        ({"limit": "2"}, "01", True),
        ({"limit": "5"}, "01234", False),
        ({"limit": "2", "after_id": "claude-1"}, "23", True),
        ({"after_id": "claude-4"}, "", False),
        ({"limit": "2", "before_id": "claude-3"}, "12", True),
        ({"limit": "2", "before_id": "claude-2"}, "01", False),
        ({"before_id": "claude-0"}, "", False),
        ({"limit": "0"}, "0", True),
        ({"limit": "-1"}, "01234", False),
        ({"limit": "9999999999"}, "01234", False),
        ({"limit": "many", "after_id": "gpt", "before_id": "gpt"}, "01234", False),
    ],
)
def test_a_page_of_the_list(query: dict[str, str], ids: str, has_more: bool) -> None:
    assert listed(**query) == (list(ids), has_more)


def test_a_page_has_a_thousand_models_at_most() -> None:
    many = [Model(str(number), "") for number in range(1001)]
    for query in ({}, {"limit": "1001"}):
        document = DIALECT.models_document(many, query)
        assert (document["last_id"], document["has_more"]) == ("999", True)


def test_the_list_of_an_upstream_is_read() -> None:
    body = json.dumps(
        {
            "data": [
                {"id": "a", "display_name": "A", "created_at": "2026-01-01T00:00:00Z", "x": 1},
                {"id": "b", "display_name": None},
            ],
            "has_more": False,
        }
    )
    assert DIALECT.read_model_list(body.encode()) == [
        Model("a", "A", "2026-01-01T00:00:00Z"),
        Model("b", "b", EPOCH),
    ]


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b'{"data":{}}', b'{"data":[{}]}', b'{"data":[{"id":7}]}', b"\xff"],
)
def test_what_is_no_list_is_told_apart(body: bytes) -> None:
    assert DIALECT.read_model_list(body) is None


def test_a_list_nested_too_deeply_is_no_list() -> None:
    assert DIALECT.read_model_list(b'{"x":' + b"[" * 100_000) is None
