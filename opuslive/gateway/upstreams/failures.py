"""What the log says of upstreams that fail: one line of a kind, however many requests.

One a second of what fails requests; one an hour of what only makes figures less exact.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

log = logging.getLogger(__name__)

#: ms between two lines of one kind about one upstream, at least.
PAUSE_MS = 1_000
#: The same, for what goes on and on without failing a request.
LONG_PAUSE_MS = 3_600_000


@dataclass(slots=True)
class _Told:
    """When a line was written last, in ms since the epoch; and how many were left out since."""

    at: int
    left_out: int = 0


class FailureLog:
    """Tells the operator what upstreams do wrong. ``now_ms`` is a clock that never goes back."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        #: Name of an upstream, kind of failure → when it was told.
        self._told: dict[tuple[str, str], _Told] = {}

    def warning(
        self, upstream: str, failure: str, detail: str = "", *, pause_ms: int = PAUSE_MS
    ) -> None:
        """Log that ``upstream`` did what ``failure`` says, unless that was said just now: less
        than ``pause_ms`` ago.

        Failures with the same words are of one kind. ``detail`` follows them in the line.
        """
        self._tell(logging.WARNING, upstream, failure, detail, pause_ms)

    def error(self, upstream: str, failure: str, detail: str = "") -> None:
        """The same, for a failure that does not mend itself."""
        self._tell(logging.ERROR, upstream, failure, detail, PAUSE_MS)

    def _tell(self, level: int, upstream: str, failure: str, detail: str, pause_ms: int) -> None:
        now = self._now_ms()
        told = self._told.get((upstream, failure))
        if told is not None and now < told.at + pause_ms:
            told.left_out += 1
            return
        more = f" ({told.left_out} more since it was last said)" if told and told.left_out else ""
        self._told[upstream, failure] = _Told(now)
        log.log(level, "upstream %s %s%s%s", upstream, failure, detail, more)
