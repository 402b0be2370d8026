"""How long the pages take over a large history, and what traffic notices of it.

``python -m tests.bench.pages [RECORDS [KEYS]]``: 10 million records of 1,000 keys over 90 days
unless said otherwise. Each page is asked for again and again while requests go through the
gateway; their latency is compared with that of the same requests without any page.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import aiohttp

from opuslive.administration.password import hash_password
from opuslive.keys import Key
from opuslive.latencies import LATENCY_BOUNDS_MS
from opuslive.storage import open_storage
from opuslive.times import DAY_MS, HOUR_MS
from tests.support.provider import ScriptedUpstream, anthropic_message, json_answer
from tests.support.server import Server, gateway_config
from tests.support.wire import message_body

DAYS = 90
ROUNDS = 30
PASSWORD = "a password for the benchmark"
_COUNTS = (
    "input_tokens, output_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens"
)
_SUMS = ", ".join(f"sum({name})" for name in _COUNTS.split(", "))
_MODELS = "CASE i % 3 WHEN 0 THEN 'claude-opus-4-8' WHEN 1 THEN 'claude-sonnet-4-5' END"


async def write_keys(database: Path, number: int) -> None:
    """Make keys that nobody can use."""
    storage = await open_storage(f"sqlite://{database}")
    for index in range(1, number + 1):
        limits = ("2B tokens/5h", "500 usd/month", "8 concurrent")
        key_id = f"{index:08d}"
        await storage.add_key(
            Key(key_id, f"key {index}", f"sk-ant-ol-{key_id}", index, b"-", limits=limits)
        )
    await storage.close()


def write_records(database: Path, each: int) -> None:
    """Give every key so many records, evenly over ``DAYS``, and write the sums of them. Every
    hundredth went wrong; each took a second."""
    now = int(time.time() * 1000)
    step = DAYS * DAY_MS // each
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(
            f"""
            WITH RECURSIVE numbers(i) AS (
                SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < {each}
            )
            INSERT INTO usage
            SELECT key, {now - DAYS * DAY_MS} + i * {step} - key * 7919 % {step}, 0, {_MODELS},
                CASE i % 100 WHEN 7 THEN 529 ELSE 200 END, 1000,
                900 + i % 100, 300 + i % 50, 5000, 100, 0
            FROM keys CROSS JOIN numbers"""
        )
        counts = (
            f"count(*), 0, {_SUMS}, 0, sum(status = 529), 0, "
            f"0, 0, sum(status = 200){', 0' * (len(LATENCY_BOUNDS_MS) - 2)}"
        )
        for table, ms in (("hourly", HOUR_MS), ("daily", DAY_MS)):
            connection.execute(
                f"INSERT INTO {table} SELECT key, time / {ms}, coalesce(model, ''), 0, {counts} "
                "FROM usage GROUP BY 1, 2, 3"
            )
        connection.execute(
            f"INSERT INTO totals SELECT key, max(time), count(*), 0, {_SUMS}, 0, "
            "sum(status = 529), 0 FROM usage GROUP BY 1"
        )
        connection.commit()


async def _timed(times: list[float], ask: Callable[[], Awaitable[object]]) -> None:
    began = time.perf_counter()
    await ask()
    times.append((time.perf_counter() - began) * 1000)


def _line(name: str, times: Sequence[float]) -> str:
    ordered = sorted(times)
    return (
        f"{name:28} median {statistics.median(ordered):7.1f} ms   "
        f"p95 {ordered[int(len(ordered) * 0.95)]:7.1f} ms   of {len(ordered)}"
    )


async def _measure(server: Server, credential: str) -> None:
    base = f"http://127.0.0.1:{server.port}"
    async with aiohttp.ClientSession() as session:

        async def send() -> None:
            headers = {"x-api-key": credential}
            async with session.post(
                f"{base}/v1/messages", data=message_body(), headers=headers
            ) as answer:
                assert answer.status == 200, await answer.text()
                await answer.read()

        async def form() -> None:
            async with session.post(f"{base}/usage", data={"key": credential}) as answer:
                assert answer.status == 200
                await answer.read()

        def page(path: str) -> Callable[[], Awaitable[None]]:
            async def ask() -> None:
                headers = {"authorization": aiohttp.encode_basic_auth("admin", PASSWORD)}
                async with session.get(base + path, headers=headers) as answer:
                    assert answer.status == 200, answer.status
                    await answer.read()

            return ask

        async def traffic(times: list[float], until: asyncio.Event) -> None:
            while not until.is_set():
                await _timed(times, send)
                await asyncio.sleep(0.005)

        async def beside_traffic(name: str, ask: Callable[[], Awaitable[object]]) -> None:
            await ask()  # to warm up: bcrypt, caches
            done, requests, pages = asyncio.Event(), list[float](), list[float]()
            task = asyncio.ensure_future(traffic(requests, done))
            for _ in range(ROUNDS):
                await _timed(pages, ask)
                await asyncio.sleep(0.02)
            done.set()
            await task
            print(_line(name, pages))
            print(_line("  requests meanwhile", requests))

        async def nothing() -> None:
            await asyncio.sleep(0.05)

        await beside_traffic("(no page)", nothing)
        await beside_traffic("Check Usage", form)
        for name, path in (
            ("administration, overview", "/admin"),
            ("administration, today", "/admin?since=today"),
            ("administration, this moment", "/admin/live"),
            ("administration, keys", "/admin/keys"),
            ("usage by key, 30 days", "/admin/api/usage?by=key&since=30d"),
            ("usage by group, the month", "/admin/api/usage?by=group&since=month&compare=true"),
            ("the latest trouble", "/admin/api/trouble"),
        ):
            await beside_traffic(name, page(path))


async def _run(records: int, keys: int) -> None:
    upstream = ScriptedUpstream()
    await upstream.start()
    upstream.always(lambda request: json_answer(anthropic_message("Hi", output_tokens=9)))
    with tempfile.TemporaryDirectory(prefix="opuslive-bench-") as name:
        admin = {"password_hash": hash_password(PASSWORD)}
        server = Server(Path(name), gateway_config(upstream.base_url, admin=admin))
        made = await server.create_key("key 0", "--limit", "2B tokens/5h")
        credential: str = made["key"]
        await write_keys(server.database, keys - 1)
        await asyncio.to_thread(write_records, server.database, records // keys)
        size = server.database.stat().st_size >> 20
        began = time.perf_counter()
        await server.start()
        print(
            f"{records:,} records of {keys:,} keys ({size:,} MB); "
            f"the start took {time.perf_counter() - began:.1f} s"
        )
        try:
            await _measure(server, credential)
        finally:
            await server.stop()
    await upstream.close()


def main() -> None:
    given = [int(text) for text in sys.argv[1:3]]
    asyncio.run(_run(*given, *(10_000_000, 1_000)[len(given) :]))


if __name__ == "__main__":
    main()
