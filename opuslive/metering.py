"""Token counts, and what a meter is.

A meter watches the bytes of one answer on their way to the client and learns from
them what the request used. It never changes, delays or keeps them. How usage is
written differs between wire formats, so the meters themselves are in ``dialects``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

#: A body in memory: bytes, or a view of an anonymous mmap for a large one.
Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens of one request, in disjoint kinds: the whole input is the sum of all but ``output``.

    ``cache_write_5m`` and ``cache_write_1h`` are input tokens written to the provider's
    prompt cache with that lifetime; ``cache_read`` those served from it.
    """

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0

    @property
    def cache_write(self) -> int:
        return self.cache_write_5m + self.cache_write_1h

    @property
    def total(self) -> int:
        """Tokens of every kind."""
        return self.input + self.output + self.cache_read + self.cache_write


class Meter(Protocol):
    """Reads usage out of one answer. How its bytes are split makes no difference."""

    @property
    def finished(self) -> bool:
        """Whether the answer has said its last word on usage: a terminal event was seen."""

    @property
    def failed(self) -> bool:
        """Whether the answer itself reports that the provider gave up on it half-way."""

    def feed(self, chunk: bytes) -> int:
        """Take the next bytes; return how many of ``chunk`` the client may see already.

        What lies beyond that belongs to the terminal event, or to one that may turn out
        to be it; it has to wait until the usage is on disk (or for the next call, whose
        answer counts for the bytes held back as well, unless it is 0).
        """

    def end(self) -> bool:
        """The body ended. Return whether the answer is whole."""

    def counts(self) -> TokenCounts:
        """What is known by now; the output of an unfinished answer is an estimate."""


class NoUsage:
    """The meter of an answer that used nothing: an error of the upstream."""

    finished = False
    failed = False

    def feed(self, chunk: bytes) -> int:
        return len(chunk)

    def end(self) -> bool:
        return True

    def counts(self) -> TokenCounts:
        return TokenCounts()
