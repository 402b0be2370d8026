"""The figures, and how each is measured: interleaved, so that what else the machine does meets all.

CPU is what the kernel accounts to the process and its threads (user and system): it holds on a busy
machine better than times would. Quote the ratio to nginx, and the median.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from tests.bench import loads
from tests.bench.subjects import Origin, Start, Subject

#: Requests a second at which a request is lone.
RATE = 100


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    rounds: int
    requests: int
    paced_seconds: float
    lone: int
    streams: int
    events: int
    open_streams: int
    held: int


WHOLE = Scale(5, 8_000, 10.0, 1_500, 150, 150, 2_000, 5_000)
QUICK = Scale(1, 2_500, 2.5, 300, 150, 40, 300, 300)

#: Figure → its unit, and the words of the table.
FIGURES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "saturated": ("µs", "CPU of a small JSON request, 32 connections saturated"),
        "paced": ("µs", f"CPU of a small JSON request, {RATE} a second"),
        "lone": ("µs", "CPU of a small JSON request, one connection, one after the other"),
        "chunk": ("µs", "CPU of a streamed chunk, 150 streams, an event each 20 ms"),
        "tls": ("µs", "CPU of a small JSON request, TLS to the upstream"),
        "p50": ("ms", f"added time to first byte, median, {RATE} a second"),
        "p99": ("ms", f"added time to first byte, 99th percentile, {RATE} a second"),
        "idle": ("MB", "resident memory, idle"),
        "open": ("MB", "resident memory, {open_streams:,} open streams"),
        "after": ("MB", "resident memory after they went"),
        "held": ("", "open streams held of {held:,}"),
        "start": ("s", "cold start"),
    }
)

#: Figure → name of the subject → what each round measured.
Results = Mapping[str, Mapping[str, Sequence[float]]]
Measured = Mapping[str, float]


async def _cpu(subject: Subject, load: Awaitable[object], units: int) -> float:
    """CPU per unit of a load, in µs."""
    before = subject.tree.cpu_seconds()
    await load
    return (subject.tree.cpu_seconds() - before) / units * 1e6


async def _saturated(subject: Subject, scale: Scale, _: Origin) -> Measured:
    load = loads.saturate(subject.port, loads.small_request(subject), 32, scale.requests)
    return {"saturated": await _cpu(subject, load, scale.requests // 32 * 32)}


async def _lone(subject: Subject, scale: Scale, _: Origin) -> Measured:
    load = loads.saturate(subject.port, loads.small_request(subject), 1, scale.lone)
    return {"lone": await _cpu(subject, load, scale.lone)}


async def _tls(subject: Subject, scale: Scale, _: Origin) -> Measured:
    if not subject.tls_port:
        return {}
    request = loads.small_request(subject, tls=True)
    load = loads.saturate(subject.tls_port, request, 32, scale.requests)
    return {"tls": await _cpu(subject, load, scale.requests // 32 * 32)}


async def _paced(subject: Subject, scale: Scale, origin: Origin) -> Measured:
    """CPU, and by how much later the first byte comes than without a proxy."""
    request = loads.small_request(subject)
    direct = _percentiles(await loads.pace(origin.port, request, RATE, scale.paced_seconds / 2))
    before = subject.tree.cpu_seconds()
    taken = await loads.pace(subject.port, request, RATE, scale.paced_seconds)
    cpu = (subject.tree.cpu_seconds() - before) / len(taken) * 1e6
    through = _percentiles(taken)
    return {"paced": cpu, "p50": through[0] - direct[0], "p99": through[1] - direct[1]}


async def _chunks(subject: Subject, scale: Scale, _: Origin) -> Measured:
    load = loads.stream(
        subject.port, loads.stream_request(subject, scale.events, 20), scale.streams
    )
    return {"chunk": await _cpu(subject, load, scale.streams * scale.events)}


def _percentiles(taken: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(taken)
    return statistics.median(ordered), ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]


_BESIDE_EACH_OTHER: Sequence[Callable[[Subject, Scale, Origin], Awaitable[Measured]]] = (
    _saturated,
    _lone,
    _tls,
    _paced,
    _chunks,
)


async def _memory(subject: Subject, scale: Scale) -> Measured:
    """On a process that has done nothing yet."""
    await loads.saturate(subject.port, loads.small_request(subject), 1, 20)
    measured = {"start": subject.seconds_to_start, "idle": subject.tree.memory_mb()}
    async with loads.held_open(subject, scale.open_streams):
        measured["open"] = subject.tree.memory_mb()
    await asyncio.sleep(3)
    measured["after"] = subject.tree.memory_mb()
    async with loads.held_open(subject, scale.held) as failed:
        measured["held"] = scale.held - failed
    return measured


async def measure(
    subjects: Mapping[str, Start],
    scale: Scale,
    folder: Path,
    origin: Origin,
    say: Callable[[str], object],
) -> Results:
    """Every figure of every subject."""
    results: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def note(subject: Subject, measured: Measured) -> None:
        for figure, value in measured.items():
            results[figure][subject.name].append(value)

    with ExitStack() as stack:
        running = [stack.enter_context(start(_new(folder), origin)) for start in subjects.values()]
        for subject in running:
            await loads.saturate(subject.port, loads.small_request(subject), 8, 400)
        for number in range(scale.rounds):
            say(f"round {number + 1} of {scale.rounds}")
            for figure in _BESIDE_EACH_OTHER:
                # Another one begins each time: what one leaves behind falls on each.
                for subject in _turned(running, number):
                    note(subject, await figure(subject, scale, origin))
    for start in subjects.values():
        with start(_new(folder), origin) as subject:
            say(f"memory of {subject.name}")
            note(subject, await _memory(subject, scale))
    return results


def _turned(running: Sequence[Subject], by: int) -> Iterator[Subject]:
    for index in range(len(running)):
        yield running[(index + by) % len(running)]


def _new(folder: Path) -> Path:
    """A folder that the workers of nginx may look into."""
    new = Path(tempfile.mkdtemp(dir=folder))
    new.chmod(0o755)
    return new
