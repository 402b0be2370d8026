"""What OpusLive costs, measured beside others in the same run.

``python -m tests.bench`` measures CPU, latency and memory beside nginx, a plain aiohttp proxy, and
Bifrost and LiteLLM's proxy where their programs are installed; it prints a table of Markdown, and
``--json FILE`` writes all of it down. ``python -m tests.bench growth`` measures what history, keys,
limits and bodies cost as they grow. ``python -m tests.bench instructions`` counts instructions of
one exchange, which are the same each time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
from asyncio import Runner
from collections.abc import Sequence
from pathlib import Path

import uvloop

from tests.bench import figures, growth, instructions, tables
from tests.bench.subjects import (
    ALWAYS,
    OTHERS_CORE,
    WHERE_INSTALLED,
    Beside,
    Start,
    nginx_path,
    running_origin,
)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _subjects(beside: Sequence[Beside]) -> dict[str, Start]:
    installed = {
        name: start
        for name, (program, start) in WHERE_INSTALLED.items()
        if shutil.which(program) is not None
    }
    return {**ALWAYS, **installed, **{each.name: each for each in beside}}


def _beside(arguments: argparse.Namespace) -> None:
    nginx_path()
    scale = figures.QUICK if arguments.quick else figures.WHOLE
    with tempfile.TemporaryDirectory(prefix="opuslive-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with (
            running_origin(folder) as origin,
            Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            subjects = _subjects(arguments.beside)
            results = runner.run(figures.measure(subjects, scale, folder, origin, _say))
    print(tables.markdown(results, scale))
    _write(arguments.json, tables.document(results, scale))


def _growth(arguments: argparse.Namespace) -> None:
    scale = growth.QUICK if arguments.quick else growth.WHOLE
    with Runner(loop_factory=uvloop.new_event_loop) as runner:
        rows = runner.run(growth.measure(scale, _say))
    print(growth.markdown(rows))
    _write(arguments.json, {"machine": tables.machine(), "rows": [row.as_dict() for row in rows]})


def _instructions(arguments: argparse.Namespace) -> None:
    counted = instructions.count()
    print(counted)
    _write(arguments.json, counted.as_dict())


def _write(path: Path | None, document: object) -> None:
    if path is not None:
        path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="?", choices=("growth", "instructions"))
    parser.add_argument("--quick", action="store_true", help="less of each, in under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures into FILE")
    parser.add_argument(
        "--beside",
        type=Beside.parse,
        action="append",
        default=[],
        metavar="NAME[@/PATH]=COMMAND",
        help="measure this proxy, too: {port} in the command is where it is to listen, {origin} "
        "the port of the provider on 127.0.0.1, {folder} a folder for it",
    )
    arguments = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # Instructions are counted, not timed: on whatever core.
    if arguments.what != "instructions":
        if (os.cpu_count() or 1) < 2:
            sys.exit("The benchmark needs two cores: one for the proxy, one for all else.")
        os.sched_setaffinity(0, {OTHERS_CORE})
    {"growth": _growth, "instructions": _instructions, None: _beside}[arguments.what](arguments)


if __name__ == "__main__":
    main()
