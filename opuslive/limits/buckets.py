"""Buckets: what was used of late, in a row of constant size that moves up as time goes on.

Theory of operation. A span of time is cut into 60 buckets. What counts is 61 of them: the current
one and the 60 whole ones before it::

    time     ──────────────────────────────────────────────►
    buckets  │ 0 │ 1 │ 2 │ 3 │ …                │ 59 │ 60 │
               └ leaves when bucket 61 begins          └ now is somewhere in here

Buckets begin at multiples of their length since the epoch, and not when the row was made: what
was counted before a restart falls into the same bucket after it. Each is one machine word of a row
that moves up by one when a bucket begins. A bucket's length need not be whole ms, so bounds are
kept in 60ths of a ms: a bucket's length in those is the span in ms.

When the date is moved (``times``), the bounds of all buckets move with it: how old an amount is
stays as it was, to the ms. From then on the buckets of this row begin so much later or earlier than
those of a row that is made anew.
"""

from __future__ import annotations

from array import array
from typing import Final

#: Buckets as long together as the span.
BUCKETS: Final = 60
#: Buckets that count: those, and the current one, of which only a part has passed.
COUNTED: Final = BUCKETS + 1
#: Bytes of a bucket.
_WORD: Final = 8
#: What one bucket can hold: far more than any limit, and within the 64 bits of its word.
_MOST: Final = 2**62


class Buckets:
    """Amounts of the last ``span`` ms. Times are in ms since the epoch.

    Whoever owns it keeps the sum, by what ``advance`` and ``add`` return.
    """

    __slots__ = ("_begun", "_edge", "_falls", "_row", "span", "turns_at")

    def __init__(self, span: int, now: int) -> None:
        self.span = span
        #: The buckets that count, oldest first.
        self._row = _empty(COUNTED)
        #: When the current bucket began, in 60ths of a ms: its length in those is the span.
        self._edge = now * BUCKETS // span * span
        #: What ``falls`` returned; None since a bucket was filled for the first time, or emptied.
        self._falls: tuple[int, int] | None = None
        self._note_bounds()

    def _note_bounds(self) -> None:
        """Keep the bounds of the current bucket in ms: most of what happens is within them, and a
        comparison costs less than a division."""
        self._begun = self._begin(0)
        self.turns_at = self._begin(1)
        self._falls = None

    def shift(self, delta: int) -> None:
        """Move the dates of all that is in it by ``delta`` ms: nothing gets older or younger."""
        self._edge += delta * BUCKETS
        self._note_bounds()

    def advance(self, now: int) -> int:
        """Move on to the bucket that ``now`` is in; return how much no longer counts.

        Before ``turns_at`` that bucket is, or was, the current one: then nothing changes.
        """
        if now < self.turns_at:
            return 0
        begun = self._number(now)
        self._edge += begun * self.span
        self._note_bounds()
        begun = min(begun, COUNTED)
        left = sum(self._row[:begun])
        self._row = self._row[begun:] + _empty(begun)
        return left

    def add(self, amount: int, at: int) -> int:
        """Add to the bucket of a time; return by how much the sum changed.

        What is too old for any bucket changes nothing, and what is in the future is added to the
        current one.
        """
        place = BUCKETS
        if at < self._begun:
            place += self._number(at)
            if place < 0:
                return 0
        before = self._row[place]
        after = min(before + amount, _MOST)
        self._row[place] = after
        if not before or not after:
            self._falls = None
        return after - before

    def subtract(self, other: Buckets) -> int:
        """Take out what another row of the same span, at the same moment, holds; return how much
        the sum fell.

        What the two rows have of one request may lie a bucket apart, because a row that was
        rebuilt from sums has it at the end of its hour. So what a bucket does not have is taken
        from the next ones; and from the one before, where the bounds of the buckets differ.
        """
        owed = taken = 0
        row = other._row
        if (self._edge - other._edge) % self.span:
            row = array("q", [row[0] + row[1], *row[2:], 0])
        for place, amount in enumerate(row):
            owed += amount
            part = min(self._row[place], owed)
            self._row[place] -= part
            owed -= part
            taken += part
        self._falls = None
        return taken

    def merge(self, other: Buckets) -> int:
        """Add what another row of the same span, at the same moment, holds; return how much."""
        added = 0
        for place, amount in enumerate(other._row):
            before = self._row[place]
            self._row[place] = min(before + amount, _MOST)
            added += self._row[place] - before
        self._falls = None
        return added

    @property
    def begin(self) -> int:
        """The first moment that counts."""
        return self._begin(-BUCKETS)

    def since(self, moment: int) -> int:
        """How much of the sum was used at that moment or later, or in the same bucket before."""
        return sum(self._row[max(0, self._number(moment) + BUCKETS) :])

    def falls_by(self, amount: int) -> int:
        """When so much of the sum, of which there is as much, no longer counts."""
        begun = 1
        for each in self._row:
            amount -= each
            if amount <= 0:
                break
            begun += 1
        return self._begin(begun)

    def falls(self) -> tuple[int, int]:
        """When the first and when the last of the sum no longer counts, if it is not 0."""
        if self._falls is not None:
            return self._falls
        # The first and the last bucket that is not empty, found by the bytes of the row: this is
        # asked for with every answer, and a loop over 61 buckets takes some 3 µs longer.
        row = self._row.tobytes()
        first = (len(row) - len(row.lstrip(b"\0"))) // _WORD
        last = (len(row.rstrip(b"\0")) - 1) // _WORD
        self._falls = self._begin(1 + first), self._begin(1 + last)
        return self._falls

    def _number(self, moment: int) -> int:
        """The number of the bucket that a moment is in, counted from the current one."""
        return (moment * BUCKETS - self._edge) // self.span

    def _begin(self, number: int) -> int:
        """The first ms of a bucket, by its number counted from the current one."""
        return -(-(self._edge + number * self.span) // BUCKETS)


def _empty(buckets: int) -> array[int]:
    return array("q", bytes(_WORD * buckets))
