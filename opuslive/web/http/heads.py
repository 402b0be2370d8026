"""One budget of memory for all heads that are not whole.

A head may have 64 KB, so thousands of heads that never end would take a gigabyte within their
15 s. A usual head comes whole, in one packet, and is never counted.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

#: Bytes that the unfinished heads of all connections may take.
MAX_HEADS = 32 * 1024 * 1024
#: What aiohttp's parser takes for a head that is not whole, measured: bytes for each byte of it,
#: and for each line, of which it takes no more than 128.
_PER_BYTE = 2
_PER_LINE = 160
_MAX_LINES = 129


class Sender(Protocol):
    """A connection whose head is not whole."""

    def abort(self) -> None:
        """Close the connection at once."""


class HeadBudget:
    """Closes the connections with the oldest unfinished heads when all take more than ``most``
    bytes together."""

    def __init__(self, most: int = MAX_HEADS) -> None:
        self._most = most
        #: Connection → bytes, in the order in which their heads began.
        self._held: OrderedDict[Sender, int] = OrderedDict()
        self.total = 0

    def hold(self, sender: Sender, size: int, lines: int) -> None:
        """The sender's head has ``size`` bytes and so many lines by now."""
        taken = _PER_BYTE * size + _PER_LINE * min(lines, _MAX_LINES)
        self.total += taken - self._held.get(sender, 0)
        self._held[sender] = taken
        while self.total > self._most:
            oldest, taken = self._held.popitem(last=False)
            self.total -= taken
            oldest.abort()

    def release(self, sender: Sender) -> None:
        """The sender's head is whole, or its connection is over."""
        self.total -= self._held.pop(sender, 0)
