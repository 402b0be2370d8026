from __future__ import annotations

import re
from datetime import date
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opuslive.pricing import table as generated
from opuslive.pricing.prices import RATE_SCALE, CacheFactors, Price, PriceOverride, Prices, Tier
from opuslive.pricing.table import NAMES, PRICES, Row
from opuslive.usage import TokenCounts
from tests.support.clock import NOW, at
from tests.tools import generate_prices

MTOK = 1_000_000
USD = 1_000_000

BUILT_IN = Prices({})

TABLE: tuple[Row, ...] = (
    ("small-1", None, 0, 1, 5, 0.1, 1.25, 2),
    ("small-1", None, 1000, 2, 10, 0.2, 2.5, 4),
    ("small-1", "2026-03-13", 0, 0.5, 2.5, 0.05, 0.625, 1),
    ("large-1", "2026-01-01", 0, 10, 50, 1, 12.5, 20),
    ("large-1-2026-05-05", None, 0, 20, 100, 2, 25, 40),
)
LOCAL_NAMES = (("large", "large-1"), ("small-1-20260202", "small-1"))


def local(overrides: dict[str, PriceOverride] | None = None) -> Prices:
    return Prices(overrides or {}, table=TABLE, names=LOCAL_NAMES)


def rates(price: Price | None, tier: int = 0) -> tuple[float, ...]:
    """Input, output, cache read, cache writes of 5 minutes and 1 hour: USD per million."""
    assert price is not None
    of = price.tiers[tier]
    cached = (of.cache_read, of.cache_write_5m, of.cache_write_1h)
    return tuple(rate / RATE_SCALE for rate in (of.input, of.output, *cached))


class TestTable:
    @pytest.mark.parametrize("row", PRICES)
    def test_every_price_is_possible(self, row: Row) -> None:
        _, day, above, plain, output, read, write_5m, write_1h = row
        assert day is None or date.fromisoformat(day).isoformat() == day
        assert above >= 0
        assert 0 < plain <= 1000
        assert 0 <= output <= 1000
        assert 0 <= read <= plain <= write_5m <= write_1h

    @pytest.mark.parametrize("row", PRICES)
    def test_every_price_is_a_whole_rate(self, row: Row) -> None:
        for usd in row[3:]:
            rate = Decimal(str(usd)) * RATE_SCALE
            assert rate == rate.to_integral_value()

    def test_a_models_rows_stand_together_in_order(self) -> None:
        order = {model: place for place, model in enumerate(dict.fromkeys(r[0] for r in PRICES))}
        keys = [(order[model], day or "", above) for model, day, above, *_ in PRICES]
        assert keys == sorted(set(keys))

    def test_every_price_has_a_first_tier(self) -> None:
        starts = {(model, day) for model, day, above, *_ in PRICES if above == 0}
        assert starts == {(model, day) for model, day, *_ in PRICES}

    def test_a_longer_context_is_never_cheaper(self) -> None:
        for (model, day, _, *low), (next_model, next_day, above, *high) in pairwise(PRICES):
            if (model, day) == (next_model, next_day):
                assert above
                assert all(a <= b for a, b in zip(low, high, strict=True))

    def test_names_are_of_models_and_unique(self) -> None:
        models = {row[0] for row in PRICES}
        names = [name for name, _ in NAMES]
        assert {model for _, model in NAMES} <= models
        assert len(names) == len(set(names))
        assert not models & set(names)

    @pytest.mark.parametrize(
        ("model", "expected"),
        [
            ("claude-sonnet-4-5", (3, 15, 0.3, 3.75, 6)),
            ("claude-sonnet-4-5-20250929", (3, 15, 0.3, 3.75, 6)),
            ("claude-opus-4-1-20250805", (15, 75, 1.5, 18.75, 30)),
            ("claude-opus-4-5", (5, 25, 0.5, 6.25, 10)),
            ("claude-opus-4-8", (5, 25, 0.5, 6.25, 10)),
            ("claude-haiku-4-5-20251001", (1, 5, 0.1, 1.25, 2)),
            ("claude-3-5-haiku-latest", (0.8, 4, 0.08, 1, 1.6)),
            ("claude-3-haiku-20240307", (0.25, 1.25, 0.03, 0.3, 0.5)),
            ("gpt-4o", (2.5, 10, 1.25, 2.5, 2.5)),
            ("gpt-4o-2024-05-13", (5, 15, 5, 5, 5)),
            ("gpt-5", (1.25, 10, 0.125, 1.25, 1.25)),
            ("o3", (2, 8, 0.5, 2, 2)),
            ("text-embedding-3-small", (0.02, 0, 0.02, 0.02, 0.02)),
        ],
    )
    def test_prices_are_the_published_figures(
        self, model: str, expected: tuple[float, ...]
    ) -> None:
        assert rates(BUILT_IN.price_of(model, NOW)) == expected

    def test_prices_change_on_the_published_days(self) -> None:
        # https://platform.claude.com/docs/en/about-claude/pricing: one price for all lengths
        # of context since 13 March 2026; https://openai.com/api/pricing: o3 in June 2025.
        long = TokenCounts(input=MTOK)
        assert BUILT_IN.cost("claude-opus-4-6", long, at("2026-03-12T23:59:59")) == 10 * USD
        assert BUILT_IN.cost("claude-opus-4-6", long, at("2026-03-13")) == 5 * USD
        assert BUILT_IN.cost("o3", long, at("2025-06-09")) == 10 * USD

    @pytest.mark.parametrize(
        "model", ["gpt-audio", "gpt-image-1", "gpt-4o-realtime-preview", "gpt-oss-20b", "whisper-1"]
    )
    def test_what_a_count_of_tokens_cannot_price_has_no_price(self, model: str) -> None:
        assert BUILT_IN.price_of(model, NOW) is None


