"""Limits that keys share come, change and go while requests run: they stand as after a restart.

Inputs of the kind: a limit of the gateway that is new, of an amount that is another, that goes and
comes back; the same of a group, and a group that had no limits; requests that ended before, that
run meanwhile, that come meanwhile; windows rebuilt from records, from sums of hours and of days;
keys that changed their group.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from opuslive.administration.keys import KeyChanges
from opuslive.config.sections import Config, PriceConfig
from opuslive.errors import Code
from opuslive.gateway.admission.admission import Admitted
from opuslive.keys import Key
from opuslive.storage import StorageUnavailable
from opuslive.times import HOUR_MS
from opuslive.usage import TokenCounts
from tests.support.limiting import Limiting, MakeLimiting, demand, outcome, settings, tokens

#: Rebuilt from records, from sums of hours, from sums of days.
SHARED = ["9M tokens/5h", "9M requests/5h", "9M tokens/7d", "9M requests/7d"]
SHARED += ["9M tokens/month", "9M requests/total"]
BARE = settings()
ALL = settings(gateway=SHARED, groups={"friends": SHARED})


def used(limiting: Limiting, whose: str) -> dict[str, int]:
    return {limit: limiting.shared()[f"{whose}: {limit}"] for limit in SHARED}


def every(requests: int, tokens_: int) -> dict[str, int]:
    return {limit: tokens_ if "tokens" in limit else requests for limit in SHARED}


async def regroup(limiting: Limiting, key: Key, group: str | None) -> None:
    await limiting.administration.update(key.id, KeyChanges(set_group=True, group=group))


class TestANewLimit:
    async def test_counts_what_was_used_before_and_what_runs_once(
        self, make_limiting: MakeLimiting
    ) -> None:
        limiting = make_limiting()
        friend, other = await limiting.key(group="friends"), await limiting.key()
        for key in (friend, other):
            await limiting.use(key, tokens(10))
        running = [(key, limiting.admit(key)) for key in (friend, other)]
        limiting.now += 3
        await limiting.reload(ALL)
        assert used(limiting, "gateway") == every(4, 20)
        assert used(limiting, "friends") == every(2, 10)
        limiting.now += HOUR_MS
        for key, admitted in running:
            await limiting.end(key, admitted, tokens(5))
        for _ in range(2):
            assert used(limiting, "gateway") == every(4, 30)
            assert used(limiting, "friends") == every(2, 15)
            limiting.assert_nothing_left()
            await limiting.restart()

    async def test_holds_what_requests_that_run_have_reserved(
        self, make_limiting: MakeLimiting
    ) -> None:
        """Of a group that had no limits before, too."""
        limiting = make_limiting(max_wait=0)
        friend, other = [await limiting.key(group="friends") for _ in range(2)]
        admitted = limiting.admit(friend, demand(60))
        await limiting.reload(settings(max_wait=0, groups={"friends": ["100 tokens/1m"]}))
        second = limiting.admit(other, demand(30))
        for key in (friend, other):
            assert limiting.refused(key, demand(30)).code is Code.RATE_LIMITED
        await limiting.end(friend, admitted, tokens(1))
        await limiting.end(other, second, tokens(1))
        limiting.assert_nothing_left()

    async def test_leaves_to_a_group_what_its_keys_used_in_another(
        self, make_limiting: MakeLimiting
    ) -> None:
        """Also what runs since before the key came into the group."""
        limiting = make_limiting()
        key = await limiting.key()
        await limiting.use(key, tokens(100))
        early = limiting.admit(key)
        limiting.now += 5
        await regroup(limiting, key, "friends")
        limiting.now += 5
        late = limiting.admit(key)
        await limiting.use(key, tokens(10))
        await limiting.reload(ALL)
        for each in (early, late):
            await limiting.end(key, each, tokens(1))
        for _ in range(2):
            assert used(limiting, "friends") == every(2, 11)
            assert used(limiting, "gateway") == every(4, 112)
            await limiting.restart()

    async def test_counts_at_the_prices_that_come_with_it(
        self, make_limiting: MakeLimiting
    ) -> None:
        limiting = make_limiting()
        key = await limiting.key()
        await limiting.use(key, tokens(1_000_000), model="my-model")
        price = {"my-model": PriceConfig(input=0, output=2)}
        await limiting.reload(settings(prices=price, gateway=["5 usd/month"], cache_read_weight=1))
        assert limiting.shared() == {"gateway: 5 usd/month": 2_000_000}
        await limiting.use(key, tokens(500_000), model="my-model")
        assert limiting.shared() == {"gateway: 5 usd/month": 3_000_000}

    async def test_binds_nobody_and_loses_nothing_while_it_is_rebuilt(
        self, make_limiting: MakeLimiting, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        limiting = make_limiting(max_wait=0)
        key = await limiting.key(group="friends")
        await limiting.use(key, tokens(10))
        rebuilding, go_on = asyncio.Event(), asyncio.Event()
        flush = limiting.storage.flush

        async def held() -> None:
            rebuilding.set()
            await go_on.wait()
            await flush()

        monkeypatch.setattr(limiting.storage, "flush", held)
        groups = {"friends": ["2 requests/1m", "50 tokens/1m"]}
        reload = asyncio.ensure_future(limiting.reload(settings(max_wait=0, groups=groups)))
        await rebuilding.wait()
        admitted = [limiting.admit(key, demand(30)) for _ in range(2)]
        for each in admitted:
            await limiting.end(key, each, tokens(30))
        go_on.set()
        await reload
        assert limiting.refused(key).code is Code.RATE_LIMITED
        assert limiting.shared() == {
            "friends: 2 requests/1m": 3,
            "friends: 50 tokens/1m": 70,
        }

    async def test_does_not_lose_to_others_what_a_key_used_that_is_being_deleted(
        self, make_limiting: MakeLimiting, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        limiting = make_limiting(gateway=["9M tokens/5h"])
        going, staying = await limiting.key(group="friends"), await limiting.key(group="friends")
        for key in (going, staying):
            await limiting.use(key, tokens(10))
        reading, go_on = asyncio.Event(), asyncio.Event()
        flush = limiting.storage.flush

        async def held() -> None:
            if not reading.is_set():
                reading.set()
                await go_on.wait()
            await flush()

        monkeypatch.setattr(limiting.storage, "flush", held)
        deletion = asyncio.ensure_future(limiting.administration.delete(going.id))
        await reading.wait()
        reload = asyncio.ensure_future(limiting.reload(ALL))
        for _ in range(50):
            await limiting.storage.group_changes()
        go_on.set()
        await asyncio.gather(deletion, reload)
        for _ in range(2):
            assert used(limiting, "gateway") == every(1, 10)
            assert used(limiting, "friends") == every(1, 10)
            await limiting.restart()


class TestALimitThatStays:
    async def test_keeps_what_is_used_and_reserved_under_another_amount(
        self, make_limiting: MakeLimiting
    ) -> None:
        one: dict[str, Any] = {
            "gateway": ["100 tokens/1m"],
            "groups": {"friends": ["90 tokens/1m"]},
        }
        two: dict[str, Any] = {"gateway": ["40 tokens/1m"], "groups": {"friends": ["45 tokens/1m"]}}
        limiting = make_limiting(max_wait=0, **one)
        key = await limiting.key(group="friends")
        await limiting.use(key, tokens(20))
        admitted = limiting.admit(key, demand(15))
        await limiting.reload(settings(max_wait=0, **two))
        assert limiting.shared() == {"gateway: 40 tokens/1m": 20, "friends: 45 tokens/1m": 20}
        assert limiting.refused(key, demand(15)).code is Code.RATE_LIMITED
        limiting.admit(key, demand(5)).settle(None, limiting.now)
        await limiting.end(key, admitted, tokens(10))
        assert limiting.shared() == {"gateway: 40 tokens/1m": 30, "friends: 45 tokens/1m": 30}
        limiting.assert_nothing_left()

    async def test_lets_in_at_once_what_waits_for_more_room(
        self, make_limiting: MakeLimiting
    ) -> None:
        limiting = make_limiting(gateway=["10 tokens/1m"])
        key = await limiting.key()
        admitted = limiting.admit(key)
        waiting = await limiting.wait(key)
        await limiting.reload(settings(gateway=["100 tokens/1m"]))
        let_in = await outcome(waiting)
        assert isinstance(let_in, Admitted)
        for each in (admitted, let_in):
            each.settle(None, limiting.now)


class TestALimitThatGoes:
    async def test_binds_nobody_and_is_rebuilt_when_it_comes_back(
        self, make_limiting: MakeLimiting
    ) -> None:
        config = settings(max_wait=0, gateway=["1 requests/1m"], groups={"friends": SHARED})
        limiting = make_limiting()
        await limiting.reload(config)
        key = await limiting.key(group="friends")
        admitted = limiting.admit(key)
        assert limiting.refused(key).code is Code.RATE_LIMITED
        await limiting.reload(BARE)
        assert limiting.shared() == {}
        second = limiting.admit(key)
        await limiting.end(key, admitted, tokens(3))
        await limiting.reload(config)
        assert limiting.shared()["gateway: 1 requests/1m"] == 2
        await limiting.end(key, second, tokens(4))
        assert used(limiting, "friends") == every(2, 7)
        limiting.assert_nothing_left()


async def test_a_reload_that_fails_changes_nothing(
    make_limiting: MakeLimiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    limiting = make_limiting(gateway=["90 tokens/1m"])
    key = await limiting.key(group="friends")
    admitted = limiting.admit(key)

    async def unavailable() -> None:
        raise StorageUnavailable

    with monkeypatch.context() as patched:
        patched.setattr(limiting.storage, "flush", unavailable)
        with pytest.raises(StorageUnavailable):
            await limiting.reload(ALL)
    assert limiting.shared() == {"gateway: 90 tokens/1m": 0}
    await limiting.end(key, admitted, tokens(3))
    await limiting.use(key, tokens(4))
    assert limiting.shared() == {"gateway: 90 tokens/1m": 7}
    await limiting.reload(ALL)
    assert used(limiting, "friends") == every(2, 7)


async def test_the_default_limit_of_requests_changes_and_keeps_what_counted(
    make_limiting: MakeLimiting,
) -> None:
    limiting = make_limiting(max_wait=0, default_request_limit="5 requests/1m")
    key = await limiting.key("9M tokens/5h")
    for _ in range(3):
        await limiting.use(key, tokens(1))
    await limiting.reload(settings(max_wait=0, default_request_limit="3 requests/1m"))
    assert limiting.refused(key).code is Code.RATE_LIMITED
    await limiting.reload(settings(max_wait=0))
    await limiting.use(key, tokens(1))
    await limiting.reload(settings(max_wait=0, default_request_limit="4 requests/1m"))
    await limiting.use(key, tokens(1))
    assert limiting.refused(key).code is Code.RATE_LIMITED


async def test_how_much_is_set_aside_and_for_how_long_requests_wait_may_change(
    make_limiting: MakeLimiting,
) -> None:
    limiting = make_limiting(gateway=["100 tokens/1m"])
    key = await limiting.key()
    admitted = limiting.admit(key, demand(100))
    await limiting.reload(settings(max_wait=0, mode="max_tokens", gateway=["100 tokens/1m"]))
    assert limiting.refused(key, demand(10)).code is Code.RATE_LIMITED
    assert limiting.refused(key, demand(101)).code is Code.INVALID_REQUEST
    assert limiting.refused(key, demand(None)).code is Code.INVALID_REQUEST
    admitted.settle(None, limiting.now)


async def test_cached_input_counts_by_the_new_weight(make_limiting: MakeLimiting) -> None:
    def weighing(weight: float) -> Config:
        return settings(gateway=["9M tokens/1m"], cache_read_weight=weight)

    limiting = make_limiting(gateway=["9M tokens/1m"])
    key = await limiting.key()
    for weight, counted in ((1.0, 100), (0.1, 110), (0.0, 110)):
        await limiting.reload(weighing(weight))
        await limiting.use(key, TokenCounts(cache_read=100))
        assert limiting.shared() == {"gateway: 9M tokens/1m": counted}


@pytest.mark.parametrize("seed", range(12))
async def test_after_any_changes_limits_stand_as_a_restart_finds_them(
    make_limiting: MakeLimiting, seed: int
) -> None:
    chance = random.Random(seed)
    limiting = make_limiting()
    keys = [await limiting.key(group=chance.choice(["friends", "family", None])) for _ in range(4)]
    running: list[tuple[Key, Admitted]] = []
    for _ in range(60):
        key = chance.choice(keys)
        match chance.choice(["use", "begin", "begin", "end", "end", "pass", "group", "reload"]):
            case "use":
                await limiting.use(key, tokens(chance.randrange(100)))
            case "begin":
                running.append((key, limiting.admit(key)))
            case "end" if running:
                which, admitted = running.pop(chance.randrange(len(running)))
                await limiting.end(which, admitted, tokens(chance.randrange(100)))
            case "pass":
                limiting.now += chance.choice([1, 1_000, HOUR_MS // 2])
            case "group":
                await regroup(limiting, key, chance.choice(["friends", "family", None]))
            case "reload":
                await limiting.reload(_any_limits(chance))
    for key, admitted in running:
        await limiting.end(key, admitted, tokens(1))
    await limiting.reload(settings(gateway=SHARED, groups={"friends": SHARED, "family": SHARED}))
    before = limiting.shared()
    limiting.assert_nothing_left()
    await limiting.restart()
    assert limiting.shared() == before


def _any_limits(chance: random.Random) -> Config:
    def some() -> list[str]:
        return chance.sample(SHARED, chance.randrange(len(SHARED)))

    groups: dict[str, Any] = {
        name: some() for name in ("friends", "family") if chance.random() < 0.7
    }
    return settings(gateway=some(), groups=groups)
