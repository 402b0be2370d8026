"""Whether anything grows: mixed load and faults for a long time, with a look at the process.

``python -m tests.bench.soak [MINUTES]`` (30 unless said otherwise; the first fifth is to warm
up). Clients stream, ask, count, leave early, read slowly, send garbage and try keys; the
upstream answers, errs, stalls, resets and lies; keys are made, changed, rotated and deleted.
Once in a while the load rests, and what is then left is written down: memory, descriptors,
asyncio tasks, objects, requests in flight, reservations. It ends with status 1 if memory grew
by more than ``GROWTH_MB`` from the end of the warm-up, or anything else is left over.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opuslive.gateway.upstreams.pool import MAX_IDLE_SECONDS
from tests.support.provider import (
    CLOSE,
    RESET,
    STREAM_HEAD,
    Request,
    Script,
    ScriptedUpstream,
    anthropic_events,
    anthropic_message,
    chunk,
    json_answer,
    stream_answer,
)
from tests.support.server import Server, gateway_config
from tests.support.wire import Wire, message_body, request_bytes

CLIENTS = 24
KEYS = 8
SAMPLE_SECONDS = 45.0
#: Longer than idle connections to an upstream are kept.
REST_SECONDS = MAX_IDLE_SECONDS + 1.0
GROWTH_MB = 5.0
#: Python objects more at the end: one for each few thousand requests is no leak of requests.
GROWTH_OBJECTS = 1_000


@dataclass(frozen=True, slots=True)
class Sample:
    """The process at rest."""

    memory_mb: float
    descriptors: int
    tasks: int
    objects: int
    in_flight: int
    reserved: int

    def __str__(self) -> str:
        return (
            f"{self.memory_mb:6.1f} MB  {self.descriptors:3} descriptors  {self.tasks:2} tasks  "
            f"{self.objects:7,} objects  {self.in_flight} in flight  {self.reserved} reserved"
        )


class ProbedServer(Server):
    """The real program, with a look inside."""

    def command(self, *arguments: str) -> list[str]:
        python, *_ = super().command()
        probe = [str(Path(__file__).with_name("probed.py")), str(self.folder / "inside.json")]
        return [python, *probe, "--config", str(self.config_file), *arguments]

    async def inside(self) -> Any:
        path = self.folder / "inside.json"
        path.unlink(missing_ok=True)
        self.signal(signal.SIGUSR1)
        while not path.exists():
            await asyncio.sleep(0.01)
        return json.loads(path.read_text())


class Soak:
    """The load, and what it came to."""

    def __init__(self, server: ProbedServer, chance: random.Random) -> None:
        self._server = server
        self._chance = chance
        self._keys: list[Any] = []
        self._resting = asyncio.Event()
        self._working = 0
        self.done: Counter[str] = Counter()

    async def prepare(self) -> None:
        for number in range(KEYS):
            self._keys.append(await self._new_key(number))

    async def _new_key(self, number: int) -> Any:
        limits = [["1B tokens/5h", "8 concurrent"], ["600 requests/1m"], [], ["9 usd/day"]]
        name = f"key {number} {self._chance.getrandbits(64):x}"
        return await self._server.admin("POST", "keys", name=name, limits=limits[number % 4])

    async def run_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        await asyncio.gather(*(self._client(end) for _ in range(CLIENTS)), self._keeper(end))

    async def _client(self, end: float) -> None:
        ways: Sequence[Callable[[str], Awaitable[None]]] = (
            *(self._stream,) * 6,
            *(self._message,) * 6,
            self._count,
            self._leave,
            self._leave_at_once,
            self._read_slowly,
            self._garbage,
            self._wrong_key,
            self._half_a_body,
            self._usage,
        )
        while time.monotonic() < end:
            way = self._chance.choice(ways)
            key = self._chance.choice(self._keys)["key"]
            with contextlib.suppress(ConnectionError, EOFError, TimeoutError):
                await way(key)
            self.done[way.__name__.strip("_").replace("_", " ")] += 1

    async def _keeper(self, end: float) -> None:
        """Change keys while they are used."""
        admin = self._server.admin
        while time.monotonic() < end:
            at = self._chance.randrange(KEYS)
            key = self._keys[at]
            match self._chance.randrange(4):
                case 0:
                    limits = [f"{self._chance.randint(1, 9)}B tokens/5h"]
                    await admin("PATCH", "keys", key["id"], limits=limits)
                case 1:
                    self._keys[at] = await admin("POST", "keys", key["id"], "rotate", grace="5s")
                case 2:
                    await admin("DELETE", "keys", key["id"])
                    self._keys[at] = await self._new_key(at)
                case 3:
                    await admin("PATCH", "keys", key["id"], enabled=False)
                    await admin("PATCH", "keys", key["id"], enabled=True)
            self.done["changes of keys"] += 1
            await asyncio.sleep(0.5)

    async def _open(self) -> Wire:
        return await Wire.connect(self._server.port)

    def _inference(self, key: str, *, stream: bool) -> bytes:
        content = "x" * self._chance.choice([10, 1_000, 100_000])
        body = message_body(stream=stream, messages=[{"role": "user", "content": content}])
        return request_bytes("POST", "/v1/messages", key=key, body=body)

    async def _stream(self, key: str) -> None:
        async with await self._open() as wire:
            for _ in range(self._chance.randint(1, 4)):
                await wire.send(self._inference(key, stream=True))
                await wire.answer()

    async def _message(self, key: str) -> None:
        async with await self._open() as wire:
            for _ in range(self._chance.randint(1, 4)):
                await wire.send(self._inference(key, stream=False))
                await wire.answer()

    async def _count(self, key: str) -> None:
        async with await self._open() as wire:
            body = message_body()
            await wire.send(request_bytes("POST", "/v1/messages/count_tokens", key=key, body=body))
            await wire.answer()

    async def _leave(self, key: str) -> None:
        wire = await self._open()
        with contextlib.closing(wire):
            await wire.send(self._inference(key, stream=True))
            await wire.head()
            await wire.chunk()
            if self._chance.random() < 0.5:
                wire.abort()

    async def _leave_at_once(self, key: str) -> None:
        async with await self._open() as wire:
            await wire.send(self._inference(key, stream=True))

    async def _read_slowly(self, key: str) -> None:
        async with await self._open() as wire:
            await wire.send(self._inference(key, stream=True))
            for _ in range(20):
                await wire.exactly(40)
                await asyncio.sleep(0.02)

    async def _garbage(self, key: str) -> None:
        async with await self._open() as wire:
            await wire.send(self._chance.randbytes(300) + b"\r\n\r\n")
            await wire.ending()

    async def _wrong_key(self, key: str) -> None:
        async with await self._open() as wire:
            wrong = key[:-8] + f"{self._chance.getrandbits(32):08x}"
            await wire.send(self._inference(wrong, stream=False))
            await wire.answer()

    async def _half_a_body(self, key: str) -> None:
        async with await self._open() as wire:
            request = self._inference(key, stream=True)
            await wire.send(request[: len(request) // 2])

    async def _usage(self, key: str) -> None:
        for path in ("/v1/usage", "/v1/usage/export?format=csv", "/", "/privacy", "/v1/models"):
            async with await self._open() as wire:
                await wire.send(request_bytes("GET", path, key=key))
                await wire.answer()

    async def rest(self) -> Sample:
        """What the process is like when nothing has happened for a while."""
        server = self._server
        async with asyncio.timeout(60):
            while (await server.admin("GET", "status"))["requests_in_flight"]:
                await asyncio.sleep(0.1)
        await asyncio.sleep(REST_SECONDS)
        assert server.process is not None
        process = Path(f"/proc/{server.process.pid}")
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        inside = await server.inside()
        reserved = 0
        for key in self._keys:
            answer = await server.request("GET", "/v1/usage", key=key["key"])
            reserved += sum(limit["reserved"] for limit in answer.json()["limits"])
        return Sample(
            int(status["VmRSS"].split()[0]) / 1024,
            len(list((process / "fd").iterdir())),
            inside["tasks"],
            inside["objects"],
            (await server.admin("GET", "status"))["requests_in_flight"],
            reserved,
        )


def _answers(chance: random.Random) -> Callable[[Request], Script]:
    """What the upstream answers: mostly well, sometimes not."""

    def answer(request: Request) -> Script:
        asked = json.loads(request.body)
        counts = {"input_tokens": 9, "output_tokens": chance.randint(1, 900)}
        text = "word " * chance.choice([5, 50, 2_000])
        events = anthropic_events(text, **counts)
        roll = chance.random()
        if roll < 0.03:
            return [RESET]
        if roll < 0.06:
            return [
                STREAM_HEAD,
                *map(chunk, events[: len(events) // 2]),
                chance.choice([CLOSE, RESET]),
            ]
        if roll < 0.08:
            return [b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nhalf", CLOSE]
        if roll < 0.10:
            return [b"no HTTP at all\r\n\r\n", CLOSE]
        if roll < 0.13:
            error = {"type": "error", "error": {"type": "overloaded_error", "message": "Busy"}}
            return json_answer(error, status=529)
        if asked.get("stream"):
            return stream_answer(events)
        return json_answer(anthropic_message(text, **counts))

    return answer


async def _soak(minutes: float) -> bool:
    chance = random.Random(20261125)
    upstream = ScriptedUpstream()
    await upstream.start()
    upstream.always(_answers(chance))
    with tempfile.TemporaryDirectory(prefix="opuslive-soak-") as name:
        prices = {"claude-test-1": {"input": 1.0, "output": 1.0}}
        config = gateway_config(upstream.base_url, prices=prices, log={"level": "error"})
        server = ProbedServer(Path(name), config)
        await server.start()
        try:
            soak = Soak(server, chance)
            await soak.prepare()
            began = time.monotonic()
            samples: list[tuple[float, Sample]] = []
            while time.monotonic() - began < minutes * 60:
                await soak.run_for(min(SAMPLE_SECONDS, minutes * 6))
                upstream.forget()
                upstream.always(_answers(chance))
                samples.append(((time.monotonic() - began) / 60, await soak.rest()))
                print(f"{samples[-1][0]:5.1f} min  {samples[-1][1]}", flush=True)
        finally:
            await server.stop()
    await upstream.close()
    print(", ".join(f"{count:,} {what}" for what, count in soak.done.most_common()))
    return _judge([sample for minute, sample in samples if minute >= minutes / 5])


def _judge(samples: Sequence[Sample]) -> bool:
    """Compare the last three samples with the first three."""
    first, last = samples[:3], samples[-3:]
    memory = [statistics.median(each.memory_mb for each in three) for three in (first, last)]
    print(f"memory: {memory[1] - memory[0]:+.1f} MB from the end of the warm-up")
    leaks = []
    for name, more in (("descriptors", 0), ("tasks", 0), ("objects", GROWTH_OBJECTS)):
        before, after = (max(getattr(each, name) for each in three) for three in (first, last))
        if after > before + more:
            leaks.append(f"{name}: {before:,} at first, {after:,} in the end")
    leaks += [
        f"{left} {name} left"
        for name in ("in_flight", "reserved")
        if (left := getattr(last[-1], name))
    ]
    print("\n".join(leaks) or "nothing else is left over")
    return memory[1] - memory[0] <= GROWTH_MB and not leaks


def main() -> None:
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0
    sys.exit(0 if asyncio.run(_soak(minutes)) else 1)


if __name__ == "__main__":
    main()
