"""Tables on terminals of every width: nothing that is shown is cut to something else."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import pytest
from rich.cells import cell_len
from rich.console import Console

from opuslive.cli.output import Bar, Cell, TableColumn, count_cell, table_of

WIDTHS = (20, 40, 60, 80, 100, 200)
COLUMNS = (
    TableColumn("name", wraps=True),
    TableColumn("id"),
    TableColumn("limits", priority=2),
    TableColumn("tokens", right=True, priority=1),
    TableColumn("last used", priority=3),
)
NAMES = (
    "alice",
    "a name that is as long as a name may be: it goes on for a hundred characters, and then ends x",
    "没有人知道这个名字有多长因为它一直继续下去没有尽头",
    "x" * 100,
    "[bold]not markup[/bold]",
)


def rows_of(names: Sequence[str], tokens: int = 26_839_085) -> list[list[str | Cell | Bar]]:
    return [
        [name, f"id{at:06}", "2M tokens/5h\n8 concurrent", count_cell(tokens), "2026-11-27"]
        for at, name in enumerate(names)
    ]


def printed(
    columns: Sequence[TableColumn], rows: Sequence[Sequence[str | Cell | Bar]], width: int
) -> tuple[list[str], Sequence[str]]:
    """The lines that a terminal of this width shows, and what is left out."""
    table, left_out = table_of(columns, rows, width=width)
    screen = Console(file=io.StringIO(), width=width, highlight=False)
    screen.print(table)
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue().splitlines(), left_out


@pytest.mark.parametrize("width", WIDTHS[1:])
@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_shown_whole_at_every_width(name: str, width: int) -> None:
    lines, _ = printed(COLUMNS, rows_of([name]), width)
    assert all(cell_len(line) <= width for line in lines)
    column = lines[0].index("id")
    start = "".join(part[: _characters(part, column)] for part in lines[1:])
    assert "".join(start.split()) == "".join(name.split())


def _characters(line: str, cells: int) -> int:
    """How many characters fill so many cells."""
    return next((at for at in range(len(line)) if cell_len(line[:at]) >= cells), len(line))


@pytest.mark.parametrize("width", WIDTHS[1:])
@pytest.mark.parametrize(
    ("tokens", "full", "short"),
    [
        (26_839_085, "26,839,085", "26.8M"),
        (10**15, "1,000,000,000,000,000", "1,000T"),
        (999, "999", "999"),
    ],
)
def test_a_number_is_shown_in_full_or_honestly_short(
    tokens: int, full: str, short: str, width: int
) -> None:
    for names in (["alice"], NAMES):
        lines, left_out = printed(COLUMNS, rows_of(names, tokens), width)
        text = "\n".join(lines[1:])
        numbers = set(re.findall(r"(?<![\w-])[0-9][0-9,.]*[kMBT]?(?![\w-])", text))
        assert numbers - {"8", "2M"} <= {full, short}
        assert numbers & {full, short} or "tokens" in left_out


def test_numbers_shorten_then_columns_leave_and_make_room_for_numbers_in_full() -> None:
    short = {width: printed(COLUMNS, rows_of(["alice"]), width) for width in (53, 52, 45, 33, 20)}
    assert {width: list(left_out) for width, (_, left_out) in short.items()} == {
        53: [],
        52: [],
        45: ["last used"],
        33: ["limits", "last used"],
        20: ["limits", "tokens", "last used"],
    }
    assert {width: "26.8M" in lines[1] for width, (lines, _) in short.items()} == {
        53: False,
        52: True,
        45: False,
        33: False,
        20: False,
    }


@pytest.mark.parametrize("width", WIDTHS)
def test_what_never_leaves_is_there_at_every_width(width: int) -> None:
    lines, left_out = printed(COLUMNS, rows_of(NAMES), width)
    assert not {"name", "id"} & set(left_out)
    assert all(f"id{at:06}" in "\n".join(lines) for at in range(len(NAMES)))


def test_bars_take_what_room_is_left_and_no_more() -> None:
    columns = [*COLUMNS, TableColumn("", bars=True)]
    rows = [[*row, Bar(at, 4)] for at, row in enumerate(rows_of(NAMES))]
    lengths = {}
    for width in (40, 60, 80, 100, 200):
        lines, left_out = printed(columns, rows, width)
        assert "" not in left_out
        assert all(cell_len(line) <= width for line in lines)
        lengths[width] = max(line.count("█") for line in lines)
    assert lengths[40] == 0
    assert lengths[200] == 24


def test_a_style_of_a_cell_is_no_part_of_its_text() -> None:
    lines, _ = printed((TableColumn(""),), [[Cell("error", style="bold red")]], 40)
    assert lines == ["error"]
