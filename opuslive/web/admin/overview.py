"""The content of the administration's first page, laid out before a template draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from opuslive.administration.status import ProcessStatus, UpstreamStatus
from opuslive.gateway.admission.admission import SharedLimits
from opuslive.gateway.upstreams.health import UpstreamState
from opuslive.web.pages import words
from opuslive.web.pages.addresses import group_address
from opuslive.web.pages.report import Gauge, gauge


@dataclass(frozen=True, slots=True)
class Overview:
    """What stands beside the usage. ``upstreams`` are each with its condition in words; ``groups``
    are those with limits: the name, the address of the page, and the gauges of each."""

    process: ProcessStatus
    upstreams: Sequence[tuple[UpstreamStatus, str]]
    gauges: Sequence[Gauge]
    groups: Sequence[tuple[str, str, Sequence[Gauge]]]


def make_overview(process: ProcessStatus, shared: SharedLimits, now: int) -> Overview:
    return Overview(
        process=process,
        upstreams=[(upstream, condition(upstream, now)) for upstream in process.upstreams],
        gauges=[gauge(status, now) for status in shared.gateway],
        groups=[
            (name, group_address(name), [gauge(status, now) for status in each])
            for name, each in sorted(shared.groups.items())
            if each
        ],
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
