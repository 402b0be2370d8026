"""The migrations make the tables and columns of ``tables.py``, and nothing else."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from opuslive.storage import open_storage
from opuslive.storage.sqlite.tables import BELONGINGS, KEYS, TABLES, Table

#: Indexes of the requests that run, and of those that did not go well: they hold nothing that the
#: table does not.
_INDEXES = {"open_usage", "trouble"}
#: SQLite's own: the last number of a key that was given out, for AUTOINCREMENT.
_OF_SQLITE = {"sqlite_sequence"}


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[sqlite3.Connection]:
    """To a database that was migrated, and that no store has open."""
    path = tmp_path / "opuslive.db"
    await (await open_storage(f"sqlite://{path}")).close()
    with closing(sqlite3.connect(path)) as connection:
        yield connection


def things(connection: sqlite3.Connection) -> set[tuple[str, str]]:
    """The kind and the name of everything that the schema has."""
    return set(connection.execute("SELECT type, name FROM sqlite_schema"))


async def test_there_is_no_table_but_those_listed(connection: sqlite3.Connection) -> None:
    tables = {name for kind, name in things(connection) if kind == "table"}
    assert tables - _OF_SQLITE == {table.name for table in TABLES}


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
async def test_a_table_has_the_columns_listed_and_no_other(
    connection: sqlite3.Connection, table: Table
) -> None:
    found = connection.execute(f"PRAGMA table_xinfo({table.name})").fetchall()
    assert tuple(name for _, name, *_ in found) == table.names
    primary_key = sorted((place, name) for _, name, _, _, _, place, _ in found if place)
    assert tuple(name for _, name in primary_key) == table.primary_key


async def test_every_table_that_refers_to_keys_is_erased_with_them(
    connection: sqlite3.Connection,
) -> None:
    referring = {
        table.name: {
            (column, target)
            for _, _, target, column, *_ in connection.execute(
                f"PRAGMA foreign_key_list({table.name})"
            )
        }
        for table in TABLES
    }
    to_keys = {("key", KEYS.name)}
    assert {name for name, targets in referring.items() if targets} == {
        table.name for table in BELONGINGS
    }
    assert all(targets in (set(), to_keys) for targets in referring.values())


async def test_no_view_trigger_or_other_index_holds_anything(
    connection: sqlite3.Connection,
) -> None:
    others = {(kind, name) for kind, name in things(connection) if kind != "table"}
    assert all(
        kind == "index" and (name in _INDEXES or name.startswith("sqlite_autoindex_"))
        for kind, name in others
    )
