"""How commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

#: Of a thousand, a million and so on.
_SUFFIXES = ("", "k", "M", "B", "T")

json_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON."
)


def print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column of a table: its heading, on which side it is flush, whether it may wrap."""

    heading: str
    right: bool = False
    wraps: bool = False
    style: str = ""


def print_table(
    columns: Sequence[TableColumn], rows: Sequence[Sequence[str]], total: Sequence[str] = ()
) -> None:
    """A row a line; ``total`` is the last one, and stands out."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(
            column.heading,
            justify="right" if column.right else "left",
            no_wrap=not column.wraps,
            overflow="fold",
            style=column.style,
        )
    for row in rows:
        # Text, not str: a name must not be read as rich's markup.
        table.add_row(*(Text(cell) for cell in row))
    if total:
        table.add_row(*(Text(cell) for cell in total), style="bold")
    console().print(table)


def print_fields(fields: Mapping[str, str]) -> None:
    """A value a line, with its name in front."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in fields.items():
        table.add_row(name, Text(value))
    console().print(table)


def console() -> Console:
    """Standard output; rich looks for a terminal, NO_COLOR and the width by itself."""
    plain = Console(highlight=False)
    # Without a terminal there is no width to wrap at: a program reads whole lines.
    return plain if plain.is_terminal else Console(highlight=False, width=10_000)


def count(number: int) -> str:
    return f"{number:,}"


def rough(number: int) -> str:
    """A count in three digits, for a narrow column: 12.3k, 740M; exact below ten thousand."""
    if number < 10_000:
        return count(number)
    digits, _, exponent = f"{number:.2e}".partition("e")
    thousands, places = divmod(int(exponent), 3)
    if thousands >= len(_SUFFIXES):
        return f"{number // 1000 ** (len(_SUFFIXES) - 1):,}{_SUFFIXES[-1]}"
    shown = f"{float(digits) * 10**places:.{2 - places}f}"
    return (shown.rstrip("0").rstrip(".") if "." in shown else shown) + _SUFFIXES[thousands]


def bar(amount: int, of: int, *, width: int) -> str:
    """A bar as long as the amount is large; ``of`` would fill the width in characters."""
    if amount <= 0 or of <= 0:
        return ""
    if not console().encoding.lower().startswith("utf"):
        return "#" * max(1, round(width * amount / of))
    # At least an eighth of a character: what was used at all is seen.
    whole, eighths = divmod(max(1, round(8 * width * amount / of)), 8)
    return "█" * whole + " ▏▎▍▌▋▊▉"[eighths].strip()
