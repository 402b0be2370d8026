"""What was measured and on which machine, as a table of Markdown and as JSON."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from tests.bench.figures import FIGURES, Results, Scale

#: What all others are compared with.
YARDSTICK = "nginx"


def document(results: Results, scale: Scale) -> dict[str, object]:
    """For a program: medians, every round, and the ratios to nginx of the same round."""
    return {
        "machine": machine(),
        "scale": asdict(scale),
        "figures": {
            figure: {
                name: {
                    "median": statistics.median(values),
                    "rounds": list(values),
                    "ratio": ratio(results, figure, name),
                }
                for name, values in by_name.items()
            }
            for figure, by_name in results.items()
        },
    }


def ratio(results: Results, figure: str, name: str) -> float | None:
    """The median of the ratios to nginx, each of one round; None where that makes no sense."""
    theirs = results[figure].get(YARDSTICK)
    if theirs is None or FIGURES[figure][0] != "µs":
        return None
    ours = results[figure][name]
    return statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))


def markdown(results: Results, scale: Scale) -> str:
    """A row for each figure; CPU with its ratio to nginx."""
    names = list(dict.fromkeys(name for by_name in results.values() for name in by_name))
    rows = []
    for figure, (unit, words) in FIGURES.items():
        if figure in results:
            cells = [_cell(results, figure, name, unit) for name in names]
            rows.append([words.format(**asdict(scale)), *cells])
    return "\n".join(table(["", *names], rows))


def _cell(results: Results, figure: str, name: str, unit: str) -> str:
    values = results[figure].get(name)
    if not values:
        return "–"
    median = statistics.median(values)
    digits = 0 if unit in ("MB", "") or median >= 100 else 2 if unit in ("ms", "s") else 1
    beside = ratio(results, figure, name) if name != YARDSTICK else None
    text = f"{median:,.{digits}f} {unit}".strip()
    return text if beside is None else f"{text} ({beside:.2f} ×)"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a table of Markdown."""
    yield f"| {' | '.join(heads)} |"
    yield "| --- " * len(heads) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def machine() -> Mapping[str, object]:
    """What it was measured on."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }
