"""A gateway whose clients and upstreams a test plays, on a real store; wired as in production."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from opuslive.administration.keys import Administration, KeyChanges
from opuslive.bootstrap import Gateway, wire
from opuslive.config.sections import Config
from opuslive.dialects import Buffer, Dialect, Operation, RawHeaders
from opuslive.dialects.anthropic.dialect import AnthropicDialect
from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.admission.admission import Admission
from opuslive.gateway.alerts.alerts import Message
from opuslive.gateway.client import Watcher
from opuslive.gateway.cutting import ExchangeCut
from opuslive.gateway.exchanges import Exchanges
from opuslive.gateway.holder import Cut, Holder, Holders
from opuslive.gateway.metrics import Metrics
from opuslive.gateway.timekeeping import Timekeeper
from opuslive.gateway.upstreams.health import UpstreamHealth, UpstreamState
from opuslive.gateway.upstreams.pool import Endpoint, UpstreamPool
from opuslive.gateway.upstreams.upstream import Upstream
from opuslive.gateway.upstreams.wire import AnswerHead, Timeouts
from opuslive.keys import Key, display_prefix, hash_credential, new_credential
from opuslive.pricing.prices import Prices
from opuslive.storage.sqlite.store import SQLiteStorage
from opuslive.usage import TokenCounts, UsageRecord
from tests.support.clock import NOW, Machine
from tests.support.listener import Listener, Peer
from tests.support.pools import PATIENT
from tests.support.provider import anthropic_events
from tests.support.waiting import PATIENCE, soon

#: ms between the admission of a request and what becomes of it, once it has arrived upstream.
LATENCY = 1_500

DIALECT = AnthropicDialect()
MESSAGES, COUNTING = DIALECT.operations
BODY = json.dumps({"model": "claude-known", "max_tokens": 9, "stream": True}).encode()
#: What admission reserves for the input of ``BODY``, in tokens, before there is experience.
INPUT_GUESS = DIALECT.input_guess(BODY).seen
EVENTS = anthropic_events("Hello to you", input_tokens=11, output_tokens=7)
STREAM = b"".join(EVENTS)
MESSAGE = b'{"type":"message","content":[],"usage":{"input_tokens":11,"output_tokens":7}}'
COUNTS = TokenCounts(input=11, output=7)


class Caller:
    """A client of the gateway, as the web layer shows it to an exchange. A ``Client``."""

    def __init__(self, credential: str, body: Buffer | OpusLiveError | None = BODY) -> None:
        """``None`` is a body that does not come; an error is raised instead of one."""
        self.request_id = "req_of_the_caller"
        self.credentials: Sequence[str] = [credential]
        self.headers: RawHeaders = [(b"Anthropic-Version", b"2023-06-01"), (b"Cookie", b"no")]
        self.query = b"beta=true"
        self.gone = False
        self.head: AnswerHead | None = None
        self.writes: list[bytes] = []
        self.resets = 0
        self.body_is_sent = False
        #: Bytes of the answer that the gateway holds for it, and how many it may hold.
        self.holding, self.memory = 0, 2**30
        #: What is said if there is no more.
        self.no_memory = Code.OVERLOADED
        self.exchange: Watcher | None = None
        self._body = body
        self._waiting = asyncio.Event()

    def authenticated(self, holder: Holder) -> None:
        self.holder = holder

    def watch(self, watcher: Watcher) -> None:
        if self.gone:
            raise ExchangeCut(Cut.CLIENT_GONE)
        self.exchange = watcher

    @property
    def body_is_here(self) -> bool:
        return isinstance(self._body, Buffer)

    async def read_body(self) -> Buffer:
        body, self._body = self._body, None
        if body is None:
            await self._waiting.wait()
            raise ExchangeCut(Cut.CLIENT_GONE)
        if isinstance(body, OpusLiveError):
            raise body
        return body

    def body_sent(self) -> None:
        self.body_is_sent = True

    def hold(self, size: int) -> None:
        self.holding += size
        if self.holding > self.memory:
            raise OpusLiveError(self.no_memory, "There is no memory.")

    async def start_answer(
        self, head: AnswerHead, begun: bytes
    ) -> tuple[Callable[[bytes], object], bool]:
        if self.gone:
            raise ExchangeCut(Cut.CLIENT_GONE)
        assert self.head is None
        self.head = head
        if begun:
            self.writes.append(begun)
        return self.writes.append, False

    def reset(self) -> None:
        self.resets += 1
        self._waiting.set()

    @property
    def written(self) -> bytes:
        return b"".join(self.writes)

    def leave(self) -> None:
        """The connection is lost; the web layer tells the exchange."""
        self.gone = True
        assert self.exchange is not None
        self.exchange.client_gone()


class Rig:
    """A gateway with one key. It is wired when first used, with the upstreams that are there."""

    def __init__(self, storage: SQLiteStorage, key: Key, credential: str) -> None:
        self.storage = storage
        self.credential = credential
        self.machine = Machine()
        self.upstreams: list[Upstream] = []
        #: The alerts that went out; ``deliver`` sends them.
        self.alerts: list[Message] = []
        self.deliver: Callable[[Message], object] = self.alerts.append
        self._key = key
        self._tasks: list[asyncio.Task[None]] = []
        self._wired: tuple[Gateway, Holder] | None = None

    @classmethod
    async def open(cls, path: Path) -> Rig:
        """One on a new database at the path."""
        storage = await SQLiteStorage.open(path, retry_delay=3_600)
        credential = new_credential("sk-ant-ol-", "key00001", storage.checksum_key)
        prefix = display_prefix("sk-ant-ol-", "key00001")
        key = Key("key00001", "a key", prefix, NOW, hash_credential(credential))
        await storage.add_key(key)
        return cls(storage, key, credential)

    def upstream(
        self,
        port: int,
        timeouts: Timeouts = PATIENT,
        *,
        tls: ssl.SSLContext | None = None,
        priority: int = 0,
        dialect: Dialect = DIALECT,
    ) -> Upstream:
        """One more upstream, before the gateway is used."""
        assert self._wired is None
        loop = asyncio.get_running_loop()
        upstream = Upstream(
            name=f"upstream {len(self.upstreams)}",
            dialect=dialect,
            pool=UpstreamPool(Endpoint("127.0.0.1", port, tls), timeouts, loop),
            authority=b"upstream",
            path_prefix=b"",
            credential=[(b"x-api-key", b"secret")],
            models=("claude-*", "claude-known"),
            priority=priority,
            weight=1,
        )
        self.upstreams.append(upstream)
        return upstream

    async def limit(self, *limits: str) -> None:
        """Give the key other limits."""
        if self._wired is not None:
            await self.administration.update(self.key.id, KeyChanges(limits=limits))
            return
        self._key = replace(self._key, limits=limits)
        await self.storage.update_key(self._key, at=NOW)

    # The parts of the gateway.

    def _wire(self) -> tuple[Gateway, Holder]:
        if self._wired is None:
            gateway = wire(
                Config(aliases=MappingProxyType({"known": "claude-known"})),
                self.storage,
                [self._key],
                self.upstreams,
                Prices({}),
                self.machine.clock,
                lambda message: self.deliver(message),
            )
            self._wired = gateway, gateway.holders.find(self._key.id)
        return self._wired

    @property
    def holder(self) -> Holder:
        return self._wire()[1]

    @property
    def key(self) -> Key:
        return self.holder.key

    @property
    def holders(self) -> Holders:
        return self._wire()[0].holders

    @property
    def admission(self) -> Admission:
        return self._wire()[0].admission

    @property
    def metrics(self) -> Metrics:
        return self._wire()[0].metrics

    @property
    def administration(self) -> Administration:
        return self._wire()[0].administration

    @property
    def exchanges(self) -> Exchanges:
        return self._wire()[0].exchanges

    @property
    def timekeeper(self) -> Timekeeper:
        return self._wire()[0].timekeeper

    @property
    def date(self) -> int:
        """What records bear at the moment."""
        return self._wire()[0].clock.steady_ms()

    @property
    def health(self) -> list[UpstreamHealth]:
        """The health of each upstream."""
        return [upstream.health for upstream in self.upstreams]

    @property
    def down(self) -> list[bool]:
        """Whether each upstream is down."""
        return [health.is_down(self.date) for health in self.health]

    @property
    def states(self) -> list[UpstreamState]:
        """The state of each upstream."""
        return [health.state(self.date) for health in self.health]

    # Requests.

    def caller(self, body: Buffer | OpusLiveError | None = BODY) -> Caller:
        return Caller(self.credential, body)

    def serve(
        self, caller: Caller, operation: Operation = MESSAGES, dialect: Dialect = DIALECT
    ) -> asyncio.Task[None]:
        task = asyncio.ensure_future(self.exchanges.serve(dialect, operation, caller))
        self._tasks.append(task)
        return task

    async def arrived(self, listener: Listener) -> Peer:
        """The upstream's end, when a whole request has arrived. It takes its time from then on."""
        peer = await listener.accept()
        head = await peer.request()
        length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
        await peer.exactly(int(length.partition(b":")[2]))
        self.machine.elapsed = NOW + LATENCY
        return peer

    async def records(self) -> list[UsageRecord]:
        """The records on disk, once all that is queued is there."""
        await self.storage.update_key(self.key, at=NOW)
        records, _ = await self.storage.records(self.key.id)
        assert {record.time for record in records} <= {NOW, NOW + LATENCY}
        return list(records)

    async def record(self) -> UsageRecord:
        """The one record, once it is on disk: after trouble with that, it is tried again."""
        async with asyncio.timeout(PATIENCE):
            while not (records := await self.records()):
                await asyncio.sleep(0)
        (record,) = records
        return record

    async def finish(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._wired is None:
            await self.storage.close()
        else:
            await self._wired[0].close()


async def denied(task: asyncio.Task[None]) -> OpusLiveError:
    """The error that is to be answered."""
    with pytest.raises(OpusLiveError) as raised:
        await soon(task)
    return raised.value


async def cut(task: asyncio.Task[None]) -> Cut:
    """Why the exchange was broken off."""
    with pytest.raises(ExchangeCut) as raised:
        await soon(task)
    return raised.value.why


@contextmanager
def held_disk(storage: SQLiteStorage) -> Iterator[None]:
    """Nothing is written inside: the disk takes its time."""
    gate = threading.Event()
    storage._writing.submit(gate.wait, PATIENCE)
    yield
    gate.set()
