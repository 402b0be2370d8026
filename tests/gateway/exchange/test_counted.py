"""What an exchange counts for monitoring, whichever way it ends."""

from __future__ import annotations

import asyncio

import pytest

from opuslive.dialects import Buffer
from opuslive.errors import Code
from opuslive.gateway.holder import Cut
from opuslive.limits.accounts import AccountKind
from opuslive.limits.grammar import Metric
from opuslive.storage import StorageUnavailable
from tests.support.listener import Listener, answer
from tests.support.phases import streaming
from tests.support.rig import (
    BODY,
    COUNTING,
    LATENCY,
    MESSAGE,
    Caller,
    Rig,
    cut,
    denied,
)
from tests.support.stores import full_disk
from tests.support.waiting import eventually, soon, turns

PATH = "/v1/messages"


class SlowCaller(Caller):
    """Its body takes a minute, and the gateway's work a ms."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(rig.credential, BODY)
        self._machine = rig.machine

    @property
    def body_is_here(self) -> bool:
        return False

    async def read_body(self) -> Buffer:
        self._machine.pass_time(60_000)
        return await super().read_body()


async def served(rig: Rig, listener: Listener, status: int = 200) -> None:
    serving = rig.serve(rig.caller())
    peer = await rig.arrived(listener)
    peer.send(answer(MESSAGE, b"connection: close", status=status))
    await soon(serving)


async def test_a_request_counts_once_with_its_tokens_and_times(
    rig: Rig, listener: Listener
) -> None:
    rig.upstream(listener.port)
    await served(rig, listener)
    metrics = rig.metrics
    assert metrics.requests == {(PATH, "claude-known", 200): 1}
    assert metrics.tokens == {"claude-known": [11, 7, 0, 0, 0]}
    assert (metrics.added.count, metrics.added.sum) == (1, 0)
    (labels,), (times,) = metrics.upstreams, metrics.upstreams.values()
    assert labels == ("upstream 0", "claude-known")
    for histogram in (times.whole, times.head):
        assert (histogram.count, histogram.sum) == (1, LATENCY / 1000)


async def test_a_name_that_the_client_made_up_is_in_no_series(rig: Rig, listener: Listener) -> None:
    rig.upstream(listener.port)
    for body in (b'{"model":"claude-canary","max_tokens":1}', b'{"model":"canary"}'):
        serving = rig.serve(rig.caller(body))
        if b"claude" in body:
            (await rig.arrived(listener)).send(answer(MESSAGE))
            await soon(serving)
        else:
            await denied(serving)
    metrics = rig.metrics
    assert metrics.requests == {(PATH, None, 200): 1, (PATH, None, 404): 1}
    assert list(metrics.tokens) == [None]
    assert list(metrics.upstreams) == [("upstream 0", None)]


async def test_what_leaves_no_record_because_there_are_too_many_counts(
    rig: Rig, listener: Listener
) -> None:
    rig.upstream(listener.port)
    for _ in range(5):
        await denied(rig.serve(rig.caller(b"not JSON")))
    assert rig.metrics.requests == {(PATH, None, 400): 5}
    assert len(await rig.records()) + rig.exchanges.unrecorded_denials == 5
    # Nothing was sent.
    assert (rig.metrics.tokens, rig.metrics.upstreams, rig.metrics.added.count) == ({}, {}, 0)


async def test_what_leaves_no_record_by_its_nature_does_not_count(
    rig: Rig, listener: Listener
) -> None:
    rig.upstream(listener.port)
    serving = rig.serve(rig.caller(), COUNTING)
    (await rig.arrived(listener)).send(answer(b'{"input_tokens":42}'))
    await soon(serving)
    await denied(rig.serve(Caller("sk-ant-ol-wrong")))
    assert rig.metrics.requests == {}


@pytest.mark.parametrize("how", ["left", "broken off"])
async def test_a_request_that_is_cut_short_counts_with_the_status_of_its_record(
    rig: Rig, listener: Listener, how: str
) -> None:
    phase = await streaming(rig, listener)
    if how == "left":
        phase.caller.leave()
    else:
        phase.peer.close()
    await cut(phase.serving)
    status = 499 if how == "left" else 502
    record = await rig.record()
    assert record.status == status
    metrics = rig.metrics
    assert metrics.requests == {(PATH, "claude-known", status): 1}
    assert metrics.tokens["claude-known"][:2] == [record.tokens.input, record.tokens.output]
    (times,) = metrics.upstreams.values()
    assert (times.whole.count, times.head.count) == (1, 1)


async def test_the_clients_body_is_not_what_the_gateway_adds(rig: Rig, listener: Listener) -> None:
    rig.upstream(listener.port)
    serving = rig.serve(SlowCaller(rig))
    peer = await rig.arrived(listener)
    peer.send(answer(MESSAGE))
    await soon(serving)
    assert (rig.metrics.added.count, rig.metrics.added.sum) == (1, 0)


async def test_waiting_for_room_is_not_what_the_gateway_adds(rig: Rig, listener: Listener) -> None:
    rig.upstream(listener.port)
    await rig.limit("1 concurrent")
    first = rig.serve(rig.caller())
    peer = await rig.arrived(listener)
    second = rig.serve(rig.caller())
    await eventually(lambda: rig.admission.waiting)
    rig.machine.pass_time(700)
    peer.send(answer(MESSAGE, b"connection: close"))
    await soon(first)
    peer = await listener.accept()
    await peer.request()
    peer.send(answer(MESSAGE))
    await soon(second)
    assert (rig.metrics.added.count, rig.metrics.added.sum) == (2, 0)
    assert rig.metrics.refusals == {}


@pytest.mark.parametrize(
    ("limit", "metric"),
    [
        ("1 requests/1h", Metric.REQUESTS),
        ("10 tokens/day", Metric.TOKENS),
        ("5 output_tokens/total", Metric.OUTPUT_TOKENS),
    ],
)
@pytest.mark.parametrize("body_is_here", [True, False])
async def test_every_refusal_by_a_limit_counts_by_its_metric(
    rig: Rig, listener: Listener, limit: str, metric: Metric, body_is_here: bool
) -> None:
    """Those that are made before the body has come, too, and those that leave no record."""
    rig.upstream(listener.port)
    await rig.limit(limit)
    await served(rig, listener)  # It uses up the limit.
    for _ in range(3):
        caller = rig.caller() if body_is_here else SlowCaller(rig)
        assert (await denied(rig.serve(caller))).code.status == 429
    assert rig.metrics.refusals == {(AccountKind.KEY, metric): 3}
    counts = rig.metrics.requests.items()
    assert sum(count for (_, _, status), count in counts if status == 429) == 3


async def test_other_refusals_are_no_limits(rig: Rig, listener: Listener) -> None:
    rig.upstream(listener.port)
    await denied(rig.serve(rig.caller(b"not JSON")))
    await served(rig, listener, status=422)
    assert rig.metrics.refusals == {}


async def test_a_request_that_ends_after_its_key_is_gone_counts_for_no_key(
    rig: Rig, listener: Listener
) -> None:
    phase = await streaming(rig, listener)
    rig.metrics.by_key = True
    holder = rig.holder
    deletion = asyncio.ensure_future(rig.administration.delete(rig.key.id))
    assert await cut(phase.serving) is Cut.KEY_DELETED
    await soon(deletion)
    assert list(rig.holders) == []
    # The gateway's own sums go on, and name nobody.
    assert sum(rig.metrics.requests.values()) == sum(holder.requests_by_status.values()) == 1


async def test_a_key_that_could_not_be_deleted_has_its_counts_again(
    rig: Rig, listener: Listener
) -> None:
    rig.upstream(listener.port)
    rig.metrics.by_key = True
    await served(rig, listener)
    with full_disk(), pytest.raises(StorageUnavailable):
        await soon(asyncio.ensure_future(rig.administration.delete(rig.key.id)))
    (holder,) = rig.holders
    assert (holder.requests_by_status, holder.tokens_by_kind[:2]) == ({200: 1}, [11, 7])


async def test_a_date_that_is_moved_makes_no_request_longer(rig: Rig, listener: Listener) -> None:
    rig.upstream(listener.port)
    serving = rig.serve(rig.caller())
    peer = await rig.arrived(listener)
    rig.timekeeper.start()
    await rig.machine.set_clock(3 * 86_400_000)
    rig.timekeeper.stop()
    peer.send(answer(MESSAGE))
    await soon(serving)
    (times,) = rig.metrics.upstreams.values()
    assert (times.whole.sum, times.head.sum, rig.metrics.added.sum) == (1.5, 1.5, 0)


async def test_a_provider_that_can_not_be_reached_has_no_times(rig: Rig) -> None:
    rig.upstream(9)
    assert (await denied(rig.serve(rig.caller()))).code is Code.UPSTREAM_UNREACHABLE
    await turns()
    assert rig.metrics.requests == {(PATH, "claude-known", 502): 1}
    assert (rig.metrics.upstreams, rig.metrics.added.count) == ({}, 0)
