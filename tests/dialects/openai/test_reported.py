"""What a report of usage says: names of every endpoint, details, and numbers of every form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from opuslive.dialects.documents import MAX_COUNT
from opuslive.dialects.openai.reported import ReportedUsage
from opuslive.usage import TokenCounts


def reported(*usages: Any) -> ReportedUsage:
    usage = ReportedUsage()
    for each in usages:
        usage.update(each if isinstance(each, bytes) else json.dumps(each).encode())
    return usage


def counts(*usages: Any) -> TokenCounts:
    usage = reported(*usages)
    return usage.counts(output=usage.output)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}, TokenCounts(9, 4)),
        ({"input_tokens": 9, "output_tokens": 4}, TokenCounts(9, 4)),
        ({"prompt_tokens": 9, "total_tokens": 9}, TokenCounts(9)),
        # Cached tokens are part of the input, and kept apart.
        (
            {"prompt_tokens": 9, "completion_tokens": 4,
             "prompt_tokens_details": {"cached_tokens": 5}},
            TokenCounts(4, 4, 5),
        ),
        (
            {"input_tokens": 9, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 9}},
            TokenCounts(0, 4, 9),
        ),
        ({"prompt_tokens": 9, "prompt_cache_hit_tokens": 2}, TokenCounts(7, 0, 2)),
        (
            {"prompt_tokens": 9,
             "prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 2}},
            TokenCounts(4, 0, 3, 2),
        ),
        # A server that counts them beside the input.
        (
            {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 50}},
            TokenCounts(9, 0, 50),
        ),
        # Text, images and audio are in the whole.
        (
            {"prompt_tokens": 900, "completion_tokens": 40,
             "prompt_tokens_details": {"audio_tokens": 300, "image_tokens": 500},
             "completion_tokens_details": {"audio_tokens": 30, "reasoning_tokens": 0}},
            TokenCounts(900, 40),
        ),
        # Reasoning is part of the output ...
        (
            {"prompt_tokens": 9, "completion_tokens": 40, "total_tokens": 49,
             "completion_tokens_details": {"reasoning_tokens": 30}},
            TokenCounts(9, 40),
        ),
        # ... or beside it, as its size or the total tells.
        (
            {"prompt_tokens": 9, "completion_tokens": 4,
             "completion_tokens_details": {"reasoning_tokens": 30}},
            TokenCounts(9, 34),
        ),
        (
            {"input_tokens": 9, "output_tokens": 40, "total_tokens": 79,
             "output_tokens_details": {"reasoning_tokens": 30}},
            TokenCounts(9, 70),
        ),
        ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": None},
         TokenCounts(9, 4)),
    ],
)  # fmt: skip
def test_usage_is_read_under_every_name(usage: Any, tokens: TokenCounts) -> None:
    assert counts(usage) == tokens
    assert reported(usage).told


@pytest.mark.parametrize(
    ("number", "count"),
    [
        (b"7", 7),
        (b"7.0", 7),
        (b"7e1", 70),
        (b"1" + b"0" * 40, MAX_COUNT),
        (b"-7", 0),
        (b"7.5", 0),
        (b'"7"', 0),
        (b"null", 0),
        (b"[7]", 0),
        (b"true", 0),
    ],
)
def test_numbers_are_read_or_left(number: bytes, count: int) -> None:
    assert counts(b'{"prompt_tokens":%b}' % number).input == count


@pytest.mark.parametrize(
    "usage", [{}, {"prompt_tokens": 0, "completion_tokens": 0}, b"[]", b"{", b'"x"', {"tokens": 9}]
)
def test_what_tells_nothing_was_not_told(usage: Any) -> None:
    nothing = reported(usage)
    assert (nothing.told, nothing.tells_input, nothing.tells_output) == (False,) * 3


def test_counts_never_fall() -> None:
    assert counts(
        {"prompt_tokens": 9, "completion_tokens": 4}, {"prompt_tokens": 0, "completion_tokens": 2}
    ) == TokenCounts(9, 4)
    assert counts(b'{"prompt_tokens":9,"prompt_tokens":1}') == TokenCounts(9)


def test_an_answer_without_any_output_is_told() -> None:
    usage = reported({"prompt_tokens": 9, "completion_tokens": 0})
    assert usage.tells_input
    assert usage.tells_output
