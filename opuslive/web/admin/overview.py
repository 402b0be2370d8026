"""What the administration's first page shows, made of what was read before anything is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from opuslive.administration.figures import UsageTotals
from opuslive.gateway.admission.admission import SharedLimits
from opuslive.gateway.upstreams.health import UpstreamHealth, UpstreamState
from opuslive.keys import Key
from opuslive.pricing.prices import Prices
from opuslive.usage import ModelSum
from opuslive.web.pages import words
from opuslive.web.pages.report import Gauge, Series, Used, as_bars, by_model, gauge, series_by_day
from opuslive.web.shapes import last_failure

#: The keys that are shown: those with the most tokens.
TOP_KEYS = 10


@dataclass(frozen=True, slots=True)
class UpstreamStatus:
    """An upstream and how it is; ``connections`` are open, of which ``idle`` wait for a request."""

    name: str
    dialect: str
    authority: str
    models: Sequence[str]
    priority: int
    connections: int
    idle: int
    state: UpstreamState
    condition: str


@dataclass(frozen=True, slots=True)
class Process:
    """The running gateway. ``unrecorded_refusals`` are those since ``started_at`` (ms since the
    epoch); ``ready`` says that load balancers should send requests here, ``draining`` that new
    ones are refused, and ``all_down`` that no upstream would answer one."""

    version: str
    started_at: int
    in_flight: int
    unrecorded_refusals: int
    ready: bool
    draining: bool
    storage_healthy: bool
    all_down: bool
    upstreams: Sequence[UpstreamStatus]

    @property
    def refusing(self) -> Sequence[str]:
        """The upstreams that refuse the gateway's credential, or say that its credit is used up."""
        return [
            each.name for each in self.upstreams if each.state is UpstreamState.CREDENTIAL_REFUSED
        ]


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything on the page. ``keys`` are those that used most, of ``used_keys``, each with
    its id; ``groups`` have the gauges of their limits by name."""

    now: int
    process: Process
    number_of_keys: int
    gauges: Sequence[Gauge]
    groups: Mapping[str, Sequence[Gauge]]
    series: Series
    keys: Sequence[tuple[str, Used]]
    used_keys: int
    models: Sequence[Used]


def make_overview(
    process: Process,
    keys: Iterable[Key],
    shared: SharedLimits,
    days: Sequence[ModelSum],
    by_key: Mapping[str, UsageTotals],
    *,
    used_keys: int,
    prices: Prices,
    now: int,
) -> Overview:
    """``days`` are the sums of all keys from ``report.first_day`` on, ``by_key`` the figures of
    the same time by their ids of the ``TOP_KEYS`` that used most, of ``used_keys``."""
    names = {key.id: key.name for key in keys}
    ids = {name: key_id for key_id, name in names.items()}
    # A key that was deleted while this was read has no name any more.
    used = {names[key_id]: figures for key_id, figures in by_key.items() if key_id in names}
    return Overview(
        now=now,
        process=process,
        number_of_keys=len(names),
        gauges=[gauge(status, now) for status in shared.gateway],
        groups={
            name: [gauge(status, now) for status in each]
            for name, each in sorted(shared.groups.items())
            if each
        },
        series=series_by_day(days, prices, now),
        keys=[(ids[bar.label], bar) for bar in as_bars(used)],
        used_keys=used_keys,
        models=by_model(days, prices),
    )


def condition(health: UpstreamHealth, now: int) -> str:
    """How an upstream is, in words."""
    state = health.state
    if state is UpstreamState.CREDENTIAL_REFUSED:
        return "refuses the credential, or has no credit: check the account"
    if state is UpstreamState.FAILING and health.last_failure_at is not None:
        times = health.failures_in_a_row
        return (
            f"failed {'once' if times == 1 else f'{times:,} times in a row'}, "
            f"last {words.ago(health.last_failure_at, now)}: {last_failure(health)}"
        )
    if health.last_success_at is None:
        return "not asked for anything yet"
    return f"answers, last {words.ago(health.last_success_at, now)}"
