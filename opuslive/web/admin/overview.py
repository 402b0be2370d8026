"""The content of the administration's first page, laid out before a template draws it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from opuslive.administration.figures import UsageTotals
from opuslive.administration.status import ProcessStatus, UpstreamStatus
from opuslive.gateway.admission.admission import SharedLimits
from opuslive.gateway.upstreams.health import UpstreamState
from opuslive.keys import Key
from opuslive.pricing.prices import Prices
from opuslive.usage import ModelSum
from opuslive.web.pages import words
from opuslive.web.pages.report import Gauge, Series, Used, as_bars, by_model, gauge, series_by_day

#: The keys that are shown: those with the most tokens.
TOP_KEYS = 10


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything on the page. ``upstreams`` are each with its condition in words; ``keys`` are
    those that used most, of ``used_keys``, each with its id; ``groups`` are name → gauges of its
    limits."""

    now: int
    process: ProcessStatus
    upstreams: Sequence[tuple[UpstreamStatus, str]]
    gauges: Sequence[Gauge]
    groups: Mapping[str, Sequence[Gauge]]
    series: Series
    keys: Sequence[tuple[str, Used]]
    used_keys: int
    models: Sequence[Used]


def make_overview(
    process: ProcessStatus,
    keys: Iterable[Key],
    shared: SharedLimits,
    days: Sequence[ModelSum],
    by_key: Mapping[str, UsageTotals],
    *,
    used_keys: int,
    prices: Prices,
    now: int,
) -> Overview:
    """``days`` are the sums of all keys from ``report.first_day`` on. ``by_key`` is id → totals of
    the same time, for the ``TOP_KEYS`` that used most, of ``used_keys``."""
    names = {key.id: key.name for key in keys}
    ids = {name: key_id for key_id, name in names.items()}
    # A key that was deleted while this was read has no name any more.
    used = {names[key_id]: totals for key_id, totals in by_key.items() if key_id in names}
    return Overview(
        now=now,
        process=process,
        upstreams=[(upstream, condition(upstream, now)) for upstream in process.upstreams],
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


def condition(upstream: UpstreamStatus, now: int) -> str:
    """How an upstream is doing, in words or their markup; ``now`` is in ms since the epoch."""
    state, until = upstream.state, upstream.out_until
    if state is UpstreamState.CREDENTIAL_REFUSED:
        since = "" if upstream.since is None else f", noticed {words.ago(upstream.since, now)}"
        return f"refuses the credential, or has no credit{since}: check the account"
    if state is UpstreamState.RATE_LIMITED and until is not None:
        return Markup("limits the rate of requests; {}").format(_asked_last(until, now))
    if upstream.failures_in_a_row and upstream.last_failure_at is not None:
        times = upstream.failures_in_a_row
        failed = (
            f"failed {'once' if times == 1 else f'{times:,} times in a row'}, "
            f"last {words.ago(upstream.last_failure_at, now)}: {upstream.last_failure}"
        )
        if state is not UpstreamState.OUT or until is None:
            return failed
        return Markup("{}; {}").format(failed, _asked_last(until, now))
    if upstream.last_success_at is None:
        return "not asked for anything yet"
    return f"answers, last {words.ago(upstream.last_success_at, now)}"


def _asked_last(until: int, now: int) -> Markup:
    return Markup("asked last until {}").format(words.upcoming(until, now))
