"""The life of a request, and its ends: each leaves one record, or the one way that leaves none."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from opuslive.administration.keys import Administration, KeyChanges
from opuslive.dialects import Buffer, Dialect, Meter, NoUsage, Operation, RawHeaders
from opuslive.dialects.anthropic.dialect import AnthropicDialect
from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.admission.admission import Admission
from opuslive.gateway.alerts.alerts import Alerts
from opuslive.gateway.authenticator import Authenticator
from opuslive.gateway.client import ExchangeCut, Watcher
from opuslive.gateway.exchange import Exchange
from opuslive.gateway.exchanges import Exchanges
from opuslive.gateway.holder import Cut, Holder, Holders
from opuslive.gateway.services import Services
from opuslive.gateway.settlement import Recorder
from opuslive.gateway.upstreams.health import DOWN_FAILURES, Health, UpstreamState
from opuslive.gateway.upstreams.pool import Endpoint, UpstreamPool
from opuslive.gateway.upstreams.router import Router
from opuslive.gateway.upstreams.upstream import Upstream
from opuslive.gateway.upstreams.wire import AnswerHead, FailureKind, Timeouts
from opuslive.keys import Key, display_prefix, hash_credential, new_credential
from opuslive.limits.accounts import ThresholdCrossing
from opuslive.limits.policy import LimitPolicy
from opuslive.pricing.prices import Prices
from opuslive.storage import StorageUnavailable, open_storage
from opuslive.storage.sqlite.store import SQLiteStorage
from opuslive.times import Clock
from opuslive.usage import TokenCounts, UsageRecord
from tests.storage.sqlite.test_store import full_disk
from tests.support.provider import LAST_CHUNK, STREAM_HEAD, anthropic_events, chunk
from tests.support.upstream_wire import NEVER, PATIENCE, Listener, Peer, answer, eventually, turns

NOW = 1_795_446_245_123
DIALECT = AnthropicDialect()
MESSAGES, COUNTING = DIALECT.operations
BODY = json.dumps({"model": "claude-known", "max_tokens": 9, "stream": True}).encode()
EVENTS = anthropic_events("Hello to you", input_tokens=11, output_tokens=7)
STREAM = b"".join(EVENTS)
MESSAGE = b'{"type":"message","content":[],"usage":{"input_tokens":11,"output_tokens":7}}'
COUNTS = TokenCounts(input=11, output=7)
SHORT = Timeouts(60.0, 0.05, 0.05)


class Caller:
    """A client of the gateway, as the web layer shows it to an exchange. A ``Client``."""

    def __init__(self, credential: str, body: bytes | OpusLiveError | None = BODY) -> None:
        """``None`` is a body that does not come; an error is raised instead of one."""
        self.credentials: Sequence[str] = [credential]
        self.headers: RawHeaders = [(b"Anthropic-Version", b"2023-06-01"), (b"Cookie", b"no")]
        self.query = b"beta=true"
        self.gone = False
        self.head: AnswerHead | None = None
        self.writes: list[bytes] = []
        self.resets = 0
        self.body_is_sent = False
        self.exchange: Watcher | None = None
        self._body = body
        self._waiting = asyncio.Event()

    def authenticated(self, holder: Holder) -> None:
        self.holder = holder

    def watch(self, exchange: Watcher) -> None:
        if self.gone:
            raise ExchangeCut(Cut.CLIENT_GONE)
        self.exchange = exchange

    async def read_body(self) -> Buffer:
        if self._body is None:
            await self._waiting.wait()
            raise ExchangeCut(Cut.CLIENT_GONE)
        if isinstance(self._body, OpusLiveError):
            raise self._body
        return self._body

    def body_sent(self) -> None:
        self.body_is_sent = True

    async def start_answer(self, head: AnswerHead) -> tuple[Callable[[bytes], object], bool]:
        if self.gone:
            raise ExchangeCut(Cut.CLIENT_GONE)
        assert self.head is None
        self.head = head
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
        self.exchange.cut(Cut.CLIENT_GONE)


@dataclass
class Rig:
    """Exchanges between callers and upstreams that a test plays, on a real store."""

    storage: SQLiteStorage
    authenticator: Authenticator
    admission: Admission
    holders: Holders
    holder: Holder
    credential: str
    upstreams: list[Upstream] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    #: Of records. Later than the admission, as far as that can tell.
    now: int = NOW + 1500
    clock: Callable[[], int] = field(init=False)
    #: The levels of limits that were passed; ``on_crossing`` is told.
    crossings: list[ThresholdCrossing] = field(default_factory=list)
    on_crossing: Callable[[ThresholdCrossing], object] = field(init=False)
    _exchanges: Exchanges | None = None
    _health: Health | None = None

    def __post_init__(self) -> None:
        self.clock = lambda: self.now
        self.on_crossing = self.crossings.append

    def upstream(
        self,
        port: int,
        timeouts: Timeouts = NEVER,
        *,
        tls: ssl.SSLContext | None = None,
        priority: int = 0,
    ) -> Upstream:
        upstream = Upstream(
            name=f"upstream {len(self.upstreams)}",
            dialect=DIALECT,
            pool=UpstreamPool(
                Endpoint("127.0.0.1", port, tls), timeouts, asyncio.get_running_loop()
            ),
            authority=b"upstream",
            path_prefix=b"",
            credential=[(b"x-api-key", b"secret")],
            models=("claude-*", "claude-known"),
            priority=priority,
            weight=1,
        )
        self.upstreams.append(upstream)
        return upstream

    @property
    def exchanges(self) -> Exchanges:
        """Made when first asked for, of the upstreams that are there by then."""
        if self._exchanges is None:
            router = Router(
                self.upstreams,
                {"known": "claude-known"},
                lambda model: None,
                lambda some: some[0],
                lambda: (),
            )
            self._exchanges = Exchanges(
                Services(
                    self.authenticator,
                    self.admission,
                    router,
                    self.health,
                    Recorder(
                        self.storage, router.kept_name, Prices({}).tier_of, lambda: self.clock()
                    ),
                )
            )
        return self._exchanges

    @property
    def health(self) -> Health:
        """Made when first asked for, as ``exchanges``."""
        if self._health is None:
            alerts = Alerts(lambda: NOW, None)
            self._health = Health((each.name for each in self.upstreams), alerts, lambda: NOW)
        return self._health

    @property
    def states(self) -> list[UpstreamState]:
        """How each upstream is."""
        return [health.state for health in self.health.upstreams.values()]

    @property
    def key(self) -> Key:
        return self.holder.key

    @property
    def administration(self) -> Administration:
        return Administration(
            self.storage,
            self.holders,
            self.admission,
            Clock(lambda: NOW, lambda: NOW),
            key_prefix="sk-ant-ol-",
            default_limits=(),
        )

    async def limit(self, *limits: str) -> None:
        """Give the key other limits."""
        await self.administration.update(self.key.id, KeyChanges(limits=limits))

    def caller(self, body: bytes | OpusLiveError | None = BODY) -> Caller:
        return Caller(self.credential, body)

    def serve(
        self, caller: Caller, operation: Operation = MESSAGES, dialect: Dialect = DIALECT
    ) -> asyncio.Task[None]:
        task = asyncio.ensure_future(self.exchanges.serve(dialect, operation, caller))
        self.tasks.append(task)
        return task

    async def records(self) -> list[UsageRecord]:
        """What is on disk, once all that is queued is."""
        await self.storage.update_key(self.key, at=NOW)
        records, _ = await self.storage.records(self.key.id)
        assert {record.time for record in records} <= {NOW, NOW + 1500}
        return list(records)

    async def record(self) -> UsageRecord:
        """The one record, once it is on disk: after trouble with that, it is tried again."""
        async with asyncio.timeout(PATIENCE):
            while not (records := await self.records()):
                await asyncio.sleep(0)
        (record,) = records
        return record

    async def finish(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for upstream in self.upstreams:
            upstream.pool.close()
        self.authenticator.close()
        await self.storage.close()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    storage = await SQLiteStorage.open(tmp_path / "opuslive.db", retry_delay=3_600)
    credential = new_credential("sk-ant-ol-", "key00001", storage.checksum_key)
    prefix = display_prefix("sk-ant-ol-", "key00001")
    key = Key("key00001", "a key", prefix, NOW, hash_credential(credential))
    await storage.add_key(key)
    holder = Holder(key, NOW)
    holders = Holders([holder])
    authenticator = Authenticator(holders, storage.checksum_key, lambda: NOW)
    settings = LimitPolicy("adaptive", Fraction(0), 5.0, (), {}, "the administrator")
    made: list[Rig] = []
    admission = Admission(
        settings,
        holders,
        Prices({}),
        storage,
        lambda: NOW,
        lambda crossing: made[0].on_crossing(crossing),
    )
    made.append(Rig(storage, authenticator, admission, holders, holder, credential))
    yield made[0]
    await made[0].finish()


async def soon(task: asyncio.Future[None]) -> None:
    async with asyncio.timeout(PATIENCE):
        await task


async def refused(task: asyncio.Task[None]) -> OpusLiveError:
    with pytest.raises(OpusLiveError) as raised:
        await soon(task)
    return raised.value


async def cut(task: asyncio.Task[None]) -> Cut:
    with pytest.raises(ExchangeCut) as raised:
        await soon(task)
    return raised.value.why


async def arrived(listener: Listener) -> Peer:
    """The upstream's end, when the whole request has arrived."""
    peer = await listener.accept()
    head = await peer.request()
    length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
    await peer.exactly(int(length.partition(b":")[2]))
    return peer


