"""Serializers: how keys, usage and the process look as JSON, the same wherever they are shown;
and the facts of a key that the pages list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from opuslive.administration.activity import Activity
from opuslive.administration.certificate import CertificateStatus
from opuslive.administration.keys import Deletion
from opuslive.administration.reports import Comparison, Trouble, UsageReport, counts_since
from opuslive.administration.states import HeldLimit, KeyStanding, StateName
from opuslive.administration.status import ProcessStatus, UpstreamStatus
from opuslive.gateway.admission.shares import SharedAmount
from opuslive.gateway.alerts.channels import Tried
from opuslive.keys import Key
from opuslive.limits.windows import LimitStatus
from opuslive.reloading import Reloaded
from opuslive.storage import KeyUsage
from opuslive.times import iso_ms, iso_seconds
from opuslive.usage import UsageSum


def key_members(key: Key) -> dict[str, object]:
    """A key as it is stored, less its hashes."""
    return {
        "id": key.id,
        "name": key.name,
        "prefix": key.prefix,
        "group": key.group,
        "enabled": key.enabled,
        "created_at": iso_seconds(key.created_at),
        "expires_at": _time(key.expires_at),
        "previous_secret_expires_at": _time(key.previous_expires_at),
        "models": list(key.models),
        "limits": list(key.limits),
    }


@dataclass(frozen=True, slots=True)
class KeyFact:
    """One line of the list of everything that is stored of a key. A page shows ``text``, then each
    of ``codes`` in a box of its own, then ``time`` (ms since the epoch), which may be the end of
    something (``is_end``)."""

    label: str
    text: str = ""
    codes: Sequence[str] = ()
    time: int | None = None
    is_end: bool = False


def key_facts(key: Key) -> Sequence[KeyFact]:
    """All that is stored of the key, for its holder and the administrator."""
    return (
        KeyFact("Name", key.name),
        KeyFact("Id", codes=(key.id,)),
        KeyFact("Begins with", codes=(key.prefix,)),
        KeyFact("Group", "none" if key.group is None else key.group),
        KeyFact("Enabled", "yes" if key.enabled else "no"),
        KeyFact("Made", time=key.created_at),
        KeyFact(
            "Expires",
            "never" if key.expires_at is None else "",
            time=key.expires_at,
            is_end=True,
        ),
        KeyFact("Models", "" if key.models else "all", key.models),
        KeyFact("Limits", "" if key.limits else "none", key.limits),
        KeyFact("Secret", "as a bcrypt hash only, which is never shown"),
        KeyFact(
            "Old secret",
            "none" if key.previous_expires_at is None else "as a hash, too; works until ",
            time=key.previous_expires_at,
        ),
    )


def key_with_usage(key: Key, usage: KeyUsage, state: StateName) -> dict[str, object]:
    """A key, how it stands, and what it has used so far."""
    last_used = usage.last_used_at
    return key_members(key) | {
        "state": state,
        "last_used_at": None if last_used is None else iso_ms(last_used),
        "counts_since": iso_seconds(counts_since(key)),
        "usage": usage.sum.as_dict(),
    }


def standing_members(standing: KeyStanding) -> dict[str, object]:
    """What an administrator sees of how a key stands, beside its state."""
    return {
        "standing": [held_limit_members(limit) for limit in standing.limits],
        "exhausted_by": [
            _whose(limit) | {"limit": limit.status.limit.text} for limit in standing.exhausted_by
        ],
    }


def held_limit_members(limit: HeldLimit) -> dict[str, object]:
    """A limit that holds, and how it stands."""
    return _whose(limit) | limit.status.as_dict()


def _whose(limit: HeldLimit) -> dict[str, object]:
    return {"scope": limit.scope.value, "group": limit.group}


def key_with_secret(key: Key, credential: str) -> dict[str, object]:
    """A key that has just been made or rotated: the only time that its credential is shown."""
    return key_members(key) | {"key": credential}


def deletion_members(deletion: Deletion) -> dict[str, object]:
    """A key that was deleted, and what is gone with it."""
    return key_members(deletion.key) | {
        "erased_records": deletion.erased_records,
        "no_longer_counts": [_shared_amount(amount) for amount in deletion.shared],
    }


def _shared_amount(shared: SharedAmount) -> dict[str, object]:
    """What a key used of a limit that it shared; dollars for a limit in usd."""
    return {
        "scope": shared.kind.value,
        "group": shared.group,
        "limit": shared.limit.text,
        "amount": shared.limit.metric.as_number(shared.amount),
    }


def report_members(
    report: UsageReport, *, now: int, names: Mapping[str, str] | None = None
) -> dict[str, object]:
    """Usage in a span of time: the sum, a series, and the span before, if that was read.

    ``names`` are id → name of the keys of a series by key: other keys were deleted meanwhile, and
    are left out.
    """
    span, by = report.span, report.by
    series: list[dict[str, object]] = []
    for bucket, each in report.series.items():
        point: dict[str, object] = {by: _bucket(bucket, by)}
        if names is not None:
            if bucket not in names:
                continue
            point["name"] = names[str(bucket)]
        series.append(point | each.as_dict())
    if by == "status":
        series = _by_status(report.totals.sum)
    return {
        "since": iso_seconds(span.since),
        "until": iso_seconds(min(span.until, now)),
        "by": by,
        "totals": report.totals.as_dict(),
        "series": series,
        "comparison": _comparison_members(report.comparison),
    }


def _by_status(used: UsageSum) -> list[dict[str, object]]:
    """How requests ended, each outcome that there was with its share of them all."""
    whole = used.requests + used.refusals
    return [
        {"status": outcome, "requests": number, "share": round(number / whole, 4)}
        for outcome, number in used.outcomes.items()
        if number
    ]


def _comparison_members(comparison: Comparison | None) -> dict[str, object] | None:
    if comparison is None:
        return None
    return {
        name: {
            "since": iso_seconds(span.since),
            "until": iso_seconds(span.until),
            "totals": totals.as_dict(),
        }
        for name, span, totals in (
            ("this", comparison.span, comparison.totals),
            ("before", comparison.span_before, comparison.before),
        )
    }


def trouble_members(trouble: Trouble) -> dict[str, object]:
    """A request that was not served."""
    return {
        "time": iso_ms(trouble.time),
        "key": trouble.key_id,
        "name": trouble.key_name,
        "outcome": trouble.outcome,
        "model": trouble.model,
        "status": trouble.status,
        "latency_ms": trouble.latency_ms,
    }


def status_members(status: ProcessStatus) -> dict[str, object]:
    """How the process is doing."""
    return {
        "version": status.version,
        "started_at": iso_seconds(status.started_at),
        "configuration": {
            "file": status.configuration.file,
            "since": iso_seconds(status.configuration.since),
            "needs_restart": list(status.configuration.needs_restart),
        },
        "requests_in_flight": status.in_flight,
        "unrecorded_refusals": status.unrecorded_denials,
        "ready": status.ready,
        "stopping": status.stopping,
        "draining": status.draining,
        "storage_healthy": status.storage_healthy,
        "keys": status.keys,
        "upstreams": [_upstream_members(upstream) for upstream in status.upstreams],
        "certificate": _certificate_members(status.certificate),
    }


def _certificate_members(status: CertificateStatus | None) -> dict[str, object] | None:
    if status is None:
        return None
    return {
        "name": status.name,
        "not_before": _time(status.not_before),
        "not_after": _time(status.not_after),
        "next_attempt": _time(status.next_attempt),
        "failures_in_a_row": status.failures_in_a_row,
        "last_failure": status.last_failure,
        "last_failure_at": _time(status.last_failure_at),
    }


def activity_members(activity: Activity) -> dict[str, object]:
    """What goes on right now."""
    return {
        "in_flight": activity.process.in_flight,
        "waiting": activity.waiting,
        "requests_per_minute": activity.requests,
        "tokens_per_minute": activity.tokens,
        "upstreams": [_upstream_members(upstream) for upstream in activity.process.upstreams],
        "keys": [
            {
                "id": key.id,
                "name": key.name,
                "requests_per_minute": key.requests,
                "tokens_per_minute": key.tokens,
                "tightest": None if key.tightest is None else _tightest_members(key.tightest),
            }
            for key in activity.keys
        ],
    }


def _tightest_members(status: LimitStatus) -> dict[str, object]:
    shown = status.as_dict()
    return {
        "limit": status.limit.text,
        "percent": int(100 * status.fullness),
        **{name: shown[name] for name in ("used", "remaining", "frees_at")},
    }


def reloaded_members(reloaded: Reloaded) -> dict[str, object]:
    """What a reload of the configuration did."""
    return {
        "file": reloaded.file,
        "since": iso_seconds(reloaded.since),
        "changed": list(reloaded.changed),
        "needs_restart": list(reloaded.needs_restart),
    }


def tried_members(tried: Tried) -> dict[str, object]:
    """What a channel of alerts answered to a test."""
    return {
        "channel": tried.name,
        "ok": tried.answer.problem is None,
        "problem": tried.answer.problem,
        "answer": tried.answer.said or None,
    }


def _upstream_members(upstream: UpstreamStatus) -> dict[str, object]:
    return {
        "name": upstream.name,
        "dialect": upstream.dialect,
        "priority": upstream.priority,
        "weight": upstream.weight,
        "state": upstream.state.value,
        "since": _time(upstream.since),
        "out_until": _time(upstream.out_until),
        "failures_in_a_row": upstream.failures_in_a_row,
        "last_failure": upstream.last_failure,
        "last_failure_at": _time(upstream.last_failure_at),
        "last_success_at": _time(upstream.last_success_at),
    }


def _bucket(bucket: int | str | None, by: str) -> str | None:
    if isinstance(bucket, int):
        return iso_seconds(bucket)[:10] if by == "day" else iso_seconds(bucket)
    return bucket


def _time(ms: int | None) -> str | None:
    return None if ms is None else iso_seconds(ms)
