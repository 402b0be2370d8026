"""Kill the server at any moment, again and again: nothing that was confirmed is ever lost.

One database is carried on from kill to kill. The seed is printed when a test fails, and
``OPUSLIVE_SEED`` repeats it.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import itertools
import os
import random
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.support.invariants import Found, classes_of, examine
from tests.support.ledger import Ledger
from tests.support.load import Load, limit_status
from tests.support.provider import ScriptedUpstream
from tests.support.server import Server, Servers
from tests.support.shim import Action, Faults, File
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEYS = 4


class Moment(enum.Enum):
    """When the server is killed."""

    LOAD = "load"
    LASTING = "lasting"  # under load, with streams that have been running for seconds
    START = "start"
    DRAIN = "drain"
    ERASURE = "erasure"
    CHECKPOINT = "checkpoint"


class Crashes:
    """A server that is killed, examined, and started again."""

    def __init__(
        self, server: Server, upstream: ScriptedUpstream, faults: Faults, chance: random.Random
    ) -> None:
        self._server = server
        self._faults = faults
        self._chance = chance
        self._ledger = Ledger()
        self._load = Load(server, upstream, self._ledger, chance)
        self.compared = 0
        self.checkpoints = 0
        self.lasting = 0

    async def run(self, kills: int) -> None:
        await self._server.start()
        moments = itertools.cycle(Moment)
        for number, moment in zip(range(1, kills + 1), moments, strict=False):
            while len(self._ledger.live()) < KEYS:
                await self._load.create_key()
            await self._die(moment)
            await self._restart(f"kill {number}, {moment.value}")
        assert self._ledger.complete > 5 * kills

    async def _die(self, moment: Moment) -> None:
        lasting = moment is Moment.LASTING
        async with self._load.running(staying=3 if lasting else 0):
            if lasting:
                await eventually(lambda: self._ledger.died() > 0)
            enough = self._ledger.complete + self._chance.randrange(5, 30)
            await eventually(lambda: self._ledger.complete >= enough)
            await asyncio.sleep(self._chance.uniform(0, 0.01))
            match moment:
                case Moment.LOAD | Moment.LASTING:
                    pass
                case Moment.START:
                    await self._server.kill()
                    starting = asyncio.create_task(self._server.start())
                    await asyncio.sleep(self._chance.uniform(0, 0.6))
                    await self._server.kill()
                    await asyncio.gather(starting, return_exceptions=True)
                case Moment.DRAIN:
                    self._server.signal(signal.SIGTERM)
                    await asyncio.sleep(self._chance.uniform(0, 0.1))
                case Moment.ERASURE:
                    key = self._chance.choice(self._ledger.live())
                    deleting = asyncio.create_task(self._load.delete_key(key))
                    await asyncio.wait([deleting], timeout=self._chance.uniform(0, 0.04))
                    await self._server.kill()
                    with contextlib.suppress(OSError, EOFError):
                        await deleting
                case Moment.CHECKPOINT:
                    # Nothing but a checkpoint writes to the database itself.
                    nth = self._chance.randrange(1, 40)
                    self._faults.inject(Action.KILL, files=File.DATABASE, first=nth)
                    self._server.signal(signal.SIGTERM)
                    self._server.signal(signal.SIGTERM)
                    await self._server.wait()
                    self.checkpoints += self._faults.injected
                    self._faults.lift()
            await self._server.kill()
        self.lasting += self._ledger.died() if lasting else 0

    async def _restart(self, what: str) -> None:
        problems, found = examine(self._server.database, self._ledger)
        assert problems == [], what
        self.compared += len(found.rows)
        await self._server.start()
        self._ledger.started()
        for key in self._ledger.live():
            assert key.id is not None
            used, totals = await limit_status(self._server, key)
            expected = summed(found, key.id)
            assert used == {**dict.fromkeys(used, 0), **expected[0]}, what
            assert totals == expected[1], what


def summed(found: Found, key_id: str) -> tuple[dict[str, int], dict[str, int]]:
    """What the records of a key say that its limits have used, and its totals."""
    rows = [row for row in found.rows if row.key == key_id]
    sent = [row for row in rows if row.latency_ms is not None or row.status is None]

    def total(*indexes: int) -> int:
        return sum(row.counts[index] for row in rows for index in indexes)

    used = {
        "900B requests/total": len(sent),
        "900B requests/30d": len(sent),
        "900B tokens/total": total(0, 1, 3, 4),
        "900B input_tokens/7d": total(0, 3, 4),
        "900B output_tokens/5h": total(1),
    }
    # The start completes what ran: its process is to blame.
    classes = Counter(
        class_of for row in sent for class_of in classes_of(row.status or 503, row.latency_ms or 0)
    )
    return used, {
        "requests": len(sent),
        "refusals": len(rows) - len(sent),
        "served": len(sent) - classes.total(),
        **{name: classes[name] for name in ("client_errors", "upstream_errors", "cut")},
        "input_tokens": total(0),
        "output_tokens": total(1),
        "cache_read_tokens": total(2),
        "cache_write_tokens": total(3, 4),
    }


async def survive(kills: int, servers: Servers, upstream: ScriptedUpstream, library: Path) -> None:
    seed = int(os.environ.get("OPUSLIVE_SEED", random.randrange(2**32)))
    print(f"OPUSLIVE_SEED={seed}")
    server = servers.make(upstream.base_url)
    crashes = Crashes(server, upstream, Faults(library, server), random.Random(seed))
    await crashes.run(kills)
    print(
        f"{crashes.compared} records compared, {crashes.checkpoints} died in a checkpoint, "
        f"{crashes.lasting} lasting requests"
    )
    assert crashes.lasting > 0


async def test_ten_kills_under_load_lose_no_record(
    servers: Servers, upstream: ScriptedUpstream, library: Path
) -> None:
    await survive(10, servers, upstream, library)


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_a_hundred_kills_under_load_lose_no_record(
    servers: Servers, upstream: ScriptedUpstream, library: Path
) -> None:
    await survive(102, servers, upstream, library)
