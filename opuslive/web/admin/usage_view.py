"""What was used within a range, laid out before a template draws it: of all keys, or of one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from opuslive.administration.figures import UsageTotals
from opuslive.administration.reports import Comparison
from opuslive.latencies import Latencies, format_latency
from opuslive.pricing.prices import Prices
from opuslive.usage import ModelSum
from opuslive.web.admin.ranges import PageRange
from opuslive.web.pages import words
from opuslive.web.pages.charts import shares
from opuslive.web.pages.outcomes import OutcomePart, outcome_parts
from opuslive.web.pages.proportions import change, share
from opuslive.web.pages.report import NAME_NOT_KEPT, Series, by_model, make_series

#: The rows of a table of who used what: those with the most tokens.
TOP_ROWS = 10


@dataclass(frozen=True, slots=True)
class Figure:
    """A large figure; ``change`` says how it stands to that of the span before, if that is told."""

    name: str
    text: str
    change: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """Who or what used something. ``share`` is that of all tokens, ``length`` that of its bar;
    ``without_limits`` marks a group that the configuration does not have."""

    id: str
    label: str
    link: str | None
    totals: UsageTotals
    share: str
    length: float
    without_limits: bool = False


@dataclass(frozen=True, slots=True)
class Breakdown:
    """The usage by something: ``rows`` are those that used most, of ``of``."""

    name: str
    rows: Sequence[Row]
    of: int


@dataclass(frozen=True, slots=True)
class LatencyRow:
    """How long the answers of a model took."""

    label: str
    answers: int
    median: str
    p95: str


@dataclass(frozen=True, slots=True)
class UsageView:
    """Everything that a page shows of a range."""

    range: PageRange
    headline: Sequence[Figure]
    outcomes: Sequence[OutcomePart]
    series: Series
    breakdowns: Sequence[Breakdown]
    latencies: Sequence[LatencyRow]

    @property
    def legend(self) -> Mapping[int, str]:
        """The outcomes that there are: part of a column → name."""
        return {part.index: part.name.capitalize() for part in self.outcomes if part.number}


@dataclass(frozen=True, slots=True)
class Part:
    """One row of a breakdown before it is laid out; ``link`` is the address of its page.
    ``without_limits``: see ``Row``."""

    id: str
    label: str
    totals: UsageTotals
    link: str | None = None
    without_limits: bool = False


def make_view(
    chosen: PageRange,
    sums: Sequence[ModelSum],
    compared: Comparison | None,
    breakdowns: Iterable[tuple[str, Sequence[Part], int]],
    latencies: Mapping[str | None, Latencies],
    prices: Prices,
) -> UsageView:
    """``sums`` are by hour or day, as ``chosen.steps`` are; ``compared`` is it beside the span
    before. ``breakdowns`` are each a name, its parts, and of how many they are the first."""
    series = make_series(chosen.title, chosen.steps, sums, prices)
    models = [Part(each.label, each.label, each.totals) for each in by_model(sums, prices)]
    whole = series.total.tokens
    return UsageView(
        range=chosen,
        headline=_headline(series.total, compared, chosen.before),
        outcomes=outcome_parts(series.total.sum),
        series=series,
        breakdowns=[
            _breakdown(*each, whole) for each in (*breakdowns, ("model", models, len(models)))
        ],
        latencies=_latencies(latencies),
    )


def _headline(whole: UsageTotals, compared: Comparison | None, span: str) -> Sequence[Figure]:
    """``span`` is what the span before is called. Whole hours are compared, and all is shown."""

    def beside(number: Callable[[UsageTotals], int]) -> str | None:
        if compared is None:
            return None
        return change(number(compared.totals), number(compared.before), span)

    used = whole.sum
    return [
        Figure("Requests", f"{used.requests:,}", beside(lambda each: each.sum.requests)),
        Figure("Served", share(used.served, used.requests + used.refusals)),
        Figure("Tokens", words.count(whole.tokens), beside(lambda each: each.tokens)),
        Figure(
            "Cost",
            words.cost(whole.cost, complete=whole.complete),
            None if whole.cost is None else beside(lambda each: each.cost or 0),
        ),
    ]


def _breakdown(name: str, parts: Sequence[Part], of: int, whole: int) -> Breakdown:
    """``whole`` are the tokens of all."""
    ordered = sorted(parts, key=lambda part: -part.totals.tokens)[:TOP_ROWS]
    lengths = shares([part.totals.tokens for part in ordered])
    rows = [
        Row(
            part.id,
            part.label,
            part.link,
            part.totals,
            share(part.totals.tokens, whole),
            length,
            part.without_limits,
        )
        for part, length in zip(ordered, lengths, strict=True)
    ]
    return Breakdown(name, rows, of)


def _latencies(latencies: Mapping[str | None, Latencies]) -> Sequence[LatencyRow]:
    """The models whose answers were most first."""
    rows = []
    for model, each in latencies.items():
        median, p95 = each.median_ms, each.p95_ms
        if median is not None and p95 is not None:
            label = model or NAME_NOT_KEPT
            rows.append(
                LatencyRow(label, sum(each.counts), format_latency(median), format_latency(p95))
            )
    return sorted(rows, key=lambda row: (-row.answers, row.label))
