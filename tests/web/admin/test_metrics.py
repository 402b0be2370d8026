"""``/metrics``: who may see it, and that it says what happened and names nobody."""

from __future__ import annotations

import asyncio
import base64
import random
from collections import Counter
from typing import Any

import pytest

from opuslive.storage.sqlite.store import SQLiteStorage
from tests.support.admin_pages import HASH, RIGHT, WRONG
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
    TOKEN,
    VARIABLE,
    Scraped,
    check_with_promtool,
    read_open_metrics,
    scrape,
)
from tests.support.waiting import eventually, soon
from tests.support.wire import Answer, message_body, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")

CANARY = "kanarienvogel"
ADMIN = {"password_hash": HASH}


async def start(apps: Apps, upstream: ScriptedUpstream, **sections: Any) -> App:
    """A gateway with a token and a password, unless ``sections`` say otherwise."""
    more = {"admin": ADMIN, "metrics": {"token_env": VARIABLE}} | sections
    app = apps.make(upstream.base_url, **more)
    app.environ[VARIABLE] = TOKEN
    await app.start()
    return app


async def ask(app: App, authorization: str | None, method: str = "GET", **headers: str) -> Answer:
    sent = [] if authorization is None else [("Authorization", authorization)]
    sent += [(name.replace("_", "-"), value) for name, value in headers.items()]
    return await app.request(method, "/metrics", headers=sent)


def storage_of(app: App) -> SQLiteStorage:
    storage = app.gateway.storage
    assert isinstance(storage, SQLiteStorage)
    return storage


class TestWhoMaySee:
    @pytest.mark.parametrize("authorization", [BEARER, f"bearer  {TOKEN} ", RIGHT])
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    async def test_who_has_the_token_or_the_password(
        self, apps: Apps, upstream: ScriptedUpstream, authorization: str, method: str
    ) -> None:
        app = await start(apps, upstream)
        answer = await ask(app, authorization, method)
        assert answer.status == 200
        assert answer.header("cache-control") == "no-store"
        assert answer.header("x-content-type-options") == "nosniff"
        assert answer.header("request-id")
        assert bool(answer.body) is (method == "GET")

    @pytest.mark.parametrize(
        "authorization",
        [
            None,
            "",
            "Bearer",
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN[:-1]}",
            f"Bearer {TOKEN.upper()}",
            f"Token {TOKEN}",
            TOKEN,
            "Basic " + base64.b64encode(f"admin:{TOKEN}".encode()).decode(),
            "Bearer a long password",
            "Bearer \xe4\xff",
            "Bearer " + "x" * 6_000,
            WRONG,
        ],
    )
    async def test_nobody_else(
        self, apps: Apps, upstream: ScriptedUpstream, authorization: str | None
    ) -> None:
        app = await start(apps, upstream)
        answer = await ask(app, authorization)
        assert answer.status == 401
        assert answer.header("content-type") == "application/problem+json"
        assert "Basic realm=" in (answer.header("www-authenticate") or "")
        assert TOKEN.encode() not in answer.body

    async def test_two_credentials_are_none(self, apps: Apps, upstream: ScriptedUpstream) -> None:
        app = await start(apps, upstream)
        sent = [("Authorization", BEARER), ("Authorization", RIGHT)]
        assert (await app.request("GET", "/metrics", headers=sent)).status == 401

    async def test_a_key_of_a_holder_opens_nothing(
        self, apps: Apps, upstream: ScriptedUpstream
    ) -> None:
        app = await start(apps, upstream)
        key = await app.holder()
        assert (await app.request("GET", "/metrics", key=key)).status == 401
        assert (await ask(app, f"Bearer {key}")).status == 401

    async def test_the_token_opens_nothing_else(
        self, apps: Apps, upstream: ScriptedUpstream
    ) -> None:
        app = await start(apps, upstream)
        headers = [("Authorization", BEARER)]
        for path in ("/admin", "/admin/api/status", "/v1/usage", "/v1/models"):
            assert (await app.request("GET", path, headers=headers)).status == 401, path

    async def test_without_a_token_the_password_alone_opens(
        self, apps: Apps, upstream: ScriptedUpstream
    ) -> None:
        app = await start(apps, upstream, metrics={})
        answers = [await ask(app, auth) for auth in (RIGHT, BEARER, None, "Bearer ")]
        assert [answer.status for answer in answers] == [200, 401, 401, 401]
        assert (answers[1].header("www-authenticate") or "").startswith("Basic ")

    async def test_without_a_password_the_token_alone_opens(
        self, apps: Apps, upstream: ScriptedUpstream
    ) -> None:
        app = await start(apps, upstream, admin={})
        answers = [await ask(app, auth) for auth in (BEARER, RIGHT, None)]
        assert [answer.status for answer in answers] == [200, 401, 401]
        assert answers[1].header("www-authenticate") == 'Bearer realm="OpusLive metrics"'

    async def test_without_both_nobody_may_and_is_told_how(
        self, apps: Apps, upstream: ScriptedUpstream
    ) -> None:
        app = await start(apps, upstream, admin={}, metrics={})
        for authorization in (BEARER, RIGHT, None):
            answer = await ask(app, authorization)
            assert answer.status == 404
            assert "[metrics] token_env" in answer.json()["detail"]

    async def test_guesses_are_bounded_and_hold_up_neither_token_nor_password(
        self, apps: Apps, upstream: ScriptedUpstream
    ) -> None:
        app = await start(apps, upstream)
        assert (await ask(app, RIGHT)).status == 200
        statuses = [(await ask(app, f"Bearer guess {n}")).status for n in range(12)]
        assert statuses == [401] * 10 + [429] * 2
        assert (await ask(app, WRONG)).status == 429
        assert int((await ask(app, "Bearer guess")).header("retry-after") or "") > 50
        assert (await ask(app, BEARER)).status == 200
        assert (await ask(app, RIGHT)).status == 200

    async def test_other_methods_are_refused(self, apps: Apps, upstream: ScriptedUpstream) -> None:
        app = await start(apps, upstream)
        for method in ("POST", "DELETE", "OPTIONS"):
            assert (await ask(app, BEARER, method)).status == 405

    async def test_any_host_may_be_named(self, apps: Apps, upstream: ScriptedUpstream) -> None:
        app = await start(apps, upstream, server={"public_url": "https://ai.example.com"})
        request = f"GET /metrics HTTP/1.1\r\nHost: monitored.example\r\nAuthorization: {BEARER}\r\n"
        async with await app.connect() as wire:
            await wire.send(request.encode() + b"\r\n")
            assert (await wire.answer()).status == 200


