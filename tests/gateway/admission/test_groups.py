"""Limits that keys share stand after a restart as they stood before, whatever became of the keys.

Inputs of the kind: a key that changes its group once, there and back, several times within a ms,
out of all groups, into a group without limits; requests that end before the change, run during it,
end long after it; windows that are rebuilt from records, from sums of hours, from sums of days; a
key that is deleted, with requests of before and after a change, running ones, refused ones.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st

from opuslive.administration.keys import KeyChanges
from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.admission.admission import Admitted
from opuslive.gateway.admission.queues import MAX_WAITING
from opuslive.keys import Key
from opuslive.storage import DatabaseDamaged, Storage, StorageUnavailable, open_storage
from opuslive.times import DAY_MS, HOUR_MS
from opuslive.usage import TokenCounts
from tests.support.clock import NOW
from tests.support.limiting import Limiting, MakeLimiting, demand, settings, tokens
from tests.support.waiting import turns

#: Rebuilt from records, from sums of hours, from sums of days.
SHARED = ["9M tokens/5h", "9M requests/5h", "9M tokens/7d", "9M requests/7d"]
SHARED += ["9M tokens/month", "9M requests/month", "9M tokens/total", "9M requests/total"]
GROUPS = {"friends": SHARED, "family": SHARED}


async def regroup(limiting: Limiting, key: Key, group: str | None) -> None:
    await limiting.administration.update(key.id, KeyChanges(set_group=True, group=group))


def used(limiting: Limiting, group: str) -> dict[str, int]:
    """What is used of the group's limits."""
    shared = limiting.shared()
    return {limit: shared[f"{group}: {limit}"] for limit in SHARED}


def every(requests: int, tokens_: int) -> dict[str, int]:
    return {limit: tokens_ if "tokens" in limit else requests for limit in SHARED}


class TestAChangeOfGroup:
    async def test_leaves_what_was_used_in_the_old_group(self, make_limiting: MakeLimiting) -> None:
        limiting = make_limiting(groups=GROUPS)
        key = await limiting.key(group="friends")
        await limiting.use(key, tokens(10))
        await regroup(limiting, key, "family")
        await limiting.use(key, tokens(3))
        for _ in range(2):
            assert used(limiting, "friends") == every(1, 10)
            assert used(limiting, "family") == every(1, 3)
            await limiting.restart()

    async def test_changes_there_and_back_within_a_ms_count_each_request_once(
        self, make_limiting: MakeLimiting
    ) -> None:
        limiting = make_limiting(groups=GROUPS)
        key = await limiting.key(group="friends")
        for group in ("family", None, "no limits", "friends", "family"):
            await limiting.use(key, tokens(10))
            await regroup(limiting, key, group)
        await limiting.use(key, tokens(1))
        for _ in range(2):
            assert used(limiting, "friends") == every(2, 20)
            assert used(limiting, "family") == every(2, 11)
            await limiting.restart()

    @pytest.mark.parametrize("lasts", [1, HOUR_MS, 23 * HOUR_MS])
    async def test_a_request_that_runs_meanwhile_counts_where_it_was_let_in(
        self, make_limiting: MakeLimiting, lasts: int
    ) -> None:
        limiting = make_limiting(groups={"friends": ["9M tokens/7d"], "family": ["9M tokens/7d"]})
        key = await limiting.key(group="friends")
        running = limiting.admit(key)
        await regroup(limiting, key, "family")
        limiting.now += lasts
        await limiting.end(key, running, tokens(10))
        await limiting.use(key, tokens(1))
        for _ in range(2):
            assert limiting.shared() == {"friends: 9M tokens/7d": 10, "family: 9M tokens/7d": 1}
            await limiting.restart()

    async def test_a_request_that_comes_while_it_is_stored_counts_in_the_new_group(
        self, make_limiting: MakeLimiting
    ) -> None:
        """It waits until the change is on disk, also where nothing else would let it wait."""
        limiting = make_limiting(groups=GROUPS, max_wait=0)
        key = await limiting.key(group="friends")
        change = asyncio.ensure_future(regroup(limiting, key, "family"))
        holder = limiting.holder(key)
        while not holder.changing_group:
            await asyncio.sleep(0)
        waiting = limiting.waiting(key)
        await change
        admitted = await waiting
        await limiting.end(key, admitted, tokens(7))
        for _ in range(2):
            assert used(limiting, "friends") == every(0, 0)
            assert used(limiting, "family") == every(1, 7)
            await limiting.restart()

    async def test_holds_back_no_more_requests_than_may_wait(
        self, make_limiting: MakeLimiting
    ) -> None:
        limiting = make_limiting(groups={"friends": ["1 concurrent"], "family": ["1 concurrent"]})
        key = await limiting.key(group="friends")
        running = limiting.admit(key)
        holder = limiting.holder(key)
        holder.changing_group = True
        waiting = [limiting.waiting(key) for _ in range(MAX_WAITING)]
        assert limiting.refused(key).code is Code.RATE_LIMITED
        holder.changing_group = False
        for task in waiting:
            task.cancel()
        await turns()
        running.settle(None, NOW)


