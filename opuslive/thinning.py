"""Thinning: of what repeats, one is said in a while, with the number of those left out.

A stranger or a holder can make the gateway meet the same failure thousands of times a second. Such
lines of the log are *thinned*: one a second is written of each kind, and it says how many were left
out since the one before. ``FailureLog`` thins what it says of upstreams by their names and words;
all other lines are thinned where the log is written (``cli.logs``), if they are marked with
``THINNED``. A line that only the administrator or time can cause is not marked.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

#: ms between two of one kind, at least.
PAUSE_MS = 1_000
#: Kinds that are remembered. There are fewer; if not, the one said longest ago is forgotten.
MAX_KINDS = 1_000

#: ``log.error("…", extra=THINNED)``: whoever is outside can cause the line, over and over.
THINNED: Mapping[str, object] = MappingProxyType({"thinned": True})


@dataclass(slots=True)
class _Said:
    """When one of a kind was said last, in ms since the epoch; how many were left out since."""

    at: int
    left_out: int = 0


class Thinner:
    """Decides what is said. ``now_ms`` is a clock that never goes back."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        #: Kind → when it was said, the one said longest ago first.
        self._said: dict[Hashable, _Said] = {}

    def left_out(self, kind: Hashable, pause_ms: int = PAUSE_MS) -> int | None:
        """Ask whether to say one of this kind now: None if one was said less than ``pause_ms`` ago.

        Else returns how many were left out since, and takes this one for said.
        """
        now = self._now_ms()
        said = self._said.get(kind)
        if said is not None and now < said.at + pause_ms:
            said.left_out += 1
            return None
        if said is not None:
            del self._said[kind]
        elif len(self._said) >= MAX_KINDS:
            del self._said[next(iter(self._said))]
        self._said[kind] = _Said(now)
        return 0 if said is None else said.left_out


def more(left_out: int) -> str:
    """What follows a line before which so many of its kind were left out."""
    return f" ({left_out} more since it was last said)" if left_out else ""