@pytest.fixture
def caller(rig: Rig) -> Caller:
    return rig.caller()


class TestServed:
    async def test_a_stream(self, rig: Rig, listener: Listener, caller: Caller) -> None:
        rig.upstream(listener.port)
        serving = rig.serve(caller)
        peer = await listener.accept()
        assert await peer.request() == (
            b"POST /v1/messages?beta=true HTTP/1.1\r\n"
            b"host: upstream\r\n"
            b"x-api-key: secret\r\n"
            b"Anthropic-Version: 2023-06-01\r\n"
            b"accept-encoding: identity\r\n"
            b"content-length: %d\r\n\r\n" % len(BODY)
        )
        assert await peer.exactly(len(BODY)) == BODY
        assert rig.exchanges.running == 1
        await peer.send_apart(STREAM_HEAD, *map(chunk, EVENTS), LAST_CHUNK)
        await soon(serving)
        assert caller.head is not None
        assert caller.head.status == 200
        assert (b"cache-control", b"no-cache") in caller.head.headers
        assert caller.written == STREAM
        assert (caller.resets, caller.body_is_sent) == (0, True)
        assert await rig.record() == UsageRecord(rig.key.id, NOW, "claude-known", 200, 1500, COUNTS)
        assert rig.upstreams[0].pool.idle_connections == 1
        assert rig.exchanges.running == 0
        await soon(asyncio.ensure_future(rig.exchanges.wait_idle()))

    @pytest.mark.parametrize("whole", [False, True])
    async def test_never_in_full_before_the_record_is_on_disk(
        self, rig: Rig, listener: Listener, caller: Caller, whole: bool
    ) -> None:
        """In one packet, or event by event."""
        rig.upstream(listener.port)
        serving = rig.serve(caller)
        peer = await arrived(listener)
        with held_disk(rig.storage):
            wire = [STREAM_HEAD, *map(chunk, EVENTS), LAST_CHUNK]
            await peer.send_apart(*([b"".join(wire)] if whole else wire))
            await turns(100)
            assert not serving.done()
            assert STREAM.startswith(caller.written)
            assert len(caller.written) <= len(STREAM) - 2
        await soon(serving)
        assert caller.written == STREAM

    async def test_a_body(self, rig: Rig, listener: Listener, caller: Caller) -> None:
        rig.upstream(listener.port)
        serving = rig.serve(caller)
        peer = await arrived(listener)
        with held_disk(rig.storage):
            await peer.send_apart(answer(MESSAGE)[:-20], answer(MESSAGE)[-20:])
            await turns(100)
            assert caller.written == MESSAGE[:-20]
        await soon(serving)
        assert caller.written == MESSAGE
        assert (await rig.record()).tokens == COUNTS

    @pytest.mark.parametrize("status", [400, 403, 404, 413, 500, 503, 529])
    async def test_an_error_of_the_upstream(
        self, rig: Rig, listener: Listener, caller: Caller, status: int
    ) -> None:
        """It goes on byte for byte, and used nothing."""
        body = b'{"type":"error","error":{"type":"x","message":"usage"},"usage":{"input_tokens":9}}'
        rig.upstream(listener.port)
        serving = rig.serve(caller)
        (await arrived(listener)).send(answer(body, b"x-should-retry: true", status=status))
        await soon(serving)
        assert caller.head is not None
        assert (caller.head.status, caller.written) == (status, body)
        assert (b"x-should-retry", b"true") in caller.head.headers
        record = await rig.record()
        assert (record.status, record.latency_ms, record.tokens) == (status, 1500, TokenCounts())

    async def test_an_error_within_a_stream(
        self, rig: Rig, listener: Listener, caller: Caller
    ) -> None:
        error = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error"}}\n\n'
        rig.upstream(listener.port)
        serving = rig.serve(caller)
        peer = await arrived(listener)
        await peer.send_apart(STREAM_HEAD, chunk(EVENTS[0]), chunk(error), LAST_CHUNK)
        await soon(serving)
        assert (caller.written, caller.resets) == (EVENTS[0] + error, 0)
        record = await rig.record()
        assert (record.status, record.tokens.input) == (502, 11)
        health = rig.health.upstreams["upstream 0"]
        assert (health.failures_in_a_row, health.last_failure) == (1, FailureKind.GAVE_UP)
        assert health.last_success_at is None

    async def test_an_alias(self, rig: Rig, listener: Listener) -> None:
        rig.upstream(listener.port)
        caller = rig.caller(b'{ "model" : "known", "x": "known"}')
        serving = rig.serve(caller)
        peer = await listener.accept()
        await peer.request()
        resolved = b'{ "model" : "claude-known", "x": "known"}'
        assert await peer.exactly(len(resolved)) == resolved
        peer.send(answer(MESSAGE))
        await soon(serving)
        assert (await rig.record()).model == "claude-known"

    async def test_a_name_that_only_a_glob_matches_is_not_kept(
        self, rig: Rig, listener: Listener
    ) -> None:
        rig.upstream(listener.port)
        serving = rig.serve(rig.caller(b'{"model":"claude-dear-diary"}'))
        (await arrived(listener)).send(answer(MESSAGE))
        await soon(serving)
        assert (await rig.record()).model is None

    async def test_counting_leaves_no_record(
        self, rig: Rig, listener: Listener, caller: Caller
    ) -> None:
        rig.upstream(listener.port)
        serving = rig.serve(caller, COUNTING)
        (await arrived(listener)).send(answer(b'{"input_tokens":5}'))
        await soon(serving)
        assert caller.written == b'{"input_tokens":5}'
        assert await rig.records() == []

    async def test_on_a_new_connection_where_the_idle_one_was_closed(
        self, rig: Rig, listener: Listener
    ) -> None:
        rig.upstream(listener.port)
        first = rig.serve(rig.caller())
        peer = await arrived(listener)
        peer.send(answer(MESSAGE))
        await soon(first)
        assert rig.upstreams[0].pool.idle_connections == 1
        peer.close()
        second = rig.serve(rig.caller())
        (await arrived(listener)).send(answer(MESSAGE))
        await soon(second)
        assert [record.status for record in await rig.records()] == [200, 200]

    async def test_by_the_next_upstream_where_nothing_was_sent(
        self, rig: Rig, listener: Listener, caller: Caller
    ) -> None:
        closed = Listener()
        closed.close()
        rig.upstream(closed.port, priority=-1)
        rig.upstream(listener.port)
        serving = rig.serve(caller)
        (await arrived(listener)).send(answer(MESSAGE))
        await soon(serving)
        assert (await rig.record()).status == 200
        assert rig.states == [UpstreamState.FAILING, UpstreamState.OK]

    async def test_by_the_next_upstream_where_one_hangs_up_at_once(
        self, rig: Rig, listener: Listener, caller: Caller
    ) -> None:
        """As a balancer does that has nobody behind it."""
        balancer = Listener()
        rig.upstream(balancer.port, priority=-1)
        rig.upstream(listener.port)
        serving = rig.serve(caller)
        while (peer := balancer.accept_now()) is None:
            await asyncio.sleep(0)
        peer.close()
        (await arrived(listener)).send(answer(MESSAGE))
        await soon(serving)
        assert (await rig.record()).status == 200
        balancer.close()


