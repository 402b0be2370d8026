"""A terminal that a program draws on and a test types into and reads."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import struct
import termios
from collections.abc import Callable

import pyte

from tests.support.waiting import PATIENCE

COLUMNS, ROWS = 120, 50


class Terminal:
    """``far`` is the program's end; closed by ``started`` once the program has it."""

    def __init__(self) -> None:
        self._near, self.far = pty.openpty()
        fcntl.ioctl(self.far, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        os.set_blocking(self._near, False)
        self._screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self._screen)
        self._shown: list[str] = []
        asyncio.get_running_loop().add_reader(self._near, self._drawn)

    def started(self) -> None:
        os.close(self.far)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._near)
        os.close(self._near)

    @property
    def text(self) -> str:
        """What is on the screen: white space of any length is one space."""
        return " ".join(" ".join(self._screen.display).split())

    async def shows(self, text: str) -> None:
        """Wait until this is on the screen."""
        await self._comes(text, lambda: text in self.text)

    async def hides(self, text: str) -> None:
        """Wait until this is no longer on the screen."""
        await self._comes(f"no {text}", lambda: text not in self.text)

    def has_shown(self, text: str) -> bool:
        """Whether this has been on the screen."""
        return any(text in shown for shown in self._shown)

    async def will_have_shown(self, text: str) -> None:
        """Wait until this is on the screen, or has been."""
        await self._comes(text, lambda: self.has_shown(text))

    async def _comes(self, text: str, condition: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(3 * PATIENCE):
                while not condition():
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"{text!r} is not on the screen: {self.text}") from None

    async def enter(self, text: str) -> None:
        """Type a line and send it once it stands there, as a person does."""
        self.type(text)
        await self.shows(f"❯ {text}")
        self.type("\r")

    def type(self, text: str) -> None:
        os.write(self._near, text.encode())

    def _drawn(self) -> None:
        try:
            data = os.read(self._near, 65536)
        except BlockingIOError:
            return
        except OSError:
            # The program has ended.
            data = b""
        if data:
            self._stream.feed(data)
            self._shown.append(self.text)
        else:
            asyncio.get_running_loop().remove_reader(self._near)
