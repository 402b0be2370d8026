"""A machine of one's own to type commands on: a folder, an environment, and a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import opuslive
from tests.support.server import Outcome
from tests.support.waiting import PATIENCE, eventually

CTRL_C = "\x03"


class Terminal:
    """A program on a terminal: what it shows, and what is typed."""

    def __init__(self, words: Sequence[str], environ: dict[str, str], folder: Path) -> None:
        self._main, other = pty.openpty()
        os.set_blocking(self._main, False)

        def take_terminal() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self._process = subprocess.Popen(
            words,
            env=environ,
            cwd=folder,
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
            preexec_fn=take_terminal,
        )
        os.close(other)
        self.shown = ""
        self._seen = 0

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            while data := os.read(self._main, 65536):
                self.shown += data.decode().replace("\r\n", "\n")

    async def see(self, text: str) -> None:
        """Wait until the text is shown, behind what was waited for before."""

        def shown() -> bool:
            self._read()
            found = self.shown.find(text, self._seen)
            if found < 0:
                ended = self._process.poll() is not None
                assert not ended, f"it ended without {text!r}: {self.shown}"
                return False
            self._seen = found + len(text)
            return True

        await eventually(shown, text)

    async def type(self, text: str) -> None:
        os.write(self._main, text.encode())

    async def answer(self, question: str, answer: str = "") -> None:
        """Wait for a question, then type the answer and Enter."""
        await self.see(question)
        await self._ready()
        await self.type(answer + "\n")

    async def _ready(self) -> None:
        """Wait until what is typed meets the question: it ends with a colon and a space."""

        def waits() -> bool:
            self._read()
            return self.shown.endswith(": ")

        await eventually(waits, "the question's end")

    async def interrupt(self, question: str) -> None:
        """Press Ctrl-C at a question, and again after a second: what is pressed while the terminal
        is set up for the question may be lost, on a busy machine."""
        await self.see(question)
        await self._ready()
        loop = asyncio.get_running_loop()
        presses, first = 0, loop.time()

        def ended() -> bool:
            nonlocal presses
            self._read()
            if self._process.poll() is not None:
                return True
            if loop.time() >= first + presses:
                presses += 1
                os.write(self._main, CTRL_C.encode())
            return False

        await eventually(ended, "its end")

    async def wait(self) -> int:
        """Wait for its end; return the exit status."""

        def ended() -> bool:
            self._read()
            return self._process.poll() is not None

        await eventually(ended, "its end")
        self._read()
        return self._process.wait()

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._main)


class Machine:
    """A home, a working folder in it, and nothing set up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.state = folder / "state"
        for made in (self.home, self.state):
            made.mkdir(mode=0o700)
        self.config_file = self.home / "config.toml"
        self.environ = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self.home),
            "XDG_STATE_HOME": str(self.state),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(Path(opuslive.__file__).parents[1]),
            # Else root's would be that of the system.
            "OPUSLIVE_CONFIG": str(self.config_file),
        }

    def words(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "opuslive", *arguments]

    async def run(self, *arguments: str, input_: str = "", **environ: str) -> Outcome:
        """Run a command without a terminal."""
        return await self.run_words(self.words(*arguments), input_, **environ)

    async def run_words(self, words: Sequence[str], input_: str = "", **environ: str) -> Outcome:
        done = await asyncio.to_thread(
            subprocess.run,
            words,
            env=self.environ | environ,
            cwd=self.home,
            input=input_.encode(),
            capture_output=True,
            timeout=3 * PATIENCE,
        )
        return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())

    @contextlib.asynccontextmanager
    async def terminal(self, *arguments: str, **environ: str) -> AsyncIterator[Terminal]:
        """Run a command on a terminal."""
        terminal = Terminal(self.words(*arguments), self.environ | environ, self.home)
        try:
            yield terminal
        finally:
            terminal.close()

    def files(self) -> dict[str, bytes]:
        """Every file at home, hidden ones too."""
        return {
            str(path.relative_to(self.home)): path.read_bytes()
            for path in self.home.rglob("*")
            if path.is_file()
        }