class TestNames:
    @pytest.mark.parametrize(
        "model",
        ["large-1-20260101", "large-1-2026-01-01", "large-1-latest", "large-latest", "large"],
    )
    def test_snapshots_have_the_price_of_their_model(self, model: str) -> None:
        assert rates(local().price_of(model, NOW))[0] == 10

    def test_a_literal_name_comes_first(self) -> None:
        assert rates(local().price_of("large-1-2026-05-05", NOW))[0] == 20

    @pytest.mark.parametrize(
        "model",
        [
            "",
            "-latest",
            "larg",
            "large-1-pro",
            "large-1-2",
            "large-1-20261301",
            "large-1-2026-02-32",
            "large-1-19990101",
            "large-1-202601011",
            "large-1-20260101-20260101",
            "large-1-latest\n",
            "large-1-٢٠260101",
            "Large-1",
            " large-1",
            "large-1*",
            "large-1" + "-" * 10_000,
        ],
    )
    def test_nothing_looser_is_priced(self, model: str) -> None:
        assert local().price_of(model, NOW) is None
        assert local().cost(model, TokenCounts(input=1), NOW) is None
        assert local().priced_name(model) is None

    def test_known_are_the_literal_names_alone(self) -> None:
        prices = local({"own": PriceOverride(input=1, output=1)})
        literal = {"small-1", "large-1", "large-1-2026-05-05", "large", "small-1-20260202", "own"}
        for name in literal:
            assert prices.priced_name(name) == name
        for name in ("own-20260202", "large-20260202", "large-1-latest"):
            assert prices.priced_name(name) in literal - {name}

    def test_priced_name_is_a_known_one(self) -> None:
        assert local().priced_name("large-1-20260101") == "large-1"
        assert local().priced_name("small-1-20260202") == "small-1-20260202"

    @given(st.text(max_size=40))
    def test_no_name_breaks_it(self, model: str) -> None:
        name = BUILT_IN.priced_name(model)
        assert (name is None) == (BUILT_IN.price_of(model, NOW) is None)
        assert name is None or model.startswith(name)


class TestDates:
    @pytest.mark.parametrize(
        ("time", "usd"),
        [
            ("1970-01-01", 1),
            ("2026-03-12T23:59:59.999", 1),
            ("2026-03-13T00:00:00", 0.5),
            ("2030-01-01", 0.5),
        ],
    )
    def test_a_price_holds_from_the_first_moment_of_its_day(self, time: str, usd: float) -> None:
        assert rates(local().price_of("small-1", at(time)))[0] == usd

    def test_before_the_first_known_day_there_is_none(self) -> None:
        assert local().price_of("large-1", at("2026-01-01") - 1) is None
        assert local().price_of("large-1", at("2026-01-01")) is not None


