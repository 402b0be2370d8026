"""What the administration's first page shows, before it is drawn."""

from __future__ import annotations

from dataclasses import replace

import pytest
from markupsafe import Markup

from opuslive.administration.status import ProcessStatus, UpstreamStatus
from opuslive.config.in_force import ConfigInForce
from opuslive.config.sections import Config
from opuslive.gateway.admission.admission import SharedLimits
from opuslive.gateway.upstreams.health import UpstreamState
from opuslive.limits.accounts import Account, AccountKind
from opuslive.limits.grammar import parse_limits
from opuslive.times import DAY_MS
from opuslive.web.admin.overview import condition, make_overview
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


def test_limits_that_keys_share_are_shown_where_there_are_any() -> None:
    limits = Account(AccountKind.GATEWAY, parse_limits(["9 tokens/day"]), NOW).statuses(NOW)
    shared = SharedLimits(limits, {"z": limits, "a": limits, "without": ()})
    shown = make_overview(PROCESS, shared, NOW)
    assert len(shown.gauges) == 1
    assert [(name, address) for name, address, _ in shown.groups] == [
        ("a", "/admin/groups/a"),
        ("z", "/admin/groups/z"),
    ]


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
