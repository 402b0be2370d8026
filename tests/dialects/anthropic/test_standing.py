"""Which limits Claude Code is told of, under which names, and how full."""

from __future__ import annotations

from typing import Any

import pytest

from opuslive.dialects.anthropic.dialect import AnthropicDialect
from opuslive.dialects.anthropic.standing import standing_headers, usage_document
from opuslive.errors import Code, OpusLiveError
from opuslive.limits.grammar import parse_limit
from opuslive.limits.windows import LimitStatus
from tests.support.clock import NOW

RESETS = NOW + 1
#: The same in whole seconds, rounded up.
RESET = str(NOW // 1000 + 1)


def standing(limit: str, used: float, resets_at: int | None = RESETS) -> LimitStatus:
    """How a limit stands of which so much is used, in dollars for one of them."""
    parsed = parse_limit(limit)
    amount = round(used * 1_000_000) if parsed.metric.in_dollars else round(used)
    remaining = max(0, parsed.amount - amount)
    return LimitStatus(parsed, None, amount, 0, remaining, resets_at, resets_at)


def told(*limits: LimitStatus) -> dict[str, str]:
    """The headers, less the beginning that all have."""
    headers = standing_headers(limits)
    assert len(headers) == len(dict(headers))
    prefix = "anthropic-ratelimit-unified-"
    assert all(name.startswith(prefix) for name, _ in headers)
    return {name.removeprefix(prefix): value for name, value in headers}


class TestOverage:
    @pytest.mark.parametrize(
        ("limits", "which"),
        [
            ([("20 usd/month", 5), ("1M tokens/day", 300_000)], "1M tokens/day"),
            ([("20 usd/month", 7), ("1M tokens/day", 300_000)], "20 usd/month"),
            ([("100 tokens/5h", 90), ("20 usd/month", 1)], "100 tokens/5h"),
            ([("100 requests/total", 1), ("100 output_tokens/7d", 2)], "100 output_tokens/7d"),
            # Of equals the first, also of unused ones.
            ([("20 usd/month", 0), ("1M tokens/day", 0)], "20 usd/month"),
            # More than all of it may be used.
            ([("20 usd/month", 20), ("100 tokens/day", 150)], "100 tokens/day"),
            # What frees within the hour says little of what is left.
            ([("60 requests/1m", 59), ("20 usd/month", 1)], "20 usd/month"),
            ([("60 requests/1m", 59), ("60 requests/30m", 1)], "60 requests/1m"),
            ([("60 requests/59m", 59), ("60 requests/1h", 1)], "60 requests/1h"),
            ([("8 concurrent", 0), ("60 requests/1m", 0)], "60 requests/1m"),
        ],
    )
    def test_is_the_fullest_limit_that_lasts(
        self, limits: list[tuple[str, float]], which: str
    ) -> None:
        all_limits = [
            standing(limit, used, RESETS + number * 1000)
            for number, (limit, used) in enumerate(limits)
        ]
        found = [limit for limit, _ in limits].index(which)
        assert told(*all_limits)["overage-reset"] == str(int(RESET) + found)
        (bar,) = bars(*all_limits)
        assert bar["percent"] == min(
            100, all_limits[found].used * 100 // all_limits[found].limit.amount
        )

    def test_is_told_nothing_of_without_a_limit_of_use(self) -> None:
        assert told() == {}
        assert told(standing("8 concurrent", 0, None)) == {}

    @pytest.mark.parametrize(
        ("used", "utilization", "threshold"),
        [
            (0, "0.00", None),
            (9, "0.00", None),
            (10, "0.01", None),
            (749, "0.74", None),
            (750, "0.75", "0.75"),
            (949, "0.94", "0.75"),
            (950, "0.95", "0.95"),
            (999, "0.99", "0.95"),
            # A request is under way, so it is less than all.
            (1000, "0.99", "0.95"),
            (4000, "0.99", "0.95"),
        ],
    )
    def test_has_two_decimals_below_one_and_the_highest_threshold(
        self, used: int, utilization: str, threshold: str | None
    ) -> None:
        expected = {"overage-utilization": utilization, "overage-reset": RESET}
        if threshold is not None:
            expected["overage-surpassed-threshold"] = threshold
        assert told(standing("1k tokens/day", used)) == expected

    def test_never_resets_if_the_limit_does_not(self) -> None:
        assert told(standing("4 requests/total", 3, None)) == {
            "overage-utilization": "0.75",
            "overage-surpassed-threshold": "0.75",
        }


class TestNamedWindows:
    @pytest.mark.parametrize("metric", ["tokens", "requests", "input_tokens", "output_tokens"])
    @pytest.mark.parametrize(("window", "name"), [("5h", "5h"), ("300m", "5h"), ("7d", "7d")])
    def test_are_told_from_the_first_threshold_on(
        self, metric: str, window: str, name: str
    ) -> None:
        half = told(standing(f"100 {metric}/{window}", 74))
        assert half == {"overage-utilization": "0.74", "overage-reset": RESET}
        assert told(standing(f"100 {metric}/{window}", 96)) == {
            f"{name}-utilization": "0.96",
            f"{name}-surpassed-threshold": "0.95",
            f"{name}-reset": RESET,
            "overage-utilization": "0.96",
            "overage-surpassed-threshold": "0.95",
            "overage-reset": RESET,
        }

    @pytest.mark.parametrize(
        "limit",
        ["100 usd/5h", "100 usd/7d", "100 tokens/week", "100 tokens/4h", "100 tokens/day",
         "100 requests/month", "100 requests/6d", "100 tokens/total"],
    )  # fmt: skip
    def test_are_exactly_those_of_tokens_or_requests(self, limit: str) -> None:
        assert set(told(standing(limit, 96))) == {
            "overage-utilization",
            "overage-surpassed-threshold",
            "overage-reset",
        }

    def test_tell_the_fullest_of_several_metrics(self) -> None:
        found = told(
            standing("100 requests/5h", 80),
            standing("100 tokens/5h", 97, RESETS + 5000),
            standing("100 output_tokens/5h", 90),
            standing("100 tokens/7d", 76),
        )
        assert found["5h-utilization"] == "0.97"
        assert found["5h-reset"] == str(int(RESET) + 5)
        assert found["7d-utilization"] == "0.76"
        assert found["overage-utilization"] == "0.97"


class TestUsage:
    def test_of_dollars_is_in_cents(self) -> None:
        assert usage_document([standing("500 usd/month", 271.4)]) == {
            "extra_usage": {
                "is_enabled": True,
                "monthly_limit": 50_000,
                "used_credits": 27_140,
                "utilization": 54,
                "currency": "USD",
            },
            "limits": [
                {
                    "kind": "spend",
                    "group": "monthly",
                    "percent": 54,
                    "resets_at": "2026-11-23T15:04:06Z",
                    "severity": "normal",
                    "is_active": True,
                }
            ],
        }

    @pytest.mark.parametrize(
        ("limit", "currency"),
        [("2M tokens/5h", "TOK"), ("2M input_tokens/5h", "TOK"), ("2M requests/5h", "REQ")],
    )
    def test_of_what_is_counted_is_in_hundredths(self, limit: str, currency: str) -> None:
        extra: Any = usage_document([standing(limit, 1_600_000)])["extra_usage"]
        assert extra["currency"] == currency
        assert (extra["used_credits"], extra["monthly_limit"]) == (160_000_000, 200_000_000)
        assert extra["utilization"] == 80

    @pytest.mark.parametrize(
        ("window", "group"),
        [("day", "daily"), ("week", "weekly"), ("month", "monthly"), ("7d", "rolling"),
         ("24h", "rolling"), ("total", "rolling")],
    )  # fmt: skip
    def test_names_calendar_units_alone(self, window: str, group: str) -> None:
        (bar,) = bars(standing(f"100 tokens/{window}", 1))
        assert bar["group"] == group

    @pytest.mark.parametrize(
        ("used", "percent", "severity"),
        [(0, 0, "normal"), (74.9, 74, "normal"), (75, 75, "warning"), (94.9, 94, "warning"),
         (95, 95, "critical"), (100, 100, "critical"), (300, 100, "critical")],
    )  # fmt: skip
    def test_is_coloured_by_the_same_thresholds(
        self, used: float, percent: int, severity: str
    ) -> None:
        (bar,) = bars(standing("100 usd/month", used))
        assert (bar["percent"], bar["severity"]) == (percent, severity)

    def test_of_a_key_without_limits_is_no_bar(self) -> None:
        for limits in ([], [standing("8 concurrent", 0, None)]):
            document: Any = usage_document(limits)
            assert document["limits"] == []
            assert document["extra_usage"]["monthly_limit"] is None
            assert document["extra_usage"]["utilization"] is None

    def test_has_no_reset_where_nothing_frees(self) -> None:
        (bar,) = bars(standing("100 usd/total", 1, None))
        assert bar["resets_at"] is None


def bars(*limits: LimitStatus) -> Any:
    return usage_document(limits)["limits"]


def test_only_a_refusal_by_a_budget_is_marked_as_one() -> None:
    dialect = AnthropicDialect()
    for code in Code:
        headers = dict(dialect.error_headers(OpusLiveError(code, "No.")))
        if code is Code.QUOTA_EXHAUSTED:
            assert headers == {
                "anthropic-ratelimit-unified-status": "rejected",
                "anthropic-ratelimit-unified-overage-disabled-reason": "org_spend_cap_reached",
            }
        else:
            assert headers == {}
