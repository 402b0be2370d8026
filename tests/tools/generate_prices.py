"""Writes ``opuslive/prices.py`` from the ``genai-prices`` package.

To bring the table up to date, in a virtual environment of its own::

    python -m venv /tmp/prices && /tmp/prices/bin/pip install genai-prices
    /tmp/prices/bin/python -m tests.tools.generate_prices

and then read the difference: it is one line for each model, day and threshold. UsageTotals
alone are taken over, and of these only what OpusLive can apply:

- models of Anthropic and OpenAI themselves, under the names by which those serve them;
- models whose price is in tokens of one sort. Sounds and pictures are billed by tokens of
  another, by time or by character, which a count of tokens does not tell apart; no price
  is better there than one that is a tenth of the true one;
- standard prices, without the variants for batch, flex, priority and fast processing.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

PACKAGE = "genai-prices"
TARGET = Path(__file__).parents[2] / "opuslive" / "pricing" / "table.py"

#: A row of the table, with the figures as they are to be written.
Row = tuple[str, str | None, int, str, str, str, str, str]
UsageTotals = tuple[str, str, str, str, str]
Names = tuple[tuple[str, str], ...]

_PROVIDERS = ("anthropic", "openai")

#: What is in the name of a model whose tokens are of several sorts.
_MIXED = re.compile(r"audio|image|live|realtime|transcribe|tts|whisper")
#: Weights that others serve, at prices of their own.
_OPEN_WEIGHTS = "gpt-oss"
#: Without a digit or hyphen it would be a word that a client might mean otherwise: "ada".
_NAME = re.compile(r"(?=.*[0-9-])[a-z0-9]+([.-][a-z0-9]+)*")

#: Names of the providers' own documentation that the package knows by a pattern only. Dated
#: ones would be found without, but are in constant use, and a name that stands in the table
#: may be kept in records.
_MORE_NAMES = (
    ("claude-3-5-haiku-20241022", "claude-3-5-haiku-latest"),
    ("claude-3-5-haiku", "claude-3-5-haiku-latest"),
    ("claude-3-5-sonnet-20240620", "claude-3-5-sonnet"),
    ("claude-3-5-sonnet-20241022", "claude-3-5-sonnet"),
    ("claude-3-5-sonnet-latest", "claude-3-5-sonnet"),
    ("claude-3-7-sonnet-20250219", "claude-3-7-sonnet-latest"),
    ("claude-3-7-sonnet", "claude-3-7-sonnet-latest"),
    ("claude-3-haiku-20240307", "claude-3-haiku"),
    ("claude-3-opus-20240229", "claude-3-opus-latest"),
    ("claude-3-opus", "claude-3-opus-latest"),
    ("claude-3-sonnet-20240229", "claude-3-sonnet"),
    ("claude-haiku-4-5-20251001", "claude-haiku-4-5"),
    ("claude-opus-4-1-20250805", "claude-opus-4-1"),
    ("claude-opus-4-5-20251101", "claude-opus-4-5"),
    ("claude-sonnet-4-20250514", "claude-sonnet-4-0"),
    ("claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
    ("computer-use-preview", "computer-use"),
)

_HEADER = '''"""What Anthropic and OpenAI charge for their models, in USD per million tokens.

Made from {source} on {day} by ``tests/tools/generate_prices.py``:
correct that, not this file. ``pricing`` says how the table is applied.
"""

from __future__ import annotations

#: Model; the day (UTC) on which the price began, ``None`` if it is the first one known; the
#: context in tokens above which it applies; input, output, cache read, cache write for 5
#: minutes, cache write for 1 hour.
Row = tuple[str, str | None, int, float, float, float, float, float]
'''


class UnknownFormError(Exception):
    """The package says something that this script can't express."""


def table(providers: Iterable[Any]) -> tuple[tuple[Row, ...], Names]:
    """The rows and the other names, each in the order in which they are written.

    ``providers`` are those of the package. Raises UnknownFormError.
    """
    rows: list[Row] = []
    names: dict[str, str] = {}
    by_id = {provider.id: provider for provider in providers}
    for provider in _PROVIDERS:
        for model in sorted(by_id[provider].models, key=lambda model: str(model.id)):
            if not _is_priced_by_token(model.id):
                continue
            of_model = list(_rows(model, provider))
            if of_model:
                rows += of_model
                names.update((name, model.id) for name in _names(model))
    models = {row[0] for row in rows}
    names.update((name, model) for name, model in _MORE_NAMES if model in models)
    # A model of its own has its own price, whatever pattern of another it also matches.
    return tuple(rows), tuple(sorted(pair for pair in names.items() if pair[0] not in models))


