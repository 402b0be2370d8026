"""Usage in Anthropic's answers: the meter of a stream and of a body.

Theory of operation
-------------------

*A stream* tells its usage in two places only. ``message_start`` carries
``message.usage``: the input, exact, and a floor of the output. Each ``message_delta``
carries a ``usage`` of its own, cumulative. ``message_stop`` ends the stream; so does ``error``,
where the provider gave up after having answered 200. What the figures mean: ``reported``.

Everything else is content, written by a model that a holder can make write anything:
also ``"usage"``, also the name of an event. It stays content because of how it is
framed: inside a JSON string there is no raw line end and no bare quote, so it can't begin a
line, an event or a member. The meter therefore trusts structure alone. It looks at an
event only if the event's name and the ``type`` of its data agree (or there is no name), and
within it at ``message.usage`` or ``usage``, found at their place whatever stands beside them.
Searching for words merely saves parsing where no answer to that question is possible.

*Speed.* Nearly all chunks are one small ``content_block_delta``. Its two lines are
recognised by their beginning and their number, and cost no parsing and no copy.

*What waits.* The event that ends the stream is held with all that follows it (``EventFilter``).
A body is not held here: the relay holds the end of a body whose length is known.

*A stream cut short* never told its output. What a ``message_delta`` told last stands, and what
passed after it is estimated: its bytes without what frames them (``relayed``), at
``BYTES_PER_TOKEN``. What ``message_start`` told is a floor of that estimate, for it counts the
beginning of what passes. The same goes for a stream whose end told no output. The results of tools
that ran at the provider are input on top of what ``message_start`` told. Thinking is charged for
in full and shown in part, or not at all: ``unseen_output`` says that there was some.

*Near its end* is a stream between two blocks, for it may be the last that ended; and within a block
that follows what can't be seen, for there a client may know the end before it comes.

*A body* (not streamed) tells its usage in the top-level ``usage``; a body that does not is
estimated by its size. *Which of the two* an answer is, its first bytes say.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from opuslive.dialects import Meter
from opuslive.dialects.anthropic.relayed import (
    BYTES_PER_TOKEN,
    DELTA_START,
    begins_block,
    begins_thinking,
    bytes_in,
    bytes_in_delta,
    ends_block,
    is_result,
)
from opuslive.dialects.anthropic.reported import USAGE_MEMBERS, ReportedUsage
from opuslive.dialects.documents import members, read_string
from opuslive.dialects.holding import EventFilter, Verdict
from opuslive.dialects.scanning import MemberScanner
from opuslive.dialects.sniffing import SniffingMeter
from opuslive.dialects.sse import HEAD, Event, Overlong, parse_event
from opuslive.usage import ModelTokens, TokenCounts

#: Bytes of a JSON answer that are kept to be read, at most: of a longer one only the members that
#: tell its usage are. 128,000 tokens of output are 0.5 MB.
MAX_KEPT = 64 * 1024
#: Bytes of these members. A real usage has 0.5 KB, and some 0.2 KB for each of its iterations.
MAX_TOLD = 256 * 1024

#: Each event that ends a stream contains one of these.
_SUSPECTS = (b"message_stop", b"error")
# A member that is looked up in its class costs as much as a call does.
_PASS, _LAST = Verdict.PASS, Verdict.LAST
#: Bytes of a JSON answer without its text.
_BODY_FRAMING = 400
#: In a body that has it there is thinking, encrypted or not. (In a text the quote is escaped.)
_THINKING = b'thinking"'


class StreamMeter:
    """Reads the usage of a stream of events while it passes. A ``Meter``."""

    __slots__ = (
        "_begun",
        "_events",
        "_in_block",
        "_in_thinking",
        "_relayed",
        "_results",
        "_thought",
        "_usage",
        "failed",
    )

    def __init__(self) -> None:
        #: Whether the provider gave up half-way: an ``error`` ended the stream.
        self.failed = False
        self._events = EventFilter(_SUSPECTS)
        self._usage = ReportedUsage()
        #: Bytes of content, without their framing, since the output was told last: of what the
        #: model wrote, and of the results of tools.
        self._relayed = self._results = 0
        #: Whether there was thinking since then.
        self._thought = False
        #: Whether any block has begun, one has not ended yet, and that is thinking.
        self._begun = self._in_block = self._in_thinking = False

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
            and chunk.startswith(DELTA_START)
            and chunk.count(b"\n") == 3
            and chunk.endswith(b"\n\n")
            and b"\r" not in chunk
        ):
            self._relayed += bytes_in_delta(chunk, len(chunk) - 2)
            return chunk
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
        return self._events.finished and not self.failed and self._usage.tells_output

    @property
    def unseen_output(self) -> bool:
        return self._thought and not self.failed and not self.output_told

    @property
    def ends_soon(self) -> bool:
        if not self._in_block:
            return self._begun
        return not self._in_thinking and (self._thought or self._results > 0)

    @property
    def model(self) -> str | None:
        return self._usage.model

    def counts(self) -> TokenCounts:
        counts = self._usage.counts(output=self._output())
        results = 0 if self.output_told else self._since()[1] // BYTES_PER_TOKEN
        return replace(counts, input=counts.input + results) if results else counts

    def parts(self) -> Sequence[ModelTokens]:
        return self._usage.parts()

    def _output(self) -> int:
        """The output of the answering model in tokens, as told or else estimated."""
        told = self._usage.output
        if self.output_told:
            return told
        since = self._since()[0] // BYTES_PER_TOKEN
        return told + since if self._usage.final else max(told, since)

    def _since(self) -> tuple[int, int]:
        """Bytes since the output was told last: of what the model wrote, and of results."""
        head, length = self._events.unfinished
        written = bytes_in(head, length)
        if is_result(head):
            return self._relayed, self._results + written
        return self._relayed + written, self._results

    def _told(self) -> None:
        """All that passed so far was told."""
        self._relayed = self._results = 0
        self._thought = False

    def _read(self, event: Event) -> Verdict:
        """Count one whole event."""
        if isinstance(event, Overlong):
            # It counts as text at most.
            self._count(event.head, event.length)
            return _PASS
        if event.startswith(DELTA_START) and event.count(b"\n") == 1 and b"\r" not in event:
            self._relayed += bytes_in_delta(event, len(event))
            return _PASS
        self._count(event[:HEAD], len(event))
        # The provider writes these names without escapes; content, which may, never counts.
        if b"message_" not in event and b"error" not in event and b'"fallback"' not in event:
            return _PASS
        name, data = parse_event(event)
        return self._read_message(name, data or b"")

    def _count(self, head: bytes, length: int) -> None:
        """Count what an event holds, by its beginning."""
        written = bytes_in(head, length)
        if is_result(head):
            self._results += written
        else:
            self._relayed += written
        if begins_block(head):
            self._begun = self._in_block = True
            self._in_thinking = begins_thinking(head)
            self._thought |= self._in_thinking
        elif ends_block(head):
            self._in_block = self._in_thinking = False

    def _read_message(self, name: str, data: bytes) -> Verdict:
        """Count an event that may tell usage or end the stream; ``name`` is from its framing."""
        found = members(data, "type", "message", "usage", "content_block")
        types = [value for member, value in found if member == "type"]
        kind = read_string(types[-1]) if types else None
        if not types and name == "error":
            # Clients take an event of this name for an error, whatever its data are.
            kind = name
        if kind is None or name not in ("", kind):
            return _PASS
        for member, value in found:
            if kind == "message_start" and member == "message":
                self._usage.read_message(value, final=False)
            elif kind == "message_delta" and member == "usage":
                if self._usage.update(value, final=True):
                    self._told()
            elif kind == "content_block_start" and member == "content_block":
                self._read_block(value)
        if kind == "error":
            self.failed = True
        return _LAST if kind in ("message_stop", "error") else _PASS

    def _read_block(self, block: bytes) -> None:
        """A block begins; one of type ``fallback`` says that another model answers from here on."""
        if [read_string(value) for _, value in members(block, "type")] == ["fallback"]:
            models = {
                side: read_string(model)
                for side, hop in members(block, "from", "to")
                for _, model in members(hop, "model")
            }
            self._usage.fell_back(models.get("from"), models.get("to"), self._output())
            self._relayed = 0


class BodyMeter:
    """Reads the usage of an answer in one piece. A ``Meter`` that holds nothing."""

    __slots__ = ("_body", "_read", "_scanner", "_size", "_tail", "_thought", "_usage", "finished")

    failed = False
    held = 0

    def __init__(self) -> None:
        #: Whether the body has ended.
        self.finished = False
        self._body = bytearray()
        #: What reads a body that is too long to be kept.
        self._scanner: MemberScanner | None = None
        self._size = 0  # bytes seen
        #: Whether there was thinking; the last bytes, in which it may begin to show.
        self._thought = False
        self._tail = b""
        #: What ``_usage`` was read from: bytes of the body, or members that the scanner found.
        self._read = 0
        self._usage = ReportedUsage()

    def feed(self, chunk: bytes) -> bytes:
        self._size += len(chunk)
        if not self._thought:
            seen = self._tail + chunk
            self._thought = _THINKING in seen
            self._tail = seen[1 - len(_THINKING) :]
        if self._scanner is not None:
            self._scanner.feed(chunk)
        elif self._size <= MAX_KEPT:
            self._body += chunk
        else:
            self._scan(chunk)
        return chunk

    def end(self) -> bool:
        self._look()
        self.finished = True
        self._body.clear()
        self._scanner = None
        return True

    def release(self) -> bytes:
        return b""

    @property
    def input_told(self) -> bool:
        self._look()
        return self._usage.tells_input

    @property
    def output_told(self) -> bool:
        self._look()
        return self.finished and self._usage.tells_output

    @property
    def unseen_output(self) -> bool:
        self._look()
        return self._thought and not self._usage.tells_output

    @property
    def ends_soon(self) -> bool:
        """The provider has written it whole before its first byte."""
        return self._size > 0

    @property
    def model(self) -> str | None:
        self._look()
        return self._usage.model

    def counts(self) -> TokenCounts:
        """The output is estimated from the size while it is not told."""
        self._look()
        told = self._usage.output
        if not self._usage.tells_output:
            told = max(told, (self._size - _BODY_FRAMING) // BYTES_PER_TOKEN)
        return self._usage.counts(output=told)

    def parts(self) -> Sequence[ModelTokens]:
        self._look()
        return self._usage.parts()

    def _scan(self, chunk: bytes) -> None:
        """From this chunk on the body is too long to be kept."""
        self._scanner = MemberScanner(USAGE_MEMBERS, MAX_TOLD)
        self._scanner.feed(bytes(self._body))
        self._scanner.feed(chunk)
        self._body.clear()
        self._read = 0

    def _look(self) -> None:
        """Read the usage out of what is there. A body may be cut short behind it."""
        if self.finished:
            return  # It is asked ten times when an exchange ends.
        scanner = self._scanner
        there = len(self._body) if scanner is None else len(scanner.found)
        if self._read == there:
            return
        self._read = there
        self._usage = ReportedUsage()
        if scanner is None:
            self._usage.read_message(bytes(self._body), final=True)
        else:
            self._usage.read_members(scanner.found, final=True)


def answer_meter(*, stream: bool) -> SniffingMeter:
    """The meter of a successful answer; ``stream``: it is declared to be an event stream."""
    return SniffingMeter(_meter, stream=stream)


def _meter(stream: bool) -> Meter:
    return StreamMeter() if stream else BodyMeter()


class ErrorMeter(BodyMeter):
    """The meter of an error: what it does not tell was not used."""

    __slots__ = ()

    @property
    def unseen_output(self) -> bool:
        return False

    @property
    def ends_soon(self) -> bool:
        return False

    @property
    def input_told(self) -> bool:
        return True

    @property
    def output_told(self) -> bool:
        return True

    def counts(self) -> TokenCounts:
        self._look()
        return self._usage.counts(output=self._usage.output)