_steps = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.integers(0, 2)),
        st.tuples(st.just("begin"), st.integers(0, 2)),
        st.tuples(st.just("end"), st.integers(0, 9), st.integers(1, 90)),
        st.tuples(st.just("end"), st.integers(0, 9), st.integers(1, 90)),
        st.tuples(st.just("later"), st.integers(0, 30 * HOUR_MS)),
        st.tuples(st.just("later"), st.sampled_from([1, HOUR_MS, DAY_MS])),
        st.tuples(
            st.just("group"),
            st.integers(0, 2),
            st.sampled_from(["friends", "family", "no limits", None]),
        ),
        st.tuples(st.just("delete"), st.integers(0, 2)),
    ),
    max_size=40,
)


class Play:
    """Keys that use, change their groups and are deleted, one step after the other."""

    def __init__(self, limiting: Limiting) -> None:
        self.limiting = limiting
        self.keys: list[Key] = []
        self.running: list[tuple[Key, Admitted]] = []

    async def start(self) -> None:
        self.keys = [await self.limiting.key(group=group) for group in ("friends", "family", None)]

    async def begin(self, which: int) -> None:
        key = self.keys[which]
        self.running.append((key, self.limiting.admit(key)))

    async def end(self, which: int, output: int) -> None:
        if self.running:
            key, admitted = self.running.pop(which % len(self.running))
            await self.limiting.end(key, admitted, tokens(output))

    async def later(self, ms: int) -> None:
        # No upstream keeps a request open for a day.
        for key, admitted in self.running:
            if admitted.time + DAY_MS <= self.limiting.now + ms:
                await self.limiting.end(key, admitted, tokens(5))
        self.running = [
            (key, admitted)
            for key, admitted in self.running
            if admitted.time + DAY_MS > self.limiting.now + ms
        ]
        self.limiting.now += ms

    async def group(self, which: int, group: str | None) -> None:
        await regroup(self.limiting, self.keys[which], group)

    async def delete(self, which: int) -> None:
        key = self.keys[which]
        for owner, admitted in self.running:
            if owner is key:
                admitted.settle(None, self.limiting.now)
        self.running = [(owner, run) for owner, run in self.running if owner is not key]
        await self.limiting.administration.delete(key.id)
        self.keys[which] = await self.limiting.key(group="friends")


