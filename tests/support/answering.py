"""A provider of both dialects, as far as clients take part: it greets, or calls a tool.

Who offers tools is called back until the result is there. A model's name may ask for trouble:
``…-cut`` breaks a stream off, and what ``FAILURES`` names is answered with
an error. Counts are 11 tokens of input and 7 of output.
"""

from __future__ import annotations

import json
from typing import Any

from tests.support.openai_streams import (
    DONE,
    chunk,
    content,
    delta,
    event,
    response,
    response_usage,
    usage,
)
from tests.support.provider import (
    CLOSE,
    STREAM_HEAD,
    Request,
    Script,
    anthropic_call,
    anthropic_events,
    anthropic_message,
    json_answer,
    stream_answer,
)
from tests.support.provider import chunk as http_chunk

COUNTS = {"input_tokens": 11, "output_tokens": 7}
#: The input of the tool that is called, and how it comes.
PLACE = {"place": "Ulm"}
PIECES = ('{"pla', 'ce":"Ulm"}')
#: What only the administrator may see.
CANARY = "org-canary"
#: The end of a model's name → status, type and headers.
FAILURES: dict[str, tuple[int, str, list[tuple[str, str]]]] = {
    "limited": (429, "rate_limit_error", [("retry-after", "17")]),
    "overloaded": (529, "overloaded_error", []),
    "unavailable": (503, "api_error", []),
    "account": (401, "authentication_error", []),
}
_EMBEDDING = {"object": "embedding", "index": 0, "embedding": [0.5, -0.5]}


def answer(request: Request) -> Script:
    """What it says to a request in either dialect."""
    asked = json.loads(request.body)
    path = request.path.partition("?")[0]
    if (failure := FAILURES.get(asked["model"].rpartition("-")[2])) is not None:
        status, kind, headers = failure
        error = {"type": kind, "message": CANARY, "code": None, "param": None}
        return json_answer({"type": "error", "error": error}, status=status, headers=headers)
    if path == "/v1/messages/count_tokens":
        return json_answer({"input_tokens": 42})
    if path == "/v1/embeddings":
        read = {"prompt_tokens": 11, "total_tokens": 11}
        document = {"object": "list", "model": asked["model"], "data": [_EMBEDDING], "usage": read}
        return json_answer(document)
    says = {
        "/v1/messages": _message,
        "/v1/chat/completions": _completion,
        "/v1/responses": _response,
    }[path]
    document, events = says(asked)
    if not asked.get("stream"):
        return json_answer(document)
    if asked["model"].endswith("-cut"):
        return [STREAM_HEAD, *map(http_chunk, events[:3]), CLOSE]
    return stream_answer(events)


def _tool_of(asked: Any) -> str | None:
    """The tool to call: the first one, unless a result is there."""
    turns = asked.get("messages") or asked.get("input") or []
    results = ('"tool_result"', '"role": "tool"', '"function_call_output"')
    if not asked.get("tools") or any(result in json.dumps(turns) for result in results):
        return None
    tool = asked["tools"][0]
    name: str = tool.get("function", tool)["name"]
    return name


def _message(asked: Any) -> tuple[Any, list[bytes]]:
    if (tool := _tool_of(asked)) is None:
        text = "Hello from the tests"
        return anthropic_message(text, **COUNTS), anthropic_events(text, **COUNTS)
    block = {"type": "tool_use", "id": "toolu_01", "name": tool, "input": PLACE}
    document = anthropic_message("", **COUNTS) | {"content": [block], "stop_reason": "tool_use"}
    return document, anthropic_call(tool, PIECES, **COUNTS)


def _completion(asked: Any) -> tuple[Any, list[bytes]]:
    message: dict[str, Any] = {"role": "assistant", "content": "Hello from the tests"}
    chunks = [content(word) for word in ("Hello ", "from ", "the ", "tests")]
    reason = "stop"
    if (tool := _tool_of(asked)) is not None:
        named = {"index": 0, "id": "call_1", "type": "function"}
        calls: list[Any] = [named | {"function": {"name": tool, "arguments": ""}}]
        calls += [{"index": 0, "function": {"arguments": piece}} for piece in PIECES]
        chunks = [chunk({"tool_calls": [call]}) for call in calls]
        function = {"name": tool, "arguments": json.dumps(PLACE)}
        call = {"id": "call_1", "type": "function", "function": function}
        message |= {"content": None, "tool_calls": [call]}
        reason = "tool_calls"
    choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
    document = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": asked["model"],
        "choices": [choice],
        "usage": usage(),
    }
    last = chunk({})
    last["choices"][0]["finish_reason"] = reason
    told = (asked.get("stream_options") or {}).get("include_usage")
    # Who asks for the usage is told everywhere that it comes last.
    chunks = [each | ({"usage": None} if told else {}) for each in [*chunks, last]]
    chunks += [chunk(usage=usage())] if told else []
    return document, [*map(event, chunks), DONE]


def _response(asked: Any) -> tuple[Any, list[bytes]]:
    text = {"type": "output_text", "text": "Hello from the tests", "annotations": []}
    item: dict[str, Any] = {"type": "message", "id": "msg_1", "role": "assistant"}
    item |= {"status": "completed", "content": [text]}
    begun = item | {"status": "in_progress", "content": []}
    deltas = [delta(word) for word in ("Hello ", "from ", "the ", "tests")]
    if (tool := _tool_of(asked)) is not None:
        item = {"type": "function_call", "id": "msg_1", "call_id": "call_1", "name": tool}
        item |= {"status": "completed", "arguments": json.dumps(PLACE)}
        begun = item | {"status": "in_progress", "arguments": ""}
        deltas = [delta(piece, "function_call_arguments") for piece in PIECES]
    document = {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": asked["model"],
        "status": "completed",
        "output": [item],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": response_usage(
            input_tokens_details={"cached_tokens": 4}, output_tokens_details={"reasoning_tokens": 2}
        ),
    }
    place = {"output_index": 0, "sequence_number": 2}
    events = [
        response("created", **document | {"status": "in_progress", "output": [], "usage": None}),
        {"type": "response.output_item.added", **place, "item": begun},
        *deltas,
        {"type": "response.output_item.done", **place, "item": item},
        {"type": "response.completed", "sequence_number": 9, "response": document},
    ]
    return document, [event(each) for each in events]
