"""Reading and changing request bodies without taking them apart.

A body may be 30 MB in an anonymous mmap, and must go upstream byte for byte; so it is
never decoded into objects. One pass of msgspec checks that it is JSON and cuts it into
its top-level members, each value a view of the body (``msgspec.Raw``).

A JSON object may name a member twice, and readers differ in which one they take: a
body with two models could be billed as one and answered by the other. An ordinary
dict would hide that (the last one wins), and a search in the bytes would be fooled by
escapes (``"m\\u006fdel"``) or by text that looks like a member. Here every name
becomes a key that equals nothing but itself, so that the decoder, which alone knows what
is a name at the top level, hands over each of them, in order, repeated or not.

Hostile bodies cost what large ones do: the number and the length of top-level names are
bounded, nested values are skipped in C, and too deep a nesting is refused.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from typing import cast

import msgspec

from opuslive.dialects import Buffer, NamedModels, RequestMembers, Surcharges
from opuslive.errors import Code, OpusLiveError

#: Characters of a model name, at most. The longest known ones, paths of local models, have 120.
MAX_MODEL_LENGTH = 256
#: Tokens, exclusive: far above any model's, and what fits a signed 32-bit number.
MAX_TOKENS_BOUND = 2**31
#: Members at the top level of a body, at most. The largest request types have about 40.
MAX_MEMBERS = 1000
#: Objects in a list that is read object by object, and members of them all, at most. A
#: conversation that fills a context of 1,000,000 tokens has fewer.
MAX_OBJECTS = 100_000
MAX_OBJECT_MEMBERS = 300_000
#: Bytes up to which a body can't have many more objects than that.
_FEW_OBJECTS = 3 * MAX_OBJECTS
#: Characters of the name of a top-level member, at most.
MAX_NAME_LENGTH = 256

#: Members that decide what a request costs or how its usage is told.
DECISIVE = frozenset({"model", "max_tokens", "stream", "stream_options"})
#: Bytes: UTF-8 is checked in slices of this size, so that no second body is in memory.
_SLICE = 65536
#: Bytes of the JSON of the largest ``max_tokens``.
_INTEGER_LENGTH = 10

_MODEL = msgspec.json.Decoder(str)
_BRACE = re.compile(rb"\{")
_OPENING = re.compile(rb"[ \t\r\n]*\{")
# Bounded by MAX_NAME_LENGTH, hence the plain alternation.
_NAME = re.compile(rb'[ \t\r\n]*"(?:[^"\\]|\\.)*"[ \t\r\n]*:[ \t\r\n]*', re.DOTALL)
_SEPARATOR = re.compile(rb"[ \t\r\n]*[,}]")


class _Name:
    """Stands for a name at the top level; compared by identity, so that no two are merged."""

    __slots__ = ()


_MEMBERS = dict[_Name, msgspec.Raw]


class _NameReader:
    """The decoder's hook: makes the keys, and refuses too many or too long ones at once."""

    __slots__ = ("_most", "names")

    def __init__(self, most: int = MAX_MEMBERS) -> None:
        self._most = most
        #: The names in order, for the keys.
        self.names: list[str] = []

    def __call__(self, _type: type, text: str) -> _Name:
        self.names.append(text)
        if len(self.names) > self._most:
            raise refusal(f"The request body has more than {self._most} members.")
        if len(text) > MAX_NAME_LENGTH:
            raise refusal(
                f"The request body has a member name of more than {MAX_NAME_LENGTH} characters."
            )
        return _Name()


def _no_models(_: Sequence[tuple[str, msgspec.Raw]]) -> NamedModels:
    return NamedModels()


def _no_surcharges(_: Sequence[tuple[str, msgspec.Raw]], _models: NamedModels) -> Surcharges:
    return Surcharges()


