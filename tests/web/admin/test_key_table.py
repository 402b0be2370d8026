"""The table of keys: what is found, in which order, on which page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from opuslive.gateway.admission.admission import SharedLimits
from opuslive.keys import Key
from opuslive.limits.accounts import Account, AccountKind
from opuslive.limits.charges import Charge, replay
from opuslive.limits.grammar import parse_limits
from opuslive.limits.windows import LimitStatus
from opuslive.storage import KeyUsage
from opuslive.usage import TokenCounts, UsageSum
from opuslive.web.admin.key_table import COLUMNS, PAGE, Choice, Table, make_table
from tests.support.clock import NOW
from tests.support.keys import a_key


def named(name: str, **changes: Any) -> Key:
    return a_key(id=f"id-{name}", name=name, **changes)


def statuses(used: int, *limits: str) -> Sequence[LimitStatus]:
    """How these limits stand when a request used so many tokens just now."""
    account = Account(AccountKind.KEY, parse_limits(limits), NOW)
    replay(account.windows, Charge(input_tokens=used), time=NOW, end=NOW)
    return account.statuses(NOW)


#: Each of them is first in some order.
KEYS = (
    named("Zoë", expires_at=NOW + 5),
    replace(named("bob", group="Team"), enabled=False),
    named("Émile", expires_at=NOW),
    named("alice", group="friends"),
)
STANDINGS: Mapping[str, Sequence[LimitStatus]] = {
    "id-alice": statuses(50, "100 tokens/1h", "60 tokens/2h"),
    "id-Zoë": statuses(100, "100 tokens/1h"),
}
USAGE = {
    "id-alice": KeyUsage(NOW - 9, UsageSum(3, 0, TokenCounts(10, 10, 10, 10, 10))),
    "id-bob": KeyUsage(NOW - 5, UsageSum(2, 9, TokenCounts(100))),
}


def table(keys: Sequence[Key] = KEYS, /, **query: str) -> Table:
    return make_table(
        keys,
        USAGE,
        lambda key_id: STANDINGS.get(key_id, ()),
        SharedLimits((), {"Team": statuses(5, "5 tokens/day")}),
        Choice.of_query(query),
        now=NOW,
        wall_ms=NOW,
    )


def names(shown: Table) -> list[str]:
    return [row.key.name for row, _ in shown.rows]


@pytest.mark.parametrize(
    ("sort", "order", "expected"),
    [
        ("name", "asc", ["alice", "bob", "Émile", "Zoë"]),
        ("name", "desc", ["Zoë", "Émile", "bob", "alice"]),
        ("state", "asc", ["alice", "bob", "Émile", "Zoë"]),
        ("group", "desc", ["bob", "alice", "Émile", "Zoë"]),
        ("limit", "desc", ["Zoë", "alice", "bob", "Émile"]),
        ("requests", "desc", ["alice", "bob", "Émile", "Zoë"]),
        ("tokens", "desc", ["bob", "alice", "Émile", "Zoë"]),
        ("used", "desc", ["bob", "alice", "Émile", "Zoë"]),
        ("expires", "asc", ["Émile", "Zoë", "alice", "bob"]),
    ],
)
def test_the_table_is_sorted_by_any_column_both_ways(
    sort: str, order: str, expected: list[str]
) -> None:
    assert names(table(sort=sort, order=order)) == expected


def test_letters_with_marks_sort_with_those_without() -> None:
    shown = table([named(name) for name in ("Eva", "Zora", "Émile", "Emma", "éa")])
    assert names(shown) == ["éa", "Émile", "Emma", "Eva", "Zora"]


def test_every_column_can_be_sorted_by() -> None:
    for column in COLUMNS:
        shown = table(sort=column.name)
        assert (shown.choice.sort, shown.choice.order) == (column.name, column.first)
        assert len(shown.rows) == len(KEYS)


def test_the_gauge_is_of_the_tightest_limit() -> None:
    gauges = {row.key.name: gauge for row, gauge in table().rows}
    alice = gauges["alice"]
    assert alice is not None
    assert (alice.text, alice.percent, alice.level) == ("60 tokens/2h", 83, "near")
    assert gauges["bob"] is None


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"q": "LI"}, ["alice"]),
        ({"q": "team"}, ["bob"]),
        ({"q": "id-bob"}, ["bob"]),
        ({"q": " "}, ["alice", "bob", "Émile", "Zoë"]),
        ({"state": "disabled"}, ["bob"]),
        ({"state": "expired"}, ["Émile"]),
        ({"state": "exhausted"}, ["Zoë"]),
        ({"state": "enabled"}, ["alice"]),
        ({"q": "bob", "state": "enabled"}, []),
    ],
)
def test_the_table_is_filtered_by_text_and_state(
    query: dict[str, str], expected: list[str]
) -> None:
    shown = table(**query)
    assert names(shown) == expected
    assert (shown.found, shown.total) == (len(expected), len(KEYS))


def test_a_limit_that_others_share_counts() -> None:
    shown = table((named("carol", group="Team"), named("dave")), state="exhausted")
    assert names(shown) == ["carol"]


def test_pages_hold_every_key_once() -> None:
    keys = [named(f"{number:04}") for number in range(2 * PAGE + 1)]
    pages = [table(keys, page=str(page)) for page in (1, 2, 3)]
    assert [name for page in pages for name in names(page)] == [key.name for key in keys]
    assert [page.first for page in pages] == [1, PAGE + 1, 2 * PAGE + 1]
    assert [page.pages for page in pages] == [3, 3, 3]
    for page in ("0", "-1", "x", ""):
        assert table(keys, page=page).choice.page == 1
    assert table(keys, page="99").choice.page == 3


def test_a_table_without_keys_has_one_empty_page() -> None:
    assert (table(()).rows, table(()).pages) == ([], 1)