class TestOverrides:
    OWN = PriceOverride(input=3, output=15)

    def test_what_is_not_given_follows_from_input_by_the_factors(self) -> None:
        factors = CacheFactors(Decimal("0.1"), Decimal("1.25"), Decimal(2))
        own = PriceOverride(input=3, output=15, factors=factors)
        assert rates(local({"own": own}).price_of("own", NOW)) == (3, 15, 0.3, 3.75, 6)

    def test_without_factors_cached_tokens_cost_what_input_does(self) -> None:
        assert rates(local({"own": self.OWN}).price_of("own", NOW)) == (3, 15, 3, 3, 3)

    def test_a_price_that_is_given_stands(self) -> None:
        given_all = PriceOverride(3, 15, cache_read=0, cache_write_5m=3, cache_write_1h=3.5)
        assert rates(local({"own": given_all}).price_of("own", NOW)) == (3, 15, 0, 3, 3.5)

    @pytest.mark.parametrize("time", [0, at("2026-03-12"), NOW])
    def test_at_all_times_and_for_any_context(self, time: int) -> None:
        overridden = local({"small-1": self.OWN})
        assert overridden.cost("small-1", TokenCounts(input=MTOK), time) == 3 * USD

    @pytest.mark.parametrize("model", ["small-1-20260202", "small-1-20260303", "small-1-latest"])
    def test_also_for_the_snapshots_of_the_model(self, model: str) -> None:
        assert rates(local({"small-1": self.OWN}).price_of(model, NOW))[0] == 3

    def test_not_for_a_snapshot_that_has_its_own_price(self) -> None:
        prices = local({"large-1": self.OWN})
        assert rates(prices.price_of("large-1-2026-05-05", NOW))[0] == 20
        assert rates(prices.price_of("large", NOW))[0] == 10

    def test_a_price_of_a_snapshot_holds_for_it_alone(self) -> None:
        prices = local({"small-1-20260202": self.OWN, "small-1": PriceOverride(7, 7)})
        assert rates(prices.price_of("small-1-20260202", NOW))[0] == 3
        assert rates(prices.price_of("small-1", NOW))[0] == 7

    def test_a_free_model_has_a_price(self) -> None:
        free = local({"own": PriceOverride(input=0, output=0)})
        assert free.cost("own", TokenCounts(5, 5, 5, 5, 5), NOW) == 0

    def test_the_finest_price_still_costs(self) -> None:
        price = local({"own": PriceOverride(input=1e-9, output=0)}).price_of("own", NOW)
        assert price is not None
        assert price.tiers[0].input == 1


class TestCost:
    def test_each_kind_of_token_costs_its_rate(self) -> None:
        price = local().price_of("large-1", NOW)
        assert price is not None
        counts = TokenCounts(
            input=1000, output=100, cache_read=10_000, cache_write_5m=400, cache_write_1h=50
        )
        assert price.cost(counts) == 10_000 + 5_000 + 10_000 + 5_000 + 1_000

    @pytest.mark.parametrize(
        ("tokens", "micro_usd"),
        [
            (TokenCounts(), 0),
            (TokenCounts(cache_read=1), 1),
            (TokenCounts(cache_read=10), 1),
            (TokenCounts(cache_read=11), 2),
            (TokenCounts(input=3, cache_write_5m=1), 5),
        ],
    )
    def test_a_cost_is_rounded_up_once_a_request(self, tokens: TokenCounts, micro_usd: int) -> None:
        assert local().cost("small-1", tokens, 0) == micro_usd

    @pytest.mark.parametrize(
        ("tokens", "tier", "micro_usd"),
        [
            (TokenCounts(input=1000, output=5000), 0, 26_000),
            (TokenCounts(input=1001, output=5000), 1, 52_002),
            (TokenCounts(input=1, cache_read=1000), 1, 202),
            (TokenCounts(input=1, cache_write_5m=500, cache_write_1h=500), 1, 3_252),
        ],
    )
    def test_a_long_context_makes_all_tokens_dearer(
        self, tokens: TokenCounts, tier: int, micro_usd: int
    ) -> None:
        price = local().price_of("small-1", 0)
        assert price is not None
        assert price.tier_of(tokens) == tier
        assert price.cost(tokens) == micro_usd

    def test_a_sum_is_billed_in_the_tier_of_its_requests(self) -> None:
        price = local().price_of("small-1", 0)
        assert price is not None
        both = TokenCounts(input=1800)
        assert price.cost_in_tier(both, 0) == 2 * price.cost(TokenCounts(input=900)) == 1800
        assert price.cost_in_tier(both, 1) == 3600

    def test_a_tier_that_is_gone_counts_as_the_last(self) -> None:
        price = local().price_of("small-1", NOW)
        assert price is not None
        assert price.cost_in_tier(TokenCounts(input=10), 3) == 5


