"""The one list of dialects."""

from __future__ import annotations

from multidict import CIMultiDict

from opuslive.dialects import registry


def test_a_dialect_goes_by_its_name() -> None:
    assert [*registry.DIALECTS] == [dialect.name for dialect in registry.DIALECTS.values()]
    assert registry.DEFAULT in registry.DIALECTS.values()


def test_no_two_operations_have_one_path() -> None:
    paths = [each.path for dialect in registry.DIALECTS.values() for each in dialect.operations]
    assert len(paths) == len(set(paths))


def test_models_are_listed_in_the_shape_of_the_client_that_asks() -> None:
    anthropic = CIMultiDict([("Anthropic-Version", "2023-06-01")])
    assert registry.model_documents(anthropic) is registry.DIALECTS["anthropic"]
    other = registry.model_documents(CIMultiDict([("User-Agent", "curl")]))
    assert other is registry.DIALECTS["openai"]
