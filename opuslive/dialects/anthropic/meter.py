"""Usage in Anthropic's answers: the meter of a stream and of a body.

Theory of operation
-------------------

*A stream* tells its usage in two places only. ``message_start`` carries
``message.usage``: the input, exact, and a floor of the output. Each ``message_delta``
carries a ``usage`` of its own: cumulative, so what it names replaces what was known and
what it leaves out (or null) stays. ``message_stop`` ends the stream; so does ``error``, where
the provider gave up after having answered 200.

Everything else is content, written by a model that a holder can make write anything:
also ``"usage"``, also the name of an event. It stays content because of how it is
framed: inside a JSON string there is no raw line end and no bare quote, so it can't begin a
line, an event or a member. The meter therefore trusts structure alone. It looks at an
event only if the event's name and the ``type`` of its data agree (or there is no name), and
within it at ``message.usage`` or ``usage``, found by a JSON parser at their place.
Searching for words merely saves parsing where no answer to that question is possible.

*Speed.* Nearly all chunks are one small ``content_block_delta``. Its two lines are
recognised by their beginning and their number, and cost no parsing and no copy.

*A stream cut short* never told its output. Then it is estimated from the deltas
that passed: their bytes without what frames them, at ``BYTES_PER_TOKEN``. What was reported
by then is a floor of it. The same goes for a stream whose end told no output.

*A body* (not streamed) tells its usage in the top-level ``usage``.

Prompt caching: ``cache_creation`` divides the tokens written to the cache by lifetime,
``cache_creation_input_tokens`` is their sum. What the sum has beyond the division, or without
one, was written for five minutes, the default. ``iterations`` of type "compaction" are not in
the sums and come on top.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, TypeGuard

import msgspec

from opuslive.dialects.sse import HEAD, EventStreamReader, parse_event
from opuslive.usage import TokenCounts

#: Bytes of answer that make one token, roughly: English has 4 to 4.5, code 3, Chinese 3 to 4.
BYTES_PER_TOKEN = 4
#: Bytes of a JSON answer that is kept to be read, at most; 128,000 tokens of output are 0.5 MB.
MAX_BODY = 16 << 20
#: Tokens: what a count is cut to; the largest integer that JSON readers agree on.
MAX_COUNT = 2**53

_DELTA = b"content_block_delta"
_DELTA_START = b"event: content_block_delta\ndata: {"
_DELTA_KIND = b'"delta":{"type":"'
#: Bytes of a text delta without its text: the provider's framing, as it stands on the wire.
_DELTA_FRAMING = len(
    b"event: content_block_delta\n"
    b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":""}}'
)
_KIND_SIZE = len(_DELTA_KIND) + 2
#: Where a delta tells its kind, up to the first two letters of it, if its index has one digit.
_KIND_END = len(_DELTA_START + b'"type":"content_block_delta","index":0,') + _KIND_SIZE
#: The framing by kind: longer names, longer framing. Deltas are short, a few tokens each, so that
#: is no trifle. Unknown kinds are taken for text.
_FRAMING_OF_KIND: Mapping[bytes, int] = MappingProxyType(
    {
        _DELTA_KIND + b"te": _DELTA_FRAMING,
        _DELTA_KIND + b"th": _DELTA_FRAMING + len("thinkingthinking") - len("texttext"),
        _DELTA_KIND + b"in": _DELTA_FRAMING + len("input_jsonpartial_json") - len("texttext"),
    }
)
#: Bytes of a JSON answer without its text.
_BODY_FRAMING = 400


class _Event(msgspec.Struct):
    type: Any = None
    message: Any = None
    usage: Any = None


class _Answer(msgspec.Struct):
    usage: Any = None


_EVENT = msgspec.json.Decoder(_Event)
_ANSWER = msgspec.json.Decoder(_Answer)
# ValueError covers strings that are not UTF-8 and integers with too many digits.
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)


class _Usage:
    """The usage as last reported; values that can't be counts are as good as missing."""

    __slots__ = ("_compaction", "_known", "final")

    _FIELDS: ClassVar[tuple[str, ...]] = (
        "input_tokens",
        "output_tokens",
        "cache_read_input_tokens",
        "cache_creation_input_tokens",
    )
    _LIFETIMES: ClassVar[tuple[str, ...]] = (
        "ephemeral_5m_input_tokens",
        "ephemeral_1h_input_tokens",
    )

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        self._compaction: list[TokenCounts] = []
        self.final = False  # whether the output reported is the last word, not a floor

    def update(self, usage: object, *, final: bool) -> None:
        """Take over what ``usage``, a value out of JSON, names; ``final`` if it ends the answer."""
        if not isinstance(usage, dict):
            return
        self._take(usage, self._FIELDS)
        self._take(usage.get("cache_creation"), self._LIFETIMES)
        self.final |= final and _is_count(usage.get("output_tokens"))
        iterations = usage.get("iterations")
        if isinstance(iterations, list):
            self._compaction = [
                _compaction_counts(entry)
                for entry in iterations
                if isinstance(entry, dict) and entry.get("type") == "compaction"
            ]

    def counts(self, *, output_floor: int = 0) -> TokenCounts:
        """The counts in tokens; the answer's own output is at least ``output_floor``."""
        known = self._known.get
        hour = known("ephemeral_1h_input_tokens", 0)
        minutes = known("ephemeral_5m_input_tokens", 0)
        undivided = max(0, known("cache_creation_input_tokens", 0) - minutes - hour)
        total = [
            known("input_tokens", 0),
            max(known("output_tokens", 0), output_floor),
            known("cache_read_input_tokens", 0),
            minutes + undivided,
            hour,
        ]
        for extra in self._compaction:
            total[0] += extra.input
            total[1] += extra.output
            total[2] += extra.cache_read
            total[3] += extra.cache_write_5m
            total[4] += extra.cache_write_1h
        return TokenCounts(*(min(count, MAX_COUNT) for count in total))

    def _take(self, source: object, fields: tuple[str, ...]) -> None:
        if isinstance(source, dict):
            for field in fields:
                value = source.get(field)
                if _is_count(value):
                    self._known[field] = min(value, MAX_COUNT)


