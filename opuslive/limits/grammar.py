"""Limits: how much of something may be used within some time.

Theory of operation. There is one concept and one grammar::

    limit   = amount metric "/" window | number "concurrent"
    amount  = "60" | "100k" | "1.5M" | …
    metric  = "requests" | "tokens" | "input_tokens" | "output_tokens" | "usd"
    window  = "30s" | "1m" | "5h" | "7d" | …        rolling: the last so many seconds
            | "day" | "week" | "month"              calendar: since it began, in UTC
            | "total"                               since the key was made

A limit says nothing about whom it binds. A key, a group of keys and the gateway each
have a tuple of limits, and a request must fit into all of them.

A limit is counted in whole units: requests, tokens, and millionths of a US dollar.
Integers, because what is reserved is added and later taken away again: a sum of
floats would not come back to zero, and one of Decimals would cost more than the rest
of an admission. (At 3 USD per million tokens, one token is three of these units.)

A limit has one canonical text, which is what is stored, shown and compared: ``2000000
tokens / 300m`` is ``2M tokens/5h``. When reading, white space between the parts does not
matter, and upper and lower case only in the unit of a rolling window.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Self

from opuslive.errors import UsageError
from opuslive.quantities import (
    format_amount,
    format_duration,
    nearest,
    parse_amount,
    parse_duration,
    plain_number,
    shown,
)
from opuslive.times import iso_seconds

#: Units of a ``usd`` limit in one dollar.
MICRO_USD = 1_000_000
#: A billion: above it the micro-dollars would no longer be exact as a number in JSON.
MAX_USD = 10**9
#: The longest rolling window, in seconds: a year. Its 61 buckets last six days each.
MAX_WINDOW = 366 * 86_400

_EXAMPLES = "'60 requests/1m', '2M tokens/5h', '20 usd/month' or '8 concurrent'"


class Metric(enum.StrEnum):
    """What a limit counts: a row a metric, with all that is particular to the metric.

    Only what a request counts of it is elsewhere: ``Charge.amount``. Amounts are in the units
    that limits count: requests, tokens, micro-dollars. A value is the metric's name in the text
    of a limit.
    """

    #: What people call one, and several.
    singular: str
    plural: str
    #: Whether a request counts when it is let in, and not when it ends.
    counts_at_admission: bool
    #: Whether amounts are costs: counted in micro-dollars, shown in dollars.
    in_dollars: bool
    #: Whether use counts for some time, and not only while the request runs.
    has_window: bool

    def __new__(
        cls,
        text: str,
        singular: str,
        plural: str,
        counts_at_admission: bool,
        in_dollars: bool,
        has_window: bool,
    ) -> Self:
        metric = str.__new__(cls, text)
        metric._value_ = text
        metric.singular = singular
        metric.plural = plural
        metric.counts_at_admission = counts_at_admission
        metric.in_dollars = in_dollars
        metric.has_window = has_window
        return metric

    # fmt: off
    #               text             singular        plural           at admission, dollars, window
    REQUESTS      = "requests",      "request",      "requests",      True,  False, True
    TOKENS        = "tokens",        "token",        "tokens",        False, False, True
    INPUT_TOKENS  = "input_tokens",  "input token",  "input tokens",  False, False, True
    OUTPUT_TOKENS = "output_tokens", "output token", "output tokens", False, False, True
    USD           = "usd",           "dollar",       "dollars",       False, True,  True
    CONCURRENT    = "concurrent",    "request",      "requests",      False, False, False
    # fmt: on

    @property
    def needs_price(self) -> bool:
        """Whether a limit can hold only models whose price is known."""
        return self.in_dollars

    def as_number(self, amount: int) -> int | float:
        """An amount as people count it: dollars, not micro-dollars."""
        return amount / MICRO_USD if self.in_dollars else amount

    def as_text(self, amount: int) -> str:
        """An amount in a sentence, exact: ``1,234``, or ``0.5 usd``."""
        return f"{_plain_dollars(amount)} {self}" if self.in_dollars else f"{amount:,}"

    def as_rounded_text(self, amount: int) -> str:
        """An amount in a sentence, without a unit: ``1,234``, or ``0.50`` to the cent."""
        return f"{self.as_number(amount):{',.2f' if self.in_dollars else ','}}"

    def as_limit_text(self, amount: int) -> str:
        """An amount as the text of a limit has it, exact: ``2M``, or ``0.5``."""
        # "1.5k usd" is accepted, but nobody writes money like that.
        return _plain_dollars(amount) if self.in_dollars else format_amount(Decimal(amount))

    def parse(self, text: str) -> int:
        """Read an amount in the text of a limit. Raises UsageError."""
        return (_parse_usd if self.in_dollars else _parse_count)(text, self)


class Period(enum.StrEnum):
    """A window that does not roll: a calendar unit in UTC, or all time."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    TOTAL = "total"


