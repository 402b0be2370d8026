"""The places and turns of requests that use up no limit."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.admission.bulkheads import RETRY_AFTER, Bulkhead
from opuslive.gateway.holder import Holder
from tests.support.clock import NOW
from tests.support.keys import a_key
from tests.support.waiting import soon, turns

ONE, OTHER = Holder(a_key(1), NOW), Holder(a_key(2), NOW)


def bulkhead(at_once: int, places: int) -> Bulkhead:
    return Bulkhead(at_once, places, "Too many at a time; try again.")


class Request:
    """A request that is at work in its turn until a test says otherwise."""

    def __init__(self, of: Bulkhead, holder: Holder) -> None:
        self.works = False
        self._ends = asyncio.Event()
        self._task = asyncio.ensure_future(self._run(of, holder))

    async def _run(self, of: Bulkhead, holder: Holder) -> None:
        with of.place(holder) as turn:
            async with turn:
                self.works = True
                await self._ends.wait()
                self.works = False

    async def end(self) -> None:
        self._ends.set()
        await soon(self._task)
        await turns()

    async def leave(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await turns()


async def test_so_many_of_a_key_work_at_once_and_the_others_in_their_order() -> None:
    of = bulkhead(2, 5)
    requests = [Request(of, ONE) for _ in range(5)]
    await turns()
    for done in range(5):
        assert [each.works for each in requests] == [done <= index < done + 2 for index in range(5)]
        await requests[done].end()


async def test_a_request_without_a_place_is_denied_and_told_when_to_come_again() -> None:
    of = bulkhead(1, 3)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(of.place(ONE))
        with pytest.raises(OpusLiveError) as raised, of.place(ONE):
            pass
        assert raised.value.code is Code.RATE_LIMITED
        assert raised.value.retry_after == RETRY_AFTER
        assert raised.value.message == "Too many at a time; try again."
        with of.place(OTHER):
            pass
    with of.place(ONE):
        pass


async def test_keys_do_not_wait_for_each_other() -> None:
    of = bulkhead(1, 2)
    mine, waits, others = (Request(of, holder) for holder in (ONE, ONE, OTHER))
    await turns()
    assert (mine.works, waits.works, others.works) == (True, False, True)
    for each in (mine, waits, others):
        await each.end()


async def test_whoever_leaves_gives_back_the_turn_and_the_place() -> None:
    of = bulkhead(1, 3)
    works, waits, last = (Request(of, ONE) for _ in range(3))
    await turns()
    await waits.leave()
    await works.leave()
    assert last.works
    more = [Request(of, ONE) for _ in range(2)]
    await last.end()
    assert more[0].works
    for each in more:
        await each.end()


async def test_nothing_is_kept_of_a_key_that_has_no_place() -> None:
    of = bulkhead(1, 1)
    with of.place(ONE):
        assert list(of._keys) == [ONE]
    assert not of._keys
