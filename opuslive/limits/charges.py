"""Charges: what a request counts in limits, and what was counted before a restart.

What counts when, in windows, in the sums of hours and days, and after a restart alike:

============ =========================== ====================================================
metric       while the request runs      when it ends
============ =========================== ====================================================
requests     used, at its time           stays; taken back if nothing was sent upstream
concurrent   1 reserved                  nothing
all others   the estimate is reserved    the actual usage is used, at its end: then it is known
============ =========================== ====================================================

Amounts are whole. What is not (cached tokens at a fraction of their number, prices) is
rounded up for every request. Sums of hours and days round once for all their requests, so a
window that is rebuilt from them may have less used, by less than one token or micro-dollar a
request.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import msgspec

from opuslive.limits.grammar import Metric
from opuslive.limits.windows import Window
from opuslive.usage import TokenCounts

_TOKENS, _INPUT_TOKENS, _OUTPUT_TOKENS = Metric.TOKENS, Metric.INPUT_TOKENS, Metric.OUTPUT_TOKENS
_USD, _REQUESTS, _CONCURRENT = Metric.USD, Metric.REQUESTS, Metric.CONCURRENT


class Charge(msgspec.Struct, frozen=True, gc=False):
    """What a request will use, or did; or the sum of several.

    ``input_tokens`` are those that count: see ``of_tokens``. ``usd`` is in micro-dollars.
    Nothing is negative.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    usd: int = 0
    requests: int = 1

    @classmethod
    def of_tokens(
        cls, tokens: TokenCounts, *, cache_read_weight: Fraction, usd: int = 0, requests: int = 1
    ) -> Charge:
        """The charge for these tokens; one read from the cache counts ``cache_read_weight``.

        The weight is a fraction so that 0.1 is a tenth: ``Fraction(str(0.1))``.
        """
        weighed = tokens.cache_read * cache_read_weight.numerator
        cache_read = -(-weighed // cache_read_weight.denominator)
        input_tokens = tokens.input + tokens.cache_write + cache_read
        return cls(input_tokens, tokens.output, usd, requests)

    def with_part(self, part: Charge) -> Charge:
        """The charge for the same requests, with what a part of them used."""
        return Charge(
            self.input_tokens + part.input_tokens,
            self.output_tokens + part.output_tokens,
            self.usd + part.usd,
            self.requests,
        )

    def of_the_last(self, number: int, newest: Charge) -> Charge:
        """The charge of about so many requests, of which the newest is added: the others fade."""
        return Charge(
            self.input_tokens - self.input_tokens // number + newest.input_tokens,
            self.output_tokens - self.output_tokens // number + newest.output_tokens,
            self.usd - self.usd // number + newest.usd,
            self.requests,
        )

    def amount(self, metric: Metric) -> int:
        """What a limit of this metric counts of it."""
        # The most common first. (A match statement looks each metric up in its class.)
        if metric is _TOKENS:
            return self.input_tokens + self.output_tokens
        if metric is _USD:
            return self.usd
        if metric is _REQUESTS or metric is _CONCURRENT:
            return self.requests
        if metric is _INPUT_TOKENS:
            return self.input_tokens
        assert metric is _OUTPUT_TOKENS
        return self.output_tokens


def replay(windows: Iterable[Window], charge: Charge, *, time: int, end: int) -> None:
    """Count what a request of the past used; ``time`` and ``end`` are those of its record.

    One that is too old counts nothing; one that seems to come from the future counts as of
    now.
    """
    for window in windows:
        metric = window.limit.metric
        window.count(charge.amount(metric), time if metric.counts_at_admission else end)


def replay_sum(windows: Iterable[Window], charge: Charge, begin: int, length: int) -> None:
    """Count the sum of an hour or a day that began then; both are in ms, since the epoch.

    It counts as of the last ms of that, so that it frees too late by less than its length, and
    never in the next day. Windows that this is too coarse for say so (``grain``).
    """
    last = begin + length - 1
    replay(windows, charge, time=last, end=last)
