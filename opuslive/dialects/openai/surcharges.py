"""What a request in OpenAI's format may ask for beside tokens at the standard price.

These change what a request costs, and no table of prices of tokens has them:

* ``service_tier``: any but "auto", which is the default, "default" and "flex", which costs less;
* ``tools`` that run at the provider have a fee, for each call or for the time that they run;
  ``web_search_options`` is such a tool of chat completions;
* ``audio`` and ``modalities``: a token of speech costs several times one of text.
  https://platform.openai.com/docs/pricing

Null is the same as none. What is not known is taken to be dearer. Tools that run at the provider
also bring in content, which is input: ``RESULT_TOKENS`` for each kind of tool.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from opuslive.dialects import Surcharges
from opuslive.dialects.documents import read_json

#: Tokens that a tool of the provider brings in: a context of 128,000 tokens is what the provider
#: keeps of a search at most.
#: https://platform.openai.com/docs/guides/tools-web-search
RESULT_TOKENS = 128_000
#: The members that this is about.
NAMES: Final = frozenset({"service_tier", "tools", "web_search_options", "audio", "modalities"})

_STANDARD_TIERS: Final = frozenset[str | None]({"auto", "default", "flex"})
#: Tools that run where the client is.
_CLIENT_TOOLS = frozenset(
    {
        "function",
        "custom",
        "namespace",
        "local_shell",
        "apply_patch",
        "computer_use_preview",
        "computer",
    }
)
#: It runs at the provider, without a fee.
_FREE = "mcp"
_WITH_FEE = ("web_search", "file_search", "code_interpreter", "image_generation", "shell")
_NONE = Surcharges()


class _Tool(msgspec.Struct, gc=False):
    #: Servers that have no other tools take one without a type for a function.
    type: str = "function"


_TOOLS = msgspec.json.Decoder(list[_Tool])
_TEXT = msgspec.json.Decoder(str)
_TEXTS = msgspec.json.Decoder(list[str])


def surcharges(members: Mapping[str, msgspec.Raw]) -> Surcharges:
    """What these top-level members of a request, each of which stands once, ask for."""
    given = {
        name: memoryview(value)
        for name in NAMES
        if (value := members.get(name)) is not None and bytes(memoryview(value)[:5]) != b"null"
    }
    if not given:
        return _NONE
    unpriced = ""
    if "service_tier" in given and read_json(_TEXT, given["service_tier"]) not in _STANDARD_TIERS:
        unpriced = _other("service_tier", '"auto", "default" or "flex"')
    if "modalities" in given and read_json(_TEXTS, given["modalities"]) != ["text"]:
        unpriced = _other("modalities", '["text"]')
    if "audio" in given:
        unpriced = "no price is known of the tokens of 'audio'; leave it out"
    kinds = _hosted(given["tools"]) if "tools" in given else set()
    if "web_search_options" in given:
        kinds.add("web_search")
    for kind in sorted(kinds - {_FREE}):
        unpriced = f"no price is known of the fee for {_named(kind)} of the provider; leave it out"
    return Surcharges(unpriced, RESULT_TOKENS * len(kinds))


def _hosted(tools: memoryview) -> set[str]:
    """The kinds of tools that run at the provider; an empty one for what can't be read."""
    found = read_json(_TOOLS, tools)
    return {""} if found is None else {tool.type for tool in found} - _CLIENT_TOOLS


def _named(kind: str) -> str:
    """A tool in a sentence, which repeats nothing that the client made up."""
    known = next((tool for tool in _WITH_FEE if kind.startswith(tool)), None)
    return "one of the tools" if known is None else f"the tool {known!r}"


def _other(member: str, known: str) -> str:
    return (
        f"no price is known of the member {member!r} with another value than {known}; "
        "send one of these or leave it out"
    )
