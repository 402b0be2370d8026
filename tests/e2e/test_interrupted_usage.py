"""What is recorded of the tokens of a stream that its client leaves, or that breaks off."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence

import pytest

from opuslive.dialects.anthropic.relayed import BYTES_PER_TOKEN
from tests.support.anthropic_streams import delta, event, start, text
from tests.support.provider import CLOSE, RESET, STALL, STREAM_HEAD, ScriptedUpstream, Step, chunk
from tests.support.server import Server
from tests.support.wire import message_body

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROSE = "It will rain before midnight, said the old man, though the sky was still clear. " * 25
USAGE = {"input_tokens": 472, "cache_read_input_tokens": 50, "output_tokens": 2}


def events(reported: Sequence[int]) -> bytes:
    """A stream without its end: prose in small deltas, then what it says of its output."""
    deltas = [event(text(PROSE[place : place + 16])) for place in range(0, len(PROSE), 16)]
    told = [event(delta(output_tokens=count)) for count in reported]
    return b"".join((event(start(**USAGE)), *deltas, *told))


def cut_anywhere(data: bytes, pieces: int) -> list[bytes]:
    chance = random.Random(pieces)
    places = [0, *sorted(chance.sample(range(1, len(data)), pieces - 1)), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(places)]


@pytest.mark.parametrize("pieces", [1, 40, 400])
@pytest.mark.parametrize("reported", [(), (600, 2600)], ids=["estimated", "told"])
@pytest.mark.parametrize(
    ("end", "status"), [(STALL, 499), (CLOSE, 502), (RESET, 502)], ids=["left", "closed", "reset"]
)
async def test_the_usage_of_an_interrupted_answer_is_told_or_estimated(
    gateway: Server,
    upstream: ScriptedUpstream,
    key: str,
    end: Step,
    status: int,
    reported: Sequence[int],
    pieces: int,
) -> None:
    """The input exactly; the output as last told, or else from the text that passed."""
    stream = events(reported)
    read = asyncio.Event()
    upstream.will([STREAM_HEAD, *map(chunk, cut_anywhere(stream, pieces)), read, end])
    async with gateway.asking(key, message_body(stream=True)) as wire:
        await wire.head()
        assert await wire.chunks(len(stream)) == stream
        if status == 502:
            read.set()
            assert await wire.ending() == ("reset", b"")
    (record,) = await gateway.records(key, 1)
    assert (record["status"], record["input_tokens"], record["cache_read_tokens"]) == (
        status,
        472,
        50,
    )
    if reported:
        assert record["output_tokens"] == reported[-1]
    else:
        assert record["output_tokens"] == pytest.approx(len(PROSE) / BYTES_PER_TOKEN, rel=0.02)