def _compaction_counts(entry: dict[str, Any]) -> TokenCounts:
    usage = _Usage()
    usage.update({**entry, "iterations": None}, final=True)
    return usage.counts()


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and value >= 0


class StreamMeter(EventStreamReader):
    """Reads the usage of a stream of events while it passes. A ``Meter``."""

    SUSPECTS = (b"message_stop", b"error")

    __slots__ = ("_failed", "_relayed", "_usage")

    def __init__(self) -> None:
        super().__init__()
        self._usage = _Usage()
        self._relayed = 0  # bytes of deltas, without their framing
        self._failed = False

    @property
    def failed(self) -> bool:
        return self._failed

    def feed(self, chunk: bytes) -> int:
        # One whole delta and nothing else: two lines and a blank one, none of which is held.
        if (
            chunk.startswith(_DELTA_START)
            and chunk.count(b"\n") == 3
            and chunk.endswith(b"\n\n")
            and not (self._pending or self._tolerant or self._finished)
            and b"\r" not in chunk
        ):
            size = len(chunk)
            framing = _FRAMING_OF_KIND.get(chunk[_KIND_END - _KIND_SIZE : _KIND_END])
            if framing is None:
                self._relayed += _delta_text(chunk[:HEAD], size - 2)
            elif size > framing + 2:
                self._relayed += size - framing - 2
            return size
        return super().feed(chunk)

    def end(self) -> bool:
        return self._finished

    def counts(self) -> TokenCounts:
        if self._finished and not self._failed and self._usage.final:
            return self._usage.counts()
        relayed = self._relayed + _delta_text(*self.unfinished_event())
        return self._usage.counts(output_floor=relayed // BYTES_PER_TOKEN)

    def _on_event(self, data: bytes | bytearray, start: int, end: int) -> bool:
        self._relayed += _delta_text(data[start : min(end, start + HEAD)], end - start)
        if (
            data.startswith(_DELTA_START, start)
            and data.count(b"\n", start, end) == 1
            and not self._tolerant
        ):
            return False
        # The provider never writes these names with escapes; content, which may, never counts.
        if data.find(b"message_", start, end) < 0 and data.find(b"error", start, end) < 0:
            return False
        name, text = parse_event(bytes(data[start:end]))
        return self._on_message(name, text or b"")

    def _on_overlong_event(self, head: bytes, length: int) -> None:
        self._relayed += _delta_text(head, length)

    def _on_message(self, name: str, text: bytes) -> bool:
        """One event that may count; returns whether it is terminal."""
        try:
            event = _EVENT.decode(text)
        except _UNREADABLE:
            event = _Event()
        kind = event.type
        if kind is None and name == "error":
            # Clients take an event of this name for an error, whatever its data are.
            kind = name
        if not isinstance(kind, str) or name not in ("", kind):
            return False
        if kind == "message_start" and isinstance(event.message, dict):
            self._usage.update(event.message.get("usage"), final=False)
        elif kind == "message_delta":
            self._usage.update(event.usage, final=True)
        elif kind == "error":
            self._failed = True
        return kind in ("message_stop", "error")


def _delta_text(head: bytes | bytearray, length: int) -> int:
    """Bytes of text in an event of ``length`` bytes; 0 if it is no delta, by its beginning."""
    if _DELTA not in head:
        return 0
    start = max(0, head.find(_DELTA_KIND))
    kind = bytes(head[start : start + _KIND_SIZE])
    return max(0, length - _FRAMING_OF_KIND.get(kind, _DELTA_FRAMING))


class BodyMeter:
    """Reads the usage of an answer in one piece. A ``Meter``."""

    __slots__ = ("_body", "_finished", "_size", "_usage")

    def __init__(self) -> None:
        self._body = bytearray()
        self._size = 0  # bytes seen; more than are kept if the body is over MAX_BODY
        self._finished = False
        self._usage = _Usage()

    @property
    def finished(self) -> bool:
        return self._finished

    @property
    def failed(self) -> bool:
        return False

    def feed(self, chunk: bytes) -> int:
        self._size += len(chunk)
        if self._size <= MAX_BODY:
            self._body += chunk
        else:
            self._body.clear()
        return len(chunk)

    def end(self) -> bool:
        if not self._finished:
            self._finished = True
            with contextlib.suppress(*_UNREADABLE):
                self._usage.update(_ANSWER.decode(self._body).usage, final=True)
            self._body.clear()
        return True

    def counts(self) -> TokenCounts:
        """Estimated from the size while the body is not whole, or if it was too long to keep."""
        if self._finished and self._size <= MAX_BODY:
            return self._usage.counts()
        return TokenCounts(output=max(0, self._size - _BODY_FRAMING) // BYTES_PER_TOKEN)
