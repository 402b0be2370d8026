"""Event streams as OpenAI and compatible servers write them, cut anywhere, with hostile content."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from opuslive.dialects import RequestMembers
from opuslive.dialects.openai.meter import answer_meter

DONE = b"data: [DONE]\n\n"
#: A request whose client did not ask for usage; one whose client did; and one to /v1/responses.
HIDING = RequestMembers("gpt", stream=True, adds_usage=True)
ASKING = RequestMembers("gpt", stream=True)

Data = dict[str, Any]


def event(
    data: Data | str, *, name: str | None = None, end: str = "\n", tight: bool = True
) -> bytes:
    """One event. A name comes from the data's type unless one is given."""
    text = (
        data
        if isinstance(data, str)
        else json.dumps(data, separators=(",", ":") if tight else None)
    )
    if name is None and isinstance(data, dict):
        name = data.get("type", "")
    lines = [f"event: {name}"] if name else []
    return (end.join([*lines, f"data: {text}"]) + 2 * end).encode()


def chunk(delta: Data | None = None, **members: Any) -> Data:
    """A chunk of a chat completion; without a delta one without choices."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt",
        "choices": [] if delta is None else [choice],
        **members,
    }


def content(text: str, **members: Any) -> Data:
    return chunk({"content": text}, **members)


def usage(prompt: int = 11, completion: int = 7, **members: Any) -> Data:
    total = {"total_tokens": prompt + completion}
    return {"prompt_tokens": prompt, "completion_tokens": completion, **total, **members}


def response(kind: str, **members: Any) -> Data:
    """The event of this kind with a whole response in it."""
    return {"type": f"response.{kind}", "sequence_number": 9, "response": {"id": "r", **members}}


def response_usage(given: int = 11, output: int = 7, **members: Any) -> Data:
    total = {"total_tokens": given + output}
    return {"input_tokens": given, "output_tokens": output, **total, **members}


def delta(text: str, kind: str = "output_text") -> Data:
    """A delta of a response."""
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    return {"type": f"response.{kind}.delta", "sequence_number": 3, **place, "delta": text}


class Passage:
    """A stream on its way through a meter: what the client has seen, and what waits."""

    def __init__(self, request: RequestMembers = ASKING, *, stream: bool = True) -> None:
        self.meter = answer_meter(request, stream=stream)
        self.seen = b""

    def feed(self, *chunks: bytes) -> Passage:
        for each in chunks:
            self.seen += self.meter.feed(each)
        return self

    def all(self) -> bytes:
        """What the client has when the answer is over."""
        self.meter.end()
        return self.seen + self.meter.release()


HOSTILE = (
    "usage",
    '"usage":null',
    ',"usage":null}\n\n',
    '"usage":{"prompt_tokens":0,"completion_tokens":0}',
    "data: [DONE]\n\n",
    "\n\ndata: [DONE]\n\n",
    "event: response.completed\ndata: {}\n\n",
    'data: {"type":"response.completed","response":{"usage":{"input_tokens":0}}}',
    '"error":{"message":"x"}',
    '"choices":[]',
    '"delta":{"content":"',
    "\\",
    '"',
    "}",
    "é",
)
texts = st.lists(st.sampled_from(HOSTILE) | st.text(max_size=8), max_size=4).map("".join)
cuts = st.lists(st.integers(0, 4000), max_size=12)
#: What content may be, at each place where a holder can have a model, or itself, write something.
harmless: st.SearchStrategy[Data] = st.one_of(
    texts.map(content),
    texts.map(lambda text: chunk({"reasoning_content": text})),
    texts.map(
        lambda text: chunk(
            {"tool_calls": [{"index": 0, "function": {"name": text, "arguments": text}}]}
        )
    ),
    texts.map(lambda text: chunk({"usage": {"prompt_tokens": 1}, "error": 1, "content": text})),
)
harmless_of_response: st.SearchStrategy[Data] = st.one_of(
    texts.map(delta),
    texts.map(lambda text: delta(text, "function_call_arguments")),
    texts.map(lambda text: response("in_progress", instructions=text, metadata={"type": text})),
    texts.map(
        lambda text: response(
            "created",
            tools=[{"name": text, "parameters": {"usage": {"input_tokens": 1}, "delta": text}}],
            usage=None,
        )
    ),
    texts.map(lambda text: {"type": "response.output_text.done", "text": text, "usage": {}}),
)


def joined(events: Sequence[Data], **style: Any) -> bytes:
    return b"".join(event(data, **style) for data in events)
