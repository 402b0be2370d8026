"""Admission with a clock that a test sets, on a real store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import pytest

from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.admission.admission import Admission, Admitted, Demand
from opuslive.keys import Key
from opuslive.limits.accounts import ThresholdCrossing
from opuslive.limits.grammar import parse_limits
from opuslive.limits.policy import LimitPolicy
from opuslive.limits.windows import LimitStatus
from opuslive.pricing.prices import Prices
from opuslive.storage import Storage
from opuslive.usage import TokenCounts, UsageRecord
from tests.support.accounts import running
from tests.support.upstream_wire import turns

#: 2026-11-23T15:04:05.123Z
NOW = 1_795_446_245_123
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
    keys: dict[str, Key] = field(default_factory=dict)
    crossings: list[ThresholdCrossing] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.admission = self.make()

    def make(self) -> Admission:
        """One that knows nothing yet, as after a restart."""
        return Admission(
            self.settings, Prices({}), self.storage, lambda: self.now, self.crossings.append
        )

    async def restart(self) -> None:
        self.admission = self.make()
        await self.admission.load(await self.storage.keys())

    async def key(self, *limits: str, group: str | None = None) -> Key:
        """A new key."""
        key = a_key(len(self.keys) + 1, limits, group)
        self.keys[key.id] = key
        await self.storage.add_key(key)
        await self.admission.put(key)
        return key

    async def change(self, key: Key, *limits: str) -> None:
        await self.admission.put(replace(key, limits=limits))

    def admit(self, key: Key, asked: Demand | None = None) -> Admitted:
        """What has to be let in at once."""
        admitted = self.admission.admit(key, asked or demand())
        assert admitted is not None
        return admitted

    def refused(self, key: Key, asked: Demand | None = None) -> OpusLiveError:
        with pytest.raises(OpusLiveError) as raised:
            self.admission.admit(key, asked or demand())
        return raised.value

    async def wait(self, key: Key, asked: Demand | None = None) -> asyncio.Task[Admitted]:
        """What is not let in at once; it waits when this returns."""
        asked = asked or demand()
        assert self.admission.admit(key, asked) is None
        task = asyncio.ensure_future(self.admission.wait(key, asked))
        await turns()
        return task

    async def use(
        self, key: Key, used: TokenCounts, *, latency: int = 0, model: str = MODEL
    ) -> None:
        """A whole request, its record included."""
        admitted = self.admission.admit(key, demand(1, model=model))
        assert admitted is not None
        time = admitted.time
        self.now += latency
        admitted.settle(used, self.now, whole=True)
        tier = Prices({}).tier_of(model, used, time)
        await self.storage.add_record(UsageRecord(key.id, time, model, 200, latency, used, tier))

    def status(self, key: Key) -> LimitStatus:
        (limit_status,) = self.admission.statuses(key.id)
        return limit_status

    def used(self, key: Key) -> dict[str, int]:
        return {str(one.limit): one.used for one in self.admission.statuses(key.id)}

    def assert_nothing_left(self) -> None:
        """Nothing runs, nothing is reserved, nobody waits."""
        admission = self.admission
        assert admission._queues._queues == {}
        accounts = [admission._gateway, *admission._groups.values(), *admission._keys.values()]
        for account in accounts:
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
