"""Programs under measurement: each on a core of its own, with what the kernel accounts to it."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

#: Seconds that a program may take to start. LiteLLM's proxy takes half a minute.
_PATIENCE = 90.0


@dataclass(frozen=True, slots=True)
class Tree:
    """A process and all that it has started, as nginx its workers."""

    pid: int

    def pids(self) -> list[int]:
        found = [self.pid]
        for pid in found:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    found += map(int, children.read_text().split())
        return found

    def cpu_seconds(self) -> float:
        """What all its threads have run. (A thread that ended is not counted.)"""
        total = 0
        for pid in self.pids():
            for ran in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                with contextlib.suppress(OSError):
                    total += int(ran.read_text().split()[0])
        return total / 1e9

    def memory_mb(self) -> float:
        """What is resident, pages that processes share counted once."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                found = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
                total += int(found[1]) if found else 0
        return total / 1024

    def forget_peak(self) -> None:
        """Let ``peak_mb`` be of what comes from here on."""
        for pid in self.pids():
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak_mb(self) -> float:
        """The most that was resident at any moment."""
        total = 0
        for pid in self.pids():
            status = Path(f"/proc/{pid}/status").read_text()
            found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
            total += int(found[1]) if found else 0
        return total / 1024


@contextlib.contextmanager
def process(
    core: int,
    *command: str,
    ready: str | None = None,
    environ: Mapping[str, str] | None = None,
    quiet: bool = False,
) -> Iterator[tuple[int, str]]:
    """Run a command on one core; yields its pid and the line of its output that has ``ready``."""
    begun = subprocess.Popen(
        ["taskset", "-c", str(core), *command],
        stdout=subprocess.PIPE if ready else subprocess.DEVNULL if quiet else None,
        stderr=subprocess.DEVNULL if quiet else None,
        env={**os.environ, **(environ or {})},
        text=True,
    )
    try:
        line = ""
        while ready and ready not in line:
            assert begun.stdout is not None
            line = begun.stdout.readline()
            assert line or begun.poll() is None, f"{command[0]} did not start"
        yield begun.pid, line
    finally:
        begun.terminate()
        begun.wait()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def wait_for(port: int) -> None:
    """Wait until somebody listens there. Raises TimeoutError."""
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.001)
    raise TimeoutError(f"nobody listens on port {port}")
