"""Spans, sizes, amounts, times and globs, as an administrator writes them.

======== ========================================== ==============================
what     written                                    read as
======== ========================================== ==============================
duration ``250ms`` ``90s`` ``10m`` ``5h`` ``7d``    seconds, exact to the ms
         ``2w``
size     ``512B`` ``64KB`` ``32MB`` ``1GB``         bytes; a KB has 1024 bytes
amount   ``2000000`` ``2M`` ``1.5k`` ``2B``         an exact ``Decimal``
moment   a duration from or before now, a day (UTC) ms since the Unix epoch
         or a time with its zone; for a stretch
         also ``today``, ``week`` and ``month``
======== ========================================== ==============================

White space around a value is ignored, within it is not allowed. Units of size and
suffixes of amounts may be in either case. Units of durations may not: ``1M`` could be
meant as a month, and a limit that was read as one a minute instead would be 43,000
times too generous. Each ``format_…`` gives the canonical text, which reads back as the
same value.

Every ``parse_…`` raises UsageError, and nothing else, for a text that it can't accept.

A glob is the name of a model in which ``*`` stands for any characters, also for none. Every
other character stands for itself: ``?`` and brackets occur in names of models.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import MappingProxyType

from opuslive.errors import UsageError
from opuslive.times import CALENDAR, DAY_MS

KB = 1024
MB = 1024 * KB
GB = 1024 * MB

#: A hundred years, in seconds. Whatever is longer was a slip of the keyboard.
MAX_DURATION = 36_500 * 86_400
#: Far beyond any body or file, and a number that every interface can carry.
MAX_SIZE = 2**50
#: So that an amount, also one in millionths, is exact as a number in JSON (2**53).
MAX_AMOUNT = 10**15
#: Characters of a model's name that a stranger gives.
MAX_MODEL_NAME = 256

_DURATION_MS: Mapping[str, int] = MappingProxyType(
    {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
)
_SIZE_BYTES: Mapping[str, int] = MappingProxyType({"GB": GB, "MB": MB, "KB": KB, "B": 1})
_AMOUNT_FACTOR: Mapping[str, int] = MappingProxyType({"B": 10**9, "M": 10**6, "k": 1000, "": 1})

_DURATION = re.compile(r"([0-9]{1,15})(ms|[smhdw])")
# ASCII, because the Kelvin sign is an upper-case k, too, to a pattern that ignores case.
_SIZE = re.compile(r"([0-9]{1,16})([KMG]?B)", re.IGNORECASE | re.ASCII)
_AMOUNT = re.compile(r"([0-9]{1,16}(?:\.[0-9]{1,9})?)([kMB]?)", re.IGNORECASE | re.ASCII)
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIME = re.compile(
    rf"{_DAY.pattern}T[0-9]{{2}}:[0-9]{{2}}(:[0-9]{{2}}(\.[0-9]{{1,3}})?)?"
    r"(?P<zone>Z|[+-][0-9]{2}:[0-9]{2})?"
)

_MODEL_NAME = re.compile(r"[!-~]++(?: [!-~]++)*+")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
#: The first moment of the year 9999: the day after it must still be a date.
_TIME_END_MS = (datetime(9999, 1, 1, tzinfo=UTC) - _EPOCH) // _MS


def parse_duration(text: str) -> float:
    """Seconds, not negative, exact to the millisecond: ``"10m"`` is 600.0."""
    return _duration_ms(text) / 1000


def format_duration(seconds: float) -> str:
    """The duration in the largest unit that holds it exactly: 5400 s is ``90m``.

    Weeks are read but never written: ``7d`` is how limits are spoken of.
    """
    ms = round(seconds * 1000)
    for unit, factor in _DURATION_MS.items():
        if unit != "w" and ms and ms % factor == 0:
            return f"{ms // factor}{unit}"
    return "0s"


def parse_size(text: str) -> int:
    """Bytes: ``"32MB"`` is 33,554,432."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(
            f"{shown(text)} is not a size; write a whole number and B, KB, MB or GB, "
            "such as '64KB' or '32MB'"
        )
    size = int(match[1]) * _SIZE_BYTES[match[2].upper()]
    if size > MAX_SIZE:
        raise UsageError(f"{shown(text)} is too large; a size is at most {format_size(MAX_SIZE)}")
    return size