def render(rows: Iterable[Row], names: Names, *, source: str, day: str) -> str:
    """The text of the module. ``day`` is when it is made, ``source`` from what."""
    lines = [_HEADER.format(source=source, day=day)]
    lines.append("PRICES: tuple[Row, ...] = (")
    for model, began, above, *figures in rows:
        since = "None" if began is None else f'"{began}"'
        lines.append(f'    ("{model}", {since}, {above:_}, {", ".join(figures)}),')
    lines += [")", "", "#: Other names of these models, and the model whose price they have."]
    lines.append("NAMES: tuple[tuple[str, str], ...] = (")
    lines += [f'    ("{name}", "{model}"),' for name, model in names]
    return "\n".join([*lines, ")", ""])


def _is_priced_by_token(name: str) -> bool:
    return (
        _NAME.fullmatch(name) is not None
        and _MIXED.search(name) is None
        and not name.startswith(_OPEN_WEIGHTS)
    )


def _names(model: Any) -> Iterator[str]:
    """The names that the package matches literally, in the provider's own spelling.

    Others write gpt-5-1 for gpt-5.1. Of names that differ in punctuation alone, the package
    has the provider's first.
    """
    seen: set[str] = set()
    for name in (model.id, *_literals(model.match)):
        letters = re.sub(r"[.-]", "", name)
        if _is_priced_by_token(name) and letters not in seen:
            yield name
        seen.add(letters)


def _literals(clause: Any) -> Iterator[str]:
    if hasattr(clause, "equals"):
        yield clause.equals
    for inner in getattr(clause, "or_", ()):
        yield from _literals(inner)


def _rows(model: Any, provider: str) -> Iterator[Row]:
    """One row for each price and threshold of a model; none if it is not billed by tokens."""
    prices = model.prices if isinstance(model.prices, list) else [model.prices]
    last = ""
    for number, price in enumerate(prices):
        constraint = getattr(price, "constraint", None)
        began = None
        if constraint is not None:
            if not hasattr(constraint, "start_date"):
                raise UnknownFormError(f"{model.id} has a price for a time of day")
            began = constraint.start_date.isoformat()
        if (began is None and number) or (began is not None and began <= last):
            raise UnknownFormError(f"{model.id} has prices that don't follow each other")
        last = began or last
        figures = getattr(price, "prices", price)
        for above in _thresholds(figures):
            of_kinds = _figures(figures, above, provider, model.id)
            if of_kinds is not None:
                yield (model.id, began, above, *of_kinds)


def _thresholds(prices: Any) -> Iterable[int]:
    tiers = [tier for price in vars(prices).values() for tier in getattr(price, "tiers", ())]
    return sorted({0, *(tier.start for tier in tiers)})


def _figures(prices: Any, above: int, provider: str, name: str) -> UsageTotals | None:
    """Input, output, cache read and the two cache writes, above a threshold.

    Where the package has no price for caches, Anthropic's published multiples apply; at
    OpenAI such tokens are plain input. OpenAI has no caches of one hour.
    """

    def figure(kind: str) -> Decimal | None:
        price = getattr(prices, kind, None)
        value = getattr(price, "base", price)
        for tier in getattr(price, "tiers", ()):
            if tier.start <= above:
                value = tier.price
        return None if value is None else Decimal(value)

    plain = figure("input_mtok")
    output = figure("output_mtok")
    if output is None and "embedding" in name:
        output = Decimal(0)
    if plain is None or output is None:
        return None
    anthropic = provider == "anthropic"

    def cached(kind: str, factor: str) -> Decimal:
        price = figure(kind)
        return plain * Decimal(factor if anthropic else 1) if price is None else price

    read = figure_text(cached("cache_read_mtok", "0.1"))
    write_5m = figure_text(cached("cache_write_mtok", "1.25"))
    write_1h = figure_text(cached("cache_write_1h_mtok", "2")) if anthropic else write_5m
    return figure_text(plain), figure_text(output), read, write_5m, write_1h


def figure_text(figure: Decimal) -> str:
    """A figure as it stands in the table: without zeros at its end."""
    text = f"{figure:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def main() -> None:
    sys.stdout.write(f"Reading {PACKAGE}\n")
    rows, names = table(importlib.import_module("genai_prices.data").providers)
    source = f"{PACKAGE} {importlib.metadata.version(PACKAGE)}"
    text = render(rows, names, source=source, day=datetime.now(UTC).date().isoformat())
    TARGET.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{TARGET}: {len(rows)} prices and {len(names)} other names of {source}\n")


if __name__ == "__main__":
    main()
