"""What tokens cost.

Theory of operation. A price is so many US dollars per million tokens, for each of the five
kinds of ``TokenCounts``. It holds from a day on, and may depend on the length of the
request's whole context (all tokens but the output's): above a threshold *all* its tokens,
the output's too, cost more. That is how both providers bill::

    model ──► price, which began before the request ──► tier, by context ──► five rates

The built-in table is ``table``; the configuration's ``[prices]`` overrides it. A model is
known by its literal name, or by one followed by ``-latest`` or a day (``-20250929``,
``-2025-08-07``), which is how both providers name the snapshots of a model. Nothing looser:
``gpt-5.5-pro`` costs six times what ``gpt-5.5`` does, and a model without a price is refused
where money is limited, while one with a wrong price would go unnoticed.

Amounts are whole micro-dollars, as in ``limits``, and rounded up: whatever was used costs
something. Rates are whole too, so that a sum is exact: in millionths of a micro-dollar per
token, which is the price in USD per million tokens times 10**6.

What is priced is tokens at the standard rates. Fees that are no tokens (web searches), and
what a provider adds or takes off for the way a request is served (fast, priority, flex and
batch processing, a choice of region), are not in a record, so they are not in a cost. Where
money is limited, requests that ask for what costs more are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from opuslive.pricing.table import NAMES, PRICES, Row
from opuslive.usage import TokenCounts

#: Units of a rate in one micro-dollar per token, and so in one USD per million tokens.
RATE_SCALE = 1_000_000

_SNAPSHOT = re.compile(
    r"-(?:latest"
    r"|20[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])"
    r"|20[0-9]{2}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01]))\Z"
)
_LONGEST_SNAPSHOT = len("-2025-08-07")


@dataclass(frozen=True, slots=True)
class CacheFactors:
    """What tokens cost that are read from or written to a cache, as multiples of ``input``."""

    read: Decimal = Decimal(1)
    write_5m: Decimal = Decimal(1)
    write_1h: Decimal = Decimal(1)


@dataclass(frozen=True, slots=True)
class PriceOverride:
    """What an administrator says that a model costs, in USD per million tokens.

    What is ``None`` follows from ``input`` by ``factors``, which are those of the model's provider.
    """

    input: float
    output: float
    cache_read: float | None = None
    cache_write_5m: float | None = None
    cache_write_1h: float | None = None
    factors: CacheFactors = CacheFactors()


@dataclass(frozen=True, slots=True)
class Tier:
    """What each kind of token costs, in units of ``RATE_SCALE``, above a context of so many."""

    above: int
    input: int
    output: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int


@dataclass(frozen=True, slots=True)
class Price:
    """The price of one model: its tiers, of which the first is above 0 and the rest ascend."""

    tiers: tuple[Tier, ...]

    def tier_of(self, tokens: TokenCounts) -> int:
        """The index of the tier in which one request with these tokens is billed."""
        return self._tier(tokens.input + tokens.cache_read + tokens.cache_write)

    def cost(self, tokens: TokenCounts) -> int:
        """What one request costs, in micro-dollars."""
        return self.cost_in_tier(tokens, self.tier_of(tokens))

    def cost_in_tier(self, tokens: TokenCounts, tier: int) -> int:
        """What the tokens of requests cost that were all billed in one tier, in micro-dollars.

        A sum no longer tells how long each context was, so ``cost`` would be wrong for it:
        two requests below a threshold may add up to more. The costs of the single requests
        add up to this or, each being rounded up, to less than a micro-dollar a request more.
        A tier that the price doesn't have counts as its last one.
        """
        return in_micro_usd(self.exact_cost_in_tier(tokens, tier))

    def exact_cost_in_tier(self, tokens: TokenCounts, tier: int) -> int:
        """The same in units of ``RATE_SCALE``, not rounded: costs that are added up."""
        rates = self.tiers[min(tier, len(self.tiers) - 1)]
        return (
            tokens.input * rates.input
            + tokens.output * rates.output
            + tokens.cache_read * rates.cache_read
            + tokens.cache_write_5m * rates.cache_write_5m
            + tokens.cache_write_1h * rates.cache_write_1h
        )

    def estimate(self, input_tokens: int, output_tokens: int, *, strict: bool) -> int:
        """What a request will cost, in micro-dollars, before it is known what is cached.

        ``input_tokens`` is the whole context. All of it is taken as neither read from nor
        written to a cache. What is read costs less, and most of a long conversation is;
        what is written costs more, at some providers twice as much. With ``strict``
        all of the input is taken as of its dearest kind, so that no request with these
        counts can cost more.
        """
        rates = self.tiers[self._tier(input_tokens)]
        rate = rates.input
        if strict:
            rate = max(rate, rates.cache_read, rates.cache_write_5m, rates.cache_write_1h)
        return in_micro_usd(input_tokens * rate + output_tokens * rates.output)

    def _tier(self, context: int) -> int:
        index = len(self.tiers) - 1
        while index and context <= self.tiers[index].above:
            index -= 1
        return index


#: The prices of a model with the moments they began (ms since the epoch), the latest first.
_Schedule = tuple[tuple[float, Price], ...]


class Prices:
    """The built-in prices, and those of the configuration in their place.

    An override holds at all times and for any context. It also holds for the snapshots of
    the model that it names (``my-model-20260101``), unless the table has that snapshot as a
    model of its own.
    """

    def __init__(
        self,
        overrides: Mapping[str, PriceOverride],
        *,
        table: Iterable[Row] = PRICES,
        names: Iterable[tuple[str, str]] = NAMES,
    ) -> None:
        schedules = _schedules(table)
        schedules.update([(name, schedules[model]) for name, model in names])
        overridden: dict[str, _Schedule] = {
            name: ((-math.inf, _override(price)),) for name, price in overrides.items()
        }
        # The table's own snapshots of an overridden model, which would be found before it.
        for name, schedule in schedules.items():
            model = model_of(name)
            if model in overridden and schedules.get(model) is schedule:
                overridden.setdefault(name, overridden[model])
        self._schedules: Mapping[str, _Schedule] = schedules | overridden
        #: Whether the input of some model costs nothing.
        self.some_are_free = any(
            tier.input == 0
            for schedule in self._schedules.values()
            for _, price in schedule
            for tier in price.tiers
        )

    def use(self, other: Prices) -> None:
        """From now on have the prices of the other one."""
        self._schedules = other._schedules
        self.some_are_free = other.some_are_free

    def priced_name(self, model: str) -> str | None:
        """Under which name of the table or the overrides a model is priced, if it is at all.

        It is the model's own, or that without the snapshot.
        """
        if model in self._schedules:
            return model
        name = model_of(model)
        return name if name in self._schedules else None

    def price_of(self, model: str, at_ms: int) -> Price | None:
        """The price of a model at a time (ms since the epoch), or ``None`` if it isn't known."""
        name = self.priced_name(model)
        if name is not None:
            for began, price in self._schedules[name]:
                if began <= at_ms:
                    return price
        return None

    def tier_of(self, model: str | None, tokens: TokenCounts, at_ms: int) -> int:
        """The index of the tier in which one request is billed; 0 without a price."""
        price = None if model is None else self.price_of(model, at_ms)
        return 0 if price is None else price.tier_of(tokens)

    def cost_of_sum(
        self, model: str | None, tokens: TokenCounts, tier: int, at_ms: int
    ) -> int | None:
        """What requests of one model cost that were billed in one tier, in micro-dollars;
        ``None`` without a price."""
        price = None if model is None else self.price_of(model, at_ms)
        return None if price is None else price.cost_in_tier(tokens, tier)

    def exact_cost_of_sum(
        self, model: str | None, tokens: TokenCounts, tier: int, at_ms: int
    ) -> int | None:
        """The same in units of ``RATE_SCALE``, not rounded."""
        price = None if model is None else self.price_of(model, at_ms)
        return None if price is None else price.exact_cost_in_tier(tokens, tier)

    def changes(self, since_ms: int, until_ms: int) -> Sequence[int]:
        """When any price began after the one and before the other time, the first one first."""
        began = {began for schedule in self._schedules.values() for began, _ in schedule}
        return sorted(int(moment) for moment in began if since_ms < moment < until_ms)

    def cost(self, model: str | None, tokens: TokenCounts, at_ms: int) -> int | None:
        """What one request at ``at_ms`` cost, in micro-dollars; ``None`` without a price."""
        price = None if model is None else self.price_of(model, at_ms)
        return None if price is None else price.cost(tokens)


