"""What a gateway costs as it grows: its history, its keys, the limits of a key, the bodies."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench import loads, tables
from tests.bench.pages import write_keys, write_records
from tests.bench.subjects import Origin, Subject, opuslive, running_origin

Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Scale:
    """The sizes that are measured, and requests of each measurement. Bodies are in KB."""

    records: Sequence[int]
    keys: Sequence[int]
    limits: Sequence[int]
    bodies: Sequence[int]
    requests: int


WHOLE = Scale(
    (10_000, 100_000, 1_000_000, 10_000_000),
    (10, 100, 1_000, 10_000),
    (1, 5, 20),
    (1, 100, 1_000, 10_000, 30_000),
    6_000,
)
QUICK = Scale((10_000,), (10, 1_000), (1, 20), (1, 10_000), 1_500)
#: Keys that a history is of.
_KEYS_OF_A_HISTORY = 100
#: The bodies of a measurement are so many KB together.
_KB_OF_BODIES = 120_000
#: Streams that go on meanwhile.
_STREAMS, _PACE_MS = 20, 20


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured at one size; None where it was not."""

    what: str
    size: int
    cpu_us: float
    start_s: float | None = None
    memory_mb: float | None = None
    peak_mb: float | None = None
    gap_ms: float | None = None

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def markdown(rows: Sequence[Row]) -> str:
    heads = ("", "CPU of a request", "start", "memory idle", "memory more", "p99 gap of streams")
    cells = [
        [
            f"{row.size:,} {row.what}",
            f"{row.cpu_us:,.0f} µs",
            *(
                "–" if value is None else f"{value:,.{digits}f} {unit}"
                for value, digits, unit in (
                    (row.start_s, 2, "s"),
                    (row.memory_mb, 0, "MB"),
                    (row.peak_mb, 0, "MB"),
                    (row.gap_ms, 1, "ms"),
                )
            ),
        ]
        for row in rows
    ]
    return "\n".join(tables.table(heads, cells))


async def measure(scale: Scale, say: Say) -> Sequence[Row]:
    with tempfile.TemporaryDirectory(prefix="opuslive-bench-") as name:
        folder = Path(name)
        with running_origin(folder) as origin:
            return [
                *[await _with_records(number, scale, origin, say) for number in scale.records],
                *[await _with_keys(number, scale, origin, say) for number in scale.keys],
                *[await _with_limits(number, scale, origin, say) for number in scale.limits],
                *[row async for row in _with_bodies(scale, origin, say)],
            ]


async def _with_records(number: int, scale: Scale, origin: Origin, say: Say) -> Row:
    say(f"{number:,} records" + (" (writing them takes minutes)" if number > 10**6 else ""))
    async with _prepared(origin, _KEYS_OF_A_HISTORY) as folder:
        began = time.perf_counter()
        await asyncio.to_thread(write_records, folder / "bench.db", number // _KEYS_OF_A_HISTORY)
        if number > 10**6:
            say(f"they are written after {time.perf_counter() - began:.0f} s")
        return await _started("records", number, folder, scale, origin)


async def _with_keys(number: int, scale: Scale, origin: Origin, say: Say) -> Row:
    say(f"{number:,} keys")
    async with _prepared(origin, number) as folder:
        return await _started("keys", number, folder, scale, origin)


async def _with_limits(number: int, scale: Scale, origin: Origin, say: Say) -> Row:
    say(f"{number:,} limits")
    limits = [word for hours in range(1, number + 1) for word in ("--limit", f"9B tokens/{hours}h")]
    async with _prepared(origin, 0) as folder:
        return await _started("limits", number, folder, scale, origin, *limits)


async def _with_bodies(scale: Scale, origin: Origin, say: Say) -> AsyncIterator[Row]:
    async with _prepared(origin, 0) as folder:
        with opuslive(folder, origin) as subject:
            await _cpu_us(subject, 400)
            for size in scale.bodies:
                say(f"bodies of {size:,} KB")
                yield await _with_body(subject, size)


async def _with_body(subject: Subject, size: int) -> Row:
    number = max(4, min(2_000, _KB_OF_BODIES // size))
    request = loads.small_request(subject, size=size * 1_000)
    await loads.saturate(subject.port, request, 1, 2)
    tree = subject.tree
    tree.forget_peak()
    memory, before = tree.peak_mb(), tree.cpu_seconds()
    await loads.saturate(subject.port, request, 1, number)
    cpu_us = (tree.cpu_seconds() - before) / number * 1e6
    peak = tree.peak_mb() - memory
    gaps = await _gaps_beside(subject, request)
    gap = statistics.quantiles(gaps, n=100)[98] - _PACE_MS
    return Row("KB a body", size, cpu_us, peak_mb=max(0.0, peak), gap_ms=max(0.0, gap))


async def _gaps_beside(subject: Subject, request: bytes) -> Sequence[float]:
    """ms between the chunks of streams, while such requests go through one after the other."""
    streams = loads.stream_request(subject, 100, _PACE_MS)
    watched = asyncio.ensure_future(loads.gaps(subject.port, streams, _STREAMS))
    while not watched.done():
        await loads.saturate(subject.port, request, 1, 1)
    return await watched


@asynccontextmanager
async def _prepared(origin: Origin, keys: int) -> AsyncIterator[Path]:
    """A folder with a database that has so many keys."""
    with tempfile.TemporaryDirectory(prefix="opuslive-bench-") as name:
        folder = Path(name)
        await write_keys(folder / "bench.db", keys)
        yield folder


async def _started(
    what: str, size: int, folder: Path, scale: Scale, origin: Origin, *options: str
) -> Row:
    with opuslive(folder, origin, *options) as subject:
        await _cpu_us(subject, 20)
        memory = subject.tree.memory_mb()
        await _cpu_us(subject, 400)
        cpu = [await _cpu_us(subject, scale.requests // 3) for _ in range(3)]
        start = subject.seconds_to_start
    return Row(what, size, statistics.median(cpu), start, memory)


async def _cpu_us(subject: Subject, requests: int) -> float:
    connections = min(32, requests)
    before = subject.tree.cpu_seconds()
    await loads.saturate(subject.port, loads.small_request(subject), connections, requests)
    done = requests // connections * connections
    return (subject.tree.cpu_seconds() - before) / done * 1e6
