"""What is said of the output of a stream that was cut short, held against the usual ratios.

There is no tokenizer to count with. The reference is what ``BYTES_PER_TOKEN`` is made of: 4 to
4.5 bytes a token of English, 3 of code and JSON. No figure for German is given there; it is held
against the same one as English. An estimate is to be within 30 % of that, wherever the stream
was cut and however its bytes came.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.support.anthropic_streams import event, metered, start, text, tool
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
