"""How keys and usage look as JSON: the same wherever they are shown."""

from __future__ import annotations

from opuslive.gateway.admission.admission import SharedAmount
from opuslive.gateway.upstreams.health import UpstreamHealth
from opuslive.gateway.upstreams.upstream import Upstream
from opuslive.keys import Key
from opuslive.limits.grammar import MICRO_USD, Metric
from opuslive.storage import KeyUsage
from opuslive.times import iso_ms, iso_seconds
from opuslive.web.pages.states import StateName


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


def key_with_usage(key: Key, usage: KeyUsage, state: StateName) -> dict[str, object]:
    """A key, how it stands, and what it has used so far."""
    last_used = usage.last_used_at
    return key_members(key) | {
        "state": state,
        "last_used_at": None if last_used is None else iso_ms(last_used),
        "usage": usage.sum.as_dict(),
    }


def key_with_secret(key: Key, credential: str) -> dict[str, object]:
    """A key that has just been made or rotated: the only time that its credential is shown."""
    return key_members(key) | {"key": credential}


def shared_amount(shared: SharedAmount) -> dict[str, object]:
    """What a key used of a limit that it shared; dollars for a limit in usd."""
    usd = shared.limit.metric is Metric.USD
    return {
        "scope": shared.kind.value,
        "group": shared.group,
        "limit": shared.limit.text,
        "amount": shared.amount / MICRO_USD if usd else shared.amount,
    }


def upstream_members(upstream: Upstream, health: UpstreamHealth) -> dict[str, object]:
    """An upstream, and how it is as far as requests told."""
    return {
        "name": upstream.name,
        "dialect": upstream.dialect.name,
        "state": health.state.value,
        "failures_in_a_row": health.failures_in_a_row,
        "last_failure": last_failure(health),
        "last_failure_at": _time(health.last_failure_at),
        "last_success_at": _time(health.last_success_at),
    }


def last_failure(health: UpstreamHealth) -> str | None:
    """What an upstream did wrong last, in words."""
    failure = health.last_failure
    if isinstance(failure, int):
        return f"answered with status {failure}"
    return failure and failure.value


def _time(ms: int | None) -> str | None:
    return None if ms is None else iso_seconds(ms)
