"""Programs that users run, each start on a new home and in a network namespace of its own."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.doors import Door
from tests.support.namespaces import spawn
from tests.support.terminals import Terminal


@dataclass(frozen=True, slots=True)
class Turn:
    """How a run without a terminal ended."""

    status: int
    out: str
    err: str
    #: How many answers it asked for.
    requests: int


class Sealed:
    """A program. ``folder`` is its own, and the same at each start; what is in it is new."""

    def __init__(self, program: Path, folder: Path) -> None:
        self._program = program
        self.home = folder / "home"
        self.work = folder / "work"

    def furnish(self) -> None:
        """Make an empty home and an empty project."""
        for folder in (self.home, self.work):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)

    async def run(
        self, port: int, words: Sequence[str], environ: Mapping[str, str], *, asks: bytes
    ) -> Turn:
        """Run it to its end; its only way out leads to the port. ``asks`` begins a request."""
        async with self._started(port, words, environ) as (process, door):
            out, err = await asyncio.to_thread(process.communicate)
        return Turn(process.returncode, out.decode(), err.decode(), door.count(asks))

    @contextlib.asynccontextmanager
    async def opened(
        self, port: int, words: Sequence[str], environ: Mapping[str, str]
    ) -> AsyncIterator[Terminal]:
        """Run it in a terminal."""
        terminal = Terminal()
        try:
            async with self._started(port, words, environ, terminal):
                yield terminal
        finally:
            terminal.close()

    @contextlib.asynccontextmanager
    async def _started(
        self,
        port: int,
        words: Sequence[str],
        environ: Mapping[str, str],
        terminal: Terminal | None = None,
    ) -> AsyncIterator[tuple[subprocess.Popen[bytes], Door]]:
        command = [str(self._program), *words]
        everything = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self.home),
            "TMPDIR": str(self.home),
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
            **environ,
        }
        if terminal is None:
            process, listening = spawn(command, environ=everything, folder=self.work)
        else:
            ends = {"stdin": terminal.far, "stdout": terminal.far, "stderr": terminal.far}
            process, listening = spawn(command, environ=everything, folder=self.work, **ends)
            terminal.started()
        door = Door(port)
        await door.open(listening)
        try:
            yield process, door
        finally:
            process.kill()
            await asyncio.to_thread(process.communicate)
            await door.close()