class TestFormats:
    #: What Prometheus 3 sends.
    PROMETHEUS = (
        "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
        "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;"
        "escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
    )

    @pytest.mark.parametrize(
        "accept", [PROMETHEUS, "application/openmetrics-text; version=nonsense; escaping=\xff"]
    )
    async def test_open_metrics_for_who_accepts_them(
        self, apps: Apps, upstream: ScriptedUpstream, accept: str
    ) -> None:
        app = await start(apps, upstream)
        answer = await ask(app, BEARER, Accept=accept)
        kind = "application/openmetrics-text; version=1.0.0; charset=utf-8"
        assert (answer.status, answer.header("content-type")) == (200, kind)
        names = {name for name, _ in read_open_metrics(answer.body.decode())}
        assert {"opuslive_build_info", "opuslive_added_latency_seconds_count"} <= names

    @pytest.mark.parametrize("accept", ["", "*/*", "text/html", "text/plain;version=x", ",;=\xe4"])
    async def test_text_for_all_others(
        self, apps: Apps, upstream: ScriptedUpstream, accept: str
    ) -> None:
        app = await start(apps, upstream)
        answer = await ask(app, BEARER, Accept=accept)
        kind = "text/plain; version=0.0.4; charset=utf-8"
        assert (answer.status, answer.header("content-type")) == (200, kind)
        check_with_promtool(answer.body.decode())


class TestWhatIsShown:
    async def test_no_content_and_no_name_of_anybody(
        self, apps: Apps, upstream: ScriptedUpstream
    ) -> None:
        app = await start(apps, upstream, metrics={"token_env": VARIABLE, "keys": True})
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
        app = await start(apps, upstream)
        key = await app.holder()
        await app.messages(key, message_body())
        key_id = key.split("-")[-2]
        shown = await scrape(app)
        assert "opuslive_key_" not in shown.text
        assert key_id not in shown.text

    async def test_a_deleted_keys_series_go_at_once_also_while_its_request_runs(
        self, apps: Apps, upstream: ScriptedUpstream
    ) -> None:
        app = await start(apps, upstream, metrics={"token_env": VARIABLE, "keys": True})
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
        app = await start(apps, upstream, limits={"max_wait": "10m"})
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
        app = await start(apps, upstream, limits=limits)
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
        app = await start(apps, upstream)
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
        app = await start(apps, upstream)
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
        app = await start(apps, upstream)
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
    app = await start(apps, upstream, metrics={"token_env": VARIABLE, "keys": True})
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
    assert latency == pytest.approx(sum(sent) / 1000)
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
