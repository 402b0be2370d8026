"""What a provider's ``usage`` says, added up over all that one answer reports.

*Counts* are cumulative, so none ever falls: a zero, a null or a member left out erases nothing
that was said before, and where a member stands twice the larger one counts. A count is a JSON
number that is whole and not negative, ``15.0`` as well as ``15``; a string is none.

*Prompt caching*: ``cache_creation`` divides the tokens written to the cache by lifetime,
``cache_creation_input_tokens`` is their sum. What the sum has beyond the division, or without
one, was written for five minutes, the default.

*Iterations*: ``usage.iterations`` lists what the provider ran for one answer, and the top level
contains some of it. (The types: ``BetaIterationsUsage`` in the provider's SDK. What contains
what: there, and in public reports of answers that were billed.)

==================== ======================================== ================================
type                 what ran                                 in the top level
==================== ======================================== ================================
message              a turn of the model that answers         yes
message              before a fallback: a model that declined no: it counts for that model
fallback_message     the model that answered instead          yes; the top level is its alone
compaction           a summary of the conversation            no: it comes on top
advisor_message      another model, named by a tool           no: it counts for that model
others               nobody knows yet                         only if they name no other model
==================== ======================================== ================================

No answer names more than MAX_OTHERS further models: what more of them used counts for one of those
that are known, so that it is not free.

*A fallback* changes the model in the middle of a stream: what was reported before belongs to the
model that declined. The ``fallback`` block says so first, ``iterations`` in the end, exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import astuple

from opuslive.dialects.documents import MAX_COUNT, elements, members, read_count, read_string
from opuslive.usage import ModelTokens, TokenCounts

#: Models beside the one that answers. A request that names more than a few is not known.
MAX_OTHERS = 16

#: The members of a message that tell its usage.
USAGE_MEMBERS = ("model", "usage")
_OUTPUT = "output_tokens"
_INPUTS = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
_LIFETIMES = ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
_TURNS = ("message", "fallback_message")

_FIELDS = frozenset((_OUTPUT, *_INPUTS, *_LIFETIMES))
_MEMBERS = (_OUTPUT, *_INPUTS, "cache_creation", "iterations")

#: Name of a member → its count in tokens.
_Counts = dict[str, int]


class _Iteration(NamedTuple):
    kind: str | None
    model: str | None
    counts: _Counts


class ReportedUsage:
    """The usage as reported so far. Counts that were never reported are 0."""

    __slots__ = ("_declined", "_extra", "_fallen_back", "_name", "_own", "final", "model")

    def __init__(self) -> None:
        #: The model that answers after a fallback; None if there was none.
        self.model: str | None = None
        #: Whether the output reported is the last word, not a floor.
        self.final = False
        #: The model as the answer names it.
        self._name: str | None = None
        self._own: _Counts = {}
        #: Model → what comes on top. None: on top of what the answering model used.
        self._extra: dict[str | None, _Counts] = {}
        #: What models had used when they declined, until ``iterations`` says it.
        self._declined: list[tuple[str | None, _Counts]] = []
        self._fallen_back = False

    @property
    def output(self) -> int:
        """The output of the answering model as reported, in tokens; nothing that is on top."""
        return self._own.get(_OUTPUT, 0)

    @property
    def tells_input(self) -> bool:
        """Whether the input was reported. A zero is none at the answer's beginning: servers that
        count in the end write it there."""
        reported = False
        for name, count in self._own.items():
            if name != _OUTPUT:
                if count:
                    return True
                reported = True
        return reported and self.tells_output

    @property
    def tells_output(self) -> bool:
        """Whether the answer's last word on its output was reported. Where all counts are zero,
        none was: a server that counts nothing wrote them."""
        return self.final and any(self._own.values())

    def read_message(self, message: bytes, *, final: bool) -> None:
        """Take over what a message, a JSON value, reports at its top level; see ``update``."""
        self.read_members(members(message, *USAGE_MEMBERS), final=final)

    def read_members(self, found: Sequence[tuple[str, bytes]], *, final: bool) -> None:
        """The same for the members ``USAGE_MEMBERS`` of a message: name and value of each."""
        names = [read_string(value) for name, value in found if name == "model"]
        self._name = names[-1] if names else None
        for name, value in found:
            if name == "usage":
                self.update(value, final=final)

    def fell_back(self, declining: str | None, answering: str | None, output: int) -> None:
        """From here on another model answers. The one that declined wrote ``output`` tokens."""
        _raise(self._own, {_OUTPUT: output})
        if len(self._declined) < MAX_OTHERS:
            self._declined.append((declining, self._own))
        else:
            _add(self._declined[-1][1], self._own)
        self._own = {}
        self._fallen_back = True
        self.final = False
        self.model = answering

    def update(self, usage: bytes, *, final: bool) -> bool:
        """Take over what ``usage``, a JSON value, reports; ``final`` if it ends the answer.

        Returns whether it tells the output up to now: some, and not less than is known.
        """
        found = members(usage, *_MEMBERS)
        told = _read_counts(found)
        for name, value in found:
            if name == "iterations":
                self._take([_iteration(entry) for entry in elements(value)])
        progress = told.get(_OUTPUT, 0) >= max(1, self.output)
        _raise(self._own, told)
        self.final |= final and _OUTPUT in told
        return progress

    def counts(self, *, output: int) -> TokenCounts:
        """The tokens of the answering model. Its own output is taken to be ``output``."""
        own = _tokens({**self._own, _OUTPUT: output})
        on_top = self._extra.get(None)
        return _sum(own, _tokens(on_top)) if on_top else own

    def parts(self) -> Sequence[ModelTokens]:
        """The tokens of each other model."""
        if not self._declined and not self._extra:
            return []
        others = [*self._declined, *((m, extra) for m, extra in self._extra.items() if m)]
        parts = [ModelTokens(model, _tokens(counts)) for model, counts in others]
        return [part for part in parts if part.tokens.total]

    def _take(self, iterations: Sequence[_Iteration]) -> None:
        turns = [each for each in iterations if each.kind in _TURNS]
        fallback = [each for each in turns if each.kind == "fallback_message"]
        named = [each.model for each in fallback or turns if each.model]
        answering = named[-1] if named else None
        if fallback or any(each.model not in (None, answering) for each in turns):
            self._replaced_by(answering)
            for each in turns:
                if each.model == answering:
                    _raise(self._own, each.counts)
        own_names = (None, self.model or self._name)
        extra: dict[str | None, _Counts] = {}
        for each in iterations:
            if each.kind in _TURNS:
                on_top = self._fallen_back and each.model != answering
            elif each.kind in ("compaction", "advisor_message"):
                on_top = True
            else:
                on_top = each.kind is not None and each.model not in own_names
            if on_top:
                model = _known(extra, None if each.model in own_names else each.model)
                _add(extra.setdefault(model, {}), each.counts)
        for model, counts in extra.items():
            _raise(self._extra.setdefault(_known(self._extra, model), {}), counts)

    def _replaced_by(self, answering: str | None) -> None:
        """``iterations`` tell of a fallback, and of each model's part in it."""
        if not self._fallen_back:
            self._fallen_back = True
            # What was reported before was reported of the model that declined.
            self._own = {}
        self._declined.clear()
        self.model = answering or self.model


