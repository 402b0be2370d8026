"""What guessing at one key costs the holders of others: their latency, calm and under fire.

Last come guesses with a right checksum, as whoever has a copy of the database can make them, while
``NEWCOMERS`` other keys are used for the first time, one after the other: each needs a proof.

``python -m tests.bench.guesses [SECONDS]``. Guesses come at ``RATE`` a second for the id of a key
that exists, on ``CONNECTIONS`` connections; a holder of another key asks for a message all the
while. Calm and fire take turns. The gateway has the first core; the provider, the guesser and the
holder share the second, so what is measured includes that they are in each other's way.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from opuslive.keys import new_credential
from tests.bench.subjects import MODEL, Subject, opuslive, running_origin

RATE = 1_000
CONNECTIONS = 20
ROUNDS = 5
NEWCOMERS = 10

_BODY = json.dumps(
    {
        "model": MODEL,
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "x" * 1000}],
    }
).encode()


def _request(key: str, body: bytes) -> bytes:
    return (
        b"POST /v1/messages HTTP/1.1\r\nhost: bench\r\nx-api-key: %b\r\n"
        b"content-length: %d\r\n\r\n%b" % (key.encode(), len(body), body)
    )


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes, *statuses: bytes
) -> None:
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(tuple(b"HTTP/1.1 " + status for status in statuses)), head
    await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0]))


def _wrong_checksum(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(20)}"


async def _guess(port: int, guess: Callable[[], str], made: list[int]) -> None:
    """Guess at an even pace, until cancelled."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    pause = CONNECTIONS / RATE
    due = time.perf_counter() + pause * secrets.randbelow(100) / 100
    try:
        while True:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            due += pause
            await _ask(reader, writer, _request(guess(), b"{}"), b"401", b"503")
            made[0] += 1
    finally:
        writer.close()


async def _latencies(port: int, key: str, seconds: float) -> list[float]:
    """Of the holder's requests, one after the other, in ms."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request, taken = _request(key, _BODY), []
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        await _ask(reader, writer, request, b"200")
        taken.append((time.perf_counter() - start) * 1000)
        await asyncio.sleep(0.005)
    writer.close()
    return taken


async def _under_fire(port: int, key: str, prefix: str, seconds: float) -> tuple[list[float], int]:
    made = [0]
    async with _guessing(port, partial(_wrong_checksum, prefix), made):
        made[0] = 0
        taken = await _latencies(port, key, seconds)
        return taken, made[0]


@contextlib.asynccontextmanager
async def _guessing(port: int, guess: Callable[[], str], made: list[int]) -> AsyncIterator[None]:
    guessers = [asyncio.ensure_future(_guess(port, guess, made)) for _ in range(CONNECTIONS)]
    await asyncio.sleep(0.3)
    yield
    for guesser in guessers:
        guesser.cancel()
    await asyncio.gather(*guessers, return_exceptions=True)


async def _first_uses(port: int, keys: Sequence[str], guess: Callable[[], str]) -> list[float]:
    """How long the first request of each key takes while somebody guesses at another, in ms."""
    request = [_request(key, _BODY) for key in keys]
    taken = []
    async with _guessing(port, guess, [0]):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for first in request:
            start = time.perf_counter()
            await _ask(reader, writer, first, b"200")
            taken.append((time.perf_counter() - start) * 1000)
            await asyncio.sleep(0.1)
        writer.close()
    return taken


def _line(name: str, taken: Sequence[float]) -> None:
    cuts = statistics.quantiles(taken, n=100)
    print(f"{name:12} p50 {cuts[49]:6.2f} ms   p95 {cuts[94]:6.2f} ms   p99 {cuts[98]:6.2f} ms")


async def _rounds(subject: Subject, key: str, prefix: str, seconds: float) -> None:
    port = subject.port
    cpu_calm = cpu_fire = 0.0
    calm: list[float] = []
    fire: list[float] = []
    guessed = 0
    await _latencies(port, key, 0.5)  # to warm up
    for _ in range(ROUNDS):
        before = subject.tree.cpu_seconds()
        calm += await _latencies(port, key, seconds)
        between = subject.tree.cpu_seconds()
        taken, made = await _under_fire(port, key, prefix, seconds)
        cpu_calm += between - before
        cpu_fire += subject.tree.cpu_seconds() - between
        fire += taken
        guessed += made
    _line("calm", calm)
    _line("under fire", fire)
    ratio = [statistics.quantiles(x, n=100) for x in (fire, calm)]
    print(
        f"{guessed / (ROUNDS * seconds):.0f} guesses a second; ratio p50 "
        f"{ratio[0][49] / ratio[1][49]:.2f}, p95 {ratio[0][94] / ratio[1][94]:.2f}"
    )
    print(
        f"CPU of the gateway: {cpu_calm / (ROUNDS * seconds):.0%} of a core calm, "
        f"{cpu_fire / (ROUNDS * seconds):.0%} under fire"
    )


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 3.0
    os.sched_setaffinity(0, {1})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with running_origin(folder) as origin, opuslive(folder, origin) as subject:
            guessed_at = _create(folder, "guessed at")
            prefix = guessed_at["prefix"]
            newcomers = [_create(folder, f"newcomer {n}")["key"] for n in range(NEWCOMERS)]
            guess = partial(
                new_credential,
                prefix.removesuffix(guessed_at["id"]),
                guessed_at["id"],
                _checksum_key(folder / "bench.db"),
            )
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_rounds(subject, subject.key, prefix, seconds))
                taken = runner.run(_first_uses(subject.port, newcomers, guess))
            print(
                f"first uses of {NEWCOMERS} keys while guesses have a right checksum: "
                f"{statistics.median(taken):.1f} ms in the median, {max(taken):.1f} ms at most"
            )


def _create(folder: Path, name: str) -> Any:
    """Make a key; return its members."""
    made = subprocess.run(
        (
            *(sys.executable, "-m", "opuslive", "--config", str(folder / "config.toml")),
            *("keys", "create", name, "--json"),
        ),
        capture_output=True,
        check=True,
    )
    return json.loads(made.stdout)


def _checksum_key(database: Path) -> bytes:
    """What a copy of the database gives away."""
    with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as copy:
        (key,) = copy.execute("SELECT value FROM meta WHERE name = 'checksum_key'").fetchone()
        return bytes(key)


if __name__ == "__main__":
    main()
