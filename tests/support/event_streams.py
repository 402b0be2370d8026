"""Event streams of no dialect, cut anywhere."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from hypothesis import strategies as st

from opuslive.dialects.sse import Event, Framer

STREAMS = st.lists(
    st.sampled_from(
        [b"a", b"\n", b"\r", b"\r\n", b"data: DONE", b"data: no", b"\n\n", b"\r\n\r\n"]
    ),
    max_size=20,
).map(b"".join)
CUTS = st.sets(st.integers(0, 90))


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """The data cut at these places, where it has them."""
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def events(*chunks: bytes) -> list[Event]:
    """The events that are whole in a stream of these chunks."""
    framer = Framer()
    return [event for chunk in chunks for event in framer.feed(chunk)]