counts = st.builds(TokenCounts, *[st.integers(0, 2 * MTOK)] * 5)
table_prices = st.sampled_from(
    [
        price
        for model in sorted({row[0] for row in PRICES} | {name for name, _ in NAMES})
        for time in (0, NOW)
        if (price := BUILT_IN.price_of(model, time))
    ]
)


def added(one: TokenCounts, other: TokenCounts) -> TokenCounts:
    return TokenCounts(
        one.input + other.input,
        one.output + other.output,
        one.cache_read + other.cache_read,
        one.cache_write_5m + other.cache_write_5m,
        one.cache_write_1h + other.cache_write_1h,
    )


class TestProperties:
    @given(table_prices, counts, counts, st.integers(0, 2))
    def test_costs_add_up_to_within_rounding(
        self, price: Price, one: TokenCounts, other: TokenCounts, tier: int
    ) -> None:
        apart = price.cost_in_tier(one, tier) + price.cost_in_tier(other, tier)
        assert apart - price.cost_in_tier(added(one, other), tier) in (0, 1)

    @given(table_prices, counts, counts)
    def test_more_tokens_never_cost_less(
        self, price: Price, one: TokenCounts, other: TokenCounts
    ) -> None:
        more = price.cost(added(one, other))
        assert more >= price.cost(one)
        assert more >= price.cost_in_tier(one, 0) + price.cost_in_tier(other, 0) - 1

    @given(table_prices, counts)
    def test_never_below_the_true_amount_and_less_than_one_above(
        self, price: Price, tokens: TokenCounts
    ) -> None:
        tier = price.tiers[price.tier_of(tokens)]
        true = sum(
            getattr(tokens, kind) * Decimal(getattr(tier, kind)) / RATE_SCALE
            for kind in ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
        )
        assert 0 <= price.cost(tokens) - true < 1

    @given(table_prices, counts)
    def test_a_strict_estimate_is_never_exceeded(self, price: Price, tokens: TokenCounts) -> None:
        context = tokens.input + tokens.cache_read + tokens.cache_write
        estimate = price.estimate(context, tokens.output, strict=True)
        assert estimate >= price.cost(tokens)
        assert estimate >= price.estimate(context, tokens.output, strict=False)

    @given(table_prices, counts)
    def test_an_estimate_is_exact_without_caches(self, price: Price, tokens: TokenCounts) -> None:
        plain = TokenCounts(input=tokens.input, output=tokens.output)
        assert price.estimate(tokens.input, tokens.output, strict=False) == price.cost(plain)

    @given(
        st.lists(st.integers(1, MTOK), unique=True, max_size=3).map(sorted),
        st.integers(0, 2 * MTOK),
    )
    def test_the_tier_is_the_last_whose_threshold_is_exceeded(
        self, thresholds: list[int], context: int
    ) -> None:
        price = Price(tuple(Tier(above, 1, 1, 1, 1, 1) for above in (0, *thresholds)))
        expected = sum(context > above for above in thresholds)
        assert price.tier_of(TokenCounts(input=context)) == expected


def of(value: str, *tiers: tuple[int, str]) -> object:
    """A price as the package has it, with (threshold, price) tiers."""
    if not tiers:
        return Decimal(value)
    return SimpleNamespace(
        base=Decimal(value),
        tiers=[SimpleNamespace(start=start, price=Decimal(price)) for start, price in tiers],
    )


def since(day: str | None, **prices: object) -> object:
    constraint = day and SimpleNamespace(start_date=date.fromisoformat(day))
    return SimpleNamespace(constraint=constraint or None, prices=SimpleNamespace(**prices))


def model(name: str, prices: object, *names: str) -> object:
    clauses: list[object] = [SimpleNamespace(equals=other) for other in names]
    clauses.append(SimpleNamespace(starts_with=f"{name}-by-pattern"))
    return SimpleNamespace(id=name, prices=prices, match=SimpleNamespace(or_=clauses))


def plain(value: str, output: str | None = None) -> object:
    both = {"input_mtok": of(value)} | ({"output_mtok": of(output)} if output else {})
    return SimpleNamespace(**both)


