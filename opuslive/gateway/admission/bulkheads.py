"""Bulkheads: requests of one key that use up no limit run a few at a time.

Counting tokens and reading one's usage are free, so nothing but this keeps one key from taking all
of the gateway with them. A request first takes one of its key's *places*, or is denied at once if
there is none left; then, whenever it has work to do, it waits for its *turn* among those that have
a place, first come first served. So what may wait is bounded, and whoever has a place gets a turn.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.holder import Holder

#: Counts of tokens that one key has under way at the provider. (One takes some 0.3 s.)
COUNTS_AT_ONCE = 16
#: And with those that wait. Claude Code sends up to 33 at once: three of them find places.
COUNT_PLACES = 100
#: Reads of its usage that one key has under way; one at a time is at work. A page is one read.
READ_PLACES = 8
#: Seconds after which to come again, for nobody knows when a place will be free.
RETRY_AFTER = 5


class _Key:
    """What one key has taken."""

    __slots__ = ("places", "turn")

    def __init__(self, at_once: int) -> None:
        self.places = 0
        self.turn = asyncio.Semaphore(at_once)


class Bulkhead:
    """The places of all keys for one kind of request: each key has so many, of which ``at_once``
    have their turn at a time.

    ``denial`` is the sentence for a request that finds no place.
    """

    def __init__(self, at_once: int, places: int, denial: str) -> None:
        self._at_once = at_once
        self._places = places
        self._denial = denial
        #: The keys that have taken a place.
        self._keys: dict[Holder, _Key] = {}

    @contextlib.contextmanager
    def place(self, holder: Holder) -> Iterator[asyncio.Semaphore]:
        """A place of the key, and what to hold for a turn.

        Raises OpusLiveError (rate_limited) when there is no place left.
        """
        key = self._keys.get(holder)
        if key is None:
            key = self._keys[holder] = _Key(self._at_once)
        if key.places >= self._places:
            raise OpusLiveError(Code.RATE_LIMITED, self._denial, retry_after=RETRY_AFTER)
        key.places += 1
        try:
            yield key.turn
        finally:
            key.places -= 1
            if not key.places:
                del self._keys[holder]


def counting_bulkhead() -> Bulkhead:
    """For requests that count tokens."""
    return Bulkhead(
        COUNTS_AT_ONCE,
        COUNT_PLACES,
        f"This API key is having {COUNT_PLACES} requests counted, as many as it may at a time; "
        "try again when some of them have been answered.",
    )


def reading_bulkhead() -> Bulkhead:
    """For requests that read a key's usage."""
    return Bulkhead(
        1,
        READ_PLACES,
        f"The usage of this API key is being read {READ_PLACES} times already, which is as often "
        "as it may at a time; try again when some of that is done.",
    )
