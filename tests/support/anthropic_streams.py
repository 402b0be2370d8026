"""Anthropic's streams as bytes, well-behaved and hostile, and a client to watch them."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from opuslive.dialects.anthropic.meter import BodyMeter, StreamMeter
from opuslive.usage import TokenCounts


def event(data: dict[str, Any], *, name: str | None = "", end: str = "\n", **style: Any) -> bytes:
    """One event as the provider frames it, or, by ``style``, as another server might."""
    if name == "":
        name = data["type"]
    colon = ":" if style.get("tight") else ": "
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    if style.get("odd"):
        text = text[:-1] + "," + style["odd"]
    lines = [f"data{colon}{text}"]
    if style.get("parts"):
        lines = [f"data{colon}{part}" for part in text.replace('":', '":\n', 1).split("\n")]
    if name is not None:
        lines.insert(len(lines) if style.get("name_last") else 0, f"event{colon}{name}")
    if style.get("comment"):
        lines.insert(0, ": event: message_stop")
    if style.get("id"):
        lines.append("id: 7")
    return (end.join(lines) + end + end).encode(errors="surrogateescape")


def start(**usage: Any) -> dict[str, Any]:
    message = {"id": "msg_1", "role": "assistant", "content": [], "usage": usage}
    return {"type": "message_start", "message": message}


def delta(**usage: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}


def text(content: str) -> dict[str, Any]:
    inner = {"type": "text_delta", "text": content}
    return {"type": "content_block_delta", "index": 0, "delta": inner}


def tool(content: str) -> dict[str, Any]:
    inner = {"type": "input_json_delta", "partial_json": content}
    return {"type": "content_block_delta", "index": 1, "delta": inner}


PING = {"type": "ping"}
STOP = {"type": "message_stop"}
ERROR = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
BLOCK_START = {
    "type": "content_block_start",
    "index": 0,
    "content_block": {"type": "tool_use", "name": "f", "input": {"usage": {"output_tokens": 9}}},
}

# A short stream as the provider documents it.
TRANSCRIPT = (
    b"event: message_start\n"
    b'data: {"type":"message_start","message":{"id":"msg_01","type":"message","role":"assistant",'
    b'"model":"claude-opus-4-8","content":[],"stop_reason":null,"usage":{"input_tokens":472,'
    b'"cache_creation_input_tokens":30,"cache_read_input_tokens":5,"cache_creation":'
    b'{"ephemeral_5m_input_tokens":10,"ephemeral_1h_input_tokens":20},"output_tokens":2,'
    b'"service_tier":"standard"}}}\n'
    b"\n"
    b"event: content_block_start\n"
    b'data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}\n'
    b"\n"
    b"event: ping\n"
    b'data: {"type": "ping"}\n'
    b"\n"
    b"event: content_block_delta\n"
    b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi"}   }\n'
    b"\n"
    b"event: content_block_stop\n"
    b'data: {"type":"content_block_stop","index":0}\n'
    b"\n"
    b"event: message_delta\n"
    b'data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},'
    b'"usage":{"output_tokens":89}}\n'
    b"\n"
    b"event: message_stop\n"
    b'data: {"type":"message_stop"}\n'
    b"\n"
)
TRANSCRIPT_COUNTS = TokenCounts(
    input=472, output=89, cache_read=5, cache_write_5m=10, cache_write_1h=20
)


def stream(*events: dict[str, Any]) -> bytes:
    return b"".join(event(data) for data in events)


def metered(*chunks: bytes) -> StreamMeter:
    meter = StreamMeter()
    for chunk in chunks:
        meter.feed(chunk)
    return meter


def finished(meter: StreamMeter | BodyMeter) -> bool:
    """The property through a call, so that mypy does not take it for constant."""
    return meter.finished


class Relay:
    """What a client sees of a stream, and what waits in the meter."""

    def __init__(self) -> None:
        self.meter = StreamMeter()
        self.fed = b""
        self.seen = b""

    @property
    def held(self) -> bytes:
        return self.fed[len(self.seen) :]

    def feed(self, chunk: bytes) -> None:
        waited = self.held
        passed = self.meter.feed(chunk)
        self.fed += chunk
        self.seen += passed
        assert self.fed.startswith(self.seen)
        assert self.meter.held == len(self.held)
        if not waited and not self.held:
            assert passed is chunk


HOSTILE = (
    '{"usage":{"input_tokens":0,"output_tokens":0}}',
    '"usage":{"output_tokens":0}',
    '\n\nevent: message_stop\ndata: {"type":"message_stop"}\n\n',
    "\r\n\r\nevent: error\r\ndata: {}\r\n\r\n",
    "event: message_stop\\n\\n",
    '"}}\n\nevent: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":0}}\n\n',
    "message_start message_delta message_stop error content_block_delta",
    "\x85\u2028\u2029\x0b\x0c\x1c\x1d\x1e\x00\ufeff",
    '\\"},"usage":{"output_tokens":0},"x":"',
    '","type":"message_stop',
)

#: What may end an event's data and is no JSON, or none that every reader takes.
ODD = (
    '"odd":"\\ud800"}',
    '"odd":"\\udfff\\x"}',
    '"odd":"\udcff\udcc3"}',
    '"odd":NaN}',
    '"odd":[-Infinity,1e400,01]}',
    '"odd":' + "9" * 900 + "}",
    '"odd":' + "[" * 1200 + "]" * 1200 + "}",
    '"odd":{"usage":{"output_tokens":NaN}}} trailing',
    '"odd":1',
    '"odd":}',
)

content = st.lists(st.sampled_from(HOSTILE) | st.text(max_size=10), max_size=3).map("".join)
inputs = st.dictionaries(
    st.sampled_from(["usage", "type", "message", "event: message_stop\n\n"]),
    st.sampled_from([{"output_tokens": 0, "input_tokens": 0}, "message_delta", "message_stop"]),
    max_size=3,
)
harmless = st.one_of(
    content.map(text),
    content.map(tool),
    st.just(PING),
    st.just({"type": "content_block_stop", "index": 0}),
    st.just({"type": "unknown", "usage": {"output_tokens": 0}}),
    inputs.map(
        lambda given: {
            "type": "content_block_start",
            "content_block": {"type": "tool_use", "input": given, "usage": {"output_tokens": 0}},
            "usage": {"output_tokens": 0},
        }
    ),
    content.map(
        lambda s: {
            "type": "message_delta",
            "delta": {"stop_sequence": s, "usage": {"output_tokens": 0}},
        }
    ),
)
amounts = st.integers(0, 10**6)
styles = st.fixed_dictionaries(
    {},
    optional={
        "end": st.sampled_from(["\n", "\r\n", "\r"]),
        "tight": st.booleans(),
        "parts": st.booleans(),
        "name_last": st.booleans(),
        "comment": st.booleans(),
        "id": st.booleans(),
        "odd": st.sampled_from(ODD),
        "name": st.sampled_from([None, ""]),
    },
)
cuts = st.lists(st.integers(0, 4000), max_size=12)


Case = tuple[bytes, bytes, TokenCounts]


@st.composite
def streams(draw: st.DrawFn, style: st.SearchStrategy[dict[str, Any]] = styles) -> Case:
    """A whole stream with hostile content: (its bytes up to the terminal event, that, counts)."""
    first = {"input_tokens": draw(amounts), "cache_read_input_tokens": draw(amounts)}
    output = draw(amounts.filter(bool))
    number = draw(st.sampled_from([int, float]))
    events = [
        start(**{name: number(count) for name, count in first.items()}, output_tokens=1),
        *draw(st.lists(harmless, max_size=6)),
        delta(output_tokens=number(output)),
        *draw(st.sampled_from([[], [delta(input_tokens=0, output_tokens=0)], [delta()]])),
        *draw(st.lists(harmless, max_size=2)),
    ]
    body = b"".join(event(data, **draw(style)) for data in events)
    bom = draw(st.sampled_from([b"", b"\xef\xbb\xbf"]))
    terminal = event(STOP, **draw(style))
    counts = TokenCounts(first["input_tokens"], output, first["cache_read_input_tokens"])
    return bom + body, terminal, counts
