"""What a request of the Messages API may ask for beside tokens at the standard price.

All request members of the provider's own library were looked at (``anthropic`` 2.14.0, beta ones
too). These change what a request costs, and no table of prices of tokens has them:

* ``speed``, also of one of the ``fallbacks``: any but "standard" costs several times as much;
* ``service_tier``: "auto", which is the default, and "standard_only" are the known ones;
* ``inference_geo``: any but "global" costs a tenth more;
* ``tools``, also those that are added in the messages: ``web_search`` has a fee for each search,
  ``code_execution`` one for the time that it runs, unless a ``web_fetch`` of 2026-02-09 or later is
  beside it. (Of the provider's other tools none has a fee.)
  https://platform.claude.com/docs/en/about-claude/pricing

Null is the same as none. What is not known is taken to be dearer.

Tools of the provider also bring in content, which is input: ``RESULT_TOKENS`` for each kind of
tool.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec

from opuslive.dialects import NamedModels, Surcharges
from opuslive.dialects.body import repeated
from opuslive.dialects.documents import read_string

#: Tokens that a tool of the provider brings in: a research paper of 500 kB, the largest example in
#: https://platform.claude.com/docs/en/agents-and-tools/tool-use/web-fetch-tool
RESULT_TOKENS = 125_000

#: Member → its values at the standard price.
_STANDARD: Mapping[str, frozenset[str | None]] = MappingProxyType(
    {
        "speed": frozenset({None, "standard"}),
        "service_tier": frozenset({None, "auto", "standard_only"}),
        "inference_geo": frozenset({None, "global"}),
    }
)
#: Bytes of a value that is looked at: longer than any of those, whatever its spelling.
_LONGEST = 100
_SEARCH, _FETCH, _EXECUTION = "web_search", "web_fetch", "code_execution"
#: From this version on code that runs beside it has no fee.
_FREE_BESIDE = "web_fetch_20260209"
_SERVERS = "mcp_servers"
_LOOKED_AT = frozenset({*_STANDARD, _SERVERS})
_NO_SERVERS = (b"null", b"[]")
_NONE = Surcharges()


def surcharges(members: Sequence[tuple[str, msgspec.Raw]], named: NamedModels) -> Surcharges:
    """What these top-level members of a request ask for; ``named`` is what they name.

    Raises OpusLiveError (invalid_request) if one that decides the price stands twice.
    """
    unpriced = ""
    seen: list[str] = []
    servers = False
    for name, value in members:
        folded = name.casefold()
        if folded not in _LOOKED_AT:
            continue
        if folded == _SERVERS:
            servers |= bytes(memoryview(value)[:5]) not in _NO_SERVERS
            continue
        if folded in seen:
            raise repeated(folded)
        seen.append(folded)
        if _value(value) not in _STANDARD[folded]:
            unpriced = unpriced or _other(folded)
    if not _STANDARD["speed"].issuperset(named.speeds):
        unpriced = unpriced or _other("speed")
    if not (named.tools or unpriced or servers):
        return _NONE
    kinds = {
        kind
        for kind in (_SEARCH, _FETCH, _EXECUTION)
        if any(tool.startswith(kind) for tool in named.tools)
    }
    if not unpriced:
        unpriced = _fee(kinds, named.tools)
    return Surcharges(unpriced, RESULT_TOKENS * (len(kinds) + servers))


def _fee(kinds: set[str], tools: frozenset[str]) -> str:
    """What is said of a tool with a fee; empty if there is none."""
    if _SEARCH in kinds:
        return _with_fee(_SEARCH)
    # The version is a day, so that later ones are greater.
    free = any(tool.startswith(_FETCH) and tool >= _FREE_BESIDE for tool in tools)
    return _with_fee(_EXECUTION) if _EXECUTION in kinds and not free else ""


def _other(member: str) -> str:
    known = " or ".join(f'"{value}"' for value in sorted(map(str, _STANDARD[member] - {None})))
    return (
        f"no price is known of the member {member!r} with another value than {known}; "
        "send one of these or leave it out"
    )


def _with_fee(tool: str) -> str:
    return f"no price is known of the fee for the tool {tool!r} of the provider; leave it out"


def _value(value: msgspec.Raw) -> str | None:
    """A string or null; empty for anything else."""
    text = bytes(memoryview(value)[:_LONGEST])
    if text == b"null":
        return None
    return read_string(text) or ""
