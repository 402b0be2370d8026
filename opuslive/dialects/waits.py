"""How long an upstream asks to wait, in whole seconds: the one form that all clients understand.

Providers and what stands before them say it in several forms (RFC 9110, 10.2.3, and the
habits of SDKs): ``retry-after-ms: 250``, ``retry-after: 17``, ``1.5``, or a date.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from opuslive.dialects import RawHeaders

#: Seconds. Who asks for more means something else.
MAX_WAIT = 366 * 86_400
_NUMBER = re.compile(rb"\+?([0-9]{0,12})(?:\.([0-9]{0,30}))?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Characters of a date. (The longest in RFC 9110 has 33.)
_MAX_DATE = 40
#: Each form of a date begins with the name of a day.
_DATE = re.compile(rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[A-Za-z]*,? [ -~]+")


def retry_after(headers: RawHeaders, now_ms: int) -> int | None:
    """Seconds to wait, rounded up; 0 for a date that has passed, None if nothing sensible is said.

    A date counts from the answer's own ``Date``, or else from ``now_ms``, the wall clock in ms
    since the epoch.
    """
    wait_ms = _first(headers, b"retry-after-ms")
    if wait_ms is not None and (fraction := _number(wait_ms)) is not None:
        return _bounded(-(-fraction[0] // (1000 * fraction[1])))
    text = _first(headers, b"retry-after")
    if text is None:
        return None
    if (fraction := _number(text)) is not None:
        return _bounded(-(-fraction[0] // fraction[1]))
    until = _moment_ms(text)
    if until is None:
        return None
    said = _first(headers, b"date")
    since = None if said is None else _moment_ms(said)
    left = until - (now_ms if since is None else since)
    return _bounded(max(0, -(-left // 1000)))


def _bounded(seconds: int) -> int | None:
    return seconds if seconds <= MAX_WAIT else None


def _first(headers: RawHeaders, name: bytes) -> bytes | None:
    return next((value.strip() for other, value in headers if other.lower() == name), None)


def _number(text: bytes) -> tuple[int, int] | None:
    """A number without a minus as a fraction: numerator and denominator, exactly."""
    found = _NUMBER.fullmatch(text)
    if found is None:
        return None
    whole, decimals = found[1], found[2] or b""
    if not whole + decimals:
        return None
    return int(whole + decimals), 10 ** len(decimals)


def _moment_ms(text: bytes) -> int | None:
    """An HTTP date in ms since the epoch."""
    if len(text) > _MAX_DATE or _DATE.fullmatch(text) is None:
        return None
    try:
        moment = parsedate_to_datetime(text.decode("ascii"))
    except (ValueError, IndexError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(milliseconds=1)
