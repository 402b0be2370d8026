"""A terminal that a program draws on and a test types into and reads."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import struct
import termios

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
        try:
            async with asyncio.timeout(3 * PATIENCE):
                while text not in self.text:
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
        else:
            asyncio.get_running_loop().remove_reader(self._near)
