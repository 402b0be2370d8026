"""The guess of the input: text by its bytes, all else by its kind and at its place alone.

The kinds: inline and fetched, in chat messages and in items of a response's input, in what a tool
returned; what looks like one and is text; bodies that can't be read, or cost much to read.
"""

from __future__ import annotations

import json
import mmap
from typing import Any

import pytest

from opuslive.dialects import InputGuess
from opuslive.dialects.body import MAX_OBJECTS
from opuslive.dialects.openai.content import (
    AUDIO_BYTES,
    FILE_TOKENS,
    IMAGE_TOKENS,
    UNSEEN_TOKENS,
    input_guess,
)

BASE64 = "QUJD" * 20_000
PICTURE = "data:image/png;base64," + BASE64
PDF = "data:application/pdf;base64," + BASE64
LONG_PDF = PDF + BASE64


def chat(*parts: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": parts}]}).encode()


def response(*parts: Any) -> bytes:
    return json.dumps({"model": "m", "input": [{"role": "user", "content": parts}]}).encode()


def returned(*parts: Any) -> bytes:
    item = {"type": "function_call_output", "call_id": "c", "output": parts}
    return json.dumps({"model": "m", "input": [item]}).encode()


PARTS: list[tuple[Any, int]] = [
    ({"type": "image_url", "image_url": {"url": PICTURE, "detail": "high"}}, IMAGE_TOKENS),
    ({"type": "input_image", "image_url": PICTURE}, IMAGE_TOKENS),
    ({"type": "image_url", "image_url": {"url": "https://a.test/b.png"}}, IMAGE_TOKENS),
    ({"type": "input_image", "image_url": "https://a.test/b.png"}, IMAGE_TOKENS),
    ({"type": "input_image", "file_id": "file-1"}, UNSEEN_TOKENS),
    ({"type": "input_audio", "input_audio": {"data": BASE64, "format": "wav"}},
     len(BASE64) // AUDIO_BYTES),
    ({"type": "file", "file": {"filename": "a", "file_data": PDF}}, len(PDF) // 4),
    ({"type": "input_file", "file_data": LONG_PDF}, len(LONG_PDF) // 4),
    ({"type": "input_file", "file_data": "data:application/pdf;base64,QUJD"}, FILE_TOKENS),
    ({"type": "file", "file": {"file_id": "file-1"}}, UNSEEN_TOKENS),
    ({"type": "input_file", "file_id": "file-1"}, UNSEEN_TOKENS),
    ({"type": "input_file", "file_url": "https://a.test/b.pdf"}, UNSEEN_TOKENS),
]  # fmt: skip


def whole(body: bytes) -> int:
    guess = input_guess(body)
    return guess.seen + guess.unseen


@pytest.mark.parametrize("place", [chat, response, returned])
@pytest.mark.parametrize(("part", "tokens"), PARTS)
def test_what_is_no_text_counts_by_its_kind(place: Any, part: Any, tokens: int) -> None:
    words = {"type": "text", "text": "x" * 400}
    for parts, number in (((part,), 1), ((words, part, part), 2)):
        guess = whole(place(*parts))
        text = 100 if number == 2 else 0
        # The JSON around it is text.
        assert number * tokens + text <= guess < number * (tokens + 60) + text + 60


@pytest.mark.parametrize(
    "members",
    [
        {"messages": [{"role": "user", "content": PICTURE}]},
        {"messages": [{"content": [{"type": "text", "text": json.dumps(PARTS[0][0])}]}]},
        {"input": PICTURE},
        {"input": [1, 2, 3] * 1000},
        {"input": ["a" * 4000, "b"]},
        {"input": [{"type": "function_call_output", "output": PICTURE}]},
        {"tools": [{"image_url": PICTURE}]},
        {"messages": {"content": [PARTS[0][0]]}},
        {"messages": [{"content": [PARTS[0][0], 3]}]},
        {"prompt": "x" * 4000},
    ],
)
def test_all_else_is_the_text_that_it_is(members: dict[str, Any]) -> None:
    body = json.dumps({"model": "m", **members}).encode()
    assert input_guess(body) == InputGuess(len(body) // 4)
    memory = mmap.mmap(-1, len(body) + 10)
    memory[: len(body)] = body
    assert input_guess(memoryview(memory)[: len(body)]) == InputGuess(len(body) // 4)


def test_what_a_computer_shows_is_an_image() -> None:
    shown = {"type": "computer_screenshot", "image_url": PICTURE}
    item = {"type": "computer_call_output", "output": shown}
    guess = whole(json.dumps({"input": [item]}).encode())
    assert IMAGE_TOKENS <= guess < IMAGE_TOKENS + 60


def test_a_body_of_many_objects_counts_as_text_and_as_a_file() -> None:
    image = {"image_url": PICTURE}
    body = chat(*[{}] * MAX_OBJECTS, image)
    assert input_guess(body) == InputGuess(len(body) // 4, UNSEEN_TOKENS)
    few = chat(*[{}] * 10, image)
    assert whole(few) < len(few) // 4


@pytest.mark.parametrize("part", [part for part, tokens in PARTS if tokens == UNSEEN_TOKENS])
def test_what_only_the_provider_sees_is_no_guess_to_be_corrected(part: Any) -> None:
    guess = input_guess(response(part, part))
    assert guess.unseen == 2 * UNSEEN_TOKENS
    assert guess.seen < 200
