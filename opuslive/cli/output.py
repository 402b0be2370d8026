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

#: What stands for a thousand, a million and so on, from 1000**0 on.
_SUFFIXES = ("", "k", "M", "B", "T")

json_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON."
)


def print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column of a printed table: flush left or ``right``, in one line or wrapped."""

    heading: str
    right: bool = False
    wraps: bool = False
    style: str = ""


def print_table(
    columns: Sequence[TableColumn], rows: Sequence[Sequence[str]], total: Sequence[str] = ()
) -> None:
    """Print one row a line, then ``total`` in bold."""
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
    """Print one value a line, after its name. ``fields``: name → value."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in fields.items():
        table.add_row(name, Text(value))
    console().print(table)


def console() -> Console:
    """Standard output; rich heeds the terminal, its width and NO_COLOR."""
    plain = Console(highlight=False)
    # Without a terminal a program reads the output, and wants whole lines.
    return plain if plain.is_terminal else Console(highlight=False, width=10_000)


def format_count(number: int) -> str:
    """The count in full: ``12,345``."""
    return f"{number:,}"


def format_short_count(number: int) -> str:
    """The count in three digits for a narrow column: ``12.3k``; in full below ten thousand."""
    if number < 10_000:
        return format_count(number)
    digits, _, exponent = f"{number:.2e}".partition("e")
    thousands, places = divmod(int(exponent), 3)
    if thousands >= len(_SUFFIXES):
        return f"{number // 1000 ** (len(_SUFFIXES) - 1):,}{_SUFFIXES[-1]}"
    shown = f"{float(digits) * 10**places:.{2 - places}f}"
    return (shown.rstrip("0").rstrip(".") if "." in shown else shown) + _SUFFIXES[thousands]


def all_tokens(usage: Mapping[str, Any]) -> int:
    """The tokens of every kind in members such as ``input_tokens``."""
    return sum(number for name, number in usage.items() if name.endswith("_tokens"))


def bar(amount: int, of: int, *, width: int) -> str:
    """A bar for the amount; an amount of ``of`` fills the ``width`` in characters."""
    if amount <= 0 or of <= 0:
        return ""
    if not console().encoding.lower().startswith("utf"):
        return "#" * max(1, round(width * amount / of))
    # At least an eighth of a character: any amount but 0 is to be seen.
    whole, eighths = divmod(max(1, round(8 * width * amount / of)), 8)
    return "█" * whole + " ▏▎▍▌▋▊▉"[eighths].strip()
