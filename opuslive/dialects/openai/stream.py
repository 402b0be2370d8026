"""Usage in OpenAI's event streams.

Theory of operation
-------------------

*A stream of completions* is chunks without a name, then ``[DONE]``. Usage stands in the member
``usage`` of a chunk: at OpenAI in one more chunk at the end, without choices, if the request asked
for it. Where only the gateway asked, that chunk is dropped, and the member ``"usage":null`` that
all others then have is cut out of them. An ``error`` among the members ends the stream, too.

*A stream of a response* is events with names, which their data repeat as ``type``: clients go by
the type. Usage stands in ``response.usage`` of the one that ends it: ``response.completed``,
``response.incomplete`` or ``response.failed``. That event has no bound but ours, for it repeats the
request: see ``events``.

Everything else is content, written by a model that a holder can make write anything. It stays
content because of how it is framed: inside a JSON string there is no raw line end and no bare
quote, so it can't begin a line, an event or a member. A member counts at its place alone.
Searching for words merely saves parsing where no answer to that question is possible.

*A stream cut short* is estimated: what was told last, and the text that passed since (``written``).
So is one whose end told nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from opuslive.dialects import RequestMembers
from opuslive.dialects.body import member_span
from opuslive.dialects.documents import members, read_json, read_string
from opuslive.dialects.openai.events import EventGate, begins_as_last
from opuslive.dialects.openai.reported import ReportedUsage
from opuslive.dialects.openai.written import (
    BYTES_PER_TOKEN,
    PLAIN_STARTS,
    bytes_in_delta,
    bytes_written,
)
from opuslive.dialects.sse import HEAD, Overlong, parse_event
from opuslive.errors import OpusLiveError
from opuslive.usage import ModelTokens, TokenCounts

_DONE = b"[DONE]"
#: What an ``error`` is where there is none.
_NONE = (b"null", b"false", b"{}", b'""')
#: One of these is in each event that tells or ends something; a response's last event, whose type
#: may stand anywhere, is of one of three kinds.
_WORDS = (b"usage", b"error", _DONE, b"completed", b"incomplete", b"failed")
_LINE_ENDS = b"\r\n"
# In JSON text a quote has a backslash before it, so no content can imitate these.
_FINISHED = re.compile(rb'"finish_reason": ?"')
_DONE_TYPE = re.compile(rb'(?<!\\)"type" ?: ?"response\.[a-z_.]+\.done"')
_REASONING = re.compile(rb'(?<!\\)"type" ?: ?"reasoning"')
_LAST_TYPES = ("response.completed", "response.incomplete", "response.failed")
_USAGE = b'"usage"'
#: What chunks end with where usage was asked for; the group in it stays. The brace at the end is
#: that of the whole chunk, so the member is at the top level.
_NULL_END = re.compile(rb', ?"usage": ?null((?:, ?"obfuscation": ?"[^"\\]*+")?\}\n\n)\Z')
#: Bytes of the comma before a member, at most.
_COMMA_SIZE = 2
#: The name of a member behind which its value begins, with the comma before it.
_USAGE_NAME = re.compile(rb'(,?)[ \t\r\n]*"usage"[ \t\r\n]*:[ \t\r\n]*\Z')
#: Bytes in which such a name is looked for.
_NAME_SIZE = 100
_COMMA = re.compile(rb"[ \t\r\n]*,")
#: Codes and types of errors that are the fault of a request, as JSON. Whoever sends such requests
#: must not make the provider look as if it failed.
_REQUEST_FAULT = re.compile(
    rb'"?4(?!01|02|03|29)[0-9]{2}"?'
    rb'|"(?:invalid_(?!api_key)|image_|unsupported_|empty_image|failed_to_download_image'
    rb'|context_length_exceeded|content_filter|BadRequest)[A-Za-z_]*"'
)


class _Response(msgspec.Struct, gc=False):
    usage: msgspec.Raw = msgspec.Raw(b"null")
    error: msgspec.Raw = msgspec.Raw(b"null")


class _LastEvent(msgspec.Struct, gc=False):
    type: str
    response: _Response


#: Reads the end of a response without a copy of all that it repeats.
_LAST_EVENT = msgspec.json.Decoder(_LastEvent)


class StreamMeter:
    """Reads the usage of a stream of events while it passes. A ``Meter``."""

    __slots__ = (
        "_events",
        "_members",
        "_reasoned",
        "_relayed",
        "_usage",
        "ends_soon",
        "failed",
        "model",
    )

    def __init__(self, request: RequestMembers) -> None:
        #: Whether the provider gave up half-way.
        self.failed = False
        self.model: str | None = None
        #: Whether the answer may come to its end at any moment: a completion has said why it
        #: finished, or a part of a response is done and no other has begun.
        self.ends_soon = False
        #: Whether the answer has reasoning, which is charged for in full and shown in part.
        self._reasoned = False
        self._members = request
        self._events = EventGate()
        self._usage = ReportedUsage()
        #: Bytes of text since usage was told last.
        self._relayed = 0

    @property
    def finished(self) -> bool:
        return self._events.finished

    @property
    def held(self) -> int:
        return self._events.held

    def feed(self, chunk: bytes) -> bytes:
        # One whole event that neither tells nor ends anything.
        if (
            self._events.idle
            and chunk.startswith(PLAIN_STARTS)
            and chunk.endswith(b"\n\n")
            and chunk.count(b"\n") == (2 if chunk[0] == 100 else 3)  # "data" or "event"
            and b"\r" not in chunk
            and b'"error"' not in chunk
            and _FINISHED.search(chunk) is None
        ):
            if _USAGE not in chunk:
                self.ends_soon = False
                self._relayed += bytes_in_delta(chunk, len(chunk))
                return chunk
            end = _NULL_END.search(chunk, chunk.rfind(_USAGE) - _COMMA_SIZE)
            if end is not None:
                self.ends_soon = False
                self._relayed += bytes_in_delta(chunk, len(chunk))
                return chunk[: end.start()] + end[1] if self._members.adds_usage else chunk
        return self._events.feed(chunk, self._read)

    def end(self) -> bool:
        return self._events.finished

    def release(self) -> bytes:
        return self._events.release()

    @property
    def input_told(self) -> bool:
        return self._usage.tells_input

    @property
    def output_told(self) -> bool:
        return (
            self._events.finished
            and not self.failed
            and self._usage.tells_output
            and not self._relayed
        )

    @property
    def unseen_output(self) -> bool:
        return self._reasoned and not self.failed and not self.output_told

    def counts(self) -> TokenCounts:
        since = 0
        if not self.output_told:
            relayed = self._relayed + bytes_written(*self._events.unfinished)
            since = relayed // BYTES_PER_TOKEN
        return self._usage.counts(output=self._usage.output + since)

    def parts(self) -> Sequence[ModelTokens]:
        return ()

    def _read(self, event: bytes, overlong: Overlong | None) -> bytes | None:
        """Count one event; return what may go on of it, or None if it is the last."""
        if overlong is not None:
            self._relayed += bytes_written(overlong.head, overlong.length)
            return None if begins_as_last(overlong.head) else event
        if begins_as_last(event[:HEAD]):
            return self._read_last(event)
        written = bytes_written(event, len(event))
        self._relayed += written
        if _FINISHED.search(event) or _DONE_TYPE.search(event, 0, HEAD):
            self.ends_soon = True
        elif written:
            self.ends_soon = False
        self._reasoned = self._reasoned or _REASONING.search(event) is not None
        if not any(word in event for word in _WORDS):
            return event
        name, data = parse_event(event.strip(_LINE_ENDS))
        if data is not None and data.strip() == _DONE:
            return None
        return self._read_members(event, name, data or b"")

    def _read_members(self, event: bytes, name: str, data: bytes) -> bytes | None:
        found = members(data, "type", "response", "error", "usage", "choices", "model")
        types = [read_string(value) for member, value in found if member == "type"]
        kind = types[-1] if types else None
        if kind is not None and kind.startswith("response."):
            if kind not in _LAST_TYPES:
                return event
            for member, value in found:
                if member == "response":
                    self._end(kind, value)
            return None
        errors = [value for member, value in found if member == "error" and value not in _NONE]
        if errors or "error" in (name, kind):
            self.failed = not any(map(_blames_request, errors or [data]))
            return None
        usage = [value for member, value in found if member == "usage" and value != b"null"]
        for value in usage:
            if self._usage.update(value):
                self._relayed = 0
        self._note_model([value for member, value in found if member == "model"])
        if not self._members.adds_usage:
            return event
        if not usage:
            return _without_usage(event, data) if _USAGE in event else event
        empty = any(member == "choices" and value[1:-1].strip() == b"" for member, value in found)
        return b"" if empty else event

    def _read_last(self, event: bytes) -> bytes | None:
        """Read the end of a response. It may be large, so no more of it is copied than needed."""
        start = event.find(b"data:") + len(b"data:")
        data = memoryview(event)[start:]
        last = read_json(_LAST_EVENT, data)
        if last is None:
            # It has several lines of data, or half a character in a text, or no response.
            name, joined = parse_event(event.strip(_LINE_ENDS))
            return self._read_members(event, name, joined or b"")
        if last.type not in _LAST_TYPES:
            return event
        told = last.response
        self._end(last.type, b'{"usage":%b,"error":%b}' % (bytes(told.usage), bytes(told.error)))
        return None

    def _end(self, kind: str, response: bytes) -> None:
        """The response ended; what counts of it stands in this object."""
        self.failed = kind == "response.failed"
        for member, value in members(response, "usage", "error"):
            if member == "usage" and self._usage.update(value):
                self._relayed = 0
            elif member == "error" and _blames_request(value):
                self.failed = False

    def _note_model(self, names: Sequence[bytes]) -> None:
        """Another model may have answered, if the request named others."""
        for value in names if self._members.other_models else ():
            name = read_string(value)
            if name in self._members.other_models and name != self._members.model:
                self.model = name


def _blames_request(error: bytes) -> bool:
    """Whether an error says that the request was wrong."""
    return any(_REQUEST_FAULT.fullmatch(value) for _, value in members(error, "code", "type"))


def _without_usage(event: bytes, data: bytes) -> bytes:
    """The event without the member ``usage``, which is null, if its data have it."""
    begin = event.find(data)
    try:
        span = member_span(data, "usage")
    except OpusLiveError:
        return event
    if span is None or begin < 0:
        return event
    start, end = span
    name = _USAGE_NAME.search(data, max(0, start - _NAME_SIZE), start)
    if name is None:
        return event
    comma = None if name[1] else _COMMA.match(data, end)
    end = end if comma is None else comma.end()
    return event[: begin + name.start()] + event[begin + end :]
