"""What a client does with the anthropic SDK, told as JSON: run as a program, see ``report``.

It runs with whichever version of the SDK its interpreter has, so it imports nothing of the
project.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any

import anthropic

MESSAGE: Any = {
    "model": "claude-test-1",
    "max_tokens": 64,
    "messages": [{"role": "user", "content": "Hello"}],
}


def report(base_url: str, key: str) -> dict[str, Any]:
    """Use the gateway at ``base_url``; return what was seen."""
    seen: dict[str, Any] = {"version": anthropic.__version__}
    with anthropic.Anthropic(base_url=base_url, api_key=key, max_retries=0) as client:
        seen["created"] = _message(client.messages.create(**MESSAGE))
        with client.messages.stream(**MESSAGE) as stream:
            seen["text"] = "".join(stream.text_stream)
            seen["streamed"] = _message(stream.get_final_message())
        with client.messages.create(**MESSAGE, stream=True) as events:
            seen["events"] = [event.type for event in events]
        counted = client.messages.count_tokens(model=MESSAGE["model"], messages=MESSAGE["messages"])
        seen["counted"] = counted.input_tokens
        seen["models"] = [model.id for model in client.models.list(limit=2)]
        seen["model"] = client.models.retrieve("claude-test-2").display_name
        seen["failures"] = [
            _failure(client, model)
            for model in (
                "gpt-unknown",
                "claude-limited",
                "claude-overloaded",
                "claude-cut",
            )
        ]
        seen["failures"].append(_failure(client, "claude-test-1", "x" * 1_100_000))
    # With the retries that are usual: only one request may come of it.
    with anthropic.Anthropic(base_url=base_url, api_key="sk-ant-ol-wrong") as client:
        seen["failures"].append(_failure(client, "claude-test-1"))
    return seen


def _message(message: Any) -> dict[str, Any]:
    return {
        "text": message.content[0].text,
        "stop_reason": message.stop_reason,
        "input_tokens": message.usage.input_tokens,
        "output_tokens": message.usage.output_tokens,
    }


def _failure(client: Any, model: str, content: str = "Hello") -> dict[str, Any]:
    """How asking for this model fails."""
    message = {**MESSAGE, "model": model, "messages": [{"role": "user", "content": content}]}
    try:
        with _stream(client, message) as events:
            for _ in events:
                pass
    except anthropic.APIStatusError as error:
        body: Any = error.body
        return {
            "classes": [base.__name__ for base in type(error).__mro__],
            "status": error.status_code,
            "message": body["error"]["message"],
            "request_id": error.request_id,
            "retry_after": error.response.headers.get("retry-after"),
        }
    except Exception as error:
        return {"classes": [base.__name__ for base in type(error).__mro__], "status": None}
    return {"classes": [], "status": 200}


@contextlib.contextmanager
def _stream(client: Any, message: dict[str, Any]) -> Iterator[Any]:
    stream = client.messages.create(**message, stream=True)
    try:
        yield stream
    finally:
        stream.close()


if __name__ == "__main__":
    print(json.dumps(report(sys.argv[1], sys.argv[2])))
