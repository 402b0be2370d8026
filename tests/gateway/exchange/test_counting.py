"""Counting tokens uses up no limit: a key has turns at it instead.

Whatever limits the key has, and however they stand, some of its counts are under way at the
provider, more of them wait, and the rest are refused; other keys and its messages notice nothing.
"""

from __future__ import annotations

import asyncio

import pytest

from opuslive.errors import Code
from opuslive.gateway.admission.bulkheads import COUNT_PLACES, COUNTS_AT_ONCE, RETRY_AFTER
from opuslive.gateway.holder import Cut, Holder
from opuslive.keys import hash_credential, new_credential
from tests.support.clock import NOW
from tests.support.keys import a_key
from tests.support.provider import Request, Script, ScriptedUpstream, json_answer
from tests.support.rig import COUNTING, Caller, Rig, cut, denied
from tests.support.waiting import eventually, soon, turns

#: What Claude Code sends at once to show its context.
CONTEXT = 33


class Counter:
    """A provider that counts, once a test lets it."""

    def __init__(self, rig: Rig, upstream: ScriptedUpstream) -> None:
        self.open = asyncio.Event()
        #: Counts under way at the moment, and at most.
        self.now = self.most = 0
        rig.upstream(upstream.port)
        upstream.always(self._answer)

    def _answer(self, request: Request) -> Script:
        if not request.path.startswith("/v1/messages/count_tokens"):
            yield from json_answer({"type": "message", "content": [], "usage": {}})
            return
        self.now += 1
        self.most = max(self.most, self.now)
        yield self.open
        self.now -= 1
        yield from json_answer({"input_tokens": 5})

    async def busy(self) -> None:
        """Wait until as many are under way as may be."""
        await eventually(lambda: self.now == COUNTS_AT_ONCE)


@pytest.fixture
async def counter(rig: Rig, upstream: ScriptedUpstream) -> Counter:
    return Counter(rig, upstream)


class Counts:
    """So many requests of the key at once."""

    def __init__(self, rig: Rig, number: int) -> None:
        self.callers = [rig.caller() for _ in range(number)]
        self.tasks = [rig.serve(caller, COUNTING) for caller in self.callers]

    async def all_answered(self) -> None:
        await soon(asyncio.gather(*self.tasks))
        assert [bool(caller.written) for caller in self.callers] == [True] * len(self.callers)


async def other_key(rig: Rig) -> str:
    """The credential of a second key."""
    credential = new_credential("sk-ant-ol-", "key00002", rig.storage.checksum_key)
    key = a_key(2, secret_hash=hash_credential(credential))
    await rig.storage.add_key(key)
    rig.holders.add(Holder(key, NOW))
    return credential


@pytest.mark.parametrize("limits", [(), ("1 concurrent", "1 tokens/total")])
async def test_what_a_client_sends_at_once_is_all_counted_a_part_at_a_time(
    rig: Rig, counter: Counter, limits: tuple[str, ...]
) -> None:
    await rig.limit(*limits)
    counts = Counts(rig, CONTEXT)
    await counter.busy()
    counter.open.set()
    await counts.all_answered()
    assert counter.most == COUNTS_AT_ONCE


async def test_of_hundreds_at_once_those_beyond_the_places_are_refused_unread(
    rig: Rig, counter: Counter
) -> None:
    counts = Counts(rig, COUNT_PLACES)
    await counter.busy()
    for _ in range(400):
        error = await denied(rig.serve(rig.caller(None), COUNTING))
        assert (error.code, error.retry_after) == (Code.RATE_LIMITED, RETRY_AFTER)
    counter.open.set()
    await counts.all_answered()
    assert counter.most == COUNTS_AT_ONCE
    await Counts(rig, 1).all_answered()
    assert await rig.records() == []


async def test_other_keys_and_messages_do_not_wait_for_counts(rig: Rig, counter: Counter) -> None:
    Counts(rig, COUNT_PLACES)
    await counter.busy()
    message = rig.caller()
    await soon(rig.serve(message))
    assert message.written
    rig.serve(Caller(await other_key(rig)), COUNTING)
    await eventually(lambda: counter.now == COUNTS_AT_ONCE + 1)


async def test_a_client_that_leaves_while_it_waits_gives_its_place_back(
    rig: Rig, counter: Counter
) -> None:
    counts = Counts(rig, COUNT_PLACES)
    await counter.busy()
    await denied(rig.serve(rig.caller(), COUNTING))
    counts.callers[-1].leave()
    assert await cut(counts.tasks[-1]) is Cut.CLIENT_GONE
    last = Counts(rig, 1)
    counter.open.set()
    await last.all_answered()


async def test_a_client_that_leaves_while_it_is_counted_gives_its_turn_back(
    rig: Rig, counter: Counter
) -> None:
    counts = Counts(rig, COUNT_PLACES)
    await counter.busy()
    for caller in counts.callers[:COUNTS_AT_ONCE]:
        caller.leave()
    await eventually(lambda: counter.most > COUNTS_AT_ONCE)
    counter.open.set()
    await soon(asyncio.gather(*counts.tasks[COUNTS_AT_ONCE:]))


@pytest.mark.parametrize("why", [Cut.KEY_DELETED, Cut.SHUTDOWN])
async def test_whoever_waits_for_a_turn_is_cut_at_once(
    rig: Rig, counter: Counter, why: Cut
) -> None:
    counts = Counts(rig, COUNT_PLACES)
    await counter.busy()
    rig.holder.cut(why)
    code = Code.INVALID_KEY if why is Cut.KEY_DELETED else Code.OVERLOADED
    for task in counts.tasks[COUNTS_AT_ONCE:]:
        assert (await denied(task)).code is code
    await asyncio.wait(counts.tasks)
    assert rig.exchanges.running == 0
    counter.open.set()
    await turns()
    await Counts(rig, CONTEXT).all_answered()
