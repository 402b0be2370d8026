"""What ``usage`` says in OpenAI's wire format, under the names of any of its endpoints.

``prompt_tokens`` (completions, embeddings) and ``input_tokens`` (responses) are the whole input,
what the provider's cache served or took included; text, images and audio alike. The parts stand in
``prompt_tokens_details`` and ``input_tokens_details``. A server that reports more cached tokens
than input counts them beside it.

``completion_tokens`` and ``output_tokens`` are the whole output. Reasoning is part of it at OpenAI;
some compatible servers report it beside, and one can tell by its size, or by ``total_tokens``.

Counts are cumulative, so none ever falls.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from opuslive.dialects.documents import MAX_COUNT, members, read_count
from opuslive.usage import TokenCounts

#: Name of a member → what it counts.
_KINDS: Mapping[str, str] = MappingProxyType(
    {
        "prompt_tokens": "input",
        "input_tokens": "input",
        "completion_tokens": "output",
        "output_tokens": "output",
        "total_tokens": "total",
        "prompt_cache_hit_tokens": "cached",
    }
)
#: The same, for what the details count.
_DETAILS: Mapping[str, str] = MappingProxyType(
    {
        "cached_tokens": "cached",
        "cache_write_tokens": "written",
        "reasoning_tokens": "reasoning",
    }
)
_DETAILED = (
    "prompt_tokens_details",
    "input_tokens_details",
    "completion_tokens_details",
    "output_tokens_details",
)


class ReportedUsage:
    """The usage as reported so far. Counts that were never reported are 0."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        #: What is counted → how many tokens.
        self._counts: dict[str, int] = {}

    def update(self, usage: bytes) -> bool:
        """Take over what ``usage``, a JSON value, reports. Returns whether it tells anything.

        Where all counts are zero, none was told: a server that counts nothing wrote them.
        """
        told = False
        for name, value in members(usage, *_KINDS, *_DETAILED):
            if name in _KINDS:
                told |= self._raise(_KINDS[name], value)
            else:
                for detail, count in members(value, *_DETAILS):
                    self._raise(_DETAILS[detail], count)
        return told

    @property
    def tells_input(self) -> bool:
        return self._counts.get("input", 0) > 0 or self.tells_output

    @property
    def tells_output(self) -> bool:
        return "output" in self._counts and self.told

    @property
    def told(self) -> bool:
        """Whether there is any usage."""
        return any(self._counts.values())

    @property
    def output(self) -> int:
        """The whole output in tokens, reasoning included."""
        get = self._counts.get
        output, reasoning = get("output", 0), get("reasoning", 0)
        beside = get("total", 0) >= get("input", 0) + output + reasoning
        return min(MAX_COUNT, output + reasoning) if beside or reasoning > output else output

    def counts(self, *, output: int) -> TokenCounts:
        """The tokens, of which the output is taken to be ``output``."""
        get = self._counts.get
        whole, cached, written = get("input", 0), get("cached", 0), get("written", 0)
        rest = whole - cached - written
        return TokenCounts(whole if rest < 0 else rest, output, cached, written)

    def _raise(self, kind: str, value: bytes) -> bool:
        """Take over one count if it is one. Returns whether it is, and more than zero."""
        count = read_count(value)
        if count is None:
            return False
        self._counts[kind] = max(count, self._counts.get(kind, 0))
        return count > 0
