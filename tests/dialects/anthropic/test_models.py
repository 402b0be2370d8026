"""Lists of models in Anthropic's shape."""

from __future__ import annotations

import json

import pytest

from opuslive.dialects import EPOCH, Dialect, Model, ModelPage
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


def test_a_model_is_listed_as_anthropic_lists_it() -> None:
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
def test_a_page_of_the_list_has_its_neighbours(
    query: dict[str, str], ids: str, has_more: bool
) -> None:
    assert listed(**query) == (list(ids), has_more)


def test_a_page_has_a_thousand_models_at_most() -> None:
    many = [Model(str(number), "") for number in range(1001)]
    for query in ({}, {"limit": "1001"}):
        document = DIALECT.models_document(many, query)
        assert (document["last_id"], document["has_more"]) == ("999", True)


def read(**document: object) -> ModelPage | None:
    return DIALECT.read_model_list(json.dumps(document).encode())


A = {"id": "a", "display_name": "A", "created_at": "2026-01-01T00:00:00Z", "x": 1}
MODEL_A = Model("a", "A", "2026-01-01T00:00:00Z")


def test_the_list_of_an_upstream_is_read() -> None:
    assert read(data=[A, {"id": "b", "display_name": None}], has_more=False) == ModelPage(
        [MODEL_A, Model("b", "b", EPOCH)]
    )
    assert read(data=[]) == ModelPage(())


@pytest.mark.parametrize(
    "odd",
    [
        b"{}",
        b"null",
        b"7",
        b'"claude"',
        b"[]",
        b'{"id":7}',
        b'{"id":null}',
        b'{"id":""}',
        rb'{"id":"b\n"}',
        b'{"id":"%b"}' % (b"b" * 257),
        rb'{"id":"\ud800"}',
        b'{"display_name":"B"}',
        b"[" * 600 + b"]" * 600,
    ],
)
def test_an_entry_without_an_id_spoils_no_other(odd: bytes) -> None:
    entry = json.dumps(A).encode()
    for entries in (odd + b"," + entry, entry + b"," + odd):
        page = DIALECT.read_model_list(b'{"data":[' + entries + b"]}")
        assert page == ModelPage([MODEL_A])


@pytest.mark.parametrize(
    ("entry", "model"),
    [
        (b'{"id":"b","created_at":1767225600}', Model("b", "b", EPOCH)),
        (b'{"id":"b","created_at":"last year"}', Model("b", "b", EPOCH)),
        (b'{"id":"b","created_at":""}', Model("b", "b", EPOCH)),
        (b'{"id":"b","created_at":{"at":1}}', Model("b", "b", EPOCH)),
        (b'{"id":"b","created_at":"2026-01-01"}', Model("b", "b", "2026-01-01")),
        (b'{"id":"b","display_name":7,"created_at":null}', Model("b", "b", EPOCH)),
        (b'{"id":"b","display_name":["B"]}', Model("b", "b", EPOCH)),
        (b'{"id":"b","display_name":"%b"}' % (b"B" * 257), Model("b", "b", EPOCH)),
        (rb'{"id":"b","display_name":"\u001b[31mB"}', Model("b", "b", EPOCH)),
        (
            b'{"id":"b","created_at":"2026-01-01T00:00:00.%b"}' % (b"0" * 300),
            Model("b", "b", EPOCH),
        ),
        (rb'{"id":"b","display_name":"\ud800"}', Model("b", "b", EPOCH)),
    ],
)
def test_an_odd_member_spoils_nothing_but_itself(entry: bytes, model: Model) -> None:
    body = b'{"data":[' + entry + b"," + json.dumps(A).encode() + b'],"has_more":false}'
    assert DIALECT.read_model_list(body) == ModelPage([model, MODEL_A])


@pytest.mark.parametrize(
    ("members", "after"),
    [
        ({"has_more": True, "last_id": "a"}, b"a"),
        ({"has_more": True, "last_id": "a/b c&d=\u00e9"}, b"a%2Fb%20c%26d%3D%C3%A9"),
        # Where the list does not say what its last entry is, its last entry does.
        ({"has_more": True}, b"a"),
        ({"has_more": True, "last_id": None}, b"a"),
        ({"has_more": True, "last_id": 7}, b"a"),
        ({"has_more": True, "last_id": "b\r\nx: y"}, b"a"),
        ({"has_more": True, "last_id": "b" * 257}, b"a"),
        ({"has_more": False, "last_id": "a"}, None),
        ({"has_more": "yes", "last_id": "a"}, None),
        ({"has_more": 1, "last_id": "a"}, None),
        ({"last_id": "a"}, None),
    ],
)
def test_the_next_page_is_asked_for_where_there_is_one(
    members: dict[str, object], after: bytes | None
) -> None:
    query = None if after is None else b"limit=1000&after_id=" + after
    assert read(data=[A], **members) == ModelPage([MODEL_A], query)


def test_behind_an_empty_page_there_is_none() -> None:
    assert read(data=[], has_more=True, last_id="a") == ModelPage(())


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b'{"data":{}}', b'{"data":[{}]}', b'{"data":[{"id":7}]}', b"\xff"],
)
def test_what_is_no_list_is_told_apart(body: bytes) -> None:
    assert DIALECT.read_model_list(body) is None


def test_a_list_nested_too_deeply_is_no_list() -> None:
    assert DIALECT.read_model_list(b'{"x":' + b"[" * 100_000) is None
