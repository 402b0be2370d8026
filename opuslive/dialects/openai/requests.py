"""Requests in OpenAI's wire format: what decides their bill, and the bytes that change on the way.

*Bounds.* The output is bounded by ``max_completion_tokens``, ``max_output_tokens`` or
``max_tokens``, as the endpoint calls it, or by ``n_predict``, which llama.cpp prefers to all of
them; the largest one given counts. A request may ask for several answers, each of which the bound
is for: ``n`` or ``best_of``, for each of several prompts.

*Usage of a stream.* Completions tell it only to whoever asks with ``stream_options``. So the
gateway asks where the client does not, by splicing the member into the body; the meter hides what
comes of it.

*What is refused.* Names are taken as they are spelt here alone, since some servers' JSON readers
ignore case. Responses that the provider keeps belong to the account, not to a key: a request that
names one could read another key's answer. One that runs in the background answers at once, and
uses tokens when nobody looks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Final

import msgspec

from opuslive.dialects import Buffer, Operation, RequestMembers
from opuslive.dialects.body import (
    DECISIVE,
    MAX_MODEL_LENGTH,
    first_member,
    member_span,
    once,
    read_flag,
    read_model,
    read_objects,
    read_token_bound,
    read_top_level,
    refusal,
)
from opuslive.dialects.documents import read_json
from opuslive.dialects.openai.surcharges import NAMES as SURCHARGED
from opuslive.dialects.openai.surcharges import surcharges

CHAT: Final = Operation("/v1/chat/completions")
COMPLETIONS: Final = Operation("/v1/completions")
RESPONSES: Final = Operation("/v1/responses")
EMBEDDINGS: Final = Operation("/v1/embeddings")

#: The path of an endpoint → what bounds one answer of it; the first name is the one to use.
_BOUNDS: Final[Mapping[str, Sequence[str]]] = MappingProxyType(
    {
        CHAT.path: ("max_completion_tokens", "max_tokens", "n_predict"),
        COMPLETIONS.path: ("max_tokens", "n_predict"),
        RESPONSES.path: ("max_output_tokens", "n_predict"),
        EMBEDDINGS.path: (),
    }
)
#: The endpoints whose streams tell their usage only if asked.
_ASKED = (CHAT.path, COMPLETIONS.path)
_NAMES: Final = (
    DECISIVE
    | SURCHARGED
    | {
        "max_completion_tokens",
        "max_output_tokens",
        "n",
        "n_predict",
        "best_of",
        "prompt",
        "models",
        "input",
        "previous_response_id",
        "conversation",
        "background",
    }
)
_OTHERS_ANSWERS = (
    "the provider keeps it for the gateway's account, so it could be another key's; send the "
    "earlier messages in 'input'."
)

_ASK = b'"include_usage":true'
_OPTIONS = b'{"include_usage":true}'

#: Prompts in a list, at most; the provider's own bound.
MAX_PROMPTS = 2048
#: Bytes of a list of models, at most.
MAX_MODELS_SIZE = 20_000
_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_LIST = re.compile(rb"\[")
#: How a list begins, with the first byte of its first element.
_FIRST = re.compile(rb"\[[ \t\r\n]*(.)", re.DOTALL)
_MODELS = msgspec.json.Decoder(list[str])
_TYPE = msgspec.json.Decoder(str)


def read_request(body: Buffer, operation: Operation) -> RequestMembers:
    """What the gateway acts on. Raises OpusLiveError (invalid_request); see ``Dialect``."""
    members = _once(body, _NAMES)
    model = read_model(members.get("model"))
    stream = read_flag("stream", members.get("stream"))
    others = _other_models(members.get("models"))
    more = surcharges(members)
    if operation.path == EMBEDDINGS.path:
        return RequestMembers(model, 0, stream, others, unpriced=more.unpriced)
    if operation.path == RESPONSES.path:
        _refuse_what_is_kept(members)
    answers = max(1, *(_number(name, members) or 1 for name in ("n", "best_of")))
    if operation.path == COMPLETIONS.path:
        answers *= _prompts(members.get("prompt"))
    names = _BOUNDS[operation.path]
    bounds = [bound for name in names if (bound := _number(name, members)) is not None]
    return RequestMembers(
        model,
        max(bounds) * answers if bounds else None,
        stream,
        others,
        unpriced=more.unpriced,
        unseen_input=more.unseen_input,
        bound=names[0],
        answers=answers,
        adds_usage=stream
        and operation.path in _ASKED
        and not _asks_for_usage(members.get("stream_options")),
    )


def prepare(body: Buffer, members: RequestMembers, model: str) -> Sequence[Buffer]:
    """The body with another model name, or with the question for usage, or both, in pieces."""
    changes: list[tuple[int, int, bytes]] = []
    if model != members.model:
        span = member_span(body, "model")
        assert span is not None
        changes.append((*span, msgspec.json.encode(model)))
    if members.adds_usage:
        changes.append(_usage_asked(body))
    if not changes:
        return [body]
    view = memoryview(body)
    pieces: list[Buffer] = []
    position = 0
    for start, end, new in sorted(changes):
        pieces += [view[position:start], new]
        position = end
    pieces.append(view[position:])
    return pieces


def _usage_asked(body: Buffer) -> tuple[int, int, bytes]:
    """The bytes from one offset to another have to be these."""
    span = member_span(body, "stream_options") if _may_have_options(body) else None
    if span is None:
        start = first_member(body)
        return start, start, b'"stream_options":' + _OPTIONS + b","
    start, end = span
    options = memoryview(body)[start:end]
    if _begins(options, b"n"):
        return start, end, _OPTIONS
    inner = member_span(options, "include_usage")
    if inner is not None:
        return start + inner[0], start + inner[1], b"true"
    at = start + first_member(options)
    return at, at, _ASK + (b"," if read_top_level(options) else b"")


def _may_have_options(body: Buffer) -> bool:
    """Whether the member may be there, spelt with escapes or not: most bodies tell at a glance."""
    return not isinstance(body, bytes) or b"stream_options" in body or b"\\u" in body


def _once(body: Buffer, names: frozenset[str]) -> Mapping[str, msgspec.Raw]:
    """The members of these names. Each has to stand once, in lower case."""
    members = once(read_top_level(body), names)
    for name in members:
        if name not in names:
            raise refusal(f"The member {name.casefold()!r} has to be written in lower case.")
    return members


def _number(name: str, members: Mapping[str, msgspec.Raw]) -> int | None:
    return read_token_bound(name, members.get(name), null_allowed=True)


def _given(value: msgspec.Raw | None) -> bool:
    return value is not None and not _begins(value, b"n")


def _begins(value: msgspec.Raw | memoryview, characters: bytes) -> bool:
    """Whether a JSON value begins with one of these. (Nothing but null begins with "n".)"""
    return memoryview(value)[0] in characters


def _asks_for_usage(options: msgspec.Raw | None) -> bool:
    """Whether the client wants to see the usage."""
    if options is None or not _given(options):
        return False
    if not _begins(options, b"{"):
        raise refusal("'stream_options' must be an object.")
    asked = _once(memoryview(options), frozenset({"include_usage"}))
    return read_flag("include_usage", asked.get("include_usage"))


def _prompts(prompt: msgspec.Raw | None) -> int:
    """How many prompts there are. A list of numbers is one prompt, in tokens."""
    first = None if prompt is None else _FIRST.match(memoryview(prompt))
    if prompt is None or first is None or first[1] not in (b'"', b"["):
        return 1
    lists = first[1] == b"["
    found = (_LIST if lists else _TEXT).finditer(memoryview(prompt), lists)
    number = sum(1 for _ in islice(found, MAX_PROMPTS + 1))
    if number > MAX_PROMPTS:
        raise refusal(f"'prompt' must have at most {MAX_PROMPTS} prompts.")
    return number


def _other_models(models: msgspec.Raw | None) -> tuple[str, ...]:
    """The models that a server may take instead, as OpenRouter has clients list them."""
    if models is None or not _given(models):
        return ()
    small = len(memoryview(models)) <= MAX_MODELS_SIZE
    names = read_json(_MODELS, memoryview(models)) if small else None
    if names is None or not all(0 < len(name) <= MAX_MODEL_LENGTH for name in names):
        raise refusal("'models' must be a list of names of models.")
    return tuple(dict.fromkeys(names))


def _refuse_what_is_kept(members: Mapping[str, msgspec.Raw]) -> None:
    """Raises OpusLiveError (invalid_request) for a request that goes beyond itself."""
    for name in ("previous_response_id", "conversation"):
        if _given(members.get(name)):
            raise refusal(f"{name!r} is not offered: {_OTHERS_ANSWERS}")
    if read_flag("background", members.get("background")):
        raise refusal(
            "'background' is not offered: what runs after its answer can't be counted; "
            "leave it out, or set it to false."
        )
    value = members.get("input")
    if value is None or not _begins(value, b"["):
        return
    items = read_objects(value)
    if items is None:
        raise refusal("'input' must be a text or a list of objects.")
    for item in items:
        if _is_reference(item):
            raise refusal(f"'item_reference' is not offered: {_OTHERS_ANSWERS}")


def _is_reference(item: Sequence[tuple[str, msgspec.Raw]]) -> bool:
    """Whether an item of the input stands for one that the provider has: that is also one with an
    id and neither a type nor a role. Readers differ in which of two types they take."""
    types, names = [], set()
    for name, value in item:
        folded = name.casefold()
        if _given(value):
            names.add(folded)
            if folded == "type":
                types.append(read_json(_TYPE, memoryview(value)))
    return "item_reference" in types or not names & {"type", "role"}
