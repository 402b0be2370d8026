"""What is kept in memory of a key, and how a key is found."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.holder import Cut, Holder, Holders
from tests.support.clock import NOW
from tests.support.keys import a_key
from tests.support.waiting import turns


def a_holder(number: int = 1) -> Holder:
    return Holder(a_key(number), NOW)


class TestDeniedRequests:
    def test_one_is_recorded_for_each_second(self) -> None:
        holder = a_holder()
        times = range(NOW, NOW + 10_000)
        recorded = [time for time in times if holder.records_denial(time)]
        assert recorded == [NOW, *range(NOW - NOW % 1000 + 1000, NOW + 10_000, 1000)]

    def test_each_key_has_its_own_second(self) -> None:
        first, second = a_holder(1), a_holder(2)
        recorded = [holder.records_denial(NOW) for holder in (first, second, first, second)]
        assert recorded == [True, True, False, False]

    def test_a_request_that_waited_before_it_was_denied_is_not_recorded_out_of_order(self) -> None:
        """Records bear the time at which requests came, so they do not come in order."""
        holder = a_holder()
        recorded = 0
        for tick in range(500):
            # At each moment one is denied that has just come, and one that waited for 5 s.
            now = NOW + 10 * tick
            recorded += holder.records_denial(now)
            recorded += holder.records_denial(now - 5_000)
        assert recorded == 6


class TestFinding:
    def test_by_id_by_prefix_and_by_name(self) -> None:
        holders = Holders([a_holder(1), a_holder(2)])
        first = holders.get("key00001")
        assert first is not None
        for reference in (first.key.id, first.key.prefix, first.key.name):
            assert holders.find(reference) is first

    def test_an_id_goes_before_the_same_prefix_and_that_before_the_same_name(self) -> None:
        by_id, by_prefix, by_name = a_holder(1), a_holder(2), a_holder(3)
        by_prefix.key = replace(by_prefix.key, prefix="same")
        by_name.key = replace(by_name.key, name="same", prefix="other")
        holders = Holders([by_name, by_prefix])
        assert holders.find("same") is by_prefix
        by_id.key = replace(by_id.key, id="same", name="another")
        holders.add(by_id)
        assert holders.find("same") is by_id

    def test_a_key_that_is_renamed_is_found_by_its_new_name_alone(self) -> None:
        holder = a_holder()
        holders = Holders([holder])
        old = holder.key
        holders.change(holder, replace(old, name="new"))
        assert holders.find("new") is holders.find(old.id) is holder
        with pytest.raises(OpusLiveError) as raised:
            holders.find(old.name if old.name != old.id else "old")
        assert raised.value.code is Code.NOT_FOUND
        assert not holder.leaving

    def test_a_key_that_is_removed_is_not_found_and_leaves_its_name_to_the_next(self) -> None:
        holder, other = a_holder(1), a_holder(2)
        holders = Holders([holder])
        other.key = replace(other.key, name=holder.key.name)
        holders.add(other)
        holders.remove(holder)
        assert holder.leaving
        assert holders.get(holder.key.id) is None
        assert holders.find(other.key.name) is other
        assert [key.id for key in holders.all_keys()] == [other.key.id]

    def test_keys_are_listed_oldest_first(self) -> None:
        young, old = a_holder(1), a_holder(2)
        old.key = replace(old.key, created_at=NOW - 1)
        assert [key.id for key in Holders([young, old]).all_keys()] == [old.key.id, young.key.id]


class Running:
    """A request that runs until it is cut."""

    def __init__(self, holder: Holder) -> None:
        self.holder = holder
        self.why: Cut | None = None
        holder.begin(self)

    def cut(self, why: Cut) -> None:
        self.why = why


async def test_a_deletion_learns_when_the_last_request_has_ended() -> None:
    holder = a_holder()
    await holder.all_ended()
    requests = [Running(holder) for _ in range(3)]
    holder.cut(Cut.KEY_DELETED)
    assert {request.why for request in requests} == {Cut.KEY_DELETED}
    waiting = [asyncio.ensure_future(holder.all_ended()) for _ in range(2)]
    for request in requests:
        await turns()
        assert not any(task.done() for task in waiting)
        holder.end(request)
    await asyncio.gather(*waiting)