def model_of(name: str) -> str:
    """The model of which ``name`` is a snapshot, else ``name`` itself."""
    # Looked for at the end alone: a client's name may have a million characters.
    match = _SNAPSHOT.search(name, max(0, len(name) - _LONGEST_SNAPSHOT))
    return name[: match.start()] if match else name


def _schedules(table: Iterable[Row]) -> dict[str, _Schedule]:
    """The rows of the table, which is in the order of model, day and threshold."""
    tiers: dict[str, dict[float, list[Tier]]] = {}
    for model, day, above, *prices in table:
        began = -math.inf if day is None else _day_ms(day)
        tier = Tier(above, *(_rate(_exact(price)) for price in prices))
        tiers.setdefault(model, {}).setdefault(began, []).append(tier)
    return {
        model: tuple((began, Price(tuple(days[began]))) for began in sorted(days, reverse=True))
        for model, days in tiers.items()
    }


def _override(given: PriceOverride) -> Price:
    """The price that an override is. Its factors fill in what it doesn't say."""
    price, factors = _exact(given.input), given.factors

    def given_or(usd: float | None, factor: Decimal) -> int:
        return _rate(price * factor if usd is None else _exact(usd))

    return Price(
        (
            Tier(
                0,
                _rate(price),
                _rate(_exact(given.output)),
                given_or(given.cache_read, factors.read),
                given_or(given.cache_write_5m, factors.write_5m),
                given_or(given.cache_write_1h, factors.write_1h),
            ),
        )
    )


def _exact(usd: float) -> Decimal:
    """The decimal number that was written: 0.1, not the binary fraction next to it."""
    return Decimal(str(usd))


def _rate(usd: Decimal) -> int:
    """A price in USD per million tokens as a rate, rounded up."""
    return math.ceil(usd * RATE_SCALE)


def _day_ms(day: str) -> int:
    """The first moment of a day (UTC), ms since the epoch."""
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) * 1000


def in_micro_usd(cost: int) -> int:
    """Units of ``RATE_SCALE`` in micro-dollars, rounded up."""
    return -(-cost // RATE_SCALE)
