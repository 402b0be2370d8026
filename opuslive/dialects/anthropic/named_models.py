"""The other models that a request of the Messages API names, beside its ``model``, and the tools.

All request members of the provider's own library were looked at (``anthropic`` 2.14.0, beta ones
too). These name a model:

* ``tools[].model``: the model that an advisor tool asks;
* ``fallbacks``: models that answer if the first one declines, in a list of objects with a ``model``
  (and a ``max_tokens`` of their own), or "default", which leaves the choice to the provider;
* a ``definition`` in ``messages``: the same as an entry of ``tools``, in a ``tool_addition`` block
  or in the ``tool_changes`` of a ``compaction`` block.

These name none: ``compaction``, ``container`` with its skills, ``context_management``,
``diagnostics``, ``fallback_credit_token``, ``mcp_servers``, ``metadata``, ``output_config``,
``system``, ``thinking``, ``thread`` and ``tool_choice``. Neither does the rest of ``messages``: the
provider ignores the models in a ``fallback`` block of an earlier answer, and what a tool is given
is content.

Each entry of ``tools`` and ``fallbacks`` is searched at any depth, for the next tool may name its
model elsewhere; only what describes or shows the input of a tool is left out. A tool of the
provider's own is known by its ``type``, which most tools of clients don't have; an entry of
``fallbacks`` may also have a ``speed``.

``messages`` may be 30 MB, and ``tools`` some. So each is searched for bytes that may name a model,
in any spelling of them, and what is found is decoded, up to a bound. Repeated members don't hide
anything: all of them are looked at, and a ``model`` that stands twice is refused, as is the
``type`` of a tool.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from opuslive.dialects import NamedModels, documents
from opuslive.dialects.body import MAX_MODEL_LENGTH, MAX_TOKENS_BOUND, refusal, repeated

#: Bytes that are decoded of all definitions in messages, or of ``tools``, if they name a model.
MAX_DECODED = 2 << 20
#: Bytes that one definition in messages may have.
MAX_DEFINITION = 256 << 10
#: Definitions in messages, at most.
MAX_DEFINITIONS = 1_000
#: Other models that a request may name. (The provider takes a handful.)
MAX_NAMES = 100

#: Top-level members that name models.
_SEARCHED = frozenset({"tools", "fallbacks", "messages"})
#: Members of a tool in which anything may stand.
_INPUT = frozenset({"input_schema", "input_examples"})


def _letters(text: str) -> str:
    """A pattern for the beginning of a string in any spelling that JSON has."""
    letters = (
        f"(?:[{letter}{letter.upper()}]|\\\\u00(?i:{ord(letter):02x}|{ord(letter.upper()):02x}))"
        for letter in text
    )
    return f'"{"".join(letters)}'


def _spelt(name: str) -> bytes:
    """A pattern for the name of a member in any spelling, and the colon behind it."""
    return f'{_letters(name)}"[ \t\r\n]*:[ \t\r\n]*'.encode()


_MODEL_NAMED = re.compile(_spelt("model") + b'"')
#: A tool of the provider's own that ``surcharges`` looks for, in more tools than are decoded.
_PROVIDERS_TOOL = re.compile(
    "|".join(map(_letters, ("web_search_", "web_fetch_", "code_execution_"))).encode()
)
_DEFINITION = re.compile(_spelt("definition") + b"(?=[{])")


class _Object(tuple[tuple[str, Any], ...]):
    """The members of an object, in order, repeated ones too."""

    __slots__ = ()


def _integer(digits: str) -> int | None:
    return int(digits) if len(digits) <= len(str(MAX_TOKENS_BOUND)) else None


class _Tool(msgspec.Struct, gc=False):
    type: str | None = None


_TOOLS = msgspec.json.Decoder(list[_Tool])
_EACH_TOOL = msgspec.json.Decoder(list[msgspec.Raw])

_DECODER = json.JSONDecoder(object_pairs_hook=_Object, parse_int=_integer, parse_float=str)


def named_models(members: Sequence[tuple[str, msgspec.Raw]]) -> NamedModels:
    """The models and the tools that these top-level members of a request name, beside ``model``.

    Raises OpusLiveError (invalid_request) if ``tools`` or ``fallbacks``, or a ``model`` or a
    ``type`` in them, stands twice, or if there is more of them than is read.
    """
    found = _Found()
    seen: set[str] = set()
    for name, value in members:
        folded = name.casefold()
        if folded not in _SEARCHED:
            continue
        if folded != "messages":
            if folded in seen:
                raise repeated(folded)
            seen.add(folded)
        if folded == "tools":
            if _MODEL_NAMED.search(memoryview(value)) or not found.read_tools(value):
                found.search(_whole(value))
        elif folded == "fallbacks":
            found.fallbacks(_whole(value))
        else:
            for definition in _definitions(memoryview(value)):
                found.search(definition)
    return NamedModels(
        tuple(found.names),
        found.any,
        found.max_tokens,
        frozenset(found.tools),
        tuple(found.speeds),
    )


class _Found:
    """What was found so far."""

    def __init__(self) -> None:
        #: In order, each once: model → None.
        self.names: dict[str, None] = {}
        #: Whether the provider is to choose a model.
        self.any = False
        #: The largest bound on the output of a fallback, in tokens.
        self.max_tokens: int | None = None
        #: Types of tools.
        self.tools: set[str] = set()
        #: At what speeds fallbacks are to answer.
        self.speeds: list[str | None] = []

    def read_tools(self, value: msgspec.Raw) -> bool:
        """Take the types of tools that name no model. Returns whether these could be read."""
        view = memoryview(value)
        if len(view) > MAX_DECODED:
            return not _PROVIDERS_TOOL.search(view)
        try:
            types = [tool.type for tool in _TOOLS.decode(value)]
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return False
        if any(types):
            self.tools.update(kind for kind in types if kind)
            for tool, kind in zip(_EACH_TOOL.decode(value), types, strict=True):
                if kind and len(documents.members(bytes(tool), "type")) > 1:
                    raise repeated("type")
        return True

    def fallbacks(self, value: Any) -> None:
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, str):
                self._add(entry)
            elif isinstance(entry, _Object):
                for name, bound in entry:
                    if name == "max_tokens" and type(bound) is int:
                        self.max_tokens = max(bound, self.max_tokens or 0)
                    elif name.casefold() == "speed":
                        self.speeds.append(bound if bound is None or isinstance(bound, str) else "")
            self.search(entry)

    def _add(self, model: str) -> None:
        if model == "default":
            self.any = True
            return
        if len(model) > MAX_MODEL_LENGTH:
            raise refusal(f"A model name must have at most {MAX_MODEL_LENGTH} characters.")
        self.names[model] = None
        if len(self.names) > MAX_NAMES:
            raise refusal(f"The request names more than {MAX_NAMES} models.")

    def search(self, value: Any) -> None:
        """Find members named ``model``, and types of tools, at any depth."""
        left = [value]
        while left:
            each = left.pop()
            if isinstance(each, _Object):
                seen: set[str] = set()
                for name, inner in each:
                    folded = name.casefold()
                    if folded in ("model", "type"):
                        if folded in seen:
                            raise repeated(folded)
                        seen.add(folded)
                        if isinstance(inner, str):
                            self._add(inner) if folded == "model" else self.tools.add(inner)
                    if name not in _INPUT:
                        left.append(inner)
            elif isinstance(each, list):
                left += each


def _whole(value: msgspec.Raw) -> Any:
    view = memoryview(value)
    if len(view) > MAX_DECODED:
        raise refusal(
            "The tools or fallbacks of a request that name a model, or a tool of the provider, may "
            f"have {MAX_DECODED} bytes."
        )
    return _decoded(view)[0]


def _definitions(messages: memoryview) -> Iterator[Any]:
    """The objects that are the value of a member ``definition``, anywhere, with a type of tool."""
    left = MAX_DECODED
    # In a text the quotes are escaped, so this is a member's name, or the end of one.
    for number, match in enumerate(_DEFINITION.finditer(messages), 1):
        if number > MAX_DEFINITIONS:
            raise refusal(f"The messages have more than {MAX_DEFINITIONS} definitions.")
        definition, size = _definition_at(messages, match.end())
        left -= size
        if left < 0:
            raise refusal(f"The definitions in the messages have more than {MAX_DECODED} bytes.")
        if any(name.casefold() == "type" for name, _ in definition):
            yield definition


def _definition_at(messages: memoryview, start: int) -> tuple[Any, int]:
    """The object that begins there, and how many characters it has."""
    try:
        # Most are small.
        return _DECODER.raw_decode(bytes(messages[start : start + 4096]).decode(errors="replace"))
    except (ValueError, RecursionError):
        return _decoded(messages[start : start + MAX_DEFINITION])


def _decoded(view: memoryview) -> tuple[Any, int]:
    """The value at the beginning of these bytes, and how many characters it has."""
    try:
        # A character that is cut at the end is beyond the value, or the value is too long.
        return _DECODER.raw_decode(bytes(view).decode(errors="replace"))
    except (ValueError, RecursionError):
        raise refusal(
            "A definition of a tool, or the fallbacks, in the request are too long or nested too "
            "deeply to be read."
        ) from None
