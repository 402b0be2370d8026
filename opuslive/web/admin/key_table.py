"""The table of keys: which keys are shown, in what order, and how each one stands."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Literal, get_args

from opuslive.administration.states import HeldLimit, StateName, standing_of
from opuslive.gateway.admission.admission import SharedLimits
from opuslive.keys import Key
from opuslive.limits.windows import LimitStatus
from opuslive.storage import KeyUsage
from opuslive.usage import UsageSum
from opuslive.web.pages.report import Gauge, gauge

#: Keys on a page.
PAGE = 100
STATES: tuple[StateName, ...] = get_args(StateName)

Order = Literal["asc", "desc"]


@dataclass(frozen=True, slots=True)
class SortColumn:
    """A column to sort by; ``first`` is the order at the first click. ``kind`` is what
    ``templates/tables.html`` calls so."""

    name: str
    title: str
    first: Order
    kind: str = ""


COLUMNS: Sequence[SortColumn] = (
    SortColumn("name", "Name", "asc", "head"),
    SortColumn("state", "State", "asc"),
    SortColumn("group", "Group", "asc"),
    SortColumn("limit", "Tightest own limit", "desc", "long"),
    SortColumn("requests", "Requests", "desc", "figure"),
    SortColumn("tokens", "Tokens", "desc", "figure"),
    SortColumn("used", "Last used", "desc"),
    SortColumn("expires", "Expires", "asc"),
)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which part of the table to show. ``text`` is looked for in names, groups and ids."""

    text: str = ""
    state: StateName | None = None
    sort: str = "name"
    order: Order = "asc"
    page: int = 1

    @classmethod
    def of_query(cls, query: Mapping[str, str]) -> Choice:
        """Parameters that make no sense are left out: a page must not fail for them."""
        column = next((c for c in COLUMNS if c.name == query.get("sort")), COLUMNS[0])
        order = next((o for o in get_args(Order) if o == query.get("order")), column.first)
        number = query.get("page", "")
        return cls(
            text=query.get("q", "").strip(),
            state=next((state for state in STATES if state == query.get("state")), None),
            sort=column.name,
            order=order,
            page=int(number) if number.isascii() and number.isdecimal() and len(number) < 7 else 1,
        )


@dataclass(frozen=True, slots=True)
class Row:
    """A key in the table. ``limit_status`` is that of the key's tightest limit, the one that is
    fullest; None for a key without limits. ``exhausted_by`` are the limits that are used up, if the
    key is exhausted."""

    key: Key
    state: StateName
    exhausted_by: Sequence[HeldLimit]
    limit_status: LimitStatus | None
    usage: KeyUsage

    @property
    def fullness(self) -> float:
        """How much of the tightest limit is used or reserved: from 0, and below it without one."""
        return -1.0 if self.limit_status is None else self.limit_status.fullness


@dataclass(frozen=True, slots=True)
class Table:
    """A page of the table. ``found`` keys match, of ``total``; ``first`` is the number of the
    first one shown. Each row comes with the gauge of its tightest limit."""

    choice: Choice
    rows: Sequence[tuple[Row, Gauge | None]]
    first: int
    found: int
    total: int
    pages: int


def make_table(
    keys: Sequence[Key],
    usage: Mapping[str, KeyUsage],
    statuses: Callable[[str], Sequence[LimitStatus]],
    shared: SharedLimits,
    choice: Choice,
    *,
    now: int,
    wall_ms: int,
) -> Table:
    """``statuses`` are those of a key's own limits, by its id. ``now`` is the time of windows and
    ``wall_ms`` that of expiries, both in ms since the epoch."""
    rows = [_row(key, usage, statuses(key.id), shared, wall_ms) for key in keys]
    found = [row for row in rows if _matches(row, choice)]
    by_name = sorted(found, key=_SORT_KEYS["name"])
    ordered = sorted(by_name, key=_SORT_KEYS[choice.sort], reverse=choice.order == "desc")
    pages = max(1, -(-len(ordered) // PAGE))
    page = max(1, min(choice.page, pages))
    start = (page - 1) * PAGE
    return Table(
        choice=Choice(choice.text, choice.state, choice.sort, choice.order, page),
        rows=[
            (row, None if row.limit_status is None else gauge(row.limit_status, now))
            for row in ordered[start : start + PAGE]
        ],
        first=start + 1,
        found=len(found),
        total=len(rows),
        pages=pages,
    )


def _row(
    key: Key,
    usage: Mapping[str, KeyUsage],
    own: Sequence[LimitStatus],
    shared: SharedLimits,
    wall_ms: int,
) -> Row:
    standing = standing_of(key, own, shared, wall_ms)
    return Row(
        key=key,
        state=standing.state,
        exhausted_by=standing.exhausted_by,
        limit_status=max(own, key=attrgetter("fullness"), default=None),
        usage=usage.get(key.id) or KeyUsage(None, UsageSum()),
    )


def _matches(row: Row, choice: Choice) -> bool:
    if choice.state is not None and row.state != choice.state:
        return False
    text = choice.text.casefold()
    return any(
        text in field.casefold() for field in (row.key.name, row.key.group or "", row.key.id)
    )


def _alphabetical(text: str) -> str:
    """É sorts with E: not after Z, nor after all that begins with E."""
    parts = unicodedata.normalize("NFKD", text)
    return "".join(part for part in parts if not unicodedata.combining(part)).casefold()


_SORT_KEYS: Mapping[str, Callable[[Row], Any]] = MappingProxyType(
    {
        "name": lambda row: _alphabetical(row.key.name),
        "state": lambda row: STATES.index(row.state),
        "group": lambda row: _alphabetical(row.key.group or ""),
        "limit": lambda row: row.fullness,
        "requests": lambda row: row.usage.sum.requests,
        "tokens": lambda row: row.usage.sum.tokens.total,
        "used": lambda row: row.usage.last_used_at or 0,
        "expires": lambda row: (row.key.expires_at is None, row.key.expires_at or 0),
    }
)