def read_members(
    body: Buffer,
    *,
    models_elsewhere: Callable[[Sequence[tuple[str, msgspec.Raw]]], NamedModels] = _no_models,
    surcharges: Callable[
        [Sequence[tuple[str, msgspec.Raw]], NamedModels], Surcharges
    ] = _no_surcharges,
) -> RequestMembers:
    """Read the members that the gateway acts on.

    ``models_elsewhere`` finds the models that are named beside ``model``, in the top-level members:
    names and values, in order, repeated ones too. ``surcharges`` finds what is asked for beside
    tokens, in the same members and in what was found by then.

    Raises OpusLiveError (invalid_request) for a body that is not a JSON object in UTF-8, has
    no usable model, has an impossible value in one of these members, or has one of them
    twice. No message repeats anything of the body.
    """
    top_level = read_top_level(body)
    members = once(top_level, DECISIVE)
    model = read_model(members.get("model"))
    stream = read_flag("stream", members.get("stream"))
    others = models_elsewhere(top_level)
    max_tokens = read_token_bound("max_tokens", members.get("max_tokens"))
    if max_tokens is not None:
        max_tokens = max(max_tokens, others.max_tokens or 0)
    more = surcharges(top_level, others)
    return RequestMembers(
        model, max_tokens, stream, others.names, others.any, more.unpriced, more.unseen_input
    )


def read_top_level(body: Buffer) -> Sequence[tuple[str, msgspec.Raw]]:
    """The names, unescaped, and the values, as views of the body, of all members in order.

    Raises OpusLiveError (invalid_request) for a body that is not a JSON object in UTF-8.
    """
    _require_utf8(body)
    return _top_level(body)


def read_objects(value: msgspec.Raw) -> Sequence[Sequence[tuple[str, msgspec.Raw]]] | None:
    """The members of each object in a list, as ``read_top_level`` gives them; None for a value that
    is no list of objects.

    Raises OpusLiveError (invalid_request) for more than ``MAX_OBJECTS`` objects, nested ones
    and brackets in texts included, or ``MAX_OBJECT_MEMBERS`` members.
    """
    view = memoryview(value)
    if sum(1 for _ in islice(_BRACE.finditer(view), MAX_OBJECTS + 1)) > MAX_OBJECTS:
        raise refusal(f"The request body has more than {MAX_OBJECTS} objects in a list.")
    reader = _NameReader(MAX_OBJECT_MEMBERS)
    try:
        objects = msgspec.json.decode(view, type=list[_MEMBERS], dec_hook=reader)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    names = iter(reader.names)
    return [list(zip(islice(names, len(each)), each.values(), strict=True)) for each in objects]


def has_many_objects(body: Buffer) -> bool:
    """Whether a body has more than ``MAX_OBJECTS`` opening brackets, so that it would cost much to
    read it object by object."""
    if len(body) <= _FEW_OBJECTS:
        return False
    data = _searchable(body)
    position = -1
    for _ in range(MAX_OBJECTS + 1):
        position = data.find(b"{", position + 1)
        if position < 0:
            return False
    return True


def mentions(body: Buffer, text: bytes) -> bool:
    """Whether these bytes stand anywhere in a body."""
    return _searchable(body).find(text) >= 0


def _searchable(body: Buffer) -> bytes | bytearray:
    """The body with a ``find``. A memoryview has none, but what it shows, bytes or an mmap, has: it
    is copied only if it shows a part of that."""
    if not isinstance(body, memoryview):
        return body
    whole = cast(bytes, body.obj)
    return whole if len(whole) == len(body) else bytes(body)


def once(
    top_level: Sequence[tuple[str, msgspec.Raw]], names: Collection[str]
) -> dict[str, msgspec.Raw]:
    """The members among ``names``, under their names as they are written.

    Raises OpusLiveError (invalid_request) if one of them stands twice, in any spelling.
    """
    members: dict[str, msgspec.Raw] = {}
    seen: list[str] = []
    for name, value in top_level:
        # Some providers' JSON readers ignore case, so a name in capitals is a repetition, too.
        folded = name.casefold()
        if folded in names:
            if folded in seen:
                raise repeated(folded)
            seen.append(folded)
            members[name] = value
    return members


def member_span(body: Buffer, name: str) -> tuple[int, int] | None:
    """The byte offsets ``(start, end)`` of the value of a top-level member; None if it has none.

    Of a repeated member, the first one. Raises OpusLiveError (invalid_request) as
    ``read_members`` does for a body that is not a JSON object.
    """
    return next((span[1:] for span in _member_spans(body) if span[0] == name), None)


def first_member(body: Buffer) -> int:
    """The byte offset behind the brace that opens the object."""
    opening = _OPENING.match(body)
    assert opening is not None
    return opening.end()


