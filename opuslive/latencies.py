"""How long the requests of a sum took, counted by bounds."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from opuslive.histogram import quantile
from opuslive.times import MINUTE_MS

#: The bounds of the counts, in ms, each about twice the one before. Columns of the
#: database are named after them, so another bound is another column and a migration.
LATENCY_BOUNDS_MS = (
    250,
    500,
    1_000,
    2_000,
    4_000,
    8_000,
    15_000,
    30_000,
    60_000,
    120_000,
    300_000,
    600_000,
)


def latency_place(latency_ms: int) -> int:
    """Which of the counts a latency belongs to; a bound belongs to what is below it."""
    return bisect_left(LATENCY_BOUNDS_MS, latency_ms)


class Latencies:
    """Counts of latencies of requests that were served: ``counts[i]`` has those up to
    ``LATENCY_BOUNDS_MS[i]``, the last one those above all bounds."""

    __slots__ = ("counts",)

    def __init__(self, counts: Sequence[int] = (0,) * (len(LATENCY_BOUNDS_MS) + 1)) -> None:
        self.counts = tuple(counts)

    def __add__(self, other: Latencies) -> Latencies:
        return Latencies([a + b for a, b in zip(self.counts, other.counts, strict=True)])

    @classmethod
    def total(cls, parts: Iterable[Latencies]) -> Latencies:
        return sum(parts, cls())

    @property
    def median_ms(self) -> int | None:
        """Half of the requests took no longer, as far as the counts tell; None without any."""
        return self._quantile(0.5)

    @property
    def p95_ms(self) -> int | None:
        """95 of 100 requests took no longer, as far as the counts tell; None without any."""
        return self._quantile(0.95)

    def _quantile(self, part: float) -> int | None:
        found = quantile(LATENCY_BOUNDS_MS, self.counts, part)
        return None if found is None else round(found)

    def as_dict(self) -> dict[str, int | None]:
        """The members under which the interfaces show it."""
        return {"latency_median_ms": self.median_ms, "latency_p95_ms": self.p95_ms}


def format_latency(ms: int) -> str:
    """``840 ms``, ``3.2 s``, ``2 min 5 s``; what is above all bounds is known to be longer only."""
    longest = LATENCY_BOUNDS_MS[-1]
    if ms >= longest:
        return f"{longest // MINUTE_MS} min or more"
    if ms < 1_000:
        return f"{ms} ms"
    if ms < 60_000:
        return f"{ms / 1000:.1f} s"
    minutes, seconds = divmod(ms // 1000, 60)
    return f"{minutes:,} min {seconds} s"