class TestRefused:
    """An error is raised for the caller to answer; its record is on disk before."""

    @pytest.mark.parametrize(
        ("body", "code"),
        [
            (b"not JSON", Code.INVALID_REQUEST),
            (b'{"model":"gpt"}', Code.MODEL_NOT_FOUND),
            (OpusLiveError(Code.BODY_TOO_LARGE, "large"), Code.BODY_TOO_LARGE),
            (OpusLiveError(Code.BODY_TIMEOUT, "late"), Code.BODY_TIMEOUT),
        ],
    )
    async def test_before_anything_is_sent(
        self, rig: Rig, listener: Listener, body: bytes | OpusLiveError, code: Code
    ) -> None:
        rig.upstream(listener.port)
        caller = rig.caller(body)
        assert (await refused(rig.serve(caller))).code is code
        record = await rig.record()
        assert record == UsageRecord(rig.key.id, NOW + 1500, None, code.status, None)
        assert (caller.head, caller.resets) == (None, 0)
        assert (await refused(rig.serve(rig.caller(body), COUNTING))).code is code
        assert await rig.records() == [record]

    async def test_a_model_that_the_key_may_not_use(self, rig: Rig, listener: Listener) -> None:
        rig.upstream(listener.port)
        rig.holders.change(rig.holder, replace(rig.key, models=("claude-other*",)))
        error = await refused(rig.serve(rig.caller()))
        assert error.code is Code.MODEL_NOT_FOUND
        assert (await rig.record()).model == "claude-known"

    async def test_a_credential_that_proves_nothing(self, rig: Rig, listener: Listener) -> None:
        rig.upstream(listener.port)
        assert (await refused(rig.serve(Caller("guess")))).code is Code.INVALID_KEY
        assert await rig.records() == []

    async def test_while_draining(self, rig: Rig, listener: Listener, caller: Caller) -> None:
        rig.upstream(listener.port)
        rig.exchanges.draining = True
        error = await refused(rig.serve(caller))
        assert (error.code, error.retry_after) == (Code.OVERLOADED, 5)
        assert [record.status for record in await rig.records()] == [503]

    async def test_where_nobody_can_be_reached(self, rig: Rig, caller: Caller) -> None:
        for _ in range(2):
            closed = Listener()
            closed.close()
            rig.upstream(closed.port)
        assert (await refused(rig.serve(caller))).code is Code.UPSTREAM_UNREACHABLE
        record = await rig.record()
        assert (record.status, record.latency_ms, record.model) == (502, None, "claude-known")

    @pytest.mark.parametrize(
        ("wire", "code"),
        [
            (b"", Code.UPSTREAM_UNREACHABLE),
            (b"HTTP/1.1 200 OK\r\ncontent", Code.UPSTREAM_UNREACHABLE),
            (b"garbage", Code.UPSTREAM_UNREACHABLE),
            (answer(MESSAGE, b"location: /", status=307), Code.UPSTREAM_UNREACHABLE),
            (answer(MESSAGE, b"content-encoding: gzip"), Code.UPSTREAM_UNREACHABLE),
            (answer(MESSAGE, status=400)[:-1], Code.UPSTREAM_UNREACHABLE),
            (answer(MESSAGE, status=401), Code.UPSTREAM_ACCOUNT),
            (answer(MESSAGE, status=402), Code.UPSTREAM_ACCOUNT),
            (answer(MESSAGE, b"retry-after: 17", status=429), Code.UPSTREAM_RATE_LIMITED),
        ],
    )
    async def test_for_what_the_upstream_did(
        self, rig: Rig, listener: Listener, caller: Caller, wire: bytes, code: Code
    ) -> None:
        """The request was sent: it is never sent again, to whomever."""
        rig.upstream(listener.port)
        other = Listener()
        rig.upstream(other.port)
        serving = rig.serve(caller)
        peer = await arrived(listener)
        if wire:
            peer.send(wire)
            await turns()
        peer.reset()
        error = await refused(serving)
        assert error.code is code
        assert error.retry_after == (17 if code is Code.UPSTREAM_RATE_LIMITED else None)
        record = await rig.record()
        assert (record.status, record.latency_ms) == (code.status, 1500)
        assert (caller.head, caller.writes, caller.resets) == (None, [], 0)
        assert other.accept_now() is None
        other.close()
        states = {
            Code.UPSTREAM_ACCOUNT: UpstreamState.CREDENTIAL_REFUSED,
            Code.UPSTREAM_RATE_LIMITED: UpstreamState.UNUSED,
        }
        assert rig.states == [states.get(code, UpstreamState.FAILING), UpstreamState.UNUSED]

    async def test_for_the_upstreams_silence(
        self, rig: Rig, listener: Listener, caller: Caller
    ) -> None:
        rig.upstream(listener.port, SHORT)
        serving = rig.serve(caller)
        peer = await arrived(listener)
        assert (await refused(serving)).code is Code.UPSTREAM_TIMEOUT
        record = await rig.record()
        assert (record.status, record.latency_ms) == (504, 1500)
        assert await peer.closed()
        assert rig.health.upstreams["upstream 0"].last_failure is FailureKind.HEAD_TIMEOUT

    async def test_the_operator_hears_of_the_account(
        self,
        rig: Rig,
        listener: Listener,
        caller: Caller,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        rig.upstream(listener.port)
        serving = rig.serve(caller)
        (await arrived(listener)).send(answer(b'{"error":"secret account 7"}', status=401))
        error = await refused(serving)
        (line,) = [each for each in caplog.records if each.levelno == logging.ERROR]
        assert "upstream 0 refuses this gateway's account" in line.message
        assert "secret" not in caplog.text + error.message


class TestBrokenOff:
    """The upstream fails after the answer has begun: the client's connection is reset."""

    @pytest.mark.parametrize("way", [Peer.close, Peer.reset, lambda peer: peer.send(LAST_CHUNK)])
    async def test_in_a_stream(
        self, rig: Rig, listener: Listener, caller: Caller, way: Callable[[Peer], None]
    ) -> None:
        """A clean end is none where the last event is missing."""
        rig.upstream(listener.port)
        serving = rig.serve(caller)
        peer = await arrived(listener)
        peer.send(STREAM_HEAD, *map(chunk, EVENTS[:-2]))
        await eventually(lambda: caller.written == b"".join(EVENTS[:-2]))
        way(peer)
        assert await cut(serving) is Cut.UPSTREAM_GONE
        assert caller.resets == 1
        record = await rig.record()
        assert (record.status, record.latency_ms, record.tokens.input) == (502, 1500, 11)
        assert record.tokens.output > 0  # an estimate: it was never told
        assert rig.states == [UpstreamState.FAILING]

    async def test_always_counts_as_down(self, rig: Rig, listener: Listener) -> None:
        """Though each answer begins well."""
        rig.upstream(listener.port)
        for _ in range(DOWN_FAILURES):
            assert not rig.health.all_down
            caller = rig.caller()
            serving = rig.serve(caller)
            peer = await arrived(listener)
            peer.send(STREAM_HEAD, chunk(EVENTS[0]))
            await eventually(partial(getattr, caller, "writes"))
            peer.reset()
            assert await cut(serving) is Cut.UPSTREAM_GONE
        assert rig.health.all_down

    async def test_in_a_body(self, rig: Rig, listener: Listener, caller: Caller) -> None:
        rig.upstream(listener.port)
        serving = rig.serve(caller)
        peer = await arrived(listener)
        peer.send(answer(MESSAGE)[:-1])
        await eventually(lambda: caller.head)
        peer.close()
        assert await cut(serving) is Cut.UPSTREAM_GONE
        assert caller.resets == 1
        assert (await rig.record()).status == 502

    async def test_by_silence(self, rig: Rig, listener: Listener, caller: Caller) -> None:
        rig.upstream(listener.port, SHORT)
        serving = rig.serve(caller)
        peer = await arrived(listener)
        peer.send(STREAM_HEAD, chunk(EVENTS[0]))
        assert await cut(serving) is Cut.UPSTREAM_GONE
        assert caller.resets == 1
        assert (await rig.record()).status == 502
        assert await peer.closed()

    @pytest.mark.parametrize("way", [Peer.close, Peer.reset])
    async def test_not_once_the_last_event_has_come(
        self, rig: Rig, listener: Listener, caller: Caller, way: Callable[[Peer], None]
    ) -> None:
        rig.upstream(listener.port)
        serving = rig.serve(caller)
        peer = await arrived(listener)
        await peer.send_apart(STREAM_HEAD, *map(chunk, EVENTS))
        way(peer)
        await soon(serving)
        assert (caller.written, caller.resets) == (STREAM, 0)
        assert (await rig.record()).status == 200


class Phase:
    """How far a request has come when something happens to it."""

    def __init__(self, rig: Rig, caller: Caller, serving: asyncio.Task[None]) -> None:
        self.rig, self.caller, self.serving = rig, caller, serving
        self.peer: Peer | None = None


Reach = Callable[[Rig, Listener], Coroutine[Any, Any, Phase]]


async def body(rig: Rig, listener: Listener) -> Phase:
    """The client has not sent its body yet."""
    rig.upstream(listener.port)
    caller = rig.caller(None)
    phase = Phase(rig, caller, rig.serve(caller))
    await eventually(lambda: caller.exchange)
    await turns()
    return phase


async def connecting(rig: Rig, listener: Listener) -> Phase:
    """The upstream does not shake hands yet."""
    rig.upstream(listener.port, tls=ssl.create_default_context())
    caller = rig.caller()
    phase = Phase(rig, caller, rig.serve(caller))
    phase.peer = await listener.accept()
    await turns()
    return phase


async def waiting(rig: Rig, listener: Listener) -> Phase:
    """The upstream has the request, and has not answered."""
    rig.upstream(listener.port)
    caller = rig.caller()
    phase = Phase(rig, caller, rig.serve(caller))
    phase.peer = await arrived(listener)
    return phase


async def reading(rig: Rig, listener: Listener) -> Phase:
    """The upstream's answer has begun; it may be one that the client must not see."""
    phase = await waiting(rig, listener)
    assert phase.peer is not None
    await phase.peer.send_apart(answer(MESSAGE, status=400)[:-1])
    return phase


async def streaming(rig: Rig, listener: Listener) -> Phase:
    """The client has a part of the answer."""
    phase = await waiting(rig, listener)
    assert phase.peer is not None
    phase.peer.send(STREAM_HEAD, chunk(EVENTS[0]))
    await eventually(lambda: phase.caller.writes)
    return phase


async def ending(rig: Rig, listener: Listener) -> Phase:
    """The client has the last event, and the upstream has not ended its answer."""
    phase = await streaming(rig, listener)
    assert phase.peer is not None
    phase.peer.send(*map(chunk, EVENTS[1:]))
    await eventually(lambda: phase.caller.written == STREAM)
    return phase


UNSENT, UNANSWERED = (body, connecting), (waiting, reading)
PHASES = (*UNSENT, *UNANSWERED, streaming, ending)


class TestClientGone:
    @pytest.mark.parametrize("reach", PHASES)
    async def test_in_any_phase(self, rig: Rig, listener: Listener, reach: Reach) -> None:
        """The upstream is let go at once; what was used until then is recorded."""
        phase = await reach(rig, listener)
        phase.caller.leave()
        assert await cut(phase.serving) is Cut.CLIENT_GONE
        record = await rig.record()
        assert record.status == (200 if reach is ending else 499)
        assert record.latency_ms == (None if reach in UNSENT else 1500)
        assert record.tokens.input == (11 if reach in (streaming, ending) else 0)
        if phase.peer is not None:
            assert await phase.peer.closed()
        await eventually(lambda: rig.upstreams[0].pool.open_connections == 0)
        assert rig.exchanges.running == 0
        assert rig.states == [UpstreamState.OK if reach is ending else UpstreamState.UNUSED]

    async def test_before_the_request_is_looked_at(
        self, rig: Rig, listener: Listener, caller: Caller
    ) -> None:
        rig.upstream(listener.port)
        caller.gone = True
        assert await cut(rig.serve(caller)) is Cut.CLIENT_GONE
        record = await rig.record()
        assert (record.status, record.latency_ms) == (499, None)
        assert listener.accept_now() is None

    async def test_in_the_moment_in_which_its_body_has_come(
        self, rig: Rig, listener: Listener
    ) -> None:
        """Nothing is sent for it any more, not even on a connection that is there."""
        rig.upstream(listener.port)
        first = rig.serve(rig.caller())
        peer = await arrived(listener)
        peer.send(answer(MESSAGE))
        await soon(first)

        class Leaving(Caller):
            async def read_body(self) -> Buffer:
                body = await super().read_body()
                self.leave()
                return body

        assert await cut(rig.serve(Leaving(rig.credential))) is Cut.CLIENT_GONE
        assert [record.status for record in await rig.records()] == [200, 499]
        assert rig.upstreams[0].pool.idle_connections == 1

    @pytest.mark.parametrize("whole", [False, True])
    async def test_while_the_record_is_written(
        self, rig: Rig, listener: Listener, whole: bool
    ) -> None:
        phase = await waiting(rig, listener)
        assert phase.peer is not None
        with held_disk(rig.storage):
            wire = [STREAM_HEAD, *map(chunk, EVENTS), LAST_CHUNK]
            await phase.peer.send_apart(*([b"".join(wire)] if whole else wire))
            await turns(50)
            phase.caller.leave()
            assert not phase.serving.done()
        await asyncio.wait([phase.serving])
        assert rig.exchanges.running == 0
        record = await rig.record()
        assert (record.status, record.tokens) == (200, COUNTS)
        error = phase.serving.exception()
        assert error is None or isinstance(error, ExchangeCut)

    async def test_when_its_answer_begins(
        self, rig: Rig, listener: Listener, caller: Caller
    ) -> None:
        rig.upstream(listener.port)
        serving = rig.serve(caller)
        peer = await arrived(listener)
        caller.gone = True
        peer.send(STREAM_HEAD, chunk(EVENTS[0]))
        assert await cut(serving) is Cut.CLIENT_GONE
        assert (await rig.record()).status == 499
        assert await peer.closed()


class TestKeyDeleted:
    @pytest.mark.parametrize("reach", PHASES)
    @pytest.mark.parametrize("gone", [False, True])
    async def test_in_any_phase(
        self, rig: Rig, listener: Listener, reach: Reach, gone: bool
    ) -> None:
        """Nothing is left of it, though the client may go as well."""
        phase = await reach(rig, listener)
        Holder(replace(rig.key, id="key00002"), NOW).cut(Cut.KEY_DELETED)
        await turns()
        assert not phase.serving.done()
        rig.holders.remove(rig.holder)
        rig.holder.cut(Cut.KEY_DELETED)
        erasure = asyncio.ensure_future(rig.storage.delete_key(rig.key.id))
        if gone:
            phase.caller.leave()
        if reach in (streaming, ending):
            assert await cut(phase.serving) is Cut.KEY_DELETED
            assert phase.caller.resets >= 1
        else:
            assert (await refused(phase.serving)).code is Code.INVALID_KEY
        if phase.peer is not None:
            assert await phase.peer.closed()
        await erasure
        await rig.storage.flush()
        await rig.storage.add_key(rig.key)
        assert await rig.records() == []

    async def test_by_the_administrator(
        self, rig: Rig, listener: Listener, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Its requests end while it is being erased: nobody hears of that, nor remembers it."""
        caplog.set_level(logging.INFO, "opuslive.access")
        await rig.limit("10 tokens/total")
        unsent, sent = rig.caller(None), await streaming(rig, listener)
        refusing = rig.serve(unsent)
        await eventually(lambda: unsent.exchange)
        with held_disk(rig.storage):
            deletion = asyncio.ensure_future(rig.administration.delete(rig.key.id))
            assert await cut(sent.serving) is Cut.KEY_DELETED
            await turns()
        assert (await refused(refusing)).code is Code.INVALID_KEY
        async with asyncio.timeout(PATIENCE):
            await deletion
        assert (rig.crossings, caplog.messages) == ([], [])
        assert not rig.holder.running
        assert rig.holders.get(rig.key.id) is None

    async def test_by_the_administrator_in_vain(
        self, rig: Rig, listener: Listener, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It goes on as before."""
        caplog.set_level(logging.INFO, "opuslive.access")
        await rig.limit("10 tokens/total")
        rig.upstream(listener.port)
        with full_disk(), pytest.raises(StorageUnavailable):
            await rig.administration.delete(rig.key.id)
        await rig.storage.update_key(rig.key, at=NOW)
        caplog.clear()
        serving = rig.serve(rig.caller())
        (await arrived(listener)).send(answer(MESSAGE))
        await soon(serving)
        assert [crossing.level for crossing in rig.crossings] == [100]
        assert caplog.messages == ["request"]

    async def test_but_the_deletion_fails(self, rig: Rig, listener: Listener) -> None:
        """What was used is recorded then."""
        phase = await streaming(rig, listener)
        rig.holder.cut(Cut.KEY_DELETED)
        await cut(phase.serving)
        record = await rig.record()
        assert (record.status, record.tokens.input) == (503, 11)


class TestShutdown:
    @pytest.mark.parametrize("reach", PHASES)
    async def test_in_any_phase(self, rig: Rig, listener: Listener, reach: Reach) -> None:
        phase = await reach(rig, listener)
        rig.exchanges.cut_all()
        if reach in (streaming, ending):
            assert await cut(phase.serving) is Cut.SHUTDOWN
            assert phase.caller.resets == 1
        else:
            error = await refused(phase.serving)
            assert (error.code, error.retry_after) == (Code.OVERLOADED, 5)
        await soon(asyncio.ensure_future(rig.exchanges.wait_idle()))
        record = await rig.record()
        assert record.status == (200 if reach is ending else 503)
        assert record.latency_ms == (None if reach in UNSENT else 1500)

    @pytest.mark.parametrize("reach", PHASES)
    async def test_by_cancelling(self, rig: Rig, listener: Listener, reach: Reach) -> None:
        phase = await reach(rig, listener)
        phase.serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await phase.serving
        assert phase.caller.resets == 1
        assert (await rig.record()).status == (200 if reach is ending else 503)
        await eventually(lambda: rig.upstreams[0].pool.open_connections == 0)

    async def test_by_cancelling_while_the_record_is_written(
        self, rig: Rig, listener: Listener
    ) -> None:
        """Whoever else waits for the disk waits on."""
        phase = await waiting(rig, listener)
        assert phase.peer is not None
        with held_disk(rig.storage):
            phase.peer.send(answer(MESSAGE))
            await eventually(lambda: phase.caller.body_is_sent)
            await turns()
            flushing = asyncio.ensure_future(rig.storage.flush())
            await turns()
            assert not flushing.done()
            phase.serving.cancel()
            await turns()
        await soon(flushing)
        assert (await rig.record()).status == 200

    async def test_by_cancelling_in_the_moment_of_admission(
        self, rig: Rig, listener: Listener
    ) -> None:
        """Nobody holds the place that it was given and could not take."""
        await rig.limit("1 concurrent")
        first = await waiting(rig, listener)
        caller = rig.caller()
        second = rig.serve(caller)
        admitting = await waited_for(caller)
        first.caller.leave()
        await in_the_turn_of(admitting, second.cancel)
        assert not admitting.cancelled()
        with pytest.raises(asyncio.CancelledError):
            await second
        (limit_status,) = rig.admission.statuses(rig.key.id)
        assert (limit_status.used, limit_status.reserved) == (0, 0)

    async def test_by_cancelling_in_the_moment_of_connection(
        self, rig: Rig, listener: Listener, caller: Caller
    ) -> None:
        """Nobody would ever close the connection."""
        rig.upstream(listener.port)
        serving = rig.serve(caller)
        connecting = await waited_for(caller)
        await in_the_turn_of(connecting, serving.cancel)
        assert not connecting.cancelled()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert await (await listener.accept()).closed()
        await eventually(lambda: rig.upstreams[0].pool.open_connections == 0)


async def waited_for(caller: Caller) -> asyncio.Future[Any]:
    """What the caller's exchange waits for before it sends its request."""

    def waiting() -> asyncio.Future[Any] | None:
        assert caller.exchange is None or isinstance(caller.exchange, Exchange)
        return None if caller.exchange is None else caller.exchange._waiting_for

    while (found := waiting()) is None:
        await asyncio.sleep(0)
    return found


async def in_the_turn_of(future: asyncio.Future[Any], act: Callable[[], object]) -> None:
    """Act when the future is done, before whoever waits for it has heard of that."""
    async with asyncio.timeout(PATIENCE):
        while not future.done():
            await asyncio.sleep(0)
    act()


class TestOpenRecord:
    """Of a request that goes on for long a record is kept before its end."""

    async def test_from_a_second_on_and_renewed(
        self, rig: Rig, listener: Listener, caller: Caller
    ) -> None:
        rig.upstream(listener.port)
        serving = rig.serve(caller)
        peer = await arrived(listener)
        began = NOW + 1500
        rig.exchanges.keep_open(began + 999)
        assert await rig.records() == []
        rig.exchanges.keep_open(began + 1_000)
        await rig.storage.flush()
        (record,) = await rig.records()
        assert (record.status, record.latency_ms, record.tokens) == (None, 2_500, TokenCounts())
        rig.exchanges.keep_open(began + 1_500)
        assert await rig.records() == [record]  # Nothing is known yet.
        peer.send(STREAM_HEAD, chunk(EVENTS[0]))
        await eventually(lambda: caller.written == EVENTS[0])
        rig.exchanges.keep_open(began + 2_000)
        await rig.storage.flush()
        (record,) = await rig.records()
        assert (record.status, record.latency_ms, record.tokens.input) == (None, 3_500, 11)
        peer.send(*map(chunk, EVENTS[1:-2]))
        await eventually(lambda: caller.written == b"".join(EVENTS[:-2]))
        rig.exchanges.keep_open(began + 11_999)
        assert await rig.records() == [record]
        rig.exchanges.keep_open(began + 12_000)
        await rig.storage.flush()
        (before, (record,)) = record, await rig.records()
        assert (record.status, record.latency_ms, record.tokens.input) == (None, 13_500, 11)
        assert record.tokens.output > before.tokens.output  # an estimate, so far
        peer.send(*map(chunk, EVENTS[-2:]), LAST_CHUNK)
        await soon(serving)
        assert await rig.record() == UsageRecord(rig.key.id, NOW, "claude-known", 200, 1500, COUNTS)

    async def test_renewed_while_nothing_is_counted(
        self, rig: Rig, listener: Listener, caller: Caller
    ) -> None:
        rig.upstream(listener.port)
        rig.serve(caller)
        await arrived(listener)
        latencies = set()
        for seconds in range(1, 24):
            rig.exchanges.keep_open(NOW + 1500 + seconds * 1000)
            await rig.storage.flush()
            (record,) = await rig.records()
            latencies.add(record.latency_ms)
        assert latencies == {2_500, 12_500, 22_500}

    async def test_one_that_fails_does_not_keep_the_others(
        self,
        rig: Rig,
        listener: Listener,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Nor itself from being tried again."""
        monkeypatch.setattr("opuslive.gateway.exchanges.CHECK_SECONDS", 0.001)
        dialect = Faulty()
        rig.upstreams.append(replace(rig.upstream(listener.port), dialect=dialect))
        faulty, caller = rig.caller(), rig.caller()
        serving = rig.serve(faulty, MESSAGES, dialect)
        (await arrived(listener)).send(STREAM_HEAD, chunk(EVENTS[0]))
        await eventually(lambda: faulty.written)
        rig.serve(caller)
        await arrived(listener)
        rig.now += 1_000
        rig.exchanges.start()
        await eventually(lambda: len(caplog.messages) > 2)
        rig.exchanges.stop()
        assert set(caplog.messages) == {"a running request could not be kept (ZeroDivisionError)"}
        assert (await rig.record()).status is None
        serving.cancel()

    async def test_the_looking_goes_on_whatever_happens(
        self, rig: Rig, listener: Listener, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("opuslive.gateway.exchanges.CHECK_SECONDS", 0.001)
        reported: list[dict[str, Any]] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(context))
        rig.upstream(listener.port)
        rig.serve(rig.caller())
        await arrived(listener)
        working, rig.clock = rig.clock, broken
        rig.exchanges.start()
        await eventually(lambda: reported)
        rig.now, rig.clock = rig.now + 1_000, working
        assert (await rig.record()).status is None
        rig.exchanges.stop()
        assert {type(context["exception"]) for context in reported} == {ZeroDivisionError}

    async def test_none_of_what_leaves_none(
        self, rig: Rig, listener: Listener, caller: Caller
    ) -> None:
        rig.upstream(listener.port)
        rig.serve(caller, COUNTING)
        await arrived(listener)
        rig.exchanges.keep_open(NOW + 60_000)
        assert await rig.records() == []

    async def test_none_before_anything_is_sent(self, rig: Rig) -> None:
        rig.serve(rig.caller(None))
        await turns()
        rig.exchanges.keep_open(NOW + 60_000)
        assert await rig.records() == []


class Faulty(AnthropicDialect):
    """Its meters can't say what they counted."""

    def meter(self, *, stream: bool) -> Meter:
        return Uncountable()


class Uncountable(NoUsage):
    def counts(self) -> TokenCounts:
        raise ZeroDivisionError(BODY)


def undeliverable(crossing: ThresholdCrossing) -> None:
    raise ZeroDivisionError(crossing)


def broken() -> int:
    raise ZeroDivisionError


class TestDefect:
    async def test_of_an_alert_costs_no_record(
        self, rig: Rig, listener: Listener, caller: Caller, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Nor does it end the request."""
        rig.on_crossing = undeliverable
        await rig.limit("10 tokens/total")
        rig.upstream(listener.port)
        serving = rig.serve(caller)
        (await arrived(listener)).send(answer(MESSAGE))
        await soon(serving)
        assert caller.written == MESSAGE
        assert (await rig.record()).status == 200
        assert caplog.messages == ["an alert of a limit failed (ZeroDivisionError)"]

    async def test_is_recorded_and_raised(
        self, rig: Rig, listener: Listener, caller: Caller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def start_answer(_: AnswerHead) -> tuple[Callable[[bytes], object], bool]:
            raise ZeroDivisionError

        monkeypatch.setattr(caller, "start_answer", start_answer)
        rig.upstream(listener.port)
        serving = rig.serve(caller)
        peer = await arrived(listener)
        peer.send(STREAM_HEAD, chunk(EVENTS[0]))
        with pytest.raises(ZeroDivisionError):
            await soon(serving)
        assert caller.resets == 1
        assert (await rig.record()).status == 500
        assert await peer.closed()


class TestBackpressure:
    async def test_a_caller_that_is_full_stops_the_upstream(
        self, rig: Rig, listener: Listener
    ) -> None:
        phase = await streaming(rig, listener)
        exchange, peer = phase.caller.exchange, phase.peer
        assert exchange is not None
        assert peer is not None
        exchange.client_full()
        await peer.send_apart(*map(chunk, EVENTS[1:3]))
        await turns()
        assert phase.caller.written == EVENTS[0]
        exchange.client_drained()
        await eventually(lambda: phase.caller.written == b"".join(EVENTS[:3]))
        peer.send(*map(chunk, EVENTS[3:]), LAST_CHUNK)
        await soon(phase.serving)

    async def test_outside_of_an_answer_it_means_nothing(
        self, rig: Rig, listener: Listener
    ) -> None:
        phase = await body(rig, listener)
        assert phase.caller.exchange is not None
        phase.caller.exchange.client_full()
        phase.caller.exchange.client_drained()


class TestDiskTrouble:
    async def test_before_an_answer_has_begun(
        self, rig: Rig, listener: Listener, caller: Caller, tmp_path: Path
    ) -> None:
        """The client gets a 503; the record is written when the disk is well."""
        rig.upstream(listener.port)
        serving = rig.serve(caller)
        peer = await arrived(listener)
        with full_disk():
            peer.send(answer(MESSAGE))
            with pytest.raises(StorageUnavailable):
                await soon(serving)
        assert (caller.head, caller.writes) == (None, [])
        with pytest.raises(StorageUnavailable):
            await soon(rig.serve(rig.caller()))  # until the disk has taken something
        assert listener.accept_now() is None
        await rig.storage.close()
        storage = await open_storage(f"sqlite://{tmp_path / 'opuslive.db'}")
        records, _ = await storage.records(rig.key.id)
        assert [(record.status, record.tokens) for record in records] == [(200, COUNTS)]
        await storage.close()

    async def test_after_an_answer_has_begun(self, rig: Rig, listener: Listener) -> None:
        """The client never sees the end of it."""
        phase = await streaming(rig, listener)
        assert phase.peer is not None
        with full_disk():
            phase.peer.send(*map(chunk, EVENTS[1:]), LAST_CHUNK)
            assert await cut(phase.serving) is Cut.UPSTREAM_GONE
        assert phase.caller.resets == 1
        assert EVENTS[-1] not in phase.caller.written
        record = await rig.record()
        assert (record.status, record.tokens) == (200, COUNTS)

    async def test_counting_goes_on(self, rig: Rig, listener: Listener) -> None:
        phase = await waiting(rig, listener)
        assert phase.peer is not None
        with full_disk():
            phase.peer.send(answer(MESSAGE))
            with pytest.raises(StorageUnavailable):
                await soon(phase.serving)
        caller = rig.caller()
        serving = rig.serve(caller, COUNTING)
        await phase.peer.request()
        phase.peer.send(answer(b"5"))
        await soon(serving)
        assert caller.written == b"5"


@contextmanager
def held_disk(storage: SQLiteStorage) -> Iterator[None]:
    """Nothing is written within: the disk takes its time."""
    gate = threading.Event()
    storage._writing.submit(gate.wait, PATIENCE)
    yield
    gate.set()
