"""How much of what a model wrote is in the events of a stream, for the estimate of its output.

What a tool brought in that ran at the provider is input: the model reads it before it goes on. (An
advisor's result is another model's output.)

An event's beginning tells its kind, hence what of its length is the provider's framing. Deltas are
short, a few tokens each, so their framing is no trifle. A block may come whole in the event that
starts it: encrypted thinking, the result of a tool that ran at the provider. The events that
start and end a message, pings and errors hold nothing that a model wrote.

*Encrypted* content is base64, which writes 3 bytes as 4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from opuslive.dialects.sse import HEAD

#: Bytes of answer that make one token, roughly: English has 4 to 4.5, code 3, Chinese 3 to 4.
BYTES_PER_TOKEN = 4

#: What a delta begins with as the provider writes it.
DELTA_START = b"event: content_block_delta\ndata: {"
_DELTA = b"content_block_delta"
_DELTA_KIND = b'"delta":{"type":"'
#: Bytes of a text delta without its text: the provider's framing, as it stands on the wire.
_DELTA_FRAMING = len(
    b"event: content_block_delta\n"
    b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":""}}'
)
_KIND_SIZE = len(_DELTA_KIND) + 2
#: Where a delta tells its kind, up to the first two letters of it, if its index has one digit.
_KIND_END = len(DELTA_START + b'"type":"content_block_delta","index":0,') + _KIND_SIZE
#: The same as servers write it that put a space behind each colon and comma.
_SPACED_KIND = b'"delta": {"type": "'
_SPACED_SIZE = len(_SPACED_KIND) + 2
_SPACED_END = len(DELTA_START + b'"type": "content_block_delta", "index": 0, ') + _SPACED_SIZE
_SPACES = 8
#: Beginning of a kind → bytes of the names of the kind and of its member.
_NAMES: Mapping[bytes, int] = MappingProxyType(
    {
        b"te": len("texttext"),
        b"th": len("thinkingthinking"),
        b"in": len("input_jsonpartial_json"),
    }
)
#: Beginning of a delta's kind → its framing. Unknown kinds are taken for text.
_FRAMING_OF_KIND: Mapping[bytes, int] = MappingProxyType(
    {
        spelt + kind: _DELTA_FRAMING - _NAMES[b"te"] + names + spaces
        for kind, names in _NAMES.items()
        for spelt, spaces in ((_DELTA_KIND, 0), (_SPACED_KIND, _SPACES))
    }
)
#: Bytes of an event that starts a block, or of an unknown one, without content: names and ids.
_BLOCK_FRAMING = 200
_BLOCK_START = b"content_block_start"
_BLOCK_STOP = b"content_block_stop"
# In JSON text a quote has a backslash before it, so no text can imitate these.
_BARE = re.compile(
    rb'(?:^event: ?|(?<!\\)")(?:message_(?:start|delta|stop)|content_block_stop|ping|error)\b',
    re.MULTILINE,
)
_ENCRYPTED = re.compile(
    rb'(?<!\\)"type" ?: ?"(?:redacted_thinking|signature_delta|web_search_tool_result'
    rb'|advisor_redacted_result|encrypted_code_execution_result)"'
)


#: As the provider writes it: at the event's beginning, so that no tool's input can imitate it.
_RESULT = re.compile(
    rb'(?:event: ?content_block_start\n)?data: ?\{"type" ?: ?"content_block_start", ?"index" ?: ?'
    rb'[0-9]+, ?"content_block" ?: ?\{"type" ?: ?"(?!advisor)[a-z_]*_tool_result"'
)
_THINKING = re.compile(rb'(?<!\\)"type" ?: ?"(?:redacted_)?thinking"')


def begins_block(head: bytes) -> bool:
    """Whether a block begins with the event that has this beginning."""
    return _BLOCK_START in head


def ends_block(head: bytes) -> bool:
    return _BLOCK_STOP in head


def begins_thinking(head: bytes) -> bool:
    """Whether the block that begins is thinking. All of it is charged for, and a summary of it is
    shown, or nothing."""
    return _BLOCK_START in head and _THINKING.search(head) is not None


def is_result(head: bytes) -> bool:
    """Whether the event brings what a tool brought in that ran at the provider."""
    return _RESULT.match(head) is not None


def bytes_in_delta(event: bytes, length: int) -> int:
    """Bytes of text in a delta of ``length`` bytes that begins with ``DELTA_START``."""
    framing = _FRAMING_OF_KIND.get(event[_KIND_END - _KIND_SIZE : _KIND_END])
    if framing is None:
        framing = _FRAMING_OF_KIND.get(event[_SPACED_END - _SPACED_SIZE : _SPACED_END])
    if framing is None:
        return bytes_in(event[:HEAD], length)
    return length - framing if length > framing else 0


def bytes_in(head: bytes, length: int) -> int:
    """Bytes of text that say as much as what a model wrote in an event of ``length`` bytes.

    ``head`` is the event's beginning.
    """
    if _DELTA in head:
        start = max(0, head.find(_DELTA_KIND))
        kind = head[start : start + _KIND_SIZE]
        framing = _FRAMING_OF_KIND.get(kind, _DELTA_FRAMING)
    elif _BLOCK_START in head or not _BARE.search(head):
        framing = _BLOCK_FRAMING
    else:
        return 0
    written = max(0, length - framing)
    return written * 3 // 4 if _ENCRYPTED.search(head) else written