def format_size(size: int) -> str:
    """Bytes in the largest unit that holds them exactly: 65,536 is ``64KB``."""
    for unit, factor in _SIZE_BYTES.items():
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return "0B"


def parse_amount(value: int | str) -> Decimal:
    """A number that is not negative: ``2000000``, ``"2M"`` and ``"2000k"`` are the same."""
    if isinstance(value, int):
        if not 0 <= value <= MAX_AMOUNT:
            raise UsageError(f"an amount lies between 0 and {format_amount(Decimal(MAX_AMOUNT))}")
        return Decimal(value)
    match = _AMOUNT.fullmatch(value.strip())
    if match is None:
        raise UsageError(
            f"{shown(value)} is not an amount; write a number, if you like with k (thousand), "
            "M (million) or B (billion), such as '60', '100k' or '1.5M'"
        )
    suffix = match[2].upper().replace("K", "k")
    amount = Decimal(match[1]) * _AMOUNT_FACTOR[suffix]
    if amount > MAX_AMOUNT:
        most = format_amount(Decimal(MAX_AMOUNT))
        raise UsageError(f"{shown(value)} is too large; an amount is at most {most}")
    return amount


def format_amount(amount: Decimal) -> str:
    """The shortest way to write the amount, with the larger suffix if two are as short.

    2,000,000 is ``2M``, 1500 ``1.5k``, 8192 stays ``8192``.
    """
    texts = [
        plain_number(amount / factor) + suffix
        for suffix, factor in _AMOUNT_FACTOR.items()
        if amount >= factor
    ]
    return min(texts, key=len, default=plain_number(amount))


