"""What a client does with the anthropic SDK, told as JSON: run as a program, see ``report``.

It runs with whichever version of the SDK its interpreter has, so it imports nothing of the
project.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Mapping
from typing import Any

import anthropic

MESSAGE: Any = {
    "model": "claude-test-1",
    "max_tokens": 64,
    "messages": [{"role": "user", "content": "Hello"}],
}
TOOL: Any = {"name": "weather", "description": "", "input_schema": {"type": "object"}}
#: A picture, as far as anybody on the way may look.
PICTURE = base64.b64encode(bytes(range(256)) * 512).decode()
#: Longer than all buffers on the way, and no letter of it of one byte alone.
LONG = 'né "¿" \\ \n' * 100_000
TOO_LONG = "x" * 9_000_000

#: What fails → how that is asked for.
FAILING: dict[str, Any] = {
    "unknown": {"model": "gpt-unknown"},
    "gone": {"model": "claude-gone-1"},
    "limited": {"model": "claude-test-limited"},
    "overloaded": {"model": "claude-test-overloaded"},
    "unavailable": {"model": "claude-test-unavailable"},
    "account": {"model": "claude-test-account"},
    "cut": {"model": "claude-test-cut"},
    "too large": {"content": TOO_LONG},
    "invalid": {"max_tokens": -1},
}


def report(base_url: str, keys: Mapping[str, str]) -> dict[str, Any]:
    """Use the gateway at ``base_url``; return what was seen.

    ``keys``: what each is good for → the key. ``good`` is the one that may do everything.
    """
    seen: dict[str, Any] = {"version": anthropic.__version__}
    with anthropic.Anthropic(base_url=base_url, api_key=keys["good"], max_retries=0) as client:
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
        seen["tool"] = _with_a_tool(client)
        seen["picture"] = _text(client, [{"type": "image", "source": _source()}])
        seen["long"] = _text(client, LONG)
        seen["failures"] = {name: _failure(client, **asked) for name, asked in FAILING.items()}
    for name, key in keys.items():
        if name != "good":
            # With the retries that are usual: what may not be repeated is not.
            retries = 0 if name == "busy" else anthropic.DEFAULT_MAX_RETRIES
            with anthropic.Anthropic(base_url=base_url, api_key=key, max_retries=retries) as client:
                seen["failures"][name] = _failure(client)
    return seen


def _message(message: Any) -> dict[str, Any]:
    return {
        "text": message.content[0].text,
        "stop_reason": message.stop_reason,
        "input_tokens": message.usage.input_tokens,
        "output_tokens": message.usage.output_tokens,
    }


def _with_a_tool(client: Any) -> tuple[Any, str]:
    """The input of the call, as it came in pieces; and what is said about the tool's result."""
    with client.messages.stream(**MESSAGE, tools=[TOOL]) as stream:
        (call,) = stream.get_final_message().content
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "Rain"}
    turns = [
        *MESSAGE["messages"],
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result]},
    ]
    with client.messages.stream(**{**MESSAGE, "messages": turns}, tools=[TOOL]) as stream:
        return call.input, stream.get_final_text()


def _source() -> dict[str, str]:
    return {"type": "base64", "media_type": "image/png", "data": PICTURE}


def _text(client: Any, content: Any) -> str:
    """The answer to this."""
    message = {**MESSAGE, "messages": [{"role": "user", "content": content}]}
    text: str = client.messages.create(**message).content[0].text
    return text


def _failure(client: Any, content: str = "Hello", **members: Any) -> dict[str, Any]:
    """How asking for this fails, as a stream."""
    message = {**MESSAGE, "messages": [{"role": "user", "content": content}], **members}
    try:
        with client.messages.create(**message, stream=True) as events:
            for _ in events:
                pass
    except anthropic.APIStatusError as error:
        body: Any = error.body
        return {
            "classes": [base.__name__ for base in type(error).__mro__],
            "status": error.status_code,
            "message": body["error"]["message"],
            "kind": body["error"]["type"],
            "request_id": error.request_id,
            "retry_after": error.response.headers.get("retry-after"),
            "should_retry": error.response.headers.get("x-should-retry"),
        }
    except Exception as error:
        return {"classes": [base.__name__ for base in type(error).__mro__], "status": None}
    return {"classes": [], "status": 200}


if __name__ == "__main__":
    print(json.dumps(report(sys.argv[1], json.loads(sys.argv[2]))))
