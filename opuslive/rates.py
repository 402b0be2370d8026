"""How much happened within the last minute."""

from __future__ import annotations

#: A minute has so many slots of so many ms. What happened in a slot is forgotten as a whole.
SLOTS = 12
SLOT_MS = 5_000


class MinuteRate:
    """Requests, and their tokens, of the last minute; to within one slot, which is left out early.

    Times are ms of a clock that never goes back.
    """

    __slots__ = ("_requests", "_slots", "_tokens")

    def __init__(self) -> None:
        #: Which slot, counted from time 0, each place of the ring was used for last.
        self._slots = [-1] * SLOTS
        self._requests = [0] * SLOTS
        self._tokens = [0] * SLOTS

    def add(self, now: int, tokens: int) -> None:
        """One request ended, and used so many tokens."""
        slot = now // SLOT_MS
        place = slot % SLOTS
        if self._slots[place] != slot:
            self._slots[place] = slot
            self._requests[place] = self._tokens[place] = 0
        self._requests[place] += 1
        self._tokens[place] += tokens

    def per_minute(self, now: int) -> tuple[int, int]:
        """Requests and tokens."""
        oldest = now // SLOT_MS - SLOTS
        places = [place for place, slot in enumerate(self._slots) if slot > oldest]
        return (
            sum(self._requests[place] for place in places),
            sum(self._tokens[place] for place in places),
        )