def _member_spans(body: Buffer) -> Iterator[tuple[str, int, int]]:
    """The name of each top-level member, and the byte offsets of its value."""
    members = _top_level(body)
    position = first_member(body)
    for found, value in members:
        # The decoder accepted the body, so a name follows here, then its value.
        head = _NAME.match(body, position)
        assert head is not None
        start = head.end()
        end = start + len(memoryview(value))
        yield found, start, end
        separator = _SEPARATOR.match(body, end)
        assert separator is not None
        position = separator.end()


def replace_model(body: Buffer, model: str) -> list[Buffer]:
    """The body with another model name, as views to send one after the other; no copy.

    Only the bytes of the name differ. Raises OpusLiveError (invalid_request) if there is none.
    """
    span = member_span(body, "model")
    if span is None:
        raise _no_model()
    start, end = span
    view = memoryview(body)
    return [view[:start], msgspec.json.encode(model), view[end:]]


def refusal(message: str) -> OpusLiveError:
    """The error for a body that can't be used; the message repeats nothing of it."""
    return OpusLiveError(Code.INVALID_REQUEST, message)


def repeated(name: str) -> OpusLiveError:
    """The error for a member that stands twice where readers may differ in which one they take."""
    return refusal(f"The member {name!r} stands twice in the request body; send it once.")


def _no_model() -> OpusLiveError:
    return refusal("The request body must name a model: a non-empty string in its member 'model'.")


def _require_utf8(body: Buffer) -> None:
    """msgspec does not look at the bytes of strings that it skips; JSON has to be UTF-8."""
    view = memoryview(body)
    position, size = 0, len(view)
    try:
        while position < size:
            piece = bytes(view[position : position + _SLICE])
            if piece.isascii():
                position += len(piece)
            else:
                last = position + len(piece) == size
                # A character cut at the end of a slice is left for the next one.
                position += codecs.utf_8_decode(piece, "strict", last)[1]
    except UnicodeDecodeError:
        raise refusal("The request body must be JSON encoded as UTF-8.") from None


def _top_level(body: Buffer) -> list[tuple[str, msgspec.Raw]]:
    """Every member at the top level in order; names unescaped, values as views of the body."""
    reader = _NameReader()
    try:
        members = msgspec.json.decode(body, type=_MEMBERS, dec_hook=reader)
    except msgspec.ValidationError:
        raise refusal("The request body must be a JSON object.") from None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise refusal(_not_json(body)) from None
    except RecursionError:
        raise refusal("The request body is nested too deeply.") from None
    return list(zip(reader.names, members.values(), strict=True))


def _not_json(body: Buffer) -> str:
    if len(body) == 0:
        return "The request body is empty; a JSON object is needed."
    if bytes(body[:3]) == codecs.BOM_UTF8:
        return "The request body begins with a byte order mark; send the JSON without it."
    return "The request body is not valid JSON."


def read_model(value: msgspec.Raw | None) -> str:
    """The model's name. Raises OpusLiveError (invalid_request) if it is none."""
    if value is None:
        raise _no_model()
    # The longest spelling of a character are two escapes of six bytes each.
    if len(memoryview(value)) > 12 * MAX_MODEL_LENGTH + 2:
        raise refusal(f"The model name must have at most {MAX_MODEL_LENGTH} characters.")
    try:
        model = _MODEL.decode(value)
    except msgspec.ValidationError:
        raise _no_model() from None
    if not model:
        raise _no_model()
    if len(model) > MAX_MODEL_LENGTH:
        raise refusal(f"The model name must have at most {MAX_MODEL_LENGTH} characters.")
    return model


def read_token_bound(
    name: str, value: msgspec.Raw | None, *, null_allowed: bool = False
) -> int | None:
    """A number from 0 on; None if none is given. Raises OpusLiveError (invalid_request)."""
    if value is None:
        return None
    text = bytes(memoryview(value)[: _INTEGER_LENGTH + 1])
    if null_allowed and text == b"null":
        return None
    # JSON has no leading zeros or plus sign: digits alone are a non-negative integer.
    if not text.isdigit() or int(text) >= MAX_TOKENS_BOUND:
        raise refusal(f"{name!r} must be an integer from 0 on, below {MAX_TOKENS_BOUND}.")
    return int(text)


def read_flag(name: str, value: msgspec.Raw | None) -> bool:
    """Whether it is true; null is false. Raises OpusLiveError (invalid_request) for the rest."""
    text = b"null" if value is None else bytes(memoryview(value)[:6])
    if text == b"true":
        return True
    if text in (b"false", b"null"):
        return False
    raise refusal(f"{name!r} must be true or false.")
