"""Which of several upstreams that serve a model is asked next.

Those that are available come before those that are aside, lower priorities first. Among equals

* a request that names its conversation goes where the others of the conversation went, since the
  provider keeps its prompt in a cache there (weighted rendezvous hashing: each upstream draws a
  number from its name and the conversation, and the highest wins). Nothing is stored. When an
  upstream goes aside, only its own conversations move, and they come back with it;
* other requests are spread smoothly (each upstream gains its weight at every turn; the one that
  has the most is taken, and loses what all gained): 3 : 1 means three of each four.

Of upstreams that are all aside, the one that comes back first is asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from hashlib import blake2b

from opuslive.gateway.upstreams.upstream import Upstream

#: Sets of equals whose turns are remembered, at most. There are as many as the models' globs and
#: the upstreams that are aside make different ones.
MAX_SETS = 256


class Balancer:
    """Picks upstreams. ``now_ms`` is the clock of records."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        #: Names of equals → what each has gained less what it lost. It adds up to 0.
        self._turns: dict[tuple[str, ...], list[int]] = {}

    def pick(self, upstreams: Sequence[Upstream], conversation: bytes | None) -> Upstream:
        """The one to ask next, of at least one. ``conversation`` is what ``conversation_id`` gave.

        Where there are others, the request may be a probe: see ``health``.
        """
        if len(upstreams) == 1:
            return upstreams[0]
        now = self._now_ms()
        available = [each for each in upstreams if not each.health.aside_until(now)]
        if not available:
            return min(upstreams, key=lambda each: each.health.aside_until(now))
        first = min(each.priority for each in available)
        equals = [each for each in available if each.priority == first]
        if len(equals) == 1:
            picked = equals[0]
        elif conversation is not None:
            picked = max(equals, key=lambda each: _draw(each, conversation))
        else:
            picked = self._in_turn(equals)
        picked.health.asked(now)
        return picked

    def _in_turn(self, equals: Sequence[Upstream]) -> Upstream:
        names = tuple([each.name for each in equals])
        gained = self._turns.get(names)
        if gained is None:
            if len(self._turns) >= MAX_SETS:
                self._turns.clear()
            gained = self._turns[names] = [0] * len(equals)
        total = 0
        for at, each in enumerate(equals):
            gained[at] += each.weight
            total += each.weight
        at = gained.index(max(gained))
        gained[at] -= total
        return equals[at]


def conversation_id(key_id: str, named: bytes) -> bytes:
    """What stands for a conversation that a client of this key names so."""
    return blake2b(key_id.encode() + b"\0" + named, digest_size=16).digest()


def _draw(upstream: Upstream, conversation: bytes) -> float:
    """The number that the upstream draws: the highest one is its own in as many conversations as
    its share of all weights."""
    digest = blake2b(conversation + upstream.name.encode(), digest_size=8).digest()
    # 52 bits and a half: a float has that exactly, and it is neither 0 nor 1.
    chance = ((int.from_bytes(digest, "big") >> 12) + 0.5) / 2**52
    return -upstream.weight / math.log(chance)
