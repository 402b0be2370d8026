"""What there is a place for in the database: this list and nothing else, each with its reason."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from opuslive.storage import open_storage

_TOKENS = {
    "input_tokens": "a count, of the provider's",
    "output_tokens": "a count, of the provider's",
    "cache_read_tokens": "a count, of the provider's",
    "cache_write_5m_tokens": "a count, of the provider's",
    "cache_write_1h_tokens": "a count, of the provider's",
}
_SUMS = {
    "requests": "a sum of records",
    "refusals": "a sum of records",
    **_TOKENS,
}
_BY_MODEL = {
    "model": "a name that the gateway itself knows",
    "tier": "which of the model's prices holds, as a number",
}
ALLOWED = {
    "meta": {
        "name": "of a setting of the database: 'checksum_key' or 'probes'",
        "value": "of that setting",
    },
    "keys": {
        "key": "the key's number, by which the other tables name it",
        "id": "the key's id, made by chance",
        "name": "the administrator's own text, of which 'keys create' says that it is kept",
        "prefix": "what of the key may be shown",
        "created_at": "when the administrator made it",
        "secret_hash": "proves the key, and can't be turned back into it",
        "enabled": "the administrator's setting",
        "expires_at": "the administrator's setting",
        "models": "the administrator's setting",
        "limits": "the administrator's setting",
        "group_name": "the administrator's own text, of which 'keys create' says that it is kept",
        "previous_hash": "proves the secret from before a rotation, while its grace lasts",
        "previous_expires_at": "when that grace ends",
        "erasing": "that a deletion is under way",
    },
    "usage": {
        "key": "whose request it was",
        "time": "when it was admitted",
        "seq": "tells apart records of the same ms",
        "model": "a name that the gateway itself knows",
        "status": "the HTTP status; none while the request runs",
        "latency_ms": "how long the provider took",
        **_TOKENS,
    },
    "hourly": {"key": "whose requests they were", "hour": "in which hour", **_BY_MODEL, **_SUMS},
    "daily": {"key": "whose requests they were", "day": "on which day", **_BY_MODEL, **_SUMS},
    "totals": {"key": "whose requests they were", "last_used_at": "the latest time", **_SUMS},
}
#: An index of the keys that have requests which run: it holds nothing that the table does not.
_INDEXES = {"open_usage"}
#: SQLite's own: the last number of a key that was given out, for AUTOINCREMENT.
_OF_SQLITE = {"sqlite_sequence"}


async def test_the_database_has_a_place_for_what_is_allowed_alone(tmp_path: Path) -> None:
    path = tmp_path / "opuslive.db"
    await (await open_storage(f"sqlite://{path}")).close()
    with closing(sqlite3.connect(path)) as connection:
        things = connection.execute("SELECT type, name, tbl_name FROM sqlite_schema").fetchall()
        tables = {name for kind, name, _ in things if kind == "table"}
        found = {
            table: [column[1] for column in connection.execute(f"PRAGMA table_xinfo({table})")]
            for table in tables - _OF_SQLITE
        }
    assert {table: set(columns) for table, columns in found.items()} == {
        table: set(columns) for table, columns in ALLOWED.items()
    }
    # No view and no trigger, and no other index but those of uniqueness and of primary keys.
    others = {(kind, name) for kind, name, _ in things if kind != "table"}
    assert all(
        kind == "index" and (name in _INDEXES or name.startswith("sqlite_autoindex_"))
        for kind, name in others
    )
