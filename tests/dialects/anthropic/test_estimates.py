"""What is said of the output of a stream that was cut short, held against the usual ratios.

There is no tokenizer to count with. The reference is what ``BYTES_PER_TOKEN`` is made of: 4 to
4.5 bytes a token of English, 3 of code and JSON. No figure for German is given there; it is held
against the same one as English. An estimate is to be within 30 % of that, wherever the stream
was cut and however its bytes came.

What belongs to the kind of *told and overruled*: text before and after one or several reports, a
report that repeats or lowers a figure, an error after a report. To that of *content in no delta*:
every block that comes whole in its ``content_block_start``, deltas of a kind of their own, blocks
and events that nobody knows yet, encrypted or not; whole, half or too long to keep.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from opuslive.dialects.sse import MAX_EVENT
from tests.support.anthropic_streams import ERROR, PING, delta, event, metered, start, text, tool
from tests.support.event_streams import pieces

#: Characters a token.
PROSE, CODE = 4.25, 3.0

ENGLISH = (
    "The harbour was quiet when the last ferry left. A few gulls stood on the wall and watched "
    "the water, and somewhere behind the warehouses a radio played a song that nobody had asked "
    'for. "It will rain before midnight," said the old man, though the sky was clear.\n\n'
)
GERMAN = (
    "Der Hafen war still, als die letzte Fähre ablegte. Ein paar Möwen standen auf der Mauer und "
    "sahen aufs Wasser, und irgendwo hinter den Lagerhäusern spielte ein Radio ein Lied, um das "
    "niemand gebeten hatte. »Vor Mitternacht regnet es«, sagte der Alte; der Himmel war klar.\n\n"
)
PYTHON = (
    "def area(points: list[tuple[float, float]]) -> float:\n"
    '    """The area of a polygon, by the shoelace formula."""\n'
    "    total = 0.0\n"
    "    for (x1, y1), (x2, y2) in zip(points, points[1:] + points[:1]):\n"
    "        total += x1 * y2 - x2 * y1\n"
    "    return abs(total) / 2\n\n"
)
JSON = (
    '{"file_path": "src/geometry/area.py", "old_string": "return total", '
    '"new_string": "return abs(total) / 2", "replace_all": false}, '
)


def thinking(content: str) -> dict[str, Any]:
    inner = {"type": "thinking_delta", "thinking": content}
    return {"type": "content_block_delta", "index": 0, "delta": inner}


@pytest.mark.parametrize("share", [0.1, 0.37, 0.8, 1.0])
@pytest.mark.parametrize("longest", [12, 40, 200], ids="deltas of up to {} characters".format)
@pytest.mark.parametrize(
    ("delta", "content", "ratio"),
    [
        pytest.param(text, ENGLISH, PROSE, id="English"),
        pytest.param(text, GERMAN, PROSE, id="German"),
        pytest.param(text, PYTHON, CODE, id="code"),
        pytest.param(tool, JSON, CODE, id="tool input"),
        pytest.param(thinking, ENGLISH, PROSE, id="thinking"),
    ],
)
def test_the_output_of_a_stream_cut_short_is_estimated_to_within_30_percent(
    delta: Any, content: str, ratio: float, longest: int, share: float
) -> None:
    chance = random.Random(f"{content} {longest} {share}")
    content *= 20
    wire = event(start(input_tokens=123, output_tokens=1))
    #: Where each delta ends on the wire, and how many characters were relayed by then.
    relayed = [(len(wire), 0)]
    position = 0
    while position < len(content):
        piece = content[position : position + chance.randint(longest // 3, longest)]
        position += len(piece)
        wire += event(delta(piece))
        relayed.append((len(wire), position))
    end = int(len(wire) * share)
    characters = max(count for length, count in relayed if length <= end)
    cuts = [chance.randrange(end) for _ in range(chance.choice((0, 10, 300)))]
    counts = metered(*pieces(wire[:end], cuts)).counts()
    assert counts.input == 123
    assert counts.output == pytest.approx(characters / ratio, rel=0.3)


REPORTED = event(start(input_tokens=5, output_tokens=1))


@pytest.mark.parametrize(
    ("events", "output"),
    [
        ([text("=" * 8_000), delta(output_tokens=63)], 63),
        ([text("=" * 8_000), delta(output_tokens=63), delta(output_tokens=63)], 63),
        ([text("=" * 8_000), delta(output_tokens=63), PING], 63),
        ([text("=" * 8_000), delta(output_tokens=63), text("=" * 400)], 163),
        ([delta(output_tokens=63), text("=" * 400), delta(output_tokens=90)], 90),
        ([delta(output_tokens=63), text("=" * 400), delta(output_tokens=0)], 163),
        ([delta(output_tokens=63), text("=" * 400), delta(output_tokens=60)], 163),
        ([text("=" * 400), delta(output_tokens=0)], 101),
        ([text("=" * 400), delta(output_tokens=None)], 100),
        ([text("=" * 8_000), delta(output_tokens=63), ERROR], 63),
        ([delta(output_tokens=63), text("=" * 400), ERROR], 163),
    ],
)
def test_what_was_told_stands_and_only_what_came_after_it_is_estimated(
    events: list[dict[str, Any]], output: int
) -> None:
    wire = REPORTED + b"".join(map(event, events))
    for meter in (metered(wire), metered(*pieces(wire, range(len(wire))))):
        assert meter.counts().output == output
        assert not meter.output_told


def block(kind: str, **members: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": 0, "content_block": {"type": kind, **members}}


def piece(kind: str, **members: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": kind, **members}}


#: Base64 of 12,000 characters, which writes 3 bytes as 4, and what it makes in tokens.
CIPHER, CIPHER_TOKENS = "Ab+/" * 3_000, 12_000 * 3 // 4 // 4
ADVICE = {"type": "advisor_redacted_result", "encrypted_content": CIPHER}
PLAIN = "x" * 12_000


@pytest.mark.parametrize(
    ("content", "tokens"),
    [
        (block("redacted_thinking", data=CIPHER), CIPHER_TOKENS),
        (piece("signature_delta", signature=CIPHER), CIPHER_TOKENS),
        (block("advisor_tool_result", content=ADVICE), CIPHER_TOKENS),
        (block("web_search_tool_result", content=[{"encrypted_content": CIPHER}]), CIPHER_TOKENS),
        (block("advisor_tool_result", content={"type": "advisor_result", "text": PLAIN}), 3_000),
        (block("bash_code_execution_tool_result", content={"stdout": PLAIN}), 3_000),
        (block("mcp_tool_result", content=[{"type": "text", "text": PLAIN}]), 3_000),
        (block("text", text=PLAIN), 3_000),
        (block("nobody_knows", what=[PLAIN]), 3_000),
        (piece("nobody_knows_delta", what=PLAIN), 3_000),
        (piece("citations_delta", citation={"cited_text": PLAIN}), 3_000),
        ({"type": "nobody_knows", "what": PLAIN}, 3_000),
    ],
)
def test_content_counts_wherever_it_stands(content: dict[str, Any], tokens: float) -> None:
    wire = REPORTED + event(content)
    for length in (len(wire), len(wire) - 1, len(wire) - 3):
        for size in (length, len(REPORTED) + 150, 1_000):
            counts = metered(*pieces(wire[:length], range(0, length, size))).counts()
            assert counts.input - 5 + counts.output - 1 == pytest.approx(tokens, rel=0.05)


def test_content_counts_in_an_event_too_long_to_keep() -> None:
    wire = REPORTED + event(block("redacted_thinking", data="Ab+/" * MAX_EVENT))
    for size in (len(wire), 65_536):
        counts = metered(*pieces(wire, range(0, len(wire), size))).counts()
        assert counts.output == pytest.approx(MAX_EVENT * 3 / 4, rel=0.01)


@pytest.mark.parametrize(
    "control",
    [
        {**start(input_tokens=5), "pad": PLAIN},
        {**delta(), "pad": PLAIN},
        {"type": "ping", "pad": PLAIN},
        {"type": "content_block_stop", "index": 0, "pad": PLAIN},
        {"type": "error", "error": {"message": PLAIN}},
    ],
)
@pytest.mark.parametrize("name", ["", None])
def test_what_no_model_wrote_counts_nothing(control: dict[str, Any], name: str | None) -> None:
    assert metered(REPORTED, event(control, name=name)).counts().output == 1
    assert metered(REPORTED, event(control, name=name)[:-1]).counts().output == 1
