"""What a hostile key costs the holder of another: its latency, calm and under each attack.

``python -m tests.bench.hostile [KIND…]``, of those in ``attacks``. One holder asks for a message
every few ms; calm and fire take turns. The gateway has the first core; the provider, who takes
``THINKS`` seconds for an answer, the attackers (nice 19) and the holder share the second, so what
is measured includes that they are in each other's way. Each key has used its history of
``RECORDS`` records; the gateway answers two requests at a time.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop

from tests.bench.attacks import ATTACKS
from tests.bench.guesses import _BODY, _ask, _request
from tests.bench.pages import write_records
from tests.bench.processes import free_port, process, wait_for
from tests.support.server import Server, gateway_config

ROUNDS = 3
SECONDS = 3.0
#: Seconds that the provider takes. Real ones take longer, which would hide more.
THINKS = 0.02
RECORDS = 200_000
LIMITS = ("2 concurrent",)


async def _latencies(port: int, key: str, seconds: float) -> list[float]:
    """Of the holder's requests, one after the other, in ms; infinite where one was not served."""
    request, taken = _request(key, _BODY), []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while (start := time.perf_counter()) < end:
                await _ask(reader, writer, request, b"200")
                taken.append((time.perf_counter() - start) * 1000)
                await asyncio.sleep(0.005)
        except (AssertionError, OSError, EOFError):
            taken.append(math.inf)
            await asyncio.sleep(0.005)
        finally:
            writer.transport.abort()
    return taken


def _cuts(taken: Sequence[float]) -> tuple[float, float]:
    """Median and 95th percentile."""
    ordered = sorted(taken)
    return ordered[len(ordered) // 2], ordered[len(ordered) * 95 // 100]


async def _measure(kind: str, port: int, hostile: str, key: str) -> None:
    calm: list[float] = []
    fire: list[float] = []
    for _ in range(ROUNDS):
        calm += await _latencies(port, key, SECONDS)
        command = (sys.executable, "-m", "tests.bench.attacks", kind, str(port), hostile)
        with process(1, "nice", "-n", "19", *command):
            await asyncio.sleep(2)
            fire += await _latencies(port, key, SECONDS)
        await asyncio.sleep(0.5)
    (calm_p50, calm_p95), (fire_p50, fire_p95) = _cuts(calm), _cuts(fire)
    ratio = fire_p95 / calm_p95
    refused = sum(map(math.isinf, fire)) / len(fire)
    print(
        f"{kind:12} calm p50 {calm_p50:6.1f} ms  p95 {calm_p95:6.1f} ms   under fire "
        f"p50 {fire_p50:6.1f} ms  p95 {fire_p95:7.1f} ms   ratio of p95 {ratio:5.2f}"
        f"   not served {refused:4.0%}",
        flush=True,
    )


async def _run(kinds: Sequence[str], origin: int) -> None:
    with tempfile.TemporaryDirectory(prefix="opuslive-bench-") as name:
        config = gateway_config(
            f"http://127.0.0.1:{origin}", limits={"gateway": list(LIMITS)}, log={"level": "warning"}
        )
        server = Server(Path(name), config)
        hostile = (await server.create_key("hostile", "--limit", "100M tokens/day"))["key"]
        key = (await server.create_key("holder", "--limit", "100M tokens/day"))["key"]
        await asyncio.to_thread(write_records, server.database, RECORDS)
        await server.start()
        assert server.process is not None
        os.sched_setaffinity(server.process.pid, {0})
        try:
            await _latencies(server.port, key, 0.5)  # to warm up
            for kind in kinds:
                await _measure(kind, server.port, hostile, key)
        finally:
            await server.stop()


def main() -> None:
    kinds = sys.argv[1:] or list(ATTACKS)
    unknown = set(kinds) - ATTACKS.keys()
    if unknown:
        sys.exit(f"There is no attack {json.dumps(sorted(unknown))}; there are {list(ATTACKS)}.")
    os.sched_setaffinity(0, {1})
    origin = free_port()
    with process(1, sys.executable, "-m", "tests.bench.origin", str(origin), str(THINKS)):
        wait_for(origin)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(kinds, origin))


if __name__ == "__main__":
    main()
