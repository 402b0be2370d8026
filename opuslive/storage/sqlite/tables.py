"""The one list of tables and columns, and what the privacy page says of each.

Rows, statements, erasure and the privacy page follow from it. The schema itself is made by the
files in ``migrations``; a test compares the two. So a new column is a migration and an entry here,
and a column of ``keys`` a field of ``Key`` besides.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from opuslive.latencies import LATENCY_BOUNDS_MS
from opuslive.quantities import format_duration
from opuslive.storage.protocol import KeptColumn, KeptTable


@dataclass(frozen=True, slots=True)
class Column(KeptColumn):
    """A column, and the field of ``Key`` or ``UsageRecord`` that it holds, if it holds one.

    ``field`` may be a path, such as ``tokens.input``. ``stored`` makes the value of the column
    from that of the field; ``loaded`` is the way back. Without them both values are the same.
    """

    field: str | None = None
    stored: Callable[[Any], object] | None = None
    loaded: Callable[[Any], Any] | None = None


@dataclass(frozen=True, slots=True)
class Table(KeptTable):
    """A table; ``primary_key`` names columns of it, in the order in which rows are clustered."""

    columns: Sequence[Column]
    primary_key: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all columns."""
        return tuple(column.name for column in self.columns)

    @property
    def insert(self) -> str:
        """The statement that inserts a row, with a parameter for each column."""
        values = ", ".join("?" * len(self.columns))
        return f"INSERT INTO {self.name} ({', '.join(self.names)}) VALUES ({values})"

    @property
    def fields(self) -> Mapping[str, Column]:
        """Field → the column that holds it."""
        return {column.field: column for column in self.columns if column.field is not None}


def _texts(stored: str) -> tuple[str, ...]:
    return tuple(json.loads(stored))


def _same(name: str, holds: str) -> Column:
    """A column that has the name and the value of its field."""
    return Column(name, holds, name)


_KEY = Column("key", "the number of the key")

#: Settings of the database, with nothing about a key.
META = Table(
    "meta",
    "Settings of this database.",
    (
        Column("name", "the name of a setting: 'checksum_key', 'probes' or 'expiries_seen'"),
        Column("value", "its value"),
    ),
    ("name",),
)

KEYS = Table(
    "keys",
    "One row for each key.",
    (
        Column("key", "a number by which the other tables refer to the key"),
        _same("id", "the key's id, a random text that is also part of the key"),
        _same("name", "the name that the administrator gave the key"),
        _same("prefix", "the beginning of the key, up to its secret"),
        _same("created_at", "when the key was made"),
        _same("secret_hash", "a bcrypt hash of the key, from which it can't be worked out"),
        Column("enabled", "whether the administrator lets it be used", "enabled", int, bool),
        _same("expires_at", "when it expires, if it does"),
        Column("models", "which models it may use", "models", json.dumps, _texts),
        Column("limits", "its limits", "limits", json.dumps, _texts),
        Column("group_name", "the name of the group that shares limits, if there is one", "group"),
        _same("previous_hash", "after a rotation, the hash of the old secret"),
        _same("previous_expires_at", "until when that old secret still works"),
        Column("erasing", "that the key is being erased"),
    ),
    ("key",),
)

GROUP_CHANGES = Table(
    "group_changes",
    "One row for each group that the key was put into or taken out of.",
    (
        _KEY,
        Column("since", "when that was; 0 if it was so from the beginning"),
        Column("group_name", "the name of the group; empty if there is none from then on"),
    ),
    ("key", "since"),
)

_MODEL = _same("model", "the model's name, if it is one that this gateway knows")
#: In the order of the fields of ``TokenCounts``.
_COUNTS = (
    Column("input_tokens", "how many tokens the input had", "tokens.input"),
    Column("output_tokens", "how many tokens the answer had", "tokens.output"),
    Column(
        "cache_read_tokens",
        "input tokens that came from the provider's cache",
        "tokens.cache_read",
    ),
    Column(
        "cache_write_5m_tokens",
        "input tokens cached there for 5 minutes",
        "tokens.cache_write_5m",
    ),
    Column(
        "cache_write_1h_tokens",
        "input tokens cached there for 1 hour",
        "tokens.cache_write_1h",
    ),
)

#: The fields are in the order of those of ``UsageRecord`` and ``TokenCounts``.
USAGE = Table(
    "usage",
    "One row for each request to a model.",
    (
        _KEY,
        Column("time", "when the request was let in or refused, to the millisecond"),
        Column("seq", "a counter that tells apart requests of the same millisecond"),
        _MODEL,
        _same("status", "the HTTP status of the answer; empty while the request runs"),
        _same("latency_ms", "how long the answer took, so far; empty if nothing was sent on"),
        *_COUNTS,
    ),
    ("key", "time", "seq"),
)

#: The fields are those of ``UsagePart``. ``time`` and ``seq`` are those of the row of ``usage``.
PARTS = Table(
    "parts",
    "One row for each further model that took part in the answer to a request.",
    (
        _KEY,
        Column("time", "when the request was let in, to the millisecond"),
        Column("seq", "which request of that millisecond"),
        Column("part", "a counter that tells apart the rows of one request"),
        _MODEL,
        *_COUNTS,
    ),
    ("key", "time", "seq", "part"),
)

#: In the order of the fields of ``UsageSum`` and ``TokenCounts``.
SUMS = (
    Column("requests", "how many requests were sent on"),
    Column("refusals", "how many were refused"),
    Column("input_tokens", "sum of the input tokens"),
    Column("output_tokens", "sum of the output tokens"),
    Column("cache_read_tokens", "sum of the tokens from the cache"),
    Column("cache_write_5m_tokens", "sum of those cached for 5 minutes"),
    Column("cache_write_1h_tokens", "sum of those cached for 1 hour"),
    Column("client_errors", "how many of the requests were answered with an error of the client"),
    Column("upstream_errors", "how many met trouble of the model provider"),
    Column("cut", "how many the client cut short"),
)
SUM_NAMES = tuple(column.name for column in SUMS)
TOKEN_NAMES = SUM_NAMES[2:7]


def _latency_columns() -> Iterator[Column]:
    spans = [format_duration(bound / 1000) for bound in LATENCY_BOUNDS_MS]
    for above, span in pairwise(["0s", *spans]):
        holds = f"how many answers took more than {above}, and {span} at most"
        yield Column(f"latency_{span}", holds)
    yield Column("latency_more", f"how many answers took more than {spans[-1]}")


#: The counts of ``Latencies``, in their order: only the sums of hours and days have them.
LATENCIES = tuple(_latency_columns())
LATENCY_NAMES = tuple(column.name for column in LATENCIES)


def _sums_by(name: str, bucket: str) -> Table:
    return Table(
        name,
        f"The same, added up for each key, {bucket} and model.",
        (
            _KEY,
            Column(bucket, f"which {bucket}"),
            Column("model", "the model's name, as above"),
            Column("tier", "which step of the model's price applied"),
            *SUMS,
            *LATENCIES,
        ),
        ("key", bucket, "model", "tier"),
    )


HOURLY = _sums_by("hourly", "hour")
DAILY = _sums_by("daily", "day")
TOTALS = Table(
    "totals",
    "The same, added up for each key.",
    (_KEY, Column("last_used_at", "when the latest of them was let in or refused"), *SUMS),
    ("key",),
)

#: The tables whose rows belong to a key, by its number; the largest first.
BELONGINGS = (USAGE, PARTS, HOURLY, DAILY, TOTALS, GROUP_CHANGES)
#: The tables with something about a key.
KEPT = (KEYS, *BELONGINGS)
TABLES = (META, *KEPT)
