"""The one list of dialects."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from opuslive.dialects import Dialect, ModelDocuments, PrivateHeaders, Unserved
from opuslive.dialects.anthropic.dialect import AnthropicDialect
from opuslive.dialects.openai.dialect import OpenAIDialect

#: The dialect of errors outside of any dialect's endpoint.
DEFAULT: Final[Dialect] = AnthropicDialect()
_OPENAI: Final[Dialect] = OpenAIDialect()

#: The dialect's name, as the configuration writes it → the dialect.
DIALECTS: Final[Mapping[str, Dialect]] = MappingProxyType(
    {dialect.name: dialect for dialect in (DEFAULT, _OPENAI)}
)

#: Those of every provider: an upstream may pass on what another one said.
PRIVATE_HEADERS: Final[Sequence[PrivateHeaders]] = tuple(
    dialect.private_headers for dialect in DIALECTS.values()
)

#: What clients may ask for and nobody serves here.
UNSERVED: Final[Sequence[Unserved]] = tuple(
    endpoint for dialect in DIALECTS.values() for endpoint in dialect.unserved
)


def dialect_of_model_list(body: bytes) -> Dialect:
    """The dialect of a server that gave this list of models.

    A list that no dialect recognises as its own is of OpenAI's format, which most servers speak.
    """
    return next((each for each in DIALECTS.values() if each.owns_model_list(body)), _OPENAI)


def model_documents(header_names: Collection[str]) -> ModelDocuments:
    """The shape in which a client wants ``GET /v1/models`` answered.

    ``header_names`` are the names in its request's head; looking one up ignores their case.
    A client that no dialect recognises gets OpenAI's shape, which most tools read.
    """
    for dialect in DIALECTS.values():
        if dialect.recognises(header_names):
            return dialect
    return _OPENAI
