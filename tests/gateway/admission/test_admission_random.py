"""Whatever comes, waits, leaves and ends, and in whatever order: no budget is exceeded and
nothing is left."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st

from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.admission.admission import Admitted
from opuslive.keys import Key
from opuslive.limits.accounts import LimitExceeded
from opuslive.limits.estimates import Demand
from opuslive.storage import open_storage
from tests.support.limiting import Limiting, demand, settings, tokens
from tests.support.waiting import turns

CHOICES = [
    "1 concurrent",
    "3 concurrent",
    "4 requests/1m",
    "60 requests/1h",
    "50 output_tokens/1m",
    "90 output_tokens/total",
    "120 tokens/5h",
    "70 input_tokens/day",
    "0.003 usd/1h",
]
_limits = st.lists(st.sampled_from(CHOICES), max_size=4, unique_by=lambda text: text.split()[1])

REFUSED = {Code.RATE_LIMITED, Code.QUOTA_EXHAUSTED, Code.INVALID_REQUEST}

_which = st.integers(0, 5)
_step = st.one_of(
    st.tuples(st.just("ask"), _which, st.integers(1, 60), st.integers(0, 40)),
    st.tuples(st.just("ask"), _which, st.integers(1, 60), st.integers(0, 40)),
    st.tuples(st.just("end"), _which, st.booleans(), st.integers(0, 100)),
    st.tuples(st.just("leave"), _which),
    st.tuples(st.just("turn"), st.integers(1, 3)),
    st.tuples(st.just("pass"), st.integers(0, 90_000)),
    st.tuples(st.just("change"), _which, _limits),
)


@dataclass
class Run:
    """One that was let in, and what it may use."""

    admitted: Admitted
    asked: Demand


class Play:
    """Plays the steps."""

    def __init__(self, limiting: Limiting, keys: Sequence[Key]) -> None:
        self.limiting = limiting
        self.keys = keys
        self.running: list[Run] = []
        self.waiting: list[tuple[Demand, asyncio.Task[Admitted]]] = []

    async def step(self, name: str, *how: Any) -> None:
        await getattr(self, name)(*how)

    async def ask(self, which: int, max_tokens: int, guess: int) -> None:
        key = self.keys[which % len(self.keys)]
        asked = demand(max_tokens, guess=guess)
        try:
            admitted = self.limiting.admission.enter(self.limiting.holder(key), asked)
        except OpusLiveError as error:
            self.refused(error)
            return
        if isinstance(admitted, Admitted):
            self.running.append(Run(admitted, asked))
        else:
            task = self.limiting.awaited(self.limiting.holder(key), asked, admitted)
            self.waiting.append((asked, task))

    def refused(self, error: BaseException) -> None:
        assert isinstance(error, OpusLiveError)
        assert error.code in REFUSED

    async def end(self, which: int, sent: bool, percent: int) -> None:
        if self.running:
            run = self.running.pop(which % len(self.running))
            assert run.asked.max_tokens is not None
            used = tokens(run.asked.max_tokens * percent // 100, run.asked.input_guess)
            for _ in range(2):
                run.admitted.settle(used if sent else None, self.limiting.now, whole=sent)

    async def leave(self, which: int) -> None:
        if self.waiting:
            self.waiting[which % len(self.waiting)][1].cancel()

    async def turn(self, count: int) -> None:
        await turns(count)
        self.look()

    def look(self) -> None:
        """Take over who has been let in by now."""
        still = []
        for asked, task in self.waiting:
            if not task.done():
                still.append((asked, task))
            elif not task.cancelled():
                error = task.exception()
                if error is None:
                    self.running.append(Run(task.result(), asked))
                else:
                    self.refused(error)
        self.waiting = still

    async def pass_(self, ms: int) -> None:
        self.limiting.now += ms
        self.limiting.admission._queues._serve()  # what its timer would do

    async def change(self, which: int, limits: Sequence[str]) -> None:
        await self.limiting.change(self.keys[which % len(self.keys)], *limits)

    async def everyone_ends(self) -> None:
        """Who waits then waits for time to pass, not for others; until it leaves, too."""
        admission = self.limiting.admission
        while self.running or self.waiting:
            while self.running:
                await self.end(0, True, 50)
            await self.turn(4)
            if not self.running:
                for holder in admission._queues._holders:
                    obstacle = admission._queues._obstacle_of(holder, holder.queue[0].demand)
                    assert isinstance(obstacle, LimitExceeded)
                    assert not obstacle.only_reserved
                await self.leave(0)
                await self.turn(4)
        await turns()  # those that left are forgotten a turn later
        self.limiting.assert_nothing_left()


async def play(limits: list[list[str]], steps: list[Any], *, strict: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        storage = await open_storage(f"sqlite://{Path(folder) / 'opuslive.db'}")
        limiting = Limiting(
            storage,
            settings(
                mode="max_tokens" if strict else "adaptive",
                gateway=limits[0],
                groups={"friends": limits[1]},
            ),
        )
        groups = ["friends", "friends", None]
        keys = [
            await limiting.key(*own, group=group)
            for own, group in zip(limits[2:], groups, strict=True)
        ]
        play = Play(limiting, keys)
        for name, *arguments in steps:
            if strict and name == "change":
                continue
            await play.step({"pass": "pass_"}.get(name, name), *arguments)
            for account in limiting.accounts:
                for status in account.statuses(limiting.now):
                    assert status.used >= 0
                    assert status.reserved >= 0
                    if strict:
                        assert status.used + status.reserved <= status.limit.amount
        await play.everyone_ends()
        await storage.close()


_cases = (st.lists(_limits, min_size=5, max_size=5), st.lists(_step, max_size=60))


@how(max_examples=50)
@given(*_cases)
def test_nothing_stays_reserved_once_everyone_has_ended_or_left(
    limits: list[list[str]], steps: list[Any]
) -> None:
    asyncio.run(play(limits, steps, strict=False))


@how(max_examples=50)
@given(*_cases)
def test_no_budget_is_exceeded_where_max_tokens_is_reserved(
    limits: list[list[str]], steps: list[Any]
) -> None:
    """Requests and tokens of every kind, and money; the guess of the input is exact here."""
    asyncio.run(play(limits, steps, strict=True))