#: What people write for a window, and what they mean by it.
_OTHER_WINDOWS: Mapping[str, str] = MappingProxyType(
    {
        "s": "1s", "sec": "1s", "second": "1s",
        "m": "1m", "min": "1m", "minute": "1m",
        "h": "1h", "hr": "1h", "hour": "1h",
        "d": "day", "daily": "day", "w": "week", "weekly": "week", "monthly": "month",
        "y": "365d", "year": "365d", "lifetime": "total", "ever": "total",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Raised:
    """That a limit is raised for a while: its amount otherwise, in units of the limit, and until
    when, in ms since the epoch."""

    otherwise: int
    until: int


@dataclass(frozen=True, slots=True)
class Limit:
    """``amount`` of ``metric`` within ``window``. Made by ``parse_limit``.

    ``amount`` is positive and whole: requests, tokens or micro-dollars (``MICRO_USD``).
    ``window`` is the length of a rolling window in whole seconds, or a Period; it is
    ``None`` for ``concurrent`` alone. ``raised`` says that the amount holds for a while only.
    """

    metric: Metric
    amount: int
    window: int | Period | None
    raised: Raised | None = None

    @property
    def window_text(self) -> str | None:
        """The window as it is written: ``5h``, ``month``, ``total``; ``None`` if concurrent."""
        return format_duration(self.window) if isinstance(self.window, int) else self.window

    @property
    def window_seconds(self) -> int | None:
        """The length of a rolling window, else ``None``: calendar units differ in length."""
        return self.window if isinstance(self.window, int) else None

    @property
    def max(self) -> int | float:
        """The amount as people count it: dollars, not micro-dollars, of a ``usd`` limit."""
        return self.metric.as_number(self.amount)

    @property
    def text(self) -> str:
        """The canonical text: equal limits have equal texts, and it parses to this limit."""
        if not self.metric.has_window:
            return f"{self.amount} {self.metric}"
        return f"{self.metric.as_limit_text(self.amount)} {self.metric}/{self.window_text}"

    def __str__(self) -> str:
        return self.text

    @property
    def otherwise(self) -> Limit:
        """The same limit without its raise."""
        if self.raised is None:
            return self
        return Limit(self.metric, self.raised.otherwise, self.window)

    @property
    def kind(self) -> tuple[Metric, int | Period | None]:
        """What it counts, whatever its amount: of each kind there is one limit."""
        return self.metric, self.window

    def same_kind(self, other: Limit) -> bool:
        """Whether the two count the same."""
        return self.kind == other.kind

    def as_dict(self) -> dict[str, str | int | float | None]:
        """The members under which the interfaces show a limit."""
        return {
            "limit": self.text,
            "metric": self.metric.value,
            "window": self.window_text,
            "window_seconds": self.window_seconds,
            "max": self.max,
            "raised_from": None if self.raised is None else self.otherwise.text,
            "raised_until": None if self.raised is None else iso_seconds(self.raised.until),
        }


def parse_limit(text: str) -> Limit:
    """Read one limit. Raises UsageError with a sentence that shows what would be right."""
    allowance, slash, window = (part.strip() for part in text.partition("/"))
    words = allowance.split()
    if len(words) != 2:
        raise UsageError(f"{shown(text)} is not a limit; write it like {_EXAMPLES}")
    amount_text, metric_text = words
    metric = _parse_metric(metric_text)
    amount = metric.parse(amount_text)
    if not metric.has_window:
        if slash:
            raise UsageError(
                f"{shown(text)} has a window, but {metric} {metric.plural} are counted at this "
                f"moment; write it like '{Limit(metric, amount, None)}'"
            )
        return Limit(metric, amount, None)
    if not window:
        raise UsageError(
            f"{shown(text)} does not say within what time; add a window, as in "
            f"'{Limit(metric, amount, 60)}' or '{Limit(metric, amount, Period.DAY)}'"
        )
    return Limit(metric, amount, _parse_window(window))


def parse_limits(texts: Iterable[str]) -> tuple[Limit, ...]:
    """Read the limits of one key, group or gateway.

    Raises UsageError for a bad one, and for two of the same metric and window: one of them
    would never matter, so it is likely a mistake.
    """
    limits: list[Limit] = []
    for text in texts:
        limit = parse_limit(text)
        for other in limits:
            if other.same_kind(limit):
                raise UsageError(
                    f"{shown(other.text)} and {shown(limit.text)} limit the same thing; "
                    "keep only one of them"
                )
        limits.append(limit)
    return tuple(limits)


def _parse_metric(text: str) -> Metric:
    word = text.lower()
    for metric in Metric:
        if metric == word:
            return metric
    meant = nearest(text, Metric)
    hint = f"did you mean '{meant}'?" if meant else f"known are {', '.join(Metric)}."
    raise UsageError(f"no such metric {shown(text)}; {hint} A limit is written like {_EXAMPLES}")


def _plain_dollars(micro_usd: int) -> str:
    return plain_number(Decimal(micro_usd) / MICRO_USD)


def _parse_count(text: str, metric: Metric) -> int:
    amount = parse_amount(text)
    if amount != amount.to_integral_value():
        raise UsageError(
            f"{shown(text)} is not a whole number of {metric}; only usd may have a "
            "fraction, as in '0.5 usd/day'"
        )
    if amount < 1:
        raise UsageError(
            f"a limit of {shown(text)} would refuse everything; write 1 or more, or disable "
            "the key instead"
        )
    return int(amount)


def _parse_usd(text: str, metric: Metric) -> int:
    micro_usd = parse_amount(text) * MICRO_USD
    if micro_usd != micro_usd.to_integral_value() or not 1 <= micro_usd <= MAX_USD * MICRO_USD:
        raise UsageError(
            f"{shown(text)} is not a usable amount of {metric}; write dollars from 0.000001 to "
            f"{MAX_USD}, with at most six decimals, as in '0.5 usd/day' or '20 usd/month'"
        )
    return int(micro_usd)


def _parse_window(text: str) -> int | Period:
    word = text.lower()
    if word in tuple(Period):
        return Period(word)
    try:
        seconds = parse_duration(text)
    except UsageError:
        raise UsageError(f"no such window {shown(text)}; {_window_hint(text)}") from None
    if not seconds.is_integer() or not 1 <= seconds <= MAX_WINDOW:
        raise UsageError(
            f"a window of {shown(text)} is not possible; a rolling one lasts whole seconds from "
            f"'1s' to '{format_duration(MAX_WINDOW)}', as in '60 requests/1m', and 'total' "
            "has no end"
        )
    return int(seconds)


def _window_hint(text: str) -> str:
    """What to write in place of an unknown window."""
    word = text.lower()
    if word != text and re.fullmatch(r"[0-9]{1,6}[smhdw]", word):
        # "1M" may well have been meant as a month, "5H" is only a slip.
        return f"did you mean '{word}'" + (" or 'month'?" if word.endswith("m") else "?")
    meant = _OTHER_WINDOWS.get(word) or _OTHER_WINDOWS.get(word.removesuffix("s"))
    meant = meant or nearest(word, Period)
    if meant is not None:
        return f"did you mean '{meant}'?"
    return "write '30s', '1m', '5h', '7d' or the like, or 'day', 'week', 'month' or 'total'"