def plain_number(number: Decimal) -> str:
    """Without exponent, and without zeros that say nothing: ``20``, ``0.5``."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def parse_when(text: str, now_ms: int) -> int:
    """The first moment after something ends, in ms since the epoch.

    A duration counts from now; a day means its end, so the first moment of the next day,
    in UTC; a time is itself. The moment may have passed already: whether that makes sense
    is for the caller to say.
    """
    if _DAY.fullmatch(text.strip()):
        return _within_range(_day_start_ms(text) + _DURATION_MS["d"], text)
    span = _span_or_none(text)
    return _within_range(now_ms + span if span is not None else _time_ms(text), text)


def format_when(ms: int) -> str:
    """The moment as ``parse_when`` reads it: a day whose end it is, or else a time, to the second.

    ``2027-07-01T00:00:00Z`` is ``2027-06-30``: what an administrator wrote, and the last day on
    which what ends then still is.
    """
    moment = _EPOCH + timedelta(milliseconds=ms)
    if ms % _DURATION_MS["d"] == 0:
        return f"{moment - _MS:%Y-%m-%d}"
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def parse_since(text: str, now_ms: int) -> int:
    """The first moment of a stretch, in ms since the epoch.

    ``today``, ``week`` and ``month`` are those that now is in, in UTC, with weeks that begin on
    Mondays. A duration counts back from now, at most to the epoch; a day means its start in UTC; a
    time is itself.
    """
    if text.strip() in CALENDAR:
        return CALENDAR[text.strip()].start(now_ms)
    if _DAY.fullmatch(text.strip()):
        return _within_range(_day_start_ms(text), text)
    return _earlier(text, now_ms)


def parse_until(text: str, now_ms: int) -> int:
    """The first moment after a stretch, in ms since the epoch: what ``parse_since`` takes, but a
    day, ``today``, ``week`` and ``month`` mean their ends."""
    if text.strip() in CALENDAR:
        return CALENDAR[text.strip()].end(now_ms)
    if _DAY.fullmatch(text.strip()):
        return _within_range(_day_start_ms(text) + DAY_MS, text)
    return _earlier(text, now_ms)


def _earlier(text: str, now_ms: int) -> int:
    span = _span_or_none(text)
    if span is not None:
        return max(0, now_ms - span)
    return _within_range(_time_ms(text, f"neither {', '.join(CALENDAR)}, nor a span"), text)


def is_model_name(text: str) -> bool:
    """Whether the text may be taken for a model's name where a stranger gives it.

    That is 1 to 256 characters of printable ASCII, with no more than one space between words: so
    the name can't steer a terminal, or pass for another name or for more than one column of a
    table. (The longest known ones, paths of local models, have 120.)
    """
    return len(text) <= MAX_MODEL_NAME and _MODEL_NAME.fullmatch(text) is not None


def is_glob(text: str) -> bool:
    """Whether the text may match names other than itself."""
    return "*" in text


def matches_glob(glob: str, name: str) -> bool:
    """Whether the glob matches the whole name. Upper and lower case differ.

    Taking the first place for each part leaves the most room for the parts after it, so no place
    is tried twice: the work is at most the product of both lengths, whatever the glob.
    """
    if glob == "*":
        return True
    first, *middle = glob.split("*")
    if not middle:
        return glob == name
    last = middle.pop()
    start, end = len(first), len(name) - len(last)
    if start > end or not (name.startswith(first) and name.endswith(last)):
        return False
    for part in middle:
        found = name.find(part, start, end)
        if found < 0:
            return False
        start = found + len(part)
    return True


def shown(value: object, *, limit: int = 40) -> str:
    """How a bad value is named in a message: quoted, shortened, safe to print on a terminal.

    Only text is ever shown; of anything else, which may be large or deep, just its kind.
    """
    if isinstance(value, str):
        return repr(value if len(value) <= limit else value[: limit - 1] + "…")
    return f"a value of type {type(value).__name__}"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that an unknown one was probably meant to be."""
    # Only the start is compared: the search takes quadratic time, and the word is anybody's.
    matches = difflib.get_close_matches(word[:60].lower(), list(known), n=1)
    return matches[0] if matches else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: the nearest known one, or all of them."""
    words = tuple(known)
    meant = nearest(word, words)
    return f"did you mean {shown(meant)}?" if meant else f"known are {', '.join(words)}"


def _duration_ms(text: str) -> int:
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise UsageError(
            f"{shown(text)} is not a duration; write a whole number and one of the units ms, s, "
            "m, h, d, w (in lower case), such as '90s', '10m', '5h' or '7d'"
        )
    ms = int(match[1]) * _DURATION_MS[match[2]]
    if ms > MAX_DURATION * 1000:
        raise UsageError(
            f"{shown(text)} is too long; a duration is at most {format_duration(MAX_DURATION)}"
        )
    return ms


def _span_or_none(text: str) -> int | None:
    """The duration in ms, if the text is meant as one: other texts are judged as a time."""
    return _duration_ms(text) if _DURATION.fullmatch(text.strip()) else None


def _day_start_ms(text: str) -> int:
    try:
        day = datetime.strptime(text.strip(), "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise UsageError(f"there is no day {shown(text)}; write one such as '2026-12-31'") from None
    return (day - _EPOCH) // _MS


def _time_ms(text: str, neither: str = "neither a span") -> int:
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise UsageError(
            f"{shown(text)} is {neither} such as '30d', nor a day such as '2026-12-31', "
            "nor a time such as '2026-12-31T12:00:00Z'"
        )
    if match["zone"] is None:
        raise UsageError(f"{shown(text)} has no time zone; add Z for UTC: '{text.strip()}Z'")
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise UsageError(
            f"there is no time {shown(text)}; write one such as '2026-12-31T12:00:00Z'"
        ) from None
    return (moment - _EPOCH) // _MS


def _within_range(ms: int, text: str) -> int:
    if not 0 <= ms < _TIME_END_MS:
        raise UsageError(f"{shown(text)} lies outside the years 1970 to 9998")
    return ms
