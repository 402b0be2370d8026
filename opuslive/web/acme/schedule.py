"""When to renew a certificate, and when to try again: functions of times, without a clock.

All times are in seconds since the epoch, all spans in seconds. Where chance is wanted, it comes in
as a number from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from opuslive.web.http.tls import Validity

MINUTE = 60.0
HOUR = 60 * MINUTE
DAY = 24 * HOUR

#: Without advice of the authority, a certificate is renewed after this part of its life.
RENEWED_AFTER = 2 / 3
#: Whatever the authority advises, it is renewed after this part.
LATEST = 9 / 10
#: From one certificate to the next attempt, at least: an authority may issue what is to be renewed
#: at once.
SHORTEST_LIFE = 10 * MINUTE

#: The authority is asked for its advice so often if it doesn't say how often (RFC 9773, 4.3.3),
#: and within these bounds whatever it says.
ADVICE_SPAN = 6 * HOUR
SHORTEST_ADVICE_SPAN = MINUTE
LONGEST_ADVICE_SPAN = DAY

#: From the first failure to the next attempt. It doubles with each further failure, up to the
#: longest pause.
FIRST_PAUSE = MINUTE
LONGEST_PAUSE = 6 * HOUR
#: A pause is longer or shorter by up to this part of it, by chance: gateways that lost an authority
#: at one moment don't come back to it at one moment.
JITTER = 1 / 4
#: The authority may ask for a longer pause, up to this.
LONGEST_WISH = DAY


@dataclass(frozen=True, slots=True)
class Window:
    """When the authority advises to renew."""

    begins: float
    ends: float


@dataclass(frozen=True, slots=True)
class Advice:
    """The authority's answer to when to renew: None if it has no opinion. ``span`` is how long
    not to ask again."""

    window: Window | None
    span: float = ADVICE_SPAN


@dataclass(frozen=True, slots=True)
class Pause:
    """A span that began at a moment."""

    began: float
    span: float

    def ends(self, now: float) -> float:
        """When it ends. At once if the clock was set back to before it began: nobody knows then
        how much of it has passed."""
        return now if now < self.began else self.began + self.span


def renewal_at(validity: Validity, window: Window | None, chance: float) -> float:
    """When to renew a certificate. ``chance`` picks a moment in the window."""
    life = validity.ends - validity.begins
    if window is None:
        return validity.begins + life * RENEWED_AFTER
    advised = window.begins + (window.ends - window.begins) * chance
    return min(advised, validity.begins + life * LATEST)


def window_of(document: object) -> Window | None:
    """The window in an authority's RenewalInfo; None if it can't be understood.

    A window that ends before it begins counts as none (RFC 9773, 4.2).
    """
    if not isinstance(document, Mapping):
        return None
    suggested = document.get("suggestedWindow")
    if not isinstance(suggested, Mapping):
        return None
    try:
        begins, ends = (_moment(suggested.get(name)) for name in ("start", "end"))
    except (ValueError, OverflowError):
        return None
    return Window(begins, ends) if begins < ends else None


def advice_span(retry_after: float | None) -> float:
    """How long not to ask for advice, after an answer with this ``Retry-After``."""
    if retry_after is None:
        return ADVICE_SPAN
    return min(max(retry_after, SHORTEST_ADVICE_SPAN), LONGEST_ADVICE_SPAN)


def pause_after(failures: int, chance: float, wish: float | None) -> float:
    """How long to pause after so many failures in a row. ``wish``: what the authority asked for."""
    doubled = FIRST_PAUSE * 2.0 ** min(failures - 1, 60)
    own = min(doubled, LONGEST_PAUSE) * (1 - JITTER + 2 * JITTER * chance)
    return max(own, min(wish or 0.0, LONGEST_WISH))


def _moment(text: object) -> float:
    """A time of RFC 3339. Raises ValueError."""
    if not isinstance(text, str):
        raise ValueError("not a time")
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time without its zone")
    return moment.timestamp()