def _known(models: Mapping[str | None, _Counts], model: str | None) -> str | None:
    """The model to count for: None, the one that answers, if there are too many others already."""
    return model if model in models or len(models) < MAX_OTHERS else None


def _iteration(entry: bytes) -> _Iteration:
    texts = {name: read_string(value) for name, value in members(entry, "type", "model")}
    counts = _read_counts(members(entry, *_MEMBERS))
    return _Iteration(texts.get("type"), texts.get("model") or None, counts)


def _read_counts(found: Sequence[tuple[str, bytes]]) -> _Counts:
    """The counts among the members of a usage."""
    counts: _Counts = {}
    for name, value in found:
        if name in _FIELDS:
            count = read_count(value)
            if count is not None and count >= counts.get(name, 0):
                counts[name] = count
        elif name == "cache_creation":
            _raise(counts, _read_counts(members(value, *_LIFETIMES)))
    return counts


def _raise(counts: _Counts, other: Mapping[str, int]) -> None:
    for name, count in other.items():
        counts[name] = max(counts.get(name, 0), count)


def _add(counts: _Counts, other: Mapping[str, int]) -> None:
    for name, count in other.items():
        counts[name] = counts.get(name, 0) + count


def _tokens(counts: Mapping[str, int]) -> TokenCounts:
    """The tokens of one report. None of them is more than MAX_COUNT, as no count is."""
    get = counts.get
    minutes, hour = get(_LIFETIMES[0], 0), get(_LIFETIMES[1], 0)
    undivided = get("cache_creation_input_tokens", 0) - minutes - hour
    return TokenCounts(
        get("input_tokens", 0),
        get(_OUTPUT, 0),
        get("cache_read_input_tokens", 0),
        minutes + undivided if undivided > 0 else minutes,
        hour,
    )


def _sum(one: TokenCounts, other: TokenCounts) -> TokenCounts:
    pairs = zip(astuple(one), astuple(other), strict=True)
    return TokenCounts(*[min(MAX_COUNT, count + more) for count, more in pairs])
