"""What of an answer can't be measured by what is shown of it, and when its end is near.

To the kind "shown in part" belong thinking with a summary, without one, encrypted. To "read by the
model" the results of every tool that ran at the provider, whole, half or too long to keep; not an
advisor's, which is output of another model. Both end where the provider tells its counts. Near its
end is a stream between blocks and behind the last one, and within a block behind what can't be
seen; and a body from its first byte on.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from opuslive.dialects import Meter
from opuslive.dialects.anthropic.meter import MAX_KEPT, ErrorMeter, answer_meter
from opuslive.dialects.sse import MAX_EVENT
from tests.support.anthropic_streams import ERROR, PING, delta, event, metered, start, stream, text
from tests.support.event_streams import pieces

BEGINNING = event(start(input_tokens=5, output_tokens=1))
CONTENT = "x" * 40_000
STOP_BLOCK = {"type": "content_block_stop", "index": 0}


def block(kind: str, **members: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": 0, "content_block": {"type": kind, **members}}


def piece(kind: str, **members: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": kind, **members}}


THINKING = block("thinking", thinking="", signature="")
THOUGHT = piece("thinking_delta", thinking="Well…")
SIGNATURE = piece("signature_delta", signature="Ab+/" * 20)
REDACTED = block("redacted_thinking", data="Ab+/" * 20)
TEXT = block("text", text="")
RESULT = block("web_fetch_tool_result", tool_use_id="srvtoolu_1", content={"content": CONTENT})
ADVICE = block("advisor_tool_result", content={"type": "advisor_result", "text": CONTENT})


@pytest.mark.parametrize(
    "kind",
    [
        "web_fetch_tool_result",
        "code_execution_tool_result",
        "bash_code_execution_tool_result",
        "text_editor_code_execution_tool_result",
        "tool_search_tool_result",
        "mcp_tool_result",
        "next_tool_result",
    ],
)
def test_what_a_tool_of_the_provider_brought_in_is_input(kind: str) -> None:
    wire = BEGINNING + event(block(kind, tool_use_id="srvtoolu_1", content=[CONTENT]))
    for length in (len(wire), len(wire) - 1, len(wire) - 3):
        for size in (length, 1_000):
            counts = metered(*pieces(wire[:length], range(0, length, size))).counts()
            assert counts.input == pytest.approx(5 + 10_000, rel=0.01)
            assert counts.output == 1


def test_search_results_are_encrypted_input() -> None:
    content = [{"type": "web_search_result", "encrypted_content": "Ab+/" * 10_000}]
    counts = metered(BEGINNING, event(block("web_search_tool_result", content=content))).counts()
    assert counts.input == pytest.approx(5 + 7_500, rel=0.01)
    assert counts.output == 1


def test_a_result_too_long_to_keep_is_input() -> None:
    wire = BEGINNING + event(block("mcp_tool_result", content="x" * 2 * MAX_EVENT))
    for size in (len(wire), 65_536):
        counts = metered(*pieces(wire, range(0, len(wire), size))).counts()
        assert counts.input == pytest.approx(MAX_EVENT / 2, rel=0.01)


@pytest.mark.parametrize(
    "event_",
    [
        ADVICE,
        block("text", text='"type":"mcp_tool_result"' + CONTENT),
        piece("text_delta", text='"type":"mcp_tool_result"' + CONTENT),
        block("tool_use", input={"x": CONTENT}),
        block("tool_use", input={"type": "mcp_tool_result", "x": CONTENT}),
        block("tool_use", input={"content_block": {"type": "mcp_tool_result", "x": CONTENT}}),
    ],
)
def test_all_else_is_output(event_: dict[str, Any]) -> None:
    counts = metered(BEGINNING, event(event_)).counts()
    assert counts.input == 5
    assert counts.output == pytest.approx(10_000, rel=0.02)


@pytest.mark.parametrize(
    ("told", "input_tokens"),
    [
        ({"input_tokens": 700, "output_tokens": 9}, 700),
        ({"output_tokens": 9}, 5),
        ({}, pytest.approx(10_005, rel=0.01)),
        ({"output_tokens": 0}, pytest.approx(10_005, rel=0.01)),
    ],
)
def test_results_count_until_the_usage_is_told(told: dict[str, int], input_tokens: Any) -> None:
    assert metered(BEGINNING, event(RESULT), event(delta(**told))).counts().input == input_tokens


def test_results_behind_what_was_told_come_on_top() -> None:
    told = stream(RESULT, delta(input_tokens=700, output_tokens=9), RESULT)
    assert metered(BEGINNING, told).counts().input == pytest.approx(10_700, rel=0.01)


@pytest.mark.parametrize(
    ("events", "unseen"),
    [
        ([], False),
        ([TEXT, text("Hello")], False),
        ([RESULT, STOP_BLOCK], False),
        ([block("text", text='"type":"thinking"')], False),
        ([THINKING], True),
        ([THINKING, THOUGHT, SIGNATURE, STOP_BLOCK], True),
        ([THINKING, SIGNATURE, STOP_BLOCK, TEXT, text("Hello")], True),
        ([REDACTED, STOP_BLOCK], True),
        ([THINKING, STOP_BLOCK, delta(output_tokens=0)], True),
        ([THINKING, STOP_BLOCK, delta(output_tokens=900)], False),
        ([THINKING, STOP_BLOCK, delta(output_tokens=900), THINKING], True),
        ([THINKING, STOP_BLOCK, ERROR], False),
    ],
)
def test_thinking_can_not_be_seen_until_its_usage_is_told(
    events: list[dict[str, Any]], unseen: bool
) -> None:
    wire = BEGINNING + stream(*events)
    assert metered(wire).unseen_output is unseen
    assert metered(*pieces(wire, range(len(wire)))).unseen_output is unseen


@pytest.mark.parametrize(
    ("events", "soon"),
    [
        ([], False),
        ([PING], False),
        ([TEXT], False),
        ([TEXT, text("Hello"), PING], False),
        ([TEXT, text("content_block_stop"), PING], False),
        ([TEXT, text("Hello"), STOP_BLOCK], True),
        ([TEXT, text("Hello"), STOP_BLOCK, PING], True),
        ([TEXT, text("Hello"), STOP_BLOCK, TEXT, text("more")], False),
        ([TEXT, STOP_BLOCK, delta(output_tokens=9)], True),
        ([THINKING, THOUGHT], False),
        ([THINKING, SIGNATURE, STOP_BLOCK], True),
        ([THINKING, SIGNATURE, STOP_BLOCK, TEXT, text("END")], True),
        ([THINKING, STOP_BLOCK, TEXT, STOP_BLOCK, THINKING], False),
        ([RESULT, STOP_BLOCK, TEXT, text("END")], True),
    ],
)
def test_the_end_of_a_stream_is_near(events: list[dict[str, Any]], soon: bool) -> None:
    wire = BEGINNING + stream(*events)
    assert metered(wire).ends_soon is soon
    assert metered(*pieces(wire, range(len(wire)))).ends_soon is soon


def soon_and_unseen(meter: Meter) -> tuple[bool, bool]:
    return meter.ends_soon, meter.unseen_output


def test_the_end_of_a_body_is_near_from_its_first_byte_on() -> None:
    meter = answer_meter(stream=False)
    assert soon_and_unseen(meter) == (False, False)
    meter.feed(b'{"content":[{"type":"thinking"')
    assert soon_and_unseen(meter) == (True, True)
    meter.feed(b'}],"usage":{"input_tokens":5,"output_tokens":700}')
    assert soon_and_unseen(meter) == (True, False)


@pytest.mark.parametrize("before", [0, MAX_KEPT])
@pytest.mark.parametrize("kind", ["thinking", "redacted_thinking", "text"])
def test_thinking_in_a_body_can_not_be_seen_whatever_its_length(before: int, kind: str) -> None:
    """Nor when the body has ended without telling its usage."""
    blocks = [{"type": "text", "text": 'thinking"' + "x" * before}, {"type": kind}]
    body = json.dumps({"content": blocks}).encode()
    end = len(body) - 3
    for cuts in (range(1), range(0, end, 1_000), range(end - 100, end)):
        meter = answer_meter(stream=False)
        for each in pieces(body[:end], cuts):
            meter.feed(each)
        assert meter.unseen_output is (kind != "text")
        meter.end()
        assert meter.unseen_output is (kind != "text")


def test_an_error_is_not_read_on_and_costs_what_it_tells() -> None:
    meter = ErrorMeter()
    meter.feed(b'{"type":"error","thinking"')
    assert soon_and_unseen(meter) == (False, False)
