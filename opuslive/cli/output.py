"""How commands print: tables for people, JSON and CSV for programs.

Nothing that is printed fails for the encoding of the terminal or the pipe, and no text reaches a
terminal with a control character in it:

- what people read has escapes for what the stream can't take: ``caf\\xe9 \\u2615``
- JSON has its own escapes for that, and stays exact
- CSV is UTF-8, as the export over HTTP is; a terminal gets it as text for people
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

#: What stands for a thousand, a million and so on, from 1000**0 on.
_SUFFIXES = ("", "k", "M", "B", "T")

json_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON."
)


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print text for people, on standard output or standard error."""
    click.echo(visible(text, encoding_of(sys.stderr if err else sys.stdout)), err=err, nl=nl)


def print_json(value: object) -> None:
    click.echo(json_text(value, encoding_of(sys.stdout), indent=2))


def print_csv(text: str) -> None:
    """Print the text of a CSV file."""
    if sys.stdout is not None and sys.stdout.isatty():
        echo(text, nl=False)
    else:
        click.echo(text.encode("utf-8", "backslashreplace"), nl=False)


def encoding_of(stream: TextIO | None) -> str:
    """The encoding of a stream; a process may have none of its standard streams."""
    return getattr(stream, "encoding", None) or "utf-8"


def visible(text: str, encoding: str, *, lines: bool = True) -> str:
    """The text with escapes in place of what has no glyph or is not in the encoding.

    What gives no glyph may steer a terminal or turn the order of letters around. Line ends stay if
    the text may have several ``lines``.
    """
    if not text.isprintable():
        own = "\n" if lines else ""
        text = "".join(
            char if char.isprintable() or char == own else ascii(char)[1:-1] for char in text
        )
    return text.encode(encoding, "backslashreplace").decode(encoding)


def json_text(value: object, encoding: str, *, indent: int | None = None) -> str:
    """JSON for a stream with this encoding: escaped is what the stream or a terminal can't take."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    try:
        text.encode(encoding, "surrogatepass")
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent)
    # Outside of strings there is nothing but printable characters and line ends.
    return "".join(
        char if char == "\n" or char.isprintable() else json.dumps(char)[1:-1] for char in text
    )


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
    console().print(table_of(columns, rows, total))


def table_of(
    columns: Sequence[TableColumn], rows: Sequence[Sequence[str]], total: Sequence[str] = ()
) -> Table:
    """The same, to be printed."""
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
        table.add_row(*map(_cell, row))
    if total:
        table.add_row(*map(_cell, total), style="bold")
    return table


def print_fields(fields: Mapping[str, str]) -> None:
    """Print one value a line, after its name. ``fields``: name → value."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in fields.items():
        table.add_row(name, Text(visible(value, encoding_of(sys.stdout), lines=False)))
    console().print(table)


def _cell(text: str) -> Text:
    return Text(visible(text, encoding_of(sys.stdout)))


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
