"""What usage counts in limits, by the prices and the policy that hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce

from opuslive.limits.charges import Charge
from opuslive.pricing.prices import Prices
from opuslive.usage import ModelSum, ModelTokens


@dataclass(frozen=True, slots=True)
class Charging:
    """Makes charges of usage. Times are in ms since the epoch."""

    prices: Prices
    cache_read_weight: Fraction

    def of_request(self, used: Sequence[ModelTokens], at: int) -> Charge:
        """The charge of a request: the tokens of every model, each at its own price."""
        charges = [
            Charge.of_tokens(
                each.tokens,
                cache_read_weight=self.cache_read_weight,
                usd=self.prices.cost(each.model, each.tokens, at) or 0,
            )
            for each in used
        ]
        return reduce(Charge.with_part, charges)

    def of_sum(self, used: ModelSum, at: int) -> Charge:
        """The charge of all requests of an hour or a day, which began then."""
        tokens = used.sum.tokens
        usd = self.prices.cost_of_sum(used.model, tokens, used.tier, at)
        return Charge.of_tokens(
            tokens,
            cache_read_weight=self.cache_read_weight,
            usd=usd or 0,
            requests=used.sum.requests,
        )
