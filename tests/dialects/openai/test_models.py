"""Lists of models in OpenAI's shape."""

from __future__ import annotations

import pytest

from opuslive.dialects import EPOCH, Model, ModelPage
from opuslive.dialects.openai.models import model_document, models_document, read_model_list


@pytest.mark.parametrize(
    ("created_at", "created"), [(EPOCH, 0), ("2026-02-03T00:00:00Z", 1_770_076_800), ("soon", 0)]
)
def test_a_model_is_listed_as_openai_lists_it(created_at: str, created: int) -> None:
    model = Model("gpt-5", "GPT", created_at)
    listed = {"id": "gpt-5", "object": "model", "created": created, "owned_by": "opuslive"}
    assert model_document(model) == listed
    assert models_document([model]) == {"object": "list", "data": [listed]}


@pytest.mark.parametrize(
    ("created", "created_at"),
    [
        (b"1770076800", "2026-02-03T00:00:00Z"),
        (b"0", EPOCH),
        (b"null", EPOCH),
        (b"true", EPOCH),
        (b"-1", EPOCH),
        (b"1e400", EPOCH),
        (b"9999999999999999999", EPOCH),
        (b'"2026"', EPOCH),
    ],
)
def test_an_upstreams_list_is_read(created: bytes, created_at: str) -> None:
    body = b'{"object":"list","data":[{"id":"gpt-5","object":"model","created":%b}]}' % created
    assert read_model_list(body) == ModelPage([Model("gpt-5", "gpt-5", created_at)])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"data":{}}',
        b'{"data":[1,{"id":""},{"id":3},{"id":"a\\n"}]}',
        b"[" * 9999,
    ],
)
def test_what_is_no_list_of_models_is_none(body: bytes) -> None:
    assert read_model_list(body) is None


def test_an_empty_list_is_one() -> None:
    assert read_model_list(b'{"data":[]}') == ModelPage([])
