"""The file of records that an administrator gets: whose they are, which, and that it is whole."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from typing import Any

import aiohttp
import pytest

from opuslive.administration.keys import KeyChanges
from opuslive.administration.records import RECORD_COLUMNS, SLICE
from opuslive.bootstrap import Gateway
from opuslive.config.sections import AdminConfig, Config
from opuslive.storage import StorageUnavailable
from opuslive.times import DAY_MS, HOUR_MS
from opuslive.usage import TokenCounts, UsagePart, UsageRecord
from tests.support.admin_pages import HASH, RIGHT
from tests.support.app import OpenApp
from tests.support.clock import NOW

CONFIG = Config(admin=AdminConfig(password_hash=HASH))
SIGNED_IN = {"Authorization": RIGHT}
TOKENS = TokenCounts(1, 20, 300, 4_000, 50_000)


async def fill(gateway: Gateway) -> Sequence[str]:
    """Three keys, two of them in a group, with records of three days; returns their ids."""
    ids = []
    for name, group in (("one", None), ("=two", "friends"), ("three", "friends")):
        changes = KeyChanges(name=name, set_group=True, group=group)
        key, _ = await gateway.administration.create(changes)
        ids.append(key.id)
    parts = (UsagePart("claude-haiku-4-5", TokenCounts(7)),)
    for day in range(3):
        at = NOW - day * DAY_MS
        gateway.storage.add_record(UsageRecord(ids[0], at, "claude-opus-4-8", 200, 9, TOKENS))
        gateway.storage.add_record(UsageRecord(ids[1], at, None, 429, None))
        gateway.storage.add_record(UsageRecord(ids[2], at, "x", 200, 5, TOKENS, parts=parts))
    await gateway.storage.flush()
    return ids


async def test_every_record_has_the_id_and_the_name_of_its_key(open_app: OpenApp) -> None:
    gateway, client = await open_app(CONFIG)
    ids = await fill(gateway)
    answer = await client.get("/admin/api/records", headers=SIGNED_IN)
    assert answer.content_type == "text/csv"
    assert answer.headers["content-disposition"] == 'attachment; filename="opuslive-records.csv"'
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-expected-records"] == "9"
    head, *rows = csv.reader((await answer.text()).splitlines())
    assert tuple(head) == RECORD_COLUMNS
    assert head[:2] == ["key_id", "key_name"]
    assert [row[0] for row in rows] == [ids[0]] * 3 + [ids[1]] * 3 + [ids[2]] * 6
    # No name is a formula to a spreadsheet.
    assert {row[1] for row in rows} == {"one", "'=two", "three"}
    assert rows[0][2:] == [
        "2026-11-21T15:04:05.123Z",
        *("claude-opus-4-8", "200", "9", "1", "20", "300", "4000", "50000"),
    ]
    assert [row[2] for row in rows[:3]] == sorted(row[2] for row in rows[:3])


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("keys=one", {"one": 3}),
        ("keys=one&keys=three&keys=one", {"one": 3, "three": 6}),
        ("group=friends", {"=two": 3, "three": 6}),
        ("keys=one&since=2026-11-22&until=2026-11-22", {"one": 1}),
        ("since=2026-11-23", {"one": 1, "=two": 1, "three": 2}),
        ("until=2026-11-21T16:00:00Z", {"one": 1, "=two": 1, "three": 2}),
    ],
)
async def test_the_records_are_those_that_were_asked_for(
    open_app: OpenApp, query: str, expected: dict[str, int]
) -> None:
    gateway, client = await open_app(CONFIG)
    await fill(gateway)
    target = f"/admin/api/records?format=jsonl&{query}"
    answer = await client.get(target, headers=SIGNED_IN)
    assert answer.status == 200, await answer.text()
    assert answer.content_type == "application/jsonl"
    rows: list[dict[str, Any]] = [json.loads(line) for line in (await answer.text()).splitlines()]
    assert all(tuple(row) == RECORD_COLUMNS for row in rows)
    found = {name: sum(row["key_name"] == name for row in rows) for name in expected}
    assert (found, len(rows)) == (expected, sum(expected.values()))


@pytest.mark.parametrize(
    ("query", "status", "says"),
    [
        ("keys=nobody", 404, "There is no key with this id"),
        ("group=nobody", 404, "No key is in this group"),
        ("group=friends&keys=one", 400, "not both"),
        ("format=xml", 400, "'format' is one of: csv, jsonl."),
        ("format=csv&format=csv", 400, "twice"),
    ],
)
async def test_what_is_wrong_is_said_before_a_file_begins(
    open_app: OpenApp, query: str, status: int, says: str
) -> None:
    gateway, client = await open_app(CONFIG)
    await fill(gateway)
    answer = await client.get(f"/admin/api/records?{query}", headers=SIGNED_IN)
    assert answer.status == status
    assert says in (await answer.json(content_type=None))["detail"]


async def test_nobody_gets_them_without_the_password(open_app: OpenApp) -> None:
    _, client = await open_app(CONFIG)
    assert (await client.get("/admin/api/records")).status == 401


async def test_many_records_are_all_there_once(open_app: OpenApp) -> None:
    gateway, client = await open_app(CONFIG)
    (key, _), number = await gateway.administration.create(KeyChanges(name="a")), 2 * SLICE + 1
    for at in range(number):
        gateway.storage.add_record(UsageRecord(key.id, NOW - at % 700, None, 200, at, TOKENS))
    await gateway.storage.flush()
    answer = await client.get("/admin/api/records", headers=SIGNED_IN)
    rows = list(csv.DictReader((await answer.text()).splitlines()))
    assert sorted(int(row["latency_ms"]) for row in rows) == list(range(number))


async def test_a_file_that_can_not_be_completed_does_not_look_complete(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway, client = await open_app(CONFIG)
    key, _ = await gateway.administration.create(KeyChanges(name="a"))
    for at in range(SLICE + 1):
        gateway.storage.add_record(UsageRecord(key.id, NOW - HOUR_MS + at, None, 200, 1, TOKENS))
    await gateway.storage.flush()
    answer = await client.get("/admin/api/records", headers=SIGNED_IN)
    assert len((await answer.text()).splitlines()) == SLICE + 2
    written, calls = gateway.storage.written_records, 0

    async def failing(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise StorageUnavailable
        return await written(*arguments, **named)

    monkeypatch.setattr(gateway.storage, "written_records", failing)
    answer = await client.get("/admin/api/records", headers=SIGNED_IN)
    with pytest.raises(aiohttp.ClientError):
        await answer.text()
