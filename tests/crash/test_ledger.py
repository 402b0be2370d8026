"""The ledger finds what is wrong: a checker that can't fail would prove nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.support.ledger import Asked, Ending, HeldKey, Ledger, Life, Row


@pytest.fixture
def key() -> HeldKey:
    return HeldKey("holder-1", "abcdefgh", "", Life.CONFIRMED, {"friends"})


@pytest.fixture
def ledger(key: HeldKey) -> Ledger:
    ledger = Ledger()
    ledger.keys.append(key)
    return ledger


def row_of(asked: Asked) -> Row:
    tokens = asked.tokens
    names = ("input_tokens", "output_tokens", "cache_read_input_tokens")
    counts = (*(tokens[name] for name in names), tokens["cache_creation_input_tokens"], 0)
    return Row(asked.key, 1, None, 200, 5, counts)


def test_a_sound_database_has_no_problem(ledger: Ledger, key: HeldKey) -> None:
    complete, cut = ledger.ask(key, Ending.WHOLE), ledger.ask(key, Ending.WHOLE)
    complete.complete = 200
    assert ledger.compare([row_of(complete)]) == []
    assert ledger.compare([row_of(complete), replace(row_of(cut), status=503)]) == []
    assert ledger.settle_keys({"abcdefgh": ("holder-1.", "friends")}) == []


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        (lambda row: [], "has no record"),
        (lambda row: [row, row], "has 2 records"),
        (lambda row: [replace(row, key="other")], "another key"),
        (lambda row: [replace(row, status=503)], "is recorded with 503"),
        (lambda row: [replace(row, counts=(9, *row.counts[1:]))], "is recorded with (9,"),
        (lambda row: [replace(row, counts=(row.counts[0], 1, *row.counts[2:]))], "recorded with"),
        (
            lambda row: [row, replace(row, counts=(*row.counts[:2], row.counts[2] + 7, 0, 0))],
            "records of no request: [8]",
        ),
    ],
)
def test_a_wrong_record_is_a_problem(
    ledger: Ledger, key: HeldKey, rows: Callable[[Row], list[Row]], complaint: str
) -> None:
    asked = ledger.ask(key, Ending.WHOLE)
    asked.complete = 200
    assert complaint in " ".join(ledger.compare(rows(row_of(asked))))


def test_an_error_that_was_seen_needs_its_record(ledger: Ledger, key: HeldKey) -> None:
    asked = ledger.ask(key, Ending.FAULT)
    row = Row("abcdefgh", 1, None, 529, 5, (0, 0, 0, 0, 0))
    assert ledger.compare([row]) == []
    assert ledger.compare([]) == []
    asked.complete = 529
    assert ledger.compare([]) != []
    assert ledger.compare([row, row]) != []


def test_keys_that_are_missing_or_left_are_problems(ledger: Ledger, key: HeldKey) -> None:
    assert ledger.settle_keys({}) == ["holder-1 is gone"]
    assert ledger.settle_keys({"abcdefgh": ("holder-1.", None)}) == ["holder-1 has lost a change"]
    asked = ledger.ask(key, Ending.WHOLE)
    asked.complete = 200
    key.life = Life.DELETING
    assert ledger.settle_keys({}) == []
    assert list(ledger.traces()) == []
    ledger.started()
    assert len(list(ledger.traces())) == 2
    assert len(list(ledger.erased_rows())) == 1
    assert ledger.compare([row_of(asked)]) == ["request 1 of a deleted key has a record"]
    back = ledger.settle_keys({"abcdefgh": ("holder-1.", "friends")})
    assert "holder-1 was deleted and is there" in back


def test_a_long_request_without_an_open_record_is_a_problem(ledger: Ledger, key: HeldKey) -> None:
    lasting, short = (ledger.ask(key, Ending.ENDLESS, now) for now in (1.0, 2.0))
    lasting.began, short.began = 1.0, 2.0
    ledger.ask(key, Ending.WHOLE, 2.9).complete = 200
    row = replace(row_of(lasting), status=None)
    whole = row_of(ledger.asked(3))
    assert ledger.died() == 1
    assert ledger.compare([whole]) == ["request 1 (endless) ran for long and has no record"]
    assert ledger.compare([whole, row]) == []
    ledger.started()
    assert ledger.compare([whole, replace(row, status=503)]) == []
    assert ledger.compare([whole, row]) != []
    assert ledger.compare([whole, replace(row, status=200)]) != []
