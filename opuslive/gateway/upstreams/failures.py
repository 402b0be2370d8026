"""What the log says of upstreams that fail: one line of a kind, however many requests.

One a second of what fails requests; one an hour of what only makes figures less exact.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from opuslive.thinning import PAUSE_MS, Thinner, more

log = logging.getLogger(__name__)

#: ms between two lines about what goes on and on without failing a request, at least.
LONG_PAUSE_MS = 3_600_000


class FailureLog:
    """Tells the operator what upstreams do wrong. ``now_ms`` is a clock that never goes back."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._thinner = Thinner(now_ms)

    def warning(
        self, upstream: str, failure: str, detail: str = "", *, pause_ms: int = PAUSE_MS
    ) -> bool:
        """Log that ``upstream`` did what ``failure`` says, unless that was said just now: less
        than ``pause_ms`` ago.

        Failures with the same words are of one kind. ``detail`` follows them in the line. Returns
        whether there is a line.
        """
        return self._tell(logging.WARNING, upstream, failure, detail, pause_ms)

    def error(self, upstream: str, failure: str, detail: str = "") -> None:
        """The same, for a failure that does not mend itself."""
        self._tell(logging.ERROR, upstream, failure, detail, PAUSE_MS)

    def _tell(self, level: int, upstream: str, failure: str, detail: str, pause_ms: int) -> bool:
        left_out = self._thinner.left_out((upstream, failure), pause_ms)
        if left_out is not None:
            log.log(level, "upstream %s %s%s%s", upstream, failure, detail, more(left_out))
        return left_out is not None
