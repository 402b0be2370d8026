"""What Claude Code shows of a key's limits: notices, a bar, and the sentence of a refusal.

In its gateway mode the client knows three limits by fixed names: ``5h``, ``7d`` and ``overage``,
which it calls the 5-hour limit, the weekly limit and the usage credits. A limit of tokens or
requests in any 5 hours or 7 days is told under its name; the fullest of all limits is the overage,
whatever it counts. What a reading does there:

* One with a threshold that is surpassed is a notice, once for each window and threshold; the next
  threshold speaks again. With several, ``5h`` comes first, then ``7d``, then ``overage``.
* One of ``5h`` or ``7d`` without a threshold makes the client judge by itself whether the pace is
  too high, as if the window began at a fixed hour. So these two are told with a threshold alone.

Only a key's own limits may be told: how full a shared one is tells of others. (Recorded from
Claude Code 2.1.332.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from opuslive.limits.grammar import MICRO_USD, Metric, Period
from opuslive.limits.windows import LimitStatus
from opuslive.times import iso_seconds

_PREFIX: Final = "anthropic-ratelimit-unified-"
#: In percent of a limit, descending; and how the bar is coloured from each on.
_THRESHOLDS: Final[tuple[tuple[int, str], ...]] = ((95, "critical"), (75, "warning"))
_LEAST_THRESHOLD: Final = _THRESHOLDS[-1][0]
#: Seconds of a rolling window → its name.
_NAMED_WINDOWS: Final[Mapping[int | Period | None, str]] = MappingProxyType(
    {5 * 3600: "5h", 7 * 86_400: "7d"}
)
#: Seconds. A limit of a shorter window is about pace: clients wait, and repeat the request.
_LASTING: Final = 3600
#: What the bar calls a calendar window: "today", "this week", "this month".
_GROUPS: Final[Mapping[int | Period | None, str]] = MappingProxyType(
    {Period.DAY: "daily", Period.WEEK: "weekly", Period.MONTH: "monthly"}
)

#: What makes the client show a refusal's own sentence, and nothing of its own. Together with
#: ``representative-claim``, which is not sent, it would show a sentence of the provider's.
REFUSAL_HEADERS: Final[Sequence[tuple[str, str]]] = (
    (f"{_PREFIX}status", "rejected"),
    (f"{_PREFIX}overage-disabled-reason", "org_spend_cap_reached"),
)

#: The part of a limit that is used, and how the limit stands.
_Part = tuple[float, LimitStatus]


def standing_headers(limits: Sequence[LimitStatus]) -> list[tuple[str, str]]:
    """The headers for an answer to a key with these limits."""
    overage, named = _fullest(limits)
    if overage is None:
        return []
    headers = _reading("overage", overage)
    for name, (_, status) in named.items():
        if status.used * 100 >= status.limit.amount * _LEAST_THRESHOLD:
            headers += _reading(name, status)
    return headers


def usage_document(limits: Sequence[LimitStatus]) -> Mapping[str, object]:
    """What ``/usage`` of the client asks for: the bar of the fullest limit."""
    status, _ = _fullest(limits)
    if status is None:
        return {
            "extra_usage": {
                "is_enabled": True,
                "monthly_limit": None,
                "used_credits": 0,
                "utilization": None,
                "currency": "USD",
            },
            "limits": [],
        }
    limit = status.limit
    percent = min(100, status.used * 100 // limit.amount)
    severity = next((name for least, name in _THRESHOLDS if percent >= least), "normal")
    resets_at = status.resets_at
    return {
        "extra_usage": {
            "is_enabled": True,
            "monthly_limit": _hundredths(limit.metric, limit.amount),
            "used_credits": _hundredths(limit.metric, status.used),
            "utilization": percent,
            "currency": _currency(limit.metric),
        },
        "limits": [
            {
                "kind": "spend",
                # A word that the client does not know is not shown.
                "group": _GROUPS.get(limit.window, "rolling"),
                "percent": percent,
                "resets_at": None if resets_at is None else iso_seconds(resets_at + 999),
                "severity": severity,
                "is_active": True,
            }
        ],
    }


def _fullest(
    limits: Sequence[LimitStatus],
) -> tuple[LimitStatus | None, Mapping[str, _Part]]:
    """The limit of which the largest part is used, and that of each window that has a name; of
    equals the first.

    A limit whose window is shorter than an hour is the fullest only where there is no other, and
    one of running requests never is.
    """
    fullest: LimitStatus | None = None
    rank = (False, -1.0)
    named: dict[str, _Part] = {}
    for status in limits:
        limit = status.limit
        window = limit.window
        if window is None:
            continue
        part = status.used / limit.amount
        own_rank = (not isinstance(window, int) or window >= _LASTING, part)
        if own_rank > rank:
            fullest, rank = status, own_rank
        name = _NAMED_WINDOWS.get(window)
        if name is None or limit.metric.in_dollars:
            continue
        if name not in named or part > named[name][0]:
            named[name] = part, status
    return fullest, named


def _reading(name: str, status: LimitStatus) -> list[tuple[str, str]]:
    # Rounded down, and less than all: requests pass.
    percent = min(99, status.used * 100 // status.limit.amount)
    headers = [(f"{_PREFIX}{name}-utilization", f"0.{percent:02d}")]
    for threshold, _ in _THRESHOLDS:
        if percent >= threshold:
            headers.append((f"{_PREFIX}{name}-surpassed-threshold", f"0.{threshold}"))
            break
    if status.resets_at is not None:
        headers.append((f"{_PREFIX}{name}-reset", str(-(-status.resets_at // 1000))))
    return headers


def _currency(metric: Metric) -> str:
    """The client shows any three letters behind an amount."""
    if metric.in_dollars:
        return "USD"
    return "REQ" if metric is Metric.REQUESTS else "TOK"


def _hundredths(metric: Metric, amount: int) -> int | float:
    """Cents, and hundredths of whatever else is counted: the client divides by 100."""
    if not metric.in_dollars:
        return amount * 100
    cents = amount * 100 / MICRO_USD
    return int(cents) if cents.is_integer() else cents