async def shared_limits_before_and_after(steps: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        storage = await open_storage(f"sqlite://{Path(folder) / 'opuslive.db'}")
        limiting = Limiting(storage, settings(max_wait=0, gateway=SHARED, groups=GROUPS))
        play = Play(limiting)
        await play.start()
        for name, *arguments in steps:
            await getattr(play, name)(*arguments)
        while play.running:
            await play.end(0, 5)
        before = limiting.shared()
        await limiting.restart()
        after = limiting.shared()
        for limit, amount in before.items():
            if limit.endswith("/7d"):
                # A sum is placed at the end of its hour: it frees late by less than a bucket.
                assert after[limit] >= amount, limit
            else:
                assert after[limit] == amount, limit
        await storage.close()


@how(max_examples=60)
@given(_steps)
def test_shared_limits_stand_after_a_restart_as_before(steps: list[Any]) -> None:
    asyncio.run(shared_limits_before_and_after(steps))


class TestADeletedKey:
    async def test_leaves_its_group_and_the_gateway_at_once(
        self, make_limiting: MakeLimiting
    ) -> None:
        limiting = make_limiting(groups=GROUPS, gateway=["9M tokens/total"])
        gone, other = [await limiting.key(group="friends") for _ in range(2)]
        await limiting.use(gone, tokens(10))
        limiting.now += 3 * HOUR_MS
        await limiting.use(other, tokens(1))
        await regroup(limiting, gone, "family")
        await limiting.use(gone, tokens(5))
        deletion = await limiting.administration.delete(gone.id)
        for _ in range(2):
            assert used(limiting, "friends") == every(1, 1)
            assert used(limiting, "family") == every(0, 0)
            assert limiting.shared()["gateway: 9M tokens/total"] == 1
            await limiting.restart()
        told = {(each.group, each.limit.text): each.amount for each in deletion.shared}
        assert told[None, "9M tokens/total"] == 15
        assert told["friends", "9M tokens/7d"] == 10
        assert told["family", "9M requests/month"] == 1

    async def test_what_no_longer_counts_is_told_before(self, make_limiting: MakeLimiting) -> None:
        limiting = make_limiting(gateway=["5 usd/month", "9M requests/1h"])
        key = await limiting.key()
        await limiting.use(key, TokenCounts(output=1_000))
        shared = await limiting.administration.shared_by(key)
        assert [(each.limit.text, each.amount) for each in shared] == [
            ("5 usd/month", 15_000),
            ("9M requests/1h", 1),
        ]
        assert limiting.shared()["gateway: 9M requests/1h"] == 1

    async def test_makes_room_for_those_that_stay(self, make_limiting: MakeLimiting) -> None:
        limiting = make_limiting(groups={"friends": ["10 tokens/total"]}, max_wait=0)
        gone, other = [await limiting.key(group="friends") for _ in range(2)]
        await limiting.use(gone, tokens(10))
        assert limiting.refused(other).code is Code.QUOTA_EXHAUSTED
        await limiting.administration.delete(gone.id)
        limiting.admit(other).settle(None, limiting.now)

    async def test_one_that_could_not_be_deleted_still_counts(
        self, make_limiting: MakeLimiting, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        limiting = make_limiting(groups=GROUPS)
        key = await limiting.key("9M tokens/1h", group="friends")
        await limiting.use(key, tokens(10))
        monkeypatch.setattr(limiting.storage, "delete_key", failing(StorageUnavailable))
        with pytest.raises(StorageUnavailable):
            await limiting.administration.delete(key.id)
        assert used(limiting, "friends") == every(1, 10)
        assert limiting.used(key) == {"9M tokens/1h": 10}
        limiting.admit(key).settle(None, limiting.now)

    async def test_nothing_of_it_is_left_in_memory_where_the_database_is_damaged(
        self, make_limiting: MakeLimiting, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        limiting = make_limiting(groups=GROUPS)
        key = await limiting.key(group="friends")
        await limiting.use(key, tokens(10))
        monkeypatch.setattr(limiting.storage, "delete_key", failing(DatabaseDamaged))
        with pytest.raises(DatabaseDamaged):
            await limiting.administration.delete(key.id)
        assert len(limiting.holders) == 0
        assert used(limiting, "friends") == every(0, 0)

    @pytest.mark.parametrize("step", ["group_changes", "records", "sums"])
    async def test_is_deleted_though_what_it_shared_can_not_be_read(
        self, make_limiting: MakeLimiting, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        limiting = make_limiting(groups=GROUPS)
        key = await limiting.key(group="friends")
        await limiting.use(key, tokens(10))
        monkeypatch.setattr(limiting.storage, step, failing(DatabaseDamaged))
        deletion = await limiting.administration.delete(key.id)
        assert (deletion.erased_records, deletion.shared) == (1, ())
        assert len(limiting.holders) == 0

    async def test_goes_on_working_where_nobody_can_tell_whether_it_is_stored(
        self, make_limiting: MakeLimiting, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        limiting = make_limiting(groups=GROUPS)
        key = await limiting.key(group="friends")
        await limiting.use(key, tokens(10))
        for step in ("delete_key", "keys"):
            monkeypatch.setattr(limiting.storage, step, failing(StorageUnavailable))
        with pytest.raises(StorageUnavailable):
            await limiting.administration.delete(key.id)
        assert used(limiting, "friends") == every(1, 10)
        limiting.admit(key).settle(None, limiting.now)


def failing(error: type[OpusLiveError]) -> Any:
    async def fail(*args: Any, **kwargs: Any) -> Any:
        raise error()  # type: ignore[call-arg]  # each of those used here takes none

    return fail


class TestAChangeThatFails:
    """Store and memory agree afterwards, whichever step failed."""

    async def changed(
        self, limiting: Limiting, key: Key, storage: Storage, step: str, monkeypatch: Any
    ) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(storage, step, failing(StorageUnavailable))
            changes = KeyChanges(
                name="new",
                limits=("5 tokens/7d", "7 tokens/1h"),
                set_group=True,
                group="family",
            )
            with pytest.raises(StorageUnavailable):
                await limiting.administration.update(key.id, changes)

    @pytest.mark.parametrize("step", ["flush", "records", "sums", "update_keys"])
    async def test_changes_nothing(
        self, make_limiting: MakeLimiting, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        limiting = make_limiting(groups=GROUPS)
        key = await limiting.key("9M tokens/1h", group="friends")
        await limiting.use(key, tokens(10))
        await self.changed(limiting, key, limiting.storage, step, monkeypatch)
        (stored,) = await limiting.storage.keys()
        assert limiting.holder(key).key == stored == key
        await limiting.use(key, tokens(10))
        for _ in range(2):
            assert limiting.used(key) == {"9M tokens/1h": 20}
            assert used(limiting, "friends") == every(2, 20)
            assert used(limiting, "family") == every(0, 0)
            await limiting.restart()

    async def test_can_be_tried_again(
        self, make_limiting: MakeLimiting, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        limiting = make_limiting(groups=GROUPS)
        key = await limiting.key(group="friends")
        await limiting.use(key, tokens(10))
        for step in ("records", "update_keys"):
            await self.changed(limiting, key, limiting.storage, step, monkeypatch)
        await limiting.administration.update(key.id, KeyChanges(limits=("50 tokens/1h",)))
        admitted = limiting.admit(key, demand(1))
        await limiting.end(key, admitted, tokens(1))
        assert limiting.used(key) == {"50 tokens/1h": 11}

    async def test_is_carried_through_if_whoever_asked_for_it_leaves(
        self, make_limiting: MakeLimiting
    ) -> None:
        """The change is carried through, in the store and in memory."""
        limiting = make_limiting(groups=GROUPS)
        key = await limiting.key(group="friends")
        administration = limiting.administration
        change = asyncio.ensure_future(
            administration.update(key.id, KeyChanges(name="new", limits=("5 tokens/1h",)))
        )
        await turns(2)
        change.cancel()
        await asyncio.gather(change, return_exceptions=True)
        while administration._under_way:
            await asyncio.sleep(0)
        (stored,) = await limiting.storage.keys()
        assert stored.name == "new"
        assert limiting.holders.find("new").key == stored
        assert limiting.used(key) == {"5 tokens/1h": 0}
