"""What the Check Usage page shows, before it is drawn."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from markupsafe import Markup

from opuslive.administration.states import standing_of
from opuslive.gateway.admission.admission import SharedLimits
from opuslive.keys import Key
from opuslive.limits.accounts import Account, AccountKind
from opuslive.limits.charges import Charge, replay
from opuslive.limits.grammar import parse_limits
from opuslive.limits.windows import LimitStatus
from opuslive.pricing.prices import PriceOverride, Prices
from opuslive.storage import KeyUsage
from opuslive.times import DAY_MS, HOUR_MS
from opuslive.usage import ModelSum, TokenCounts, UsageSum
from opuslive.web.pages.report import DAYS, HOURS, Report, first_day, make_report
from opuslive.web.pages.states import causes
from tests.support.clock import EVENING
from tests.support.keys import a_key

HOUR = EVENING // HOUR_MS
NOTHING_SHARED = SharedLimits((), {})


def text_of(sentence: str) -> str:
    """What is to be read of it."""
    return Markup(sentence).striptags()


def alice(**changes: Any) -> Key:
    return a_key(name="alice", **changes)


def statuses(*limits: str, used: int = 0, before: int = 0) -> Sequence[LimitStatus]:
    """How these limits stand when a request used so many tokens just now, and another one
    ``before`` half an hour earlier."""
    account = Account(AccountKind.KEY, parse_limits(limits), EVENING)
    for time, tokens in ((EVENING - HOUR_MS // 2, before), (EVENING, used)):
        replay(account.windows, Charge(input_tokens=tokens, usd=tokens), time=time, end=time)
    return account.statuses(EVENING)


#: A dollar for a million tokens of whatever kind: a micro-dollar each.
PRICES = Prices({"priced": PriceOverride(1.0, 1.0, 1.0, 1.0, 1.0)})


def an_hour(hour: int, model: str | None, tokens: int, tier: int = 0) -> ModelSum:
    used = UsageSum(1, 2, TokenCounts(tokens, 1, 2, 3, 4))
    return ModelSum(hour * HOUR_MS, model, tier, used)


def report(
    *hours: ModelSum,
    key: Key | None = None,
    limit_status: Sequence[LimitStatus] = (),
    shared: SharedLimits = NOTHING_SHARED,
    now: int = EVENING,
    contact: str | None = "ops@example.com",
) -> Report:
    return make_report(
        key or alice(),
        KeyUsage(),
        limit_status,
        shared,
        [replace(hour, bucket=_day(hour)) for hour in hours],
        hours,
        (),
        prices=PRICES,
        contact=contact,
        now=now,
        wall_ms=now,
    )


def _day(hour: ModelSum) -> int:
    assert isinstance(hour.bucket, int)
    return hour.bucket // DAY_MS * DAY_MS


class TestState:
    def test_a_key_that_works_says_so(self) -> None:
        state = report(
            key=alice(expires_at=EVENING + 1), limit_status=statuses("9 tokens/1h")
        ).state
        assert state.name == "enabled"
        assert "until 23 Nov 2026" in text_of(state.sentence)

    def test_a_key_that_works_until_the_end_of_a_day_names_that_day(self) -> None:
        midnight = (EVENING // DAY_MS + 1) * DAY_MS
        state = report(key=alice(expires_at=midnight)).state
        assert text_of(state.sentence).endswith("It does so until the end of 23 Nov 2026 (UTC).")

    def test_an_administrator_reads_every_limit_that_is_used_up(self) -> None:
        own = statuses("10 tokens/1h", "10 tokens/total", used=10)
        full = statuses("7 tokens/1d", used=7)
        shared = SharedLimits(full, {"friends": full})
        key = replace(alice(), group="friends")
        told = report(key=key, limit_status=own, shared=shared, contact=None).state.sentence
        assert told.startswith("The limit of 10 tokens in all is used up.")
        assert told.endswith(
            "Used up as well: its own 10 tokens in any hour; 7 tokens in any day, shared with "
            "the group friends; 7 tokens in any day, shared with all keys."
        )
        holder = report(key=key, limit_status=own, shared=shared).state.sentence
        assert "as well" not in holder
        assert "friends" not in holder
        standing = standing_of(key, own, shared, EVENING)
        assert causes(standing.exhausted_by) == (
            "by 10 tokens/1h of its own, 10 tokens/total of its own, "
            "7 tokens/1d of the group friends, 7 tokens/1d of all keys"
        )

    def test_an_expired_key_says_so(self) -> None:
        state = report(key=alice(expires_at=EVENING)).state
        assert state.name == "expired"
        assert "ops@example.com" in state.sentence

    def test_a_disabled_key_says_so_whatever_else_holds(self) -> None:
        assert report(key=alice(enabled=False, expires_at=EVENING)).state.name == "disabled"

    def test_a_key_that_is_used_up_says_when_it_frees(self) -> None:
        state = report(limit_status=statuses("10 tokens/1h", "99 tokens/1d", used=10)).state
        assert state.name == "exhausted"
        assert "10 tokens in any hour" in state.sentence
        assert "begins to free at 18:15 UTC (in 1 h 1 min)" in text_of(state.sentence)

    def test_a_key_that_never_frees_says_so(self) -> None:
        limit_status = statuses("10 tokens/1h", "10 tokens/total", used=10)
        assert "never frees" in report(limit_status=limit_status).state.sentence

    @pytest.mark.parametrize("whose", ["all keys", "the group friends"])
    def test_a_key_whose_shared_limit_is_used_up_says_whose(self, whose: str) -> None:
        full = statuses("77 tokens/1h", used=37, before=40)
        other = statuses("99 tokens/1h", used=5)
        everyone, friends = (full, other) if whose == "all keys" else (other, full)
        shared = SharedLimits(everyone, {"friends": friends, "others": full})
        key = replace(alice(), group="friends")
        own = statuses("10 tokens/1d")
        told = report(key=key, limit_status=own, shared=shared).state
        assert (told.name, told.title) == (
            "exhausted",
            "A limit that this key shares with others is used up",
        )
        assert "begins to free at 17:45:00 UTC (in 31 min)." in text_of(told.sentence)
        assert "Ask ops@example.com" in told.sentence
        # How much others may use, or did, is theirs to know.
        assert "77" not in told.sentence
        assert "friends" not in told.sentence
        assert "all of it" not in told.sentence
        administrator = report(key=key, limit_status=own, shared=shared, contact=None).state
        assert f"that of 77 tokens in any hour, shared with {whose}." in administrator.sentence
        assert "all of it by 18:15 UTC" in text_of(administrator.sentence)

    def test_another_group_s_limits_are_not_the_key_s(self) -> None:
        shared = SharedLimits((), {"others": statuses("7 tokens/1h", used=7)})
        assert report(shared=shared).state.name == "enabled"

    def test_of_several_limits_the_one_that_frees_last_is_named(self) -> None:
        own = statuses("10 tokens/1h", used=10)
        shared = SharedLimits(statuses("10 tokens/5h", used=10), {})
        assert "shares" in report(limit_status=own, shared=shared).state.title
        longer = statuses("10 tokens/7d", used=10)
        assert (
            "10 tokens in any 7 days" in report(limit_status=longer, shared=shared).state.sentence
        )

    def test_an_administrator_is_not_told_to_ask(self) -> None:
        for key in (alice(enabled=False), alice(expires_at=EVENING), alice()):
            for limits in (("10 tokens/1h",), ("10 tokens/total",)):
                full = statuses(*limits, used=10)
                told = report(key=key, limit_status=full, contact=None).state.sentence
                assert "Ask" not in told
                assert told.endswith(".")
                assert told.rstrip(".") in report(key=key, limit_status=full).state.sentence


class TestGauges:
    def test_a_gauge_shows_what_is_used_left_and_frees(self) -> None:
        (gauge,) = report(limit_status=statuses("1k tokens/5h", used=250)).gauges
        assert (gauge.left, gauge.used, gauge.whole) == ("750", "250", "1,000 tokens")
        assert (gauge.percent, gauge.level, gauge.bar.used) == (25, "good", 25.0)
        assert text_of(gauge.frees).startswith("All of it frees at 22:")

    @pytest.mark.parametrize(
        ("used", "level"), [(0, "good"), (8, "near"), (10, "full"), (99, "full")]
    )
    def test_the_level_of_a_gauge_follows_its_usage(self, used: int, level: str) -> None:
        assert report(limit_status=statuses("10 tokens/1h", used=used)).gauges[0].level == level

    def test_a_gauge_says_what_does_not_free(self) -> None:
        gauges = report(
            limit_status=statuses("10 tokens/total", "2 concurrent", "9 usd/day")
        ).gauges
        assert gauges[0].frees.startswith("Never")
        assert "running requests" in gauges[1].frees
        assert gauges[2].frees.startswith("Nothing used")


class TestSeries:
    def test_every_hour_and_day_has_its_column(self) -> None:
        made = report(
            an_hour(HOUR, "priced", 10),
            an_hour(HOUR, None, 5),
            an_hour(HOUR - HOURS, "priced", 7),
            an_hour(first_day(EVENING) // HOUR_MS, "priced", 1),
        )
        days, hours = made.series
        assert (len(days.tokens.bars), len(hours.tokens.bars)) == (DAYS, HOURS)
        assert [row.label for row in hours.rows] == ["23 Nov 2026, 17:00"]
        assert [row.label for row in days.rows] == ["23 Nov 2026", "21 Nov 2026", "25 Oct 2026"]
        last_hour = hours.rows[0].totals
        assert last_hour.sum == UsageSum(2, 4, TokenCounts(15, 2, 4, 6, 8))
        assert (last_hour.cost, days.total.cost, last_hour.tokens) == (20, 48, 35)
        assert days.tokens.bars[-1].title == "23 Nov 2026: 35 tokens"

    def test_without_a_price_there_is_no_chart_of_costs(self) -> None:
        made = report(an_hour(HOUR, None, 5))
        assert [series.cost for series in made.series] == [None, None]
        assert made.series[0].total.cost is None

    def test_a_cost_that_leaves_a_model_out_says_so(self) -> None:
        days, hours = report(
            an_hour(HOUR, "priced", 10),
            an_hour(HOUR, None, 5),
            an_hour(HOUR - 1, "priced", 7),
        ).series
        assert [row.totals.complete for row in hours.rows] == [False, True]
        assert (days.total.cost, days.total.complete) == (37, False)
        assert hours.cost is not None
        titles = [bar.title for bar in hours.cost.bars[-2:]]
        assert titles == ["23 Nov 2026, 16:00: $0.000017", "23 Nov 2026, 17:00: at least $0.000020"]

    def test_a_refusal_costs_nothing_whatever_its_price(self) -> None:
        refused = ModelSum(HOUR * HOUR_MS, None, 0, UsageSum(0, 1))
        total = report(an_hour(HOUR, "priced", 10), refused).series[0].total
        assert (total.cost, total.complete) == (20, True)

    def test_the_series_of_an_unused_key_are_empty(self) -> None:
        assert [list(series.rows) for series in report().series] == [[], []]

    def test_labels_of_series_have_room(self) -> None:
        for now in range(EVENING, EVENING + DAY_MS, HOUR_MS):
            for series in report(now=now).series:
                at = [mark.at for mark in series.tokens.along]
                assert 4 <= len(at) <= 5
                assert min(b - a for a, b in itertools.pairwise(at)) > 60


def test_models_are_in_the_order_of_their_tokens() -> None:
    made = report(
        an_hour(HOUR, None, 10), an_hour(HOUR, "priced", 90), an_hour(HOUR - 1, "priced", 0, 1)
    )
    assert [(used.label, used.totals.cost) for used in made.models] == [
        ("priced", 110),
        ("(name not kept)", None),
    ]
    assert made.models[0].share == 100.0 > made.models[1].share > 0


def test_what_the_administrator_wrote_is_no_markup() -> None:
    """Beside a time, which is."""
    expired = report(key=alice(expires_at=EVENING), contact="<b>me</b>").state.sentence
    full = report(limit_status=statuses("9 tokens/1h", used=9), contact="<b>me</b>").state.sentence
    for sentence in (expired, full):
        assert "<time" in Markup("{}").format(sentence)
        assert "<b>" not in Markup("{}").format(sentence)
