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
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

#: What stands for a thousand, a million and so on, from 1000**0 on.
_SUFFIXES = ("", "k", "M", "B", "T")
#: Characters between two columns of a table.
COLUMN_GAP = 2
#: Characters of a column that wraps, at least, where the terminal is too narrow for what it needs.
_TINY = 4
#: Characters of a line where nothing has to fit into a window.
_ENDLESS = 10_000
#: Characters of a bar, at least (else there is none) and at most.
_LEAST_BAR, _LONGEST_BAR = 4, 24

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
class Cell:
    """What stands in a table: ``full``, or ``short`` where there is no room for that."""

    full: str
    short: str | None = None
    style: str = ""


@dataclass(frozen=True, slots=True)
class Bar:
    """An amount to be drawn; one of ``of`` fills its column."""

    amount: int
    of: int


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column of a printed table: flush left or ``right``.

    Where the terminal is too narrow for all of a table, first cells take their short form, then
    columns that wrap become narrower, to ``least`` characters, and then columns leave: the one of
    the highest ``priority`` first, and never one of 0. Nothing that is shown is ever cut. A column
    of bars takes what room is left.
    """

    heading: str
    right: bool = False
    wraps: bool = False
    style: str = ""
    priority: int = 0
    least: int = 16
    bars: bool = False


wide_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--wide", is_flag=True, help="Print every column in full, however narrow the terminal is."
)


def print_table(
    columns: Sequence[TableColumn],
    rows: Sequence[Sequence[str | Cell | Bar]],
    total: Sequence[str | Cell | Bar] = (),
    *,
    wide: bool = False,
) -> None:
    """Print one row a line, then ``total`` in bold, and then which columns found no room.

    Without a terminal, or ``wide``, all of it is printed in full.
    """
    screen = console(wide=wide)
    table, left_out = table_of(columns, rows, total, width=screen.width)
    # Lines that are longer than those of a tiny terminal are wrapped there, not cut here.
    screen.width = max(screen.width, screen.measure(table).minimum)
    screen.print(table)
    if left_out:
        names = ", ".join(heading.replace("\n", " ") for heading in left_out)
        command = click.get_current_context(silent=True)
        remedy = " --wide shows them." if command and "wide" in command.params else ""
        echo(f"\nNot shown for want of room: {names}.{remedy}", err=True)


def table_of(
    columns: Sequence[TableColumn],
    rows: Sequence[Sequence[str | Cell | Bar]],
    total: Sequence[str | Cell | Bar] = (),
    *,
    width: int,
) -> tuple[Table, Sequence[str]]:
    """The table for a terminal of so many columns, and the headings of what it leaves out."""
    lines = [*rows, total] if total else rows
    layout = _Layout(columns, lines)
    layout.fit(width)
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=layout.has_headings)
    for at, room in layout.widths(width).items():
        column = columns[at]
        table.add_column(
            column.heading,
            justify="right" if column.right else "left",
            no_wrap=not column.wraps,
            overflow="fold",
            style=column.style,
            width=room,
        )
    widths = layout.widths(width)
    for number, row in enumerate(lines):
        # Text, not str: a name must not be read as rich's markup.
        cells = [layout.shown(at, row[at], room) for at, room in widths.items()]
        table.add_row(*cells, style="bold" if number == len(rows) else "")
    return table, [columns[at].heading for at in layout.left_out]


class _Layout:
    """Which columns of a table are shown, and which of them in short."""

    def __init__(
        self, columns: Sequence[TableColumn], rows: Sequence[Sequence[str | Cell | Bar]]
    ) -> None:
        self._columns = columns
        self.has_headings = any(column.heading for column in columns)
        self._shown = [at for at, column in enumerate(columns) if not column.bars]
        self._bars = [at for at, column in enumerate(columns) if column.bars]
        self._short: set[int] = set()
        self.left_out: list[int] = []
        #: Widths of each column, in full and in short.
        self._sizes = [
            tuple(
                max(
                    (cell_len(line) for text in texts for line in text.split("\n")),
                    default=0,
                )
                for texts in (
                    [column.heading, *(_text(row[at], short=short) for row in rows)]
                    for short in (False, True)
                )
            )
            for at, column in enumerate(columns)
        ]

    def fit(self, width: int) -> None:
        """Make room until it fits into so many columns, as far as it can."""
        leaving = sorted(self._shown, key=lambda at: (-self._columns[at].priority, -at))
        for at in leaving:
            full, short = self._sizes[at]
            if short < full and self._needed(comfort=2) > width:
                self._short.add(at)
        for at in leaving:
            if self._columns[at].priority and self._needed() > width:
                self._shown.remove(at)
                self.left_out.insert(0, at)
        for at in reversed(leaving):
            # What left may have made room for what is important in full.
            if at in self._short and at in self._shown:
                self._short.remove(at)
                if self._needed(comfort=2) > width:
                    self._short.add(at)
        self.left_out.sort()

    def widths(self, width: int) -> Mapping[int, int]:
        """Number of each column that is shown → its width."""
        room = width - self._needed()
        found = {at: self._least(at) for at in self._shown}
        # Those that wrap share what is left, the smallest first.
        wrapping = sorted(
            (at for at in self._shown if self._columns[at].wraps), key=lambda at: self._size(at)
        )
        for at in reversed(wrapping):
            # A tiny terminal has not even the least room.
            less = min(max(0, -room), max(0, found[at] - _TINY))
            found[at] -= less
            room += less
        bars: dict[int, int] = {}
        for comfort in (2, None):
            # Bars come before the rest of names that are very long.
            for number, at in enumerate(wrapping):
                size = self._size(at) if comfort is None else self._least(at, comfort)
                more = min(max(0, room) // (len(wrapping) - number), max(0, size - found[at]))
                found[at] += more
                room -= more
            if comfort is not None:
                for at in self._bars:
                    if room >= _LEAST_BAR + COLUMN_GAP:
                        bars[at] = min(room - COLUMN_GAP, _LONGEST_BAR)
                        room -= bars[at] + COLUMN_GAP
        return dict(sorted((found | bars).items()))

    def shown(self, at: int, cell: str | Cell | Bar, room: int) -> Text:
        """The text of a cell in a column of this width."""
        if isinstance(cell, Bar):
            return Text(bar(cell.amount, cell.of, width=room))
        style = cell.style if isinstance(cell, Cell) else ""
        return Text(_text(cell, short=at in self._short), style)

    def _size(self, at: int) -> int:
        return self._sizes[at][at in self._short]

    def _least(self, at: int, comfort: int = 1) -> int:
        column = self._columns[at]
        return min(self._size(at), column.least * comfort) if column.wraps else self._size(at)

    def _needed(self, comfort: int = 1) -> int:
        """The width of what is shown, where columns that wrap have some ``comfort``."""
        gaps = COLUMN_GAP * (len(self._shown) - 1)
        return sum(self._least(at, comfort) for at in self._shown) + gaps


def _text(cell: str | Cell | Bar, *, short: bool) -> str:
    if isinstance(cell, Bar):
        return ""
    text = cell if isinstance(cell, str) else cell.full
    if short and isinstance(cell, Cell) and cell.short is not None:
        text = cell.short
    return visible(text, encoding_of(sys.stdout))


def print_fields(fields: Mapping[str, str]) -> None:
    """Print one value a line, after its name. ``fields``: name → value; a value may have several
    lines."""
    print_table((TableColumn("", style="bold"), TableColumn("", wraps=True)), list(fields.items()))


def count_cell(number: int) -> Cell:
    """A count for a table: ``12,345``, or ``12.3k``."""
    return Cell(format_count(number), format_short_count(number))


def one_line(name: str) -> str:
    """A name that somebody chose, whatever is in it."""
    return visible(name, encoding_of(sys.stdout), lines=False)


def console(*, wide: bool = False) -> Console:
    """Standard output; rich heeds the terminal, its width (unless ``wide``) and NO_COLOR."""
    plain = Console(highlight=False)
    # Without a terminal a program reads the output, and wants whole lines.
    return plain if plain.is_terminal and not wide else Console(highlight=False, width=_ENDLESS)


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
