"""Reading one's usage is free, so a key reads one thing at a time, whatever it asks for and
whatever state it is in; other keys do not wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio

from opuslive.gateway.admission.bulkheads import READ_PLACES, RETRY_AFTER
from opuslive.storage import open_storage
from opuslive.storage.sqlite.store import SQLiteStorage
from opuslive.times import HOUR_MS
from opuslive.usage import EXPORT_COLUMNS, TokenCounts, UsageRecord
from opuslive.web.holders.usage import EXPORT_SLICE
from opuslive.web.parameters import MAX_DAYS_BY_HOUR
from tests.support.app import App, Apps
from tests.support.provider import ScriptedUpstream
from tests.support.waiting import eventually, soon
from tests.support.wire import Answer

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: Records of each key: so many slices of an export.
SLICES = 15
FORM = [("Content-Type", "application/x-www-form-urlencoded")]


async def api(gateway: App, key: str, target: str) -> Answer:
    return await gateway.request("GET", target, key=key)


async def page(gateway: App, key: str, target: str) -> Answer:
    body = f"key={key}".encode()
    return await gateway.request("POST", target, body=body, headers=FORM)


#: Everything that reads a key's usage.
READS: list[tuple[Callable[[App, str, str], Awaitable[Answer]], str]] = [
    (api, "/v1/usage"),
    (api, "/v1/usage?by=hour"),
    (api, "/v1/usage/export"),
    (page, "/usage"),
    (page, "/usage/export"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def history(provider: ScriptedUpstream) -> AsyncIterator[tuple[App, list[str]]]:
    """A gateway, and keys with a past."""
    apps = Apps()
    server = apps.make(provider.base_url)
    made = [await server.create_key(name) for name in ("one", "other")]
    now = int(datetime.now(UTC).timestamp() * 1000)
    storage = await open_storage(f"sqlite://{server.database}")
    for key in made:
        for number in range(SLICES * EXPORT_SLICE):
            time = now - HOUR_MS + number
            storage.add_record(UsageRecord(key["id"], time, None, 200, 1, TokenCounts(number)))
    await storage.flush()
    await storage.close()
    await server.start()
    yield server, [key["key"] for key in made]
    await apps.close()


def at_rest(server: App) -> Any:
    """Nothing is read from the store inside."""
    storage = server.gateway.storage
    assert isinstance(storage, SQLiteStorage)
    return storage._reader.at_rest()


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize(("ask", "target"), READS, ids=[target for _, target in READS])
async def test_a_key_that_reads_too_much_at_once_is_told_so(
    history: tuple[App, list[str]],
    ask: Callable[[App, str, str], Awaitable[Answer]],
    target: str,
    enabled: bool,
) -> None:
    server, (one, other) = history
    await server.admin("PATCH", "keys", "one", enabled=enabled)
    async with at_rest(server):
        reads = [asyncio.ensure_future(ask(server, one, target)) for _ in range(20)]
        await eventually(lambda: sum(read.done() for read in reads) == 20 - READ_PLACES)
        refused = [read.result() for read in reads if read.done()]
        others = asyncio.ensure_future(ask(server, other, target))
    for answer in refused:
        assert answer.status == 429
        assert answer.header("retry-after") == str(RETRY_AFTER)
        assert f"is being read {READ_PLACES} times already" in answer.body.decode()
    answers = await soon(asyncio.gather(*reads, others))
    assert [answer.status for answer in answers].count(200) == READ_PLACES + 1
    assert (await ask(server, one, target)).status == 200


async def test_another_key_waits_for_one_of_many_exports_at_a_time(
    history: tuple[App, list[str]],
) -> None:
    """It comes last, and takes as many turns as all of the others together."""
    server, (one, other) = history
    many = [asyncio.ensure_future(api(server, one, "/v1/usage/export")) for _ in range(READ_PLACES)]
    last = asyncio.ensure_future(api(server, other, "/v1/usage/export"))
    answer = await soon(last)
    assert not any(export.done() for export in many)
    assert answer.body.count(b"\n") == 1 + SLICES * EXPORT_SLICE
    for each in await soon(asyncio.gather(*many)):
        assert each.body == answer.body


async def test_a_key_without_a_past_exports_nothing(history: tuple[App, list[str]]) -> None:
    server, _ = history
    key = await server.holder()
    exported = await api(server, key, "/v1/usage/export")
    assert exported.body == ",".join(EXPORT_COLUMNS).encode() + b"\r\n"
    assert (await api(server, key, "/v1/usage/export?format=jsonl")).body == b""


class TestRange:
    """A series by hour has an end, whoever asks for it; others have few points."""

    @pytest.mark.parametrize("since", ["32d", "3y", "2020-01-01", "1970-01-01T00:00:00Z"])
    async def test_a_series_by_hour_of_more_than_a_month_is_refused_with_the_remedy(
        self, history: tuple[App, list[str]], since: str
    ) -> None:
        server, (one, _) = history
        since = since.replace("3y", f"{3 * 365}d")
        answer = await api(server, one, f"/v1/usage?by=hour&since={since}")
        assert answer.error == (400, "invalid_request_error")
        assert answer.message == (
            f"A series by hour has {MAX_DAYS_BY_HOUR} days at most; ask for it by day, or since "
            f"{MAX_DAYS_BY_HOUR}d."
        )
        for by in ("day", "model"):
            assert (await api(server, one, f"/v1/usage?by={by}&since={since}")).status == 200

    async def test_a_series_by_hour_of_a_month_is_answered(
        self, history: tuple[App, list[str]]
    ) -> None:
        server, (one, _) = history
        answer = await api(server, one, f"/v1/usage?by=hour&since={MAX_DAYS_BY_HOUR}d")
        assert answer.status == 200
        assert sum(point["requests"] for point in answer.json()["series"]) == SLICES * EXPORT_SLICE

    async def test_the_administrators_has_the_same_end(
        self, history: tuple[App, list[str]]
    ) -> None:
        server, _ = history
        refused = await server.run("usage", "--by", "hour", "--since", "90d")
        assert "by hour has 31 days" in refused.complaint
        assert (await server.run("usage", "--by", "hour", "--since", "31d")).status == 0
