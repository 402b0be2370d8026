"""What the administration's first page shows, before it is drawn."""

from __future__ import annotations

from dataclasses import replace

import pytest
from markupsafe import Markup

from opuslive.administration.figures import UsageTotals
from opuslive.administration.status import ProcessStatus, UpstreamStatus
from opuslive.config.in_force import ConfigInForce
from opuslive.config.sections import Config
from opuslive.gateway.admission.admission import SharedLimits
from opuslive.gateway.upstreams.health import UpstreamState
from opuslive.keys import Key
from opuslive.limits.accounts import Account, AccountKind
from opuslive.limits.grammar import parse_limits
from opuslive.pricing.prices import Prices
from opuslive.times import DAY_MS
from opuslive.usage import ModelSum, TokenCounts, UsageSum
from opuslive.web.admin.overview import TOP_KEYS, Overview, condition, make_overview
from tests.support.clock import EVENING, NOW

PROCESS = ProcessStatus(
    "1", NOW, ConfigInForce(Config(), NOW), 0, 0, False, False, True, False, 0, ()
)


def upstream(
    state: UpstreamState, failures: int = 0, last: str | None = None, *times: int | None
) -> UpstreamStatus:
    """``times`` are those of the last failure and the last success."""
    failure_at, success_at = (*times, None, None)[:2]
    return UpstreamStatus(
        *("name", "anthropic", "models.example", ("*",), 0, 1, 0, 0),
        *(state, None, None, failures, last, failure_at, success_at),
    )


def overview(used: dict[str, int], keys: int) -> Overview:
    """``used`` tokens by the ids of the keys that used most."""
    limits = Account(AccountKind.GATEWAY, parse_limits(["9 tokens/day"]), NOW).statuses(NOW)
    return make_overview(
        PROCESS,
        [Key(f"id{number}", f"name {number}", "sk", 0, b"") for number in range(keys)],
        SharedLimits(limits, {"z": limits, "a": limits, "without": ()}),
        [ModelSum(NOW // DAY_MS * DAY_MS, "some-model", 0, UsageSum(3, 2, TokenCounts(7)))],
        {key: UsageTotals(UsageSum(1, 0, TokenCounts(tokens))) for key, tokens in used.items()},
        used_keys=20,
        prices=Prices({}),
        now=NOW,
    )


def test_the_keys_that_used_most_come_first_and_lead_to_their_pages() -> None:
    shown = overview({f"id{number}": number for number in range(TOP_KEYS)}, keys=30)
    assert [(key, used.label) for key, used in shown.keys] == [
        (f"id{number}", f"name {number}") for number in reversed(range(TOP_KEYS))
    ]
    assert shown.keys[0][1].share == 100.0
    assert shown.used_keys == 20


def test_a_key_that_was_deleted_meanwhile_is_left_out() -> None:
    shown = overview({"id0": 5, "gone": 9}, keys=1)
    assert [key for key, _ in shown.keys] == ["id0"]


def test_the_overview_shows_days_models_and_shared_limits() -> None:
    shown = overview({}, keys=0)
    total = shown.series.total
    assert (total.sum.requests, total.sum.refusals, total.tokens) == (3, 2, 7)
    assert shown.series.requests.bars[-1].title == "23 Nov 2026: 3 requests, 2 refused"
    assert [box.part for box in shown.series.requests.bars[-1].boxes] == [0, 2]
    assert [used.label for used in shown.models] == ["some-model"]
    assert len(shown.gauges) == 1
    assert list(shown.groups) == ["a", "z"]


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (upstream(UpstreamState.UNUSED), "not asked for anything yet"),
        (upstream(UpstreamState.OK, 0, None, None, NOW - 61_000), "answers, last 1 min ago"),
        (
            upstream(UpstreamState.FAILING, 1, "answered with status 503", NOW),
            "failed once, last just now: answered with status 503",
        ),
        (
            upstream(UpstreamState.FAILING, 7, "broke off", NOW - DAY_MS, NOW - 2 * DAY_MS),
            "failed 7 times in a row, last 24 h ago: broke off",
        ),
        (
            upstream(UpstreamState.CREDENTIAL_REFUSED, 7, "answered with status 503", NOW, NOW),
            "refuses the credential, or has no credit: check the account",
        ),
        (
            replace(
                upstream(UpstreamState.CREDENTIAL_REFUSED), since=NOW - 61_000, out_until=NOW + 9
            ),
            "refuses the credential, or has no credit, noticed 1 min ago: check the account",
        ),
        (
            replace(upstream(UpstreamState.RATE_LIMITED, 1, "broke off", NOW), out_until=EVENING),
            "limits the rate of requests; asked last until 17:15 UTC (in 2 h 10 min)",
        ),
        (
            replace(upstream(UpstreamState.OUT, 5, "broke off", NOW), out_until=NOW + 29_877),
            "failed 5 times in a row, last just now: broke off; "
            "asked last until 15:04:35 UTC (in 30 s)",
        ),
    ],
)
def test_the_overview_says_how_an_upstream_is_doing(status: UpstreamStatus, said: str) -> None:
    assert Markup(condition(status, NOW)).striptags() == said
