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

*What waits.* The event that ends the stream is held with all that follows it (``EventFilter``).
A body is not held here: the relay holds the end of a body whose length is known.

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

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, TypeGuard

import msgspec

from opuslive.dialects.documents import read_json
from opuslive.dialects.holding import EventFilter, Verdict
from opuslive.dialects.sse import HEAD, Event, Overlong, parse_event
from opuslive.usage import ModelTokens, TokenCounts

#: Bytes of answer that make one token, roughly: English has 4 to 4.5, code 3, Chinese 3 to 4.
BYTES_PER_TOKEN = 4
#: Bytes of a JSON answer that is kept to be read, at most; 128,000 tokens of output are 0.5 MB.
MAX_BODY = 16 << 20
#: Tokens: what a count is cut to; the largest integer that JSON readers agree on.
MAX_COUNT = 2**53

#: Each event that ends a stream contains one of these.
_SUSPECTS = (b"message_stop", b"error")
# A member that is looked up in its class costs as much as a call does.
_PASS, _LAST = Verdict.PASS, Verdict.LAST
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


class StreamMeter:
    """Reads the usage of a stream of events while it passes. A ``Meter``."""

    __slots__ = ("_events", "_relayed", "_usage", "failed")

    model = None

    def __init__(self) -> None:
        #: Whether the provider gave up half-way: an ``error`` ended the stream.
        self.failed = False
        self._events = EventFilter(_SUSPECTS)
        self._usage = _Usage()
        self._relayed = 0  # bytes of deltas, without their framing

    @property
    def finished(self) -> bool:
        return self._events.finished

    @property
    def held(self) -> int:
        return self._events.held

    def feed(self, chunk: bytes) -> bytes:
        # One whole delta and nothing else: two lines and a blank one, none of which is held.
        if (
            self._events.idle
            and chunk.startswith(_DELTA_START)
            and chunk.count(b"\n") == 3
            and chunk.endswith(b"\n\n")
            and b"\r" not in chunk
        ):
            self._relayed += _text_of_delta(chunk, len(chunk) - 2)
            return chunk
        return self._events.feed(chunk, self._read)

    def end(self) -> bool:
        return self._events.finished

    def release(self) -> bytes:
        return self._events.release()

    def parts(self) -> Sequence[ModelTokens]:
        return ()

    def counts(self) -> TokenCounts:
        if self._events.finished and not self.failed and self._usage.final:
            return self._usage.counts()
        relayed = self._relayed + _text_in(*self._events.unfinished)
        return self._usage.counts(output_floor=relayed // BYTES_PER_TOKEN)

    def _read(self, event: Event) -> Verdict:
        """Count one whole event."""
        if isinstance(event, Overlong):
            # It counts as text at most.
            self._relayed += _text_in(event.head, event.length)
            return _PASS
        if event.startswith(_DELTA_START) and event.count(b"\n") == 1 and b"\r" not in event:
            self._relayed += _text_of_delta(event, len(event))
            return _PASS
        self._relayed += _text_in(event[:HEAD], len(event))
        # The provider never writes these names with escapes; content, which may, never counts.
        if b"message_" not in event and b"error" not in event:
            return _PASS
        name, data = parse_event(event)
        return self._read_message(name, read_json(_EVENT, data or b"") or _Event())

    def _read_message(self, name: str, event: _Event) -> Verdict:
        """Count an event that may tell usage or end the stream; ``name`` is from its framing."""
        kind = event.type
        if kind is None and name == "error":
            # Clients take an event of this name for an error, whatever its data are.
            kind = name
        if not isinstance(kind, str) or name not in ("", kind):
            return _PASS
        if kind == "message_start" and isinstance(event.message, dict):
            self._usage.update(event.message.get("usage"), final=False)
        elif kind == "message_delta":
            self._usage.update(event.usage, final=True)
        elif kind == "error":
            self.failed = True
        return _LAST if kind in ("message_stop", "error") else _PASS


def _text_of_delta(event: bytes, length: int) -> int:
    """Bytes of text in a delta of ``length`` bytes that begins as the provider writes it."""
    framing = _FRAMING_OF_KIND.get(event[_KIND_END - _KIND_SIZE : _KIND_END])
    if framing is None:
        return _text_in(event[:HEAD], length)
    return length - framing if length > framing else 0


def _text_in(head: bytes, length: int) -> int:
    """Bytes of text in an event of ``length`` bytes; 0 if it is no delta, by its beginning."""
    if _DELTA not in head:
        return 0
    start = max(0, head.find(_DELTA_KIND))
    kind = head[start : start + _KIND_SIZE]
    return max(0, length - _FRAMING_OF_KIND.get(kind, _DELTA_FRAMING))


class BodyMeter:
    """Reads the usage of an answer in one piece. A ``Meter`` that holds nothing."""

    __slots__ = ("_body", "_size", "_usage", "finished")

    failed = False
    held = 0
    model = None

    def __init__(self) -> None:
        #: Whether the body has ended.
        self.finished = False
        self._body = bytearray()
        self._size = 0  # bytes seen; more than are kept if the body is over MAX_BODY
        self._usage = _Usage()

    def feed(self, chunk: bytes) -> bytes:
        self._size += len(chunk)
        if self._size <= MAX_BODY:
            self._body += chunk
        else:
            self._body.clear()
        return chunk

    def end(self) -> bool:
        if not self.finished:
            self.finished = True
            answer = read_json(_ANSWER, self._body)
            if answer is not None:
                self._usage.update(answer.usage, final=True)
            self._body.clear()
        return True

    def release(self) -> bytes:
        return b""

    def parts(self) -> Sequence[ModelTokens]:
        return ()

    def counts(self) -> TokenCounts:
        """Estimated from the size while the body is not whole, or if it was too long to keep."""
        if self.finished and self._size <= MAX_BODY:
            return self._usage.counts()
        return TokenCounts(output=max(0, self._size - _BODY_FRAMING) // BYTES_PER_TOKEN)
