"""Keys as rows: how they are written, and how they are made again."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from opuslive.errors import Code, OpusLiveError, UsageError
from opuslive.keys import Key
from opuslive.storage.sqlite.tables import GROUP_CHANGES, KEYS
from opuslive.storage.sqlite.values import LATEST_TIME, bounded_time, is_text

_FIELDS = KEYS.fields
#: The columns that ``key_of`` reads.
KEY_COLUMNS = ", ".join(column.name for column in _FIELDS.values())
_VALUES = ", ".join("?" * len(_FIELDS))
_INSERT_KEY = f"INSERT INTO keys ({KEY_COLUMNS}) VALUES ({_VALUES})"
_UPDATE_KEY = f"UPDATE keys SET ({KEY_COLUMNS}) = ({_VALUES}) WHERE key = ?"
_SET_GROUP = (
    f"{GROUP_CHANGES.insert} "
    "ON CONFLICT (key, since) DO UPDATE SET group_name = excluded.group_name"
)


def find_key(connection: sqlite3.Connection, key_id: str) -> int | None:
    """The number of the key with this id, unless it is being erased."""
    try:
        row = connection.execute(
            "SELECT key FROM keys WHERE id = ? AND NOT erasing", (key_id,)
        ).fetchone()
    except UnicodeEncodeError:  # no text that the database can hold
        return None
    return None if row is None else int(row[0])


def keep_expiries_seen(connection: sqlite3.Connection, at: int) -> None:
    """Write when the expiries of keys were looked at last, in ms since the epoch."""
    connection.execute(
        "INSERT INTO meta (name, value) VALUES ('expiries_seen', ?) "
        "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (at,),
    )


def insert_key(connection: sqlite3.Connection, key: Key) -> None:
    """Raises OpusLiveError (conflict, invalid_request)."""
    values = _key_row(key)
    if find_key(connection, key.id) is not None:
        raise OpusLiveError(
            Code.CONFLICT, f"There is a key with the id {key.id} already; make one with another id."
        )
    _check_name_is_free(connection, key)
    number = connection.execute(_INSERT_KEY, values).lastrowid
    if key.group is not None:
        connection.execute(_SET_GROUP, (number, 0, key.group))


def update_key(connection: sqlite3.Connection, key: Key, at: int) -> None:
    """Write the fields of a key that changes at this time, in ms since the epoch.

    Raises OpusLiveError (conflict, invalid_request, not_found).
    """
    values = _key_row(key)
    number = find_key(connection, key.id)
    if number is None:
        raise no_such_key(key.id)
    _check_name_is_free(connection, key)
    (group,) = connection.execute("SELECT group_name FROM keys WHERE key = ?", (number,)).fetchone()
    connection.execute(_UPDATE_KEY, (*values, number))
    if group != key.group:
        _change_group(connection, number, key.group, at)


def _change_group(connection: sqlite3.Connection, number: int, group: str | None, at: int) -> None:
    # Not before the last change, even if the clock went back: the last one has to be what holds.
    (last,) = connection.execute(
        "SELECT coalesce(max(since), 0) FROM group_changes WHERE key = ?", (number,)
    ).fetchone()
    since = max(last, bounded_time(at))
    connection.execute(_SET_GROUP, (number, since, group))


def no_such_key(key_id: str) -> OpusLiveError:
    return OpusLiveError(
        Code.NOT_FOUND, f"There is no key with the id {key_id}; list the keys to see which are."
    )


def _check_name_is_free(connection: sqlite3.Connection, key: Key) -> None:
    taken = connection.execute(
        "SELECT 1 FROM keys WHERE name = ? AND id <> ?", (key.name, key.id)
    ).fetchone()
    if taken is not None:
        raise OpusLiveError(
            Code.CONFLICT, f"There is a key named {key.name} already; choose another name."
        )


def _key_row(key: Key) -> tuple[object, ...]:
    row = tuple(
        getattr(key, field) if column.stored is None else column.stored(getattr(key, field))
        for field, column in _FIELDS.items()
    )
    for value in row:
        if isinstance(value, str) and not is_text(value):
            raise UsageError(
                "A name or group of the key holds half a character (a lone surrogate); "
                "write it as valid Unicode text."
            )
        if isinstance(value, int) and not 0 <= value <= LATEST_TIME:
            raise UsageError(f"A time of the key, {value} ms, is no date; give one before 10000.")
    return row


def key_of(row: Sequence[Any]) -> Key:
    """The key in a row of ``KEY_COLUMNS``."""
    return Key(
        **{
            field: value if column.loaded is None else column.loaded(value)
            for (field, column), value in zip(_FIELDS.items(), row, strict=True)
        }
    )