class TestGenerator:
    PROVIDERS = (
        SimpleNamespace(id="elsewhere", models=[model("claude-of-others", plain("1", "1"))]),
        SimpleNamespace(
            id="openai",
            models=[
                model("gpt-9.5", plain("1.50", "10"), "gpt-9.5-2026-01-01", "gpt-9-5", "gpt-9:x"),
                model("gpt-9.5-image", plain("1", "10")),
                model("gpt-oss-9b", plain("1", "10")),
                model("gpt-hourly-9", SimpleNamespace(audio_hours=of("3"))),
                model("new-embedding-9", plain("0.020")),
                model("ada", plain("1", "1"), "text-ada-009"),
            ],
        ),
        SimpleNamespace(
            id="anthropic",
            models=[
                model("claude-haiku-4-5", plain("1", "5"), "claude-haiku-latest"),
                model(
                    "claude-art-9",
                    [
                        since(
                            None,
                            input_mtok=of("10", (200_000, "20")),
                            output_mtok=of("50", (200_000, "75")),
                            cache_read_mtok=of("1"),
                        ),
                        since(
                            "2026-03-13",
                            input_mtok=of("8"),
                            output_mtok=of("40.00"),
                            cache_read_mtok=of("0.2"),
                            cache_write_mtok=of("9"),
                            cache_write_1h_mtok=of("15"),
                        ),
                    ],
                ),
            ],
        ),
    )
    ROWS = (
        ("claude-art-9", None, 0, "10", "50", "1", "12.5", "20"),
        ("claude-art-9", None, 200_000, "20", "75", "1", "25", "40"),
        ("claude-art-9", "2026-03-13", 0, "8", "40", "0.2", "9", "15"),
        ("claude-haiku-4-5", None, 0, "1", "5", "0.1", "1.25", "2"),
        ("gpt-9.5", None, 0, "1.5", "10", "1.5", "1.5", "1.5"),
        ("new-embedding-9", None, 0, "0.02", "0", "0.02", "0.02", "0.02"),
    )
    NAMES = (
        ("claude-haiku-4-5-20251001", "claude-haiku-4-5"),
        ("claude-haiku-latest", "claude-haiku-4-5"),
        ("gpt-9.5-2026-01-01", "gpt-9.5"),
    )

    def test_takes_over_figures_and_names(self) -> None:
        assert generate_prices.table(self.PROVIDERS) == (self.ROWS, self.NAMES)

    def test_what_it_writes_is_read_back(self) -> None:
        text = generate_prices.render(self.ROWS, self.NAMES, source="test 1.2", day="2026-11-23")
        written: dict[str, object] = {}
        exec(text, written)
        assert written["NAMES"] == self.NAMES
        assert written["PRICES"] == tuple(
            (name, day, above, *map(float, figures)) for name, day, above, *figures in self.ROWS
        )
        assert "Made from test 1.2 on 2026-11-23 by" in text
        assert max(map(len, text.splitlines())) <= 100

    def test_refuses_what_the_table_cannot_say(self) -> None:
        hourly = SimpleNamespace(
            constraint=SimpleNamespace(start_time="16:30"),
            prices=SimpleNamespace(input_mtok=of("1"), output_mtok=of("1")),
        )
        backward = [since("2026-03-13", input_mtok=of("1")), since("2026-03-12")]
        for prices in ([hourly], backward):
            providers = (
                SimpleNamespace(id="anthropic", models=[model("claude-9", prices)]),
                SimpleNamespace(id="openai", models=[]),
            )
            with pytest.raises(generate_prices.UnknownFormError, match="claude-9"):
                generate_prices.table(providers)

    def test_the_table_is_as_the_generator_writes_it(self) -> None:
        text = Path(generated.__file__).read_text("utf-8")
        made = re.search(r"Made from (.+) on (\d{4}-\d\d-\d\d) by", text)
        assert made is not None

        def written(usd: float) -> str:
            return generate_prices.figure_text(Decimal(str(usd)))

        rows: list[generate_prices.Row] = [
            (name, day, above, written(i), written(o), written(r), written(w5), written(w1))
            for name, day, above, i, o, r, w5, w1 in PRICES
        ]
        again = generate_prices.render(rows, NAMES, source=made[1], day=made[2])
        assert text == again
