"""``/metrics`` says what happened, and names nobody. Who may see it: ``test_metrics_gate``."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from opuslive.storage.sqlite.store import SQLiteStorage
from tests.support.app import App, Apps
from tests.support.provider import (
    STALL,
    STREAM_HEAD,
    Request,
    Script,
    ScriptedUpstream,
    anthropic_answer,
    anthropic_events,
    chunk,
    json_answer,
)
from tests.support.rig import held_disk
from tests.support.scrapes import (
    BEARER,
    VARIABLE,
    Scraped,
    check_with_promtool,
    scrape,
    start_with_token,
)
from tests.support.waiting import eventually, soon
from tests.support.wire import message_body, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")

CANARY = "kanarienvogel"


def storage_of(app: App) -> SQLiteStorage:
    storage = app.gateway.storage
    assert isinstance(storage, SQLiteStorage)
    return storage


class TestWhatIsShown:
    async def test_no_content_and_no_name_of_anybody(
        self, apps: Apps, upstream: ScriptedUpstream
    ) -> None:
        app = await start_with_token(apps, upstream, metrics={"token_env": VARIABLE, "keys": True})
        key = await app.holder(name=f"{CANARY} the holder", group=f"{CANARY} the group")
        body = message_body(
            f"claude-{CANARY}",
            messages=[{"role": "user", "content": CANARY}],
            metadata={"user_id": CANARY},
        )
        headers = [("User-Agent", CANARY), (f"X-{CANARY}", "1")]
        upstream.will(anthropic_answer({}), json_answer({"error": CANARY}, status=500))
        for _ in range(2):
            await app.messages(key, body, headers)
        target = f"/v1/messages?{CANARY}=1"
        answer = await app.request("POST", target, key=key, body=message_body(CANARY))
        assert answer.status == 404
        shown = await scrape(app)
        assert shown.total("opuslive_key_requests_total") == 3
        for secret in (CANARY, key, key.rpartition("-")[2], app.database.name):
            assert secret not in shown.text

    async def test_no_key_unless_that_is_configured(
        self, apps: Apps, upstream: ScriptedUpstream
    ) -> None:
        app = await start_with_token(apps, upstream)
        key = await app.holder()
        await app.messages(key, message_body())
        key_id = key.split("-")[-2]
        shown = await scrape(app)
        assert "opuslive_key_" not in shown.text
        assert key_id not in shown.text

    async def test_a_deleted_keys_series_go_at_once_also_while_its_request_runs(
        self, apps: Apps, upstream: ScriptedUpstream
    ) -> None:
        app = await start_with_token(apps, upstream, metrics={"token_env": VARIABLE, "keys": True})
        key, other = await app.holder(), await app.holder()
        key_id = key.split("-")[-2]
        for holder in (key, other):
            await app.messages(holder, message_body())
        assert (await scrape(app)).value(
            "opuslive_key_requests_total", key=key_id, status="200"
        ) == 1
        upstream.will([STREAM_HEAD, *map(chunk, anthropic_events("one two")[:4]), STALL])
        async with app.asking(key, message_body(stream=True)) as wire:
            await soon(wire.until(b"content_block_delta"))
            with held_disk(storage_of(app)):
                deletion = asyncio.ensure_future(app.admin("DELETE", "keys", key_id))
                await eventually(lambda: len(app.gateway.holders) == 1)
                # Its records are still there, and the request may not have ended.
                assert not deletion.done()
                assert key_id not in (await scrape(app)).text
            await soon(deletion)
        shown = await scrape(app)
        assert key_id not in shown.text
        assert shown.total("opuslive_key_requests_total") == 1
        # No sum falls: what looks like a restart would spoil every rate.
        assert shown.total("opuslive_requests_total") == 3

    async def test_what_runs_and_what_waits(self, apps: Apps, upstream: ScriptedUpstream) -> None:
        app = await start_with_token(apps, upstream, limits={"max_wait": "10m"})
        key = await app.holder(limits=["1 concurrent"])
        upstream.will([STALL])
        async with app.asking(key, message_body()):
            await soon(upstream.request())
            async with app.asking(key, message_body()):
                await eventually(lambda: app.gateway.admission.waiting)
                shown = await scrape(app)
                assert shown.value("opuslive_in_flight_requests") == 2
                assert shown.value("opuslive_waiting_requests") == 1
                connections = shown.value(
                    "opuslive_upstream_connections", upstream="provider", state="busy"
                )
                assert connections == 1

    async def test_whose_limit_refused(self, apps: Apps, upstream: ScriptedUpstream) -> None:
        limits = {"gateway": ["2 requests/day"], "groups": {"some": ["1 requests/day"]}}
        app = await start_with_token(apps, upstream, limits=limits)
        key, other = await app.holder(group="some"), await app.holder()
        asked = [await app.messages(holder, message_body()) for holder in (key, key, other, other)]
        assert [answer.status for answer in asked] == [200, 429, 200, 429]
        shown = await scrape(app)
        for scope in ("group", "gateway"):
            labels = {"metric": "requests", "scope": scope}
            assert shown.value("opuslive_limit_refusals_total", **labels) == 1
        assert shown.total("opuslive_limit_refusals_total") == 2

    async def test_a_record_that_waits_for_the_disk(
        self, apps: Apps, upstream: ScriptedUpstream
    ) -> None:
        app = await start_with_token(apps, upstream)
        key = await app.holder()
        oldest = "opuslive_storage_oldest_unwritten_record_timestamp_seconds"
        with held_disk(storage_of(app)):
            async with app.asking(key, message_body()):
                await eventually(lambda: app.gateway.storage.unwritten.records)
                shown = await scrape(app)
                assert shown.value("opuslive_storage_unwritten_records") == 1
                assert (shown.value(oldest) or 0) <= app.gateway.clock.wall_ms() / 1000
        await app.gateway.storage.flush()
        shown = await scrape(app)
        assert shown.value("opuslive_storage_unwritten_records") == 0
        assert shown.labels(oldest) == []
        assert (shown.value("opuslive_storage_commit_records_sum") or 0) >= 1
        assert (shown.value("opuslive_storage_commit_seconds_count") or 0) >= 1

    async def test_a_server_that_drains_shows_it(
        self, apps: Apps, upstream: ScriptedUpstream
    ) -> None:
        app = await start_with_token(apps, upstream)
        key, cut = await app.holder(), asyncio.Event()
        upstream.will([STALL])
        async with app.asking(key, message_body()), await app.connect() as monitor:
            await soon(upstream.request())
            asked = request_bytes("GET", "/metrics", headers=[("Authorization", BEARER)])
            ready = []
            ending = None
            for _ in range(2):
                await monitor.send(asked)
                answer = await monitor.answer()
                ready.append(Scraped(answer.body.decode()).value("opuslive_ready"))
                if ending is None:
                    ending = asyncio.ensure_future(app.drain(cut))
                    await eventually(lambda: app.gateway.exchanges.draining)
            assert ready == [1, 0]
            cut.set()
            assert ending is not None
            await soon(ending)

    async def test_a_restart_begins_anew(self, apps: Apps, upstream: ScriptedUpstream) -> None:
        app = await start_with_token(apps, upstream)
        key = await app.holder()
        await app.messages(key, message_body())
        assert (await scrape(app)).total("opuslive_requests_total") == 1
        await app.stop()
        await app.start()
        shown = await scrape(app)
        assert shown.total("opuslive_requests_total") == 0
        assert shown.value("opuslive_keys") == 1


async def test_the_counts_are_those_of_the_records(apps: Apps, upstream: ScriptedUpstream) -> None:
    """Requests of all kinds at once: whatever becomes of them, counts and records agree."""
    app = await start_with_token(apps, upstream, metrics={"token_env": VARIABLE, "keys": True})
    chance = random.Random(7)
    upstream.always(lambda request: _some_answer(request, chance))
    keys = [
        await app.holder(),
        await app.holder(limits=["12 requests/total"]),
        await app.holder(limits=["150 tokens/total"]),
        await app.holder(models=["claude-other-*"]),
    ]

    async def client(number: int) -> None:
        mine = random.Random(number)
        for _ in range(12):
            key = mine.choice(keys)
            model = mine.choice(["claude-test-1", "claude-opus-4-8", "canary"])
            body = message_body(model, stream=mine.random() < 0.5)
            if mine.random() < 0.1:
                body = b"not JSON"
            async with app.asking(key, body) as wire:
                if mine.random() < 0.2:
                    continue  # It leaves.
                await wire.head()

    await soon(asyncio.gather(*map(client, range(8))))
    await eventually(lambda: app.gateway.exchanges.running == 0)
    await app.gateway.storage.flush()
    records = [record for key in keys for record in await app.records(key)]
    recorded = Counter(str(record["status"]) for record in records)
    shown = await scrape(app)
    unrecorded = shown.value("opuslive_unrecorded_refusals_total")
    assert unrecorded
    assert len({*recorded}) > 3
    total = shown.total("opuslive_requests_total")
    assert total == sum(recorded.values()) + unrecorded
    assert shown.total("opuslive_key_requests_total") == total
    for status, count in recorded.items():
        assert shown.total("opuslive_requests_total", status=status) >= count
    for kind in ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h"):
        used = sum(record[f"{kind}_tokens"] for record in records)
        assert shown.total("opuslive_tokens_total", kind=kind) == used
        assert shown.total("opuslive_key_tokens_total", kind=kind) == used
    sent = [record["latency_ms"] for record in records if record["latency_ms"] is not None]
    assert shown.total("opuslive_upstream_latency_seconds_count") == len(sent)
    latency = shown.total("opuslive_upstream_latency_seconds_sum")
    # A record has whole ms.
    assert latency == pytest.approx(sum(sent) / 1000, abs=len(sent) / 1000)
    assert shown.total("opuslive_added_latency_seconds_count") == len(sent)
    assert shown.total("opuslive_storage_commit_records_sum") >= len(records)
    refused = shown.total("opuslive_limit_refusals_total")
    assert refused == shown.total("opuslive_requests_total", status="429")
    check_with_promtool(shown.text)


def _some_answer(request: Request, chance: random.Random) -> Script:
    if chance.random() < 0.1:
        return json_answer({"error": {"type": "api_error", "message": "no"}}, status=500)
    if chance.random() < 0.1:
        return json_answer({"error": {"type": "invalid_request_error"}}, status=400)
    return anthropic_answer(
        {"stream": b'"stream": true' in request.body}, cache_read_input_tokens=3
    )
