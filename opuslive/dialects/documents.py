"""Reading the JSON of a provider, which may turn out to be anything."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from opuslive.dialects import Buffer

T = TypeVar("T")

# ValueError covers strings that are not UTF-8 and integers with too many digits.
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)


def read_json(decoder: msgspec.json.Decoder[T], document: Buffer) -> T | None:
    """The decoded document; None if it is not JSON, or not of the decoder's type."""
    try:
        return decoder.decode(document)
    except _UNREADABLE:
        return None
