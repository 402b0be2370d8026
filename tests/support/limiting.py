"""Admission with a clock that a test sets, on a real store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import pytest

from opuslive.administration.keys import Administration, KeyChanges
from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.admission.admission import Admission, Admitted, Demand
from opuslive.gateway.admission.queues import Outcome
from opuslive.gateway.holder import Holder, Holders
from opuslive.keys import Key
from opuslive.limits.accounts import Account, ThresholdCrossing
from opuslive.limits.grammar import parse_limits
from opuslive.limits.policy import LimitPolicy
from opuslive.limits.windows import LimitStatus
from opuslive.pricing.prices import Prices
from opuslive.storage import Storage
from opuslive.times import Clock
from opuslive.usage import TokenCounts, UsageRecord
from tests.support.accounts import running
from tests.support.keys import NOW
from tests.support.waiting import turns

MODEL = "claude-sonnet-4-5"
#: Seconds to wait at most: none of that long pass in a test.
LONG = 30.0


def a_key(number: int, limits: Sequence[str] = (), group: str | None = None) -> Key:
    name = f"key{number:05d}"
    return Key(name, name, f"sk-ant-ol-{name}", NOW, b"$2b$06$", limits=tuple(limits), group=group)


def settings(
    *,
    mode: Any = "adaptive",
    max_wait: float = LONG,
    gateway: Sequence[str] = (),
    groups: Mapping[str, Sequence[str]] | None = None,
    cache_read_weight: str = "0",
) -> LimitPolicy:
    return LimitPolicy(
        reserve_output=mode,
        cache_read_weight=Fraction(cache_read_weight),
        max_wait=max_wait,
        gateway=parse_limits(gateway),
        groups={name: parse_limits(texts) for name, texts in (groups or {}).items()},
        contact="ops@example.com",
    )


def demand(max_tokens: int | None = 10, *, guess: int = 0, model: str = MODEL) -> Demand:
    return Demand(model, guess, max_tokens)


def tokens(output: int, input_: int = 0) -> TokenCounts:
    return TokenCounts(input=input_, output=output)


@dataclass
class Limiting:
    """An ``Admission``, the store below it and the clock beside it."""

    storage: Storage
    settings: LimitPolicy
    now: int = NOW
    made: int = 0
    crossings: list[ThresholdCrossing] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.holders = Holders()
        self.admission = self.make()

    def make(self) -> Admission:
        return Admission(
            self.settings,
            self.holders,
            Prices({}),
            self.storage,
            lambda: self.now,
            self.crossings.append,
        )

    async def restart(self) -> None:
        """Begin anew with what is stored."""
        self.holders = Holders(Holder(key, self.now) for key in await self.storage.keys())
        self.admission = self.make()
        await self.admission.load(await self.storage.group_changes())

    @property
    def administration(self) -> Administration:
        clock = Clock(lambda: self.now, lambda: self.now)
        return Administration(
            self.storage,
            self.holders,
            self.admission,
            clock,
            key_prefix="sk-ant-ol-",
            default_limits=(),
        )

    async def key(self, *limits: str, group: str | None = None) -> Key:
        """A new key."""
        self.made += 1
        key = a_key(self.made, limits, group)
        await self.storage.add_key(key)
        self.holders.add(Holder(key, self.now))
        return key

    def holder(self, key: Key) -> Holder:
        return self.holders.find(key.id)

    async def change(self, key: Key, *limits: str) -> None:
        await self.administration.update(key.id, KeyChanges(limits=limits))

    def admit(self, key: Key, asked: Demand | None = None) -> Admitted:
        """What has to be let in at once."""
        admitted = self.admission.enter(self.holder(key), asked or demand())
        assert isinstance(admitted, Admitted)
        return admitted

    def refused(self, key: Key, asked: Demand | None = None) -> OpusLiveError:
        with pytest.raises(OpusLiveError) as raised:
            self.admission.enter(self.holder(key), asked or demand())
        return raised.value

    def waiting(self, key: Key, asked: Demand | None = None) -> asyncio.Task[Admitted]:
        """What is not let in at once."""
        holder, asked = self.holder(key), asked or demand()
        coming = self.admission.enter(holder, asked)
        assert isinstance(coming, asyncio.Future)
        return self.awaited(holder, asked, coming)

    def awaited(self, holder: Holder, asked: Demand, coming: Outcome) -> asyncio.Task[Admitted]:
        """What becomes of a request that waits. Cancelling it is what a client does that leaves."""

        async def wait() -> Admitted:
            return self.admission.admitted(holder, asked, await coming)

        def left(task: asyncio.Task[Admitted]) -> None:
            if task.cancelled() and not coming.cancel() and not coming.cancelled():
                self.admission.give_back(coming.result())

        task = asyncio.ensure_future(wait())
        task.add_done_callback(left)
        return task

    async def wait(self, key: Key, asked: Demand | None = None) -> asyncio.Task[Admitted]:
        """The same, once everybody has looked at it."""
        task = self.waiting(key, asked)
        await turns()
        return task

    async def use(
        self, key: Key, used: TokenCounts, *, latency: int = 0, model: str = MODEL
    ) -> None:
        """A whole request, its record included."""
        admitted = self.admit(key, demand(1, model=model))
        self.now += latency
        await self.end(key, admitted, used, model=model)

    async def end(
        self, key: Key, admitted: Admitted, used: TokenCounts, *, model: str = MODEL
    ) -> None:
        """End a request that runs, and record it, as a settlement does."""
        time = admitted.time
        ended = admitted.settle(used, self.now, whole=True)
        tier = Prices({}).tier_of(model, used, time)
        await self.storage.add_record(
            UsageRecord(key.id, time, model, 200, ended - time, used, tier)
        )

    def status(self, key: Key) -> LimitStatus:
        (limit_status,) = self.admission.statuses(key.id)
        return limit_status

    def used(self, key: Key) -> dict[str, int]:
        return {str(one.limit): one.used for one in self.admission.statuses(key.id)}

    @property
    def accounts(self) -> list[Account]:
        admission = self.admission
        keys = [holder.account for holder in self.holders]
        return [*keys, *admission._groups.values(), admission._gateway]

    def shared(self) -> dict[str, int]:
        """What is used of the limits that keys share, by the group's name and the limit."""
        shared = self.admission.shared_limits()
        named = [("gateway", shared.gateway), *shared.groups.items()]
        return {f"{name}: {each.limit}": each.used for name, all_ in named for each in all_}

    def assert_nothing_left(self) -> None:
        """Nothing runs, nothing is reserved, nobody waits."""
        assert self.admission.waiting == 0
        for account in self.accounts:
            assert running(account, self.now) == 0
            assert all(status.reserved == 0 for status in account.statuses(self.now))


async def outcome(task: asyncio.Task[Admitted]) -> Admitted | Code:
    """What became of one that waited."""
    async with asyncio.timeout(20):
        try:
            return await task
        except OpusLiveError as error:
            return error.code


#: Makes one with other ``settings``.
MakeLimiting = Callable[..., Limiting]
