"""What a page shows of a range, before it is drawn."""

from __future__ import annotations

from opuslive.administration.figures import UsageTotals
from opuslive.administration.reports import Comparison
from opuslive.latencies import LATENCY_BOUNDS_MS, Latencies
from opuslive.pricing.prices import RATE_SCALE, PriceOverride, Prices
from opuslive.times import DAY_MS
from opuslive.usage import ModelSum, TokenCounts, UsageSum
from opuslive.web.admin.ranges import range_of_query
from opuslive.web.admin.usage_view import TOP_ROWS, Part, UsageView, make_view
from tests.support.clock import NOW

TODAY = NOW // DAY_MS * DAY_MS
#: A dollar for a million tokens: a micro-dollar each.
PRICES = Prices({"priced": PriceOverride(1.0, 1.0, 1.0, 1.0, 1.0)})
ONE = UsageSum(10, 2, TokenCounts(70), 1, 2, 3)


def totals(tokens: int, requests: int = 1) -> UsageTotals:
    return UsageTotals(UsageSum(requests, 0, TokenCounts(tokens)), tokens * RATE_SCALE)


def view(
    *parts: Part, before: int | None = None, latencies: dict[str | None, Latencies] | None = None
) -> UsageView:
    """The last 30 days, with usage today and yesterday; ``before`` are the tokens of the span
    before."""
    chosen = range_of_query({}, NOW)
    compared = None
    if before is not None:
        compared = Comparison(chosen.span, totals(120, 12), chosen.span, totals(before, before))
    return make_view(
        chosen,
        [ModelSum(TODAY, "priced", 0, ONE), ModelSum(TODAY - DAY_MS, None, 0, ONE)],
        compared,
        [("key", parts, 99)],
        latencies or {},
        PRICES,
    )


def test_the_figures_are_those_of_all_and_the_changes_those_of_whole_hours() -> None:
    assert [(each.name, each.text, each.change) for each in view(before=100).headline] == [
        ("Requests", "20", "88 % less than the 30 days before"),
        ("Served", "33.3 %", None),
        ("Tokens", "140", "20 % more than the 30 days before"),
        ("Cost", "at least $0.000070", "20 % more than the 30 days before"),
    ]


def test_without_a_span_before_nothing_is_compared() -> None:
    assert {each.change for each in view().headline} == {None}


def test_the_answers_of_columns_and_bar_are_the_same() -> None:
    shown = view()
    assert [part.number for part in shown.outcomes] == [8, 2, 4, 6, 4]
    assert next(iter(shown.legend.values())) == "Served"
    assert shown.series.requests.bars[-1].title == (
        "23 Nov 2026: 4 served, 1 client error, 2 upstream trouble, 3 cut by the client, "
        "2 recorded refusals"
    )
    assert [box.part for box in shown.series.requests.bars[-1].boxes] == [0, 1, 2, 3, 4]


def test_those_that_used_most_come_first_with_their_share_of_all() -> None:
    parts = [Part(f"id{number}", f"key {number}", totals(number)) for number in range(20)]
    keys, models = view(*parts).breakdowns
    assert [row.label for row in keys.rows] == [f"key {19 - number}" for number in range(TOP_ROWS)]
    assert (keys.of, keys.rows[0].share, keys.rows[0].length) == (99, "13.5 %", 100.0)
    assert {row.label: row.share for row in models.rows} == {
        "priced": "50.0 %",
        "(name not kept)": "50.0 %",
    }


def test_the_models_with_most_answers_come_first() -> None:
    none, quick, slow = ([0] * (len(LATENCY_BOUNDS_MS) + 1) for _ in range(3))
    quick[0], slow[-1] = 100, 300
    rows = view(
        latencies={None: Latencies(quick), "slow": Latencies(slow), "unused": Latencies(none)}
    ).latencies
    assert [(row.label, row.answers, row.median, row.p95) for row in rows] == [
        ("slow", 300, "10 min or more", "10 min or more"),
        ("(name not kept)", 100, "125 ms", "238 ms"),
    ]
