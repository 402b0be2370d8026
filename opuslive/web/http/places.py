"""The places that there are for connections, and who gives way when all are taken.

A connection *waits* while no request of it is being answered: it has sent nothing, shakes hands
for TLS, is idle between two requests, or its next head is not whole. All that wait stand in
one order, by the time since when they do. Where a place is wanted and none is free, the one
that has waited longest is closed. One that is being answered never is.

One origin (``peers.py``) has a share of the places. Beyond it, it takes from its own.
"""

from __future__ import annotations

import itertools
from collections import Counter, OrderedDict
from collections.abc import Iterable
from typing import Protocol

#: Waiting connections that are looked at for one to close. Some may still be sending an answer.
_LOOKS = 64


class Occupant(Protocol):
    """A connection that has a place."""

    @property
    def sending(self) -> bool:
        """Whether an answer is under way."""

    def abort(self) -> None:
        """Close the connection at once. It can be called only while it is open."""


class _Nobody:
    """Has a place no more."""

    sending = False

    def abort(self) -> None:
        pass


_NOBODY = _Nobody()


class Place:
    """The place of one connection, which is waiting at first.

    ``occupant`` changes when TLS is established.
    """

    __slots__ = ("_places", "occupant", "origin")

    def __init__(self, places: Places, occupant: Occupant, origin: bytes | None) -> None:
        self._places = places
        self.occupant = occupant
        self.origin = origin

    def serve(self) -> None:
        """A request of the connection is whole: it waits no more."""
        self._places.waiting.pop(self, None)

    def wait(self) -> None:
        """The answer is written: the connection waits, from now on."""
        if self in self._places.taken:
            self._places.waiting[self] = None

    def leave(self) -> None:
        """The connection is over. (It may be told more than once.)"""
        self._places.free(self)
        self.occupant = _NOBODY


class Places:
    """At most ``most`` places, of which one origin has at most ``share`` (None: any number)."""

    def __init__(self, most: int, share: int | None = None) -> None:
        self._most = most
        self._share = share
        self.taken: set[Place] = set()
        #: In the order in which they began to wait. (A plain dict is slow at its front.)
        self.waiting: OrderedDict[Place, None] = OrderedDict()
        self._by_origin: Counter[bytes] = Counter()

    def take(self, occupant: Occupant, origin: bytes | None) -> Place | None:
        """A place for a connection, or None: all are taken by connections that can't give way.

        ``origin`` is None for a connection whose origin has no share of its own.
        """
        share = self._share
        if origin is not None and share is not None and self._by_origin[origin] >= share:
            if not self._make_room(place for place in self.waiting if place.origin == origin):
                return None
        elif len(self.taken) >= self._most and not self._make_room(self.waiting):
            return None
        place = Place(self, occupant, origin)
        self.taken.add(place)
        self.waiting[place] = None
        if origin is not None:
            self._by_origin[origin] += 1
        return place

    def free(self, place: Place) -> None:
        if place not in self.taken:
            return
        self.taken.discard(place)
        self.waiting.pop(place, None)
        if place.origin is not None:
            self._by_origin[place.origin] -= 1
            if not self._by_origin[place.origin]:
                del self._by_origin[place.origin]

    def _make_room(self, candidates: Iterable[Place]) -> bool:
        """Close the first of the candidates that can give way; False if none of a few can."""
        for place in list(itertools.islice(candidates, _LOOKS)):
            if not place.occupant.sending:
                self.free(place)
                place.occupant.abort()
                return True
            # The next look begins behind it.
            self.waiting.move_to_end(place)
        return False
