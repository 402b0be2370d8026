"""How many instructions an exchange takes, counted by callgrind beside a reference loop.

What is counted is an exchange in memory (``driven``): from a request that has come to the record
that is done, without kernel, event loop and HTTP towards the client. The same code gives the same
numbers each time, so they show what a clock does not: a difference of one percent. The ratio to the
reference loop takes out most of what the build of Python does.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench.callgrind import available_machine
from tests.bench.driven import CHUNKS

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Counted:
    """Instructions, each of one: of the loop, of a JSON request, of a stream, of a chunk of it."""

    reference: int
    request: int
    stream: int
    chunk: int

    @property
    def request_ratio(self) -> float:
        return self.request / self.reference

    @property
    def chunk_ratio(self) -> float:
        return self.chunk / self.reference

    def as_dict(self) -> dict[str, float]:
        ratios = {"request_ratio": self.request_ratio, "chunk_ratio": self.chunk_ratio}
        return {**asdict(self), **ratios}

    def __str__(self) -> str:
        return "\n".join(
            (
                f"reference loop            {self.reference:>9,} instructions",
                f"JSON request              {self.request:>9,}   ratio {self.request_ratio:.3f}",
                f"stream without its chunks {self.stream:>9,}   "
                f"ratio {self.stream / self.reference:.3f}",
                f"streamed chunk            {self.chunk:>9,}   ratio {self.chunk_ratio:.5f}",
            )
        )


def missing() -> str | None:
    """Why nothing can be counted here; None if it can."""
    if not available_machine():
        return "callgrind is told what to count in machine code of x86-64 alone"
    if shutil.which("valgrind") is None:
        return "valgrind is not installed (Debian: apt-get install valgrind)"
    return None


def count() -> Counted:
    """Count anew; takes half a minute. Raises SystemExit if that is not possible here."""
    why = missing()
    if why is not None:
        sys.exit(f"Instructions can't be counted: {why}.")
    with tempfile.TemporaryDirectory(prefix="opuslive-bench-") as name:
        out = Path(name, "callgrind.out")
        done = subprocess.run(
            [
                "valgrind",
                "--quiet",
                "--tool=callgrind",
                "--instr-atstart=no",
                f"--callgrind-out-file={out}",
                sys.executable,
                "-m",
                "tests.bench.driven",
            ],
            env=_environment(),
            cwd=_ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            sys.exit(f"The exchange failed:\n{done.stderr}")
        numbers = {
            each["name"]: each["number"] for each in map(json.loads, done.stdout.splitlines())
        }
        totals = dict(_totals(dump) for dump in Path(name).glob("callgrind.out.*"))
    each = {name: totals[name] // number for name, number in numbers.items()}
    chunk = (each["stream of more chunks"] - each["stream"]) // CHUNKS
    return Counted(each["reference"], each["request"], each["stream"], chunk)


def _environment() -> dict[str, str]:
    """What may change what Python does is left out, and hashes of text are those of each run."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return {**kept, "PYTHONHASHSEED": "0", "PYTHONPATH": str(_ROOT), "LANG": "C.UTF-8"}


def _totals(dump: Path) -> tuple[str, int]:
    """What was counted, by its name, and its instructions."""
    text = dump.read_text("utf-8", "replace")
    trigger = re.search(r"^desc: Trigger: Client Request: (.*)$", text, re.MULTILINE)
    total = re.search(r"^(?:totals|summary): (\d+)", text, re.MULTILINE)
    return ("" if trigger is None else trigger[1], 0 if total is None else int(total[1]))
