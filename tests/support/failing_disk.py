"""A gateway whose disk can be made to fail, and a ledger of what was seen of it."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

from tests.support.invariants import examine
from tests.support.ledger import Asked, Ending, HeldKey, Ledger
from tests.support.load import Load
from tests.support.provider import ScriptedUpstream
from tests.support.server import Servers
from tests.support.shim import Action, Faults
from tests.support.waiting import PATIENCE
from tests.support.wire import Answer, Wire, message_body, request_bytes


class FailingDisk:
    """One gateway, one holder. ``start`` it, and ``check`` in the end."""

    def __init__(self, servers: Servers, upstream: ScriptedUpstream, library: Path) -> None:
        self.server = servers.make(upstream.base_url)
        self.faults = Faults(library, self.server)
        self.ledger = Ledger()
        self.upstream = upstream
        self.load = Load(self.server, upstream, self.ledger, random.Random(1))
        self.key = HeldKey("")

    async def start(self) -> None:
        await self.server.start()
        self.key = await self.load.create_key()

    async def ask(self) -> Asked:
        """Ask once; an answer that does not look complete leaves ``complete`` unset."""
        asked = self.ledger.next_number()
        try:
            return await self.load.ask(self.key, Ending.WHOLE)
        except (OSError, EOFError):
            assert self.server.process is not None
            assert self.server.process.poll() is None, self.server.log
            return self.ledger.asked(asked)

    async def answer(self, credential: str) -> Answer:
        """What a request gets that is not written down, for it must not get through."""
        return await self.server.messages(credential, message_body(messages=[{"content": 0}]))

    async def status(self, path: str) -> int:
        answer = await self.server.request("GET", path, key=self.key.credential)
        return answer.status

    async def administer(self, method: str, path: str, **members: object) -> Answer:
        """Call the administration API, whatever comes of it."""
        body = None if method in ("GET", "DELETE") else json.dumps(members).encode()
        async with await Wire.connect_unix(Path(f"{self.server.database}.sock")) as wire:
            await wire.send(request_bytes(method, f"/admin/api/{path}", body=body))
            return await wire.answer()

    async def refuses(self) -> None:
        """While the disk fails: nothing is let in, nobody is told that a good key is a bad one."""
        sent = len(self.upstream.inferences)
        refused = await self.answer(self.key.credential)
        assert refused.error == (503, "overloaded_error")
        assert int(refused.header("retry-after") or 0) > 0
        wrong = self.key.credential[:-1] + ("A" if self.key.credential[-1] != "A" else "B")
        assert (await self.answer(wrong)).status == 401
        assert len(self.upstream.inferences) == sent
        assert await self.status("/healthz") == 200
        assert await self.status("/v1/models") == 200
        assert await self.status("/readyz") == 503

    async def recovers(self) -> None:
        """After the fault is lifted, without a restart."""
        self.faults.lift()
        # A failure may be noticed after the fault was lifted: then it goes on a little later.
        async with asyncio.timeout(PATIENCE):
            while await self.status("/readyz") != 200 or (await self.ask()).complete != 200:
                await asyncio.sleep(0.01)

    async def calls_of_a_request(self) -> int:
        """How often one request calls upon the disk."""
        self.faults.inject(Action.DELAY)
        assert (await self.ask()).complete == 200
        self.faults.lift()
        return self.faults.calls

    async def check(self) -> int:
        """Stop, and compare what is stored with what was seen; return how many records."""
        assert await self.server.stop() == 0
        assert "Traceback" not in self.server.log
        problems, found = examine(self.server.database, self.ledger)
        assert problems == []
        return len(found.rows)
