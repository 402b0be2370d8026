"""What holders are told: their usage, all of it, and the models that they may use."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from opuslive.storage import open_storage
from opuslive.times import HOUR_MS
from opuslive.usage import EXPORT_COLUMNS, TokenCounts, UsagePart, UsageRecord
from tests.support.app import App, Apps
from tests.support.provider import (
    ScriptedUpstream,
    anthropic_events,
    anthropic_message,
    json_answer,
    stream_answer,
)
from tests.support.wire import message_body

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOTAL = 2_345
#: What further models used of the last request.
PARTS = (
    UsagePart("claude-test-2", TokenCounts(input=70, output=70)),
    UsagePart(None, TokenCounts(input=80, output=80)),
)


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    return {"aliases": {"test": "claude-test-1", "gone": "gpt-none"}}


async def usage(gateway: App, key: str, query: str = "") -> Any:
    answer = await gateway.request("GET", f"/v1/usage{query}", key=key)
    assert answer.status == 200, answer
    assert answer.header("cache-control") == "no-store"
    return answer.json()


NO_LATENCIES = {"latency_median_ms": None, "latency_p95_ms": None}


class TestUsage:
    async def test_the_usage_of_a_new_key_is_nothing(self, gateway: App) -> None:
        made = await gateway.admin("POST", "keys", name="new", limits=["2M tokens/5h"])
        seen = await usage(gateway, made["key"])
        key, nothing = seen["key"], dict.fromkeys(seen["key"]["usage"], 0)
        assert (key["id"], key["name"], key["limits"]) == (made["id"], "new", ["2M tokens/5h"])
        assert (key["state"], key["last_used_at"]) == ("enabled", None)
        assert key["usage"] == nothing
        assert seen["totals"] == nothing | {"usd": None} | NO_LATENCIES
        assert key["counts_since"] == key["created_at"]
        assert (seen["by"], seen["series"]) == ("day", [])
        assert not any("hash" in name for name in key)

    async def test_usage_counts_what_was_used(
        self, gateway: App, upstream: ScriptedUpstream, key: str
    ) -> None:
        counts = {"input_tokens": 5, "output_tokens": 9}
        for model in ("claude-test-1", "test", "claude-test-2", "claude-unheard-of"):
            upstream.will(json_answer(anthropic_message("x", **counts)))
            assert (await gateway.messages(key, message_body(model))).status == 200
        answer = await gateway.messages(key, message_body("gone"))
        assert answer.error == (404, "not_found_error")  # an alias of what nobody serves
        assert (await gateway.records(key))[-1]["model"] == "gpt-none"
        total = {
            "requests": 4,
            "refusals": 1,
            "served": 4,
            "client_errors": 0,
            "upstream_errors": 0,
            "cut": 0,
            "input_tokens": 20,
            "output_tokens": 36,
            "cache_read_tokens": 0,
            "cache_write_tokens": 0,
        }
        for by in ("day", "hour", "model"):
            seen = await usage(gateway, key, f"?by={by}")
            assert seen["key"]["usage"] == total
            told = {name: seen["totals"].pop(name) for name in NO_LATENCIES}
            assert 0 < told["latency_median_ms"] <= told["latency_p95_ms"] <= 250
            assert seen["totals"] == total | {"usd": None}  # at no known price
            assert sum(point["output_tokens"] for point in seen["series"]) == 36
            latencies = NO_LATENCIES if by == "model" else ()
            assert all(point.keys() == {by, "usd", *total, *latencies} for point in seen["series"])
        by_model = {point["model"]: point["requests"] for point in seen["series"]}
        assert by_model == {"claude-test-1": 2, "claude-test-2": 1, None: 1, "gpt-none": 0}
        assert seen["key"]["last_used_at"].endswith("Z")

    async def test_requests_are_told_apart_by_how_they_ended(
        self, gateway: App, upstream: ScriptedUpstream, key: str
    ) -> None:
        upstream.will(json_answer(anthropic_message("x")))
        assert (await gateway.messages(key, message_body())).status == 200
        assert (await gateway.messages(key, message_body("gone"))).status == 404
        seen = await usage(gateway, key, "?by=status&since=today&compare=true")
        assert [point.keys() for point in seen["series"]] == [{"status", "requests", "share"}] * 2
        whole = sum(point["requests"] for point in seen["series"])
        assert [(point["status"], point["share"]) for point in seen["series"]] == [
            (name, round(seen["totals"][count] / whole, 4))
            for name, count in (("served", "served"), ("refused", "refusals"))
        ]
        comparison = seen["comparison"]
        if comparison is not None:  # not within the first hour of a day
            assert comparison["before"]["totals"]["requests"] == 0
            assert comparison["this"]["since"] == seen["since"]

    @pytest.mark.parametrize(
        "query",
        ["?by=week", "?by=", "?since=yesterday", "?since=", "?since=-1d", "?by=day&since=x"],
    )
    async def test_what_is_wrong_is_said(self, gateway: App, key: str, query: str) -> None:
        answer = await gateway.request("GET", f"/v1/usage{query}", key=key)
        assert answer.error == (400, "invalid_request_error")

    async def test_a_wrong_export_format_is_refused(self, gateway: App, key: str) -> None:
        answer = await gateway.request("GET", "/v1/usage/export?format=xml", key=key)
        assert answer.error == (400, "invalid_request_error")
        assert "csv, jsonl" in answer.message

    async def test_a_request_that_goes_on_for_long_is_shown(
        self, gateway: App, upstream: ScriptedUpstream, key: str
    ) -> None:
        """As it stands in the database: with no status yet, and in no sum."""
        go_on = asyncio.Event()
        head, *rest = stream_answer(anthropic_events("one two", input_tokens=5))
        upstream.will([head, *rest[:2], go_on, *rest[2:]])
        async with gateway.asking(key, message_body(stream=True)) as wire:
            (running,) = await gateway.records(key, 1)
            assert (running["status"], running["input_tokens"]) == (None, 5)
            assert running["latency_ms"] >= 1_000
            assert (await usage(gateway, key))["totals"]["requests"] == 0
            exported = await gateway.request("GET", "/v1/usage/export?format=csv", key=key)
            (row,) = csv.DictReader(io.StringIO(exported.body.decode()))
            assert row["status"] == ""
            form = f"key={key}".encode()
            kind = [("Content-Type", "application/x-www-form-urlencoded")]
            page = await gateway.request("POST", "/usage", body=form, headers=kind)
            assert ">running</td>" in page.body.decode()
            go_on.set()
            await wire.answer()
        (done,) = await gateway.records(key, 1)
        assert (done["status"], done["time"]) == (200, running["time"])
        assert (await usage(gateway, key))["totals"]["requests"] == 1

    async def test_a_disabled_key_is_told_everything(
        self, gateway: App, upstream: ScriptedUpstream
    ) -> None:
        key = await gateway.holder(name="disabled")
        assert (await gateway.messages(key, message_body())).status == 200
        await gateway.admin("PATCH", "keys", "disabled", enabled=False)
        assert (await usage(gateway, key))["totals"]["requests"] == 1
        assert len(await gateway.records(key)) == 1


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def history(
    provider: ScriptedUpstream,
) -> AsyncIterator[tuple[App, str, list[UsageRecord]]]:
    apps = Apps()
    server = apps.make(provider.base_url)
    made = await server.create_key("with a past")
    now = int(datetime.now(UTC).timestamp() * 1000) // HOUR_MS * HOUR_MS
    records = [
        UsageRecord(
            key_id=made["id"],
            # Ten a millisecond, for pages must not lose those that share one.
            time=now - 100 * HOUR_MS + number // 10 * (90 * HOUR_MS // (TOTAL // 10)),
            model=("claude-test-1", None)[number % 2],
            status=200 if number % 7 else 404,
            latency_ms=1000 if number % 7 else None,
            tokens=TokenCounts(input=number, output=1) if number % 7 else TokenCounts(),
            parts=PARTS if number == TOTAL - 1 else (),
        )
        for number in range(TOTAL)
    ]
    storage = await open_storage(f"sqlite://{server.database}")
    for record in records[:-1]:
        storage.add_record(record)
    await storage.add_record(records[-1])
    await storage.close()
    await server.start()
    yield server, made["key"], records
    await apps.close()


class TestHistory:
    """A database with more records than a page of an export has."""

    async def test_history_comes_as_csv(self, history: tuple[App, str, list[UsageRecord]]) -> None:
        server, key, records = history
        answer = await server.request("GET", "/v1/usage/export", key=key)
        assert answer.header("content-type") == "text/csv; charset=utf-8"
        *rows, advised, unnamed = csv.DictReader(io.StringIO(answer.body.decode()))
        assert answer.body.startswith(",".join(EXPORT_COLUMNS).encode() + b"\r\n")
        assert [row["input_tokens"] for row in rows] == [str(r.tokens.input) for r in records]
        for row, model, count in ((advised, "claude-test-2", "70"), (unnamed, "", "80")):
            assert row == rows[-1] | {
                "model": model,
                "latency_ms": "",
                "input_tokens": count,
                "output_tokens": count,
            }
        assert [row["latency_ms"] for row in rows[:2]] == ["", "1000"]
        assert [row["model"] for row in rows[:2]] == ["claude-test-1", ""]

    async def test_history_comes_as_json_lines(
        self, history: tuple[App, str, list[UsageRecord]]
    ) -> None:
        server, key, records = history
        *rows, advised, unnamed = await server.records(key)
        assert [row["input_tokens"] for row in rows] == [r.tokens.input for r in records]
        told = {"latency_ms": None, "input_tokens": 70, "output_tokens": 70}
        assert advised == rows[-1] | told | {"model": "claude-test-2"}
        assert unnamed["model"] is None
        assert [tuple(row) for row in rows[:1]] == [EXPORT_COLUMNS]
        assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)
        assert [row["latency_ms"] for row in rows[:2]] == [None, 1000]

    async def test_the_page_has_a_line_for_each_model(
        self, history: tuple[App, str, list[UsageRecord]]
    ) -> None:
        server, key, _ = history
        kind = [("Content-Type", "application/x-www-form-urlencoded")]
        page = await server.request("POST", "/usage", body=f"key={key}".encode(), headers=kind)
        text = page.body.decode()
        assert text.count(">same request</td>") == len(PARTS)
        assert ">claude-test-2</td>" in text

    async def test_usage_since_a_moment_counts_what_came_after_it(
        self, history: tuple[App, str, list[UsageRecord]]
    ) -> None:
        server, key, records = history
        now = datetime.now(UTC)
        for since in ("50h", f"{now - timedelta(hours=50):%Y-%m-%dT%H:%M:%SZ}"):
            seen = await usage(server, key, f"?since={since}&by=hour")
            start = datetime.fromisoformat(seen["since"])
            assert timedelta(hours=50) <= now - start + timedelta(seconds=1)
            assert now - start < timedelta(hours=52)
            expected = [r for r in records if r.time >= start.timestamp() * 1000]
            sent = [r for r in expected if r.latency_ms is not None]
            assert seen["totals"]["requests"] == len(sent) > 0
            assert seen["totals"]["refusals"] == len(expected) - len(sent)
            hours = [point["hour"] for point in seen["series"]]
            assert hours == sorted(hours)
            used = sum(part.tokens.input for r in records for part in r.by_model)
            assert seen["key"]["usage"]["input_tokens"] == used

    async def test_an_export_that_is_left_does_no_harm(
        self, history: tuple[App, str, list[UsageRecord]]
    ) -> None:
        server, key, records = history
        for _ in range(20):
            async with await server.connect() as wire:
                await wire.send(
                    b"GET /v1/usage/export HTTP/1.1\r\nHost: x\r\nx-api-key: %b\r\n\r\n"
                    % key.encode()
                )
                await wire.head()
                wire.abort()
        assert len(await server.records(key)) == len(records) + len(PARTS)
        assert "defect" not in server.log


class TestModels:
    VERSION = (("anthropic-version", "2023-06-01"),)

    async def listed(self, gateway: App, key: str, query: str = "") -> Any:
        answer = await gateway.request("GET", f"/v1/models{query}", key=key, headers=self.VERSION)
        assert answer.status == 200
        return answer.json()

    async def test_models_come_as_anthropic_lists_them(self, gateway: App, key: str) -> None:
        page = await self.listed(gateway, key)
        assert [model["id"] for model in page["data"]] == ["test", "claude-test-1", "claude-test-2"]
        assert page["data"][0].keys() == {"type", "id", "display_name", "created_at"}
        assert (page["has_more"], page["first_id"], page["last_id"]) == (
            False,
            "test",
            "claude-test-2",
        )

    async def test_models_come_in_pages(self, gateway: App, key: str) -> None:
        first = await self.listed(gateway, key, "?limit=2")
        assert (first["last_id"], first["has_more"]) == ("claude-test-1", True)
        second = await self.listed(gateway, key, f"?limit=2&after_id={first['last_id']}")
        assert ([m["id"] for m in second["data"]], second["has_more"]) == (["claude-test-2"], False)
        back = await self.listed(gateway, key, "?limit=1&before_id=claude-test-2")
        assert ([m["id"] for m in back["data"]], back["has_more"]) == (["claude-test-1"], True)

    async def test_models_come_as_openai_lists_them(self, gateway: App, key: str) -> None:
        answer = await gateway.request("GET", "/v1/models", key=key)
        listed = answer.json()
        assert listed["object"] == "list"
        assert {model["object"] for model in listed["data"]} == {"model"}
        one = await gateway.request("GET", "/v1/models/claude-test-1", key=key)
        assert one.json() == listed["data"][1]

    async def test_only_what_the_key_may_use(self, gateway: App) -> None:
        key = await gateway.holder(models=["claude-test-1"])
        page = await self.listed(gateway, key)
        assert [model["id"] for model in page["data"]] == ["test", "claude-test-1"]
        answer = await gateway.request("GET", "/v1/models/claude-test-2", key=key)
        assert answer.error == (404, "not_found_error")

    async def test_a_name_with_a_slash_can_be_asked_for(self, apps: Apps) -> None:
        provider = ScriptedUpstream()
        provider.models = ["claude-vendor/model 1"]
        await provider.start()
        try:
            server = await apps.start(provider.base_url)
            key = await server.holder()
            while not (await self.listed(server, key))["data"]:
                pass
            target = "/v1/models/claude-vendor%2Fmodel%201"
            answer = await server.request("GET", target, key=key)
            assert json.loads(answer.body)["id"] == "claude-vendor/model 1"
        finally:
            await server.kill()
            await provider.close()
