"""A check finds what is wrong, says it in a sentence, and changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from opuslive.storage.sqlite.store import SQLiteStorage
from opuslive.times import DAY_MS, HOUR_MS
from opuslive.usage import TokenCounts, UsagePart
from tests.support.clock import NOW
from tests.support.keys import TOKENS, a_key, a_record, a_refusal
from tests.support.waiting import eventually


@pytest.fixture
async def filled(database: Path) -> Path:
    """A database with what makes sums interesting, which nobody has open."""
    store = await SQLiteStorage.open(database, retry_delay=0)
    await store.add_key(a_key(1, group="friends"))
    await store.add_key(a_key(2))
    await store.add_key(a_key(3))
    parts = (UsagePart("claude-haiku-4-5", TOKENS), UsagePart(None, TOKENS))
    records = [
        a_record(1, time=NOW + HOUR_MS * hour, latency_ms=90 * 60_000, parts=parts)
        for hour in range(0, 60, 7)
    ]
    records += [a_refusal(1, time=NOW + 5), a_record(2, model=None), a_record(2, latency_ms=0)]
    records += [a_record(2, time=NOW + 40 * DAY_MS, tokens=TokenCounts())]
    await asyncio.gather(*(store.add_record(record) for record in records))
    store.keep_open(a_record(2, status=None))
    await store.update_key(a_key(1, group="others"), at=NOW)
    await store.close()
    return database


async def check(database: Path, *, quick: bool = False) -> Sequence[str]:
    store = await SQLiteStorage.open(database, retry_delay=0)
    try:
        return await store.maintenance.check(quick=quick, progress=lambda part: None)
    finally:
        await store.close()


def change(database: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


async def test_a_sound_database_has_no_finding(filled: Path) -> None:
    assert await check(filled) == []
    assert await check(filled, quick=True) == []


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("DELETE FROM usage WHERE key = 2 AND model IS NULL", "a model that is not kept"),
        ("UPDATE usage SET output_tokens = 21 WHERE latency_ms = 0", "output tokens by -1"),
        ("UPDATE hourly SET requests = requests + 2", "requests by +2"),
        ("UPDATE hourly SET refusals = refusals + 1", "refusals by +1"),
        ("UPDATE hourly SET cut = cut + 1", "cut by +1"),
        ("UPDATE usage SET status = 400 WHERE key = 2", "client errors by -2"),
        ("UPDATE daily SET upstream_errors = 2 WHERE key = 1", "upstream errors by +2"),
        ("UPDATE hourly SET latency_1s = latency_1s + 1 WHERE key = 2", "latency 1s by +1"),
        ("DELETE FROM hourly WHERE key = 1 AND model = 'claude-haiku-4-5'", "differs from its"),
        ("UPDATE parts SET input_tokens = 9 WHERE model IS NULL", "input tokens by -8"),
        ("UPDATE daily SET input_tokens = 0 WHERE key = 2", "the sums of its hours: input tokens"),
        ("UPDATE daily SET tier = 3", "on the day from 2026-11-23 00:00 UTC"),
        ("UPDATE totals SET last_used_at = 7 WHERE key = 2", "'name of 2' in all differs"),
        ("DELETE FROM totals WHERE key = 1", "'name of 1' in all differs"),
        ("DELETE FROM keys WHERE key = 2", "rows of 'usage' belong to no key"),
        ("UPDATE parts SET seq = 9", "18 parts of requests belong to no request"),
        ("UPDATE keys SET models = '{' WHERE key = 3", "The key with the number 3 can't be read"),
        ("UPDATE keys SET group_name = 'x' WHERE key = 3", "in another group than its last change"),
    ],
)
async def test_what_does_not_fit_together_is_told(
    filled: Path, statement: str, expected: str
) -> None:
    change(filled, statement)
    found = await check(filled)
    assert any(expected in finding for finding in found), found
    assert await check(filled) == found
    assert all(finding.endswith(".") for finding in found)


async def test_damage_is_told_with_an_index_only_by_the_whole_check(filled: Path) -> None:
    change(
        filled,
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET sql = replace(sql, 'status IS NULL', 'status IS NOT NULL') "
        "WHERE name = 'open_usage'",
    )
    assert await check(filled, quick=True) == []
    found = await check(filled)
    assert found
    assert all(finding.startswith("The file is damaged: ") for finding in found)


async def test_many_findings_of_one_kind_are_counted(database: Path) -> None:
    store = await SQLiteStorage.open(database, retry_delay=0)
    for number in range(1, 31):
        await store.add_key(a_key(number))
        await store.add_record(a_record(number))
    await store.close()
    change(database, "UPDATE totals SET requests = 7")
    found = await check(database)
    assert len(found) == 11
    assert found[-1] == "The same goes for 20 more sums."


async def test_it_goes_on_beside_commits_and_begins_again_after_a_deletion(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await SQLiteStorage.open(database, retry_delay=0)
    for number in (1, 2):
        await store.add_key(a_key(number))
    await asyncio.gather(*(store.add_record(a_record(time=NOW + i)) for i in range(2000)))
    told: list[float] = []
    begun = 0
    read = store._jobs._read

    def counted(*arguments: object) -> object:
        nonlocal begun
        begun += 1
        result: Callable[..., object] = read(*arguments)  # type: ignore[arg-type]
        if begun == 1:
            arguments[1]._stop.wait()  # type: ignore[attr-defined]
            arguments[1].check()  # type: ignore[attr-defined]
        return result

    monkeypatch.setattr(store._jobs, "_read", counted)
    checking = asyncio.create_task(store.maintenance.check(quick=False, progress=told.append))
    await eventually(lambda: begun == 1)
    await store.add_record(a_record(2))
    await store.delete_key(a_key(1).id)
    assert await checking == []
    assert begun == 2
    assert told[-1] == 1.0
    await store.close()
