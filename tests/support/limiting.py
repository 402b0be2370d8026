"""Admission with a clock that a test sets, on a real store; wired as in production."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytest

from opuslive.administration.keys import Administration, KeyChanges
from opuslive.bootstrap import Gateway, price_overrides, wire
from opuslive.config.files import Settings
from opuslive.config.sections import AdminConfig, Config, KeysConfig, LimitsConfig, PriceConfig
from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.admission.admission import Admission, Admitted
from opuslive.gateway.admission.queues import Outcome
from opuslive.gateway.alerts.alerts import Message
from opuslive.gateway.holder import Holder, Holders
from opuslive.keys import Key
from opuslive.limits.accounts import Account
from opuslive.limits.estimates import Demand
from opuslive.limits.grammar import parse_limit, parse_limits
from opuslive.limits.windows import LimitStatus
from opuslive.pricing.prices import Prices
from opuslive.reloading import Reloader
from opuslive.storage import Storage
from opuslive.usage import ModelTokens, TokenCounts, UsagePart, UsageRecord
from tests.support.accounts import running
from tests.support.clock import Machine
from tests.support.keys import a_key
from tests.support.waiting import turns

MODEL = "claude-sonnet-4-5"
#: Seconds to wait at most: none of that long pass in a test.
LONG = 30.0


def settings(
    *,
    mode: Any = "adaptive",
    max_wait: float = LONG,
    gateway: Sequence[str] = (),
    groups: Mapping[str, Sequence[str]] | None = None,
    cache_read_weight: float = 0.0,
    default_request_limit: str | None = None,
    prices: Mapping[str, PriceConfig] | None = None,
) -> Config:
    limits = LimitsConfig(
        reserve_output=mode,
        cache_read_weight=cache_read_weight,
        max_wait=max_wait,
        gateway=parse_limits(gateway),
        groups={name: parse_limits(texts) for name, texts in (groups or {}).items()},
    )
    default = default_request_limit and parse_limit(default_request_limit)
    return Config(
        limits=limits,
        admin=AdminConfig(contact="ops@example.com"),
        keys=KeysConfig(default_request_limit=default or None),
        prices=prices or {},
    )


def demand(max_tokens: int | None = 10, *, guess: int = 0, model: str = MODEL) -> Demand:
    return Demand(model, guess, max_tokens)


def tokens(output: int, input_: int = 0) -> TokenCounts:
    return TokenCounts(input=input_, output=output)


class Limiting:
    """A gateway without upstreams: its admission, the store below and the clock beside it."""

    def __init__(self, storage: Storage, config: Config) -> None:
        self.storage = storage
        self.machine = Machine()
        #: The alerts that went out; ``deliver`` sends them.
        self.messages: list[Message] = []
        self.deliver: Callable[[Message], object] | None = self.messages.append
        self._config = config
        self._made = 0
        self._gateway = self._wire(())

    def _wire(self, keys: Iterable[Key]) -> Gateway:
        clock = self.machine.clock
        prices = Prices(price_overrides(self._config))
        return wire(self._config, self.storage, keys, (), prices, clock, self.deliver)

    async def restart(self) -> None:
        """Begin anew with what is stored."""
        self._gateway = self._wire(await self.storage.keys())
        await self.admission.load(await self.storage.group_changes())

    async def reload(self, config: Config) -> None:
        """Let another configuration come into force while it runs."""
        await Reloader(self._gateway, lambda: Settings(config), {}).reload()
        self._config = config

    @property
    def now(self) -> int:
        """What the clock of windows shows, in ms."""
        return self.machine.clock.steady_ms()

    @now.setter
    def now(self, now: int) -> None:
        self.machine.pass_time(now - self.now)

    @property
    def holders(self) -> Holders:
        return self._gateway.holders

    @property
    def admission(self) -> Admission:
        return self._gateway.admission

    @property
    def administration(self) -> Administration:
        return self._gateway.administration

    async def key(self, *limits: str, group: str | None = None) -> Key:
        """A new key."""
        self._made += 1
        key = a_key(self._made, limits=limits, group=group)
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
        self,
        key: Key,
        used: TokenCounts,
        *,
        latency: int = 0,
        model: str = MODEL,
        parts: Sequence[ModelTokens] = (),
    ) -> None:
        """A whole request, its record included."""
        admitted = self.admit(key, demand(1, model=model))
        self.now += latency
        await self.end(key, admitted, used, model=model, parts=parts)

    async def end(
        self,
        key: Key,
        admitted: Admitted,
        used: TokenCounts,
        *,
        model: str = MODEL,
        parts: Sequence[ModelTokens] = (),
    ) -> None:
        """End a request that runs, and record it, as a settlement does."""
        time = admitted.time
        ended = admitted.settle(used, self.now, whole=True, parts=parts)
        own, *others = (
            UsagePart(part.model, part.tokens, Prices({}).tier_of(part.model, part.tokens, time))
            for part in (ModelTokens(model, used), *parts)
        )
        await self.storage.add_record(
            UsageRecord(key.id, time, model, 200, ended - time, used, own.tier, tuple(others))
        )

    def status(self, key: Key) -> LimitStatus:
        (limit_status,) = self.admission.statuses(key.id)
        return limit_status

    def used(self, key: Key) -> dict[str, int]:
        return {str(one.limit): one.used for one in self.admission.statuses(key.id)}

    @property
    def accounts(self) -> list[Account]:
        admission = self.admission
        keys = [account for holder in self.holders for account in holder.accounts]
        return [*keys, *admission._shared]

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
