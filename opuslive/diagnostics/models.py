"""Models as the whole configuration has them: aliases, and prices where money is limited."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from opuslive.config.sections import Config
from opuslive.diagnostics.findings import Finding, count, listed_names, ok, warning
from opuslive.diagnostics.upstreams import is_listed
from opuslive.gateway.upstreams.listing import Listing
from opuslive.gateway.upstreams.router import allowed
from opuslive.keys import Key
from opuslive.limits.grammar import Limit, parse_limits
from opuslive.pricing.prices import Prices
from opuslive.quantities import is_glob, matches_glob

#: Upstream's name → what came of its list; upstreams whose list did not come are left out.
Listings = Mapping[str, Listing]


def aliases(config: Config, listings: Listings) -> Iterable[Finding]:
    """Whether the models that aliases stand for are served. Nothing without aliases."""
    if not config.aliases:
        return
    lost = [alias for alias, model in config.aliases.items() if not _has(config, listings, model)]
    if lost:
        yield warning(
            "aliases",
            f"no upstream has the model of {listed_names(sorted(lost))}",
            "correct [aliases], or models of the upstream that is meant",
        )
    else:
        yield ok("aliases", "each stands for a model that an upstream serves")


def prices(
    config: Config,
    listings: Listings,
    keys: Sequence[Key],
    table: Prices,
    now_ms: int,
) -> Finding:
    """Whether a limit in usd would refuse a model that is served, since it has no price."""
    globs = list(_limited_in_usd(config, keys))
    if not globs:
        return ok("prices", "no limit is in usd, so no model needs a price")
    unpriced = [
        model
        for model in sorted(_served(config, listings))
        if table.price_of(model, now_ms) is None and any(allowed(each, model) for each in globs)
    ]
    if not unpriced:
        return ok("prices", "every model that a usd limit may meet has one, as far as lists tell")
    verb = "has" if len(unpriced) == 1 else "have"
    return warning(
        "prices",
        f"{count(len(unpriced), 'model')} {verb} no price, so usd limits refuse "
        f"{'it' if len(unpriced) == 1 else 'them'}: {listed_names(unpriced)}",
        f'write [prices."{unpriced[0]}"] with input and output'
        + ("" if len(unpriced) == 1 else ", and so for the others"),
    )


def _limited_in_usd(config: Config, keys: Sequence[Key]) -> Iterable[Sequence[str]]:
    """The model globs of whoever has a limit in usd; none for every model."""
    limits = config.limits
    if any(map(_in_usd, (limits.gateway, config.keys.default_limits, *limits.groups.values()))):
        yield ()
    for key in keys:
        if _in_usd(parse_limits(key.limits)):
            yield key.models


def _in_usd(limits: Sequence[Limit]) -> bool:
    return any(limit.metric.needs_price for limit in limits)


def _served(config: Config, listings: Listings) -> set[str]:
    """Models that an upstream serves, by its list or by the configuration."""
    served: set[str] = set()
    for upstream in config.upstreams:
        served |= {each for each in upstream.models if not is_glob(each)}
        listed = listings[upstream.name].models if upstream.name in listings else ()
        served |= {
            model for model in listed if any(matches_glob(glob, model) for glob in upstream.models)
        }
    return served


def _has(config: Config, listings: Listings, model: str) -> bool:
    """Whether an upstream serves the model, as far as its list tells."""
    return any(
        any(matches_glob(glob, model) for glob in upstream.models)
        and (
            upstream.name not in listings
            or not listings[upstream.name].whole
            or is_listed(model, listings[upstream.name])
        )
        for upstream in config.upstreams
    )
