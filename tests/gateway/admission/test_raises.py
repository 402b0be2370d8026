"""A limit that is raised for a while: the window goes on, and the raise ends by itself.

Inputs of the kind: a raise that runs out while the server runs, while it is off, while the key's
limits are being changed; one of a limit that is removed, replaced, made larger meanwhile; one that
is replaced or taken back; windows that are rebuilt in between.
"""

from __future__ import annotations

import asyncio
import tempfile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st

from opuslive.administration.choosing import Chosen
from opuslive.administration.keys import KeyChanges
from opuslive.errors import Code, UsageError
from opuslive.keys import Key, Raise
from opuslive.limits.grammar import parse_limit
from opuslive.limits.windows import LimitStatus
from opuslive.storage import StorageUnavailable, open_storage
from opuslive.times import HOUR_MS
from tests.support.clock import NOW
from tests.support.limiting import Limiting, MakeLimiting, demand, settings, tokens
from tests.support.stores import full_disk
from tests.support.waiting import eventually, turns


async def raise_to(limiting: Limiting, key: Key, limit: str, ms: int = HOUR_MS) -> None:
    until = limiting.machine.wall + ms
    changes = KeyChanges(set_raise=True, raised=Raise(limit, until))
    await limiting.administration.update(key.id, changes)


async def lower(limiting: Limiting, key: Key) -> None:
    await limiting.administration.update(key.id, KeyChanges(set_raise=True))


async def hour_passes(limiting: Limiting) -> None:
    limiting.now += HOUR_MS
    await limiting.administration.end_raises()


async def test_it_holds_at_once_and_is_gone_at_its_moment(make_limiting: MakeLimiting) -> None:
    limiting = make_limiting(max_wait=0)
    key = await limiting.key("10 tokens/day")
    await limiting.use(key, tokens(10))
    assert limiting.refused(key).code is Code.QUOTA_EXHAUSTED
    await raise_to(limiting, key, "30 tokens/day")
    status = limiting.status(key)
    assert (status.limit.text, status.used, status.remaining) == ("30 tokens/day", 10, 20)
    await limiting.use(key, tokens(15))
    limiting.now += HOUR_MS - 1
    await limiting.administration.end_raises()
    assert limiting.status(key).remaining == 5
    limiting.now += 1
    await limiting.administration.end_raises()
    status = limiting.status(key)
    assert (status.limit, status.used) == (parse_limit("10 tokens/day"), 25)
    assert status.remaining == 0
    assert limiting.refused(key).code is Code.QUOTA_EXHAUSTED
    assert limiting.holder(key).key.raises == ()
    records, _ = await limiting.storage.records(key.id)
    assert sum(record.tokens.output for record in records) == 25


async def test_the_timer_ends_it_while_the_gateway_runs(make_limiting: MakeLimiting) -> None:
    limiting = make_limiting()
    key = await limiting.key("10 tokens/day")
    limiting.administration.start()
    await raise_to(limiting, key, "30 tokens/day", 1)
    limiting.now += 1
    await eventually(lambda: limiting.status(key).limit == parse_limit("10 tokens/day"))
    limiting.administration.stop()


async def test_a_start_after_its_end_knows_it_no_more_and_one_before_does(
    make_limiting: MakeLimiting,
) -> None:
    limiting = make_limiting()
    key = await limiting.key("10 tokens/day")
    await limiting.use(key, tokens(7))
    await raise_to(limiting, key, "30 tokens/day")
    await limiting.restart()
    assert (limiting.status(key).limit.text, limiting.status(key).used) == ("30 tokens/day", 7)
    limiting.now += HOUR_MS
    await limiting.restart()
    assert (limiting.status(key).limit, limiting.status(key).used) == (
        parse_limit("10 tokens/day"),
        7,
    )


async def test_the_next_change_of_the_key_takes_it_out_of_the_store(
    make_limiting: MakeLimiting,
) -> None:
    limiting = make_limiting()
    key = await limiting.key("10 tokens/day")
    await raise_to(limiting, key, "30 tokens/day")
    await hour_passes(limiting)
    ((stored),) = await limiting.storage.keys()
    assert stored.raises
    await limiting.administration.rotate(key.id, 0)
    ((stored),) = await limiting.storage.keys()
    assert stored.raises == ()


async def test_a_rotation_and_another_raise_leave_it_as_it_is(
    make_limiting: MakeLimiting,
) -> None:
    limiting = make_limiting()
    key = await limiting.key("10 tokens/day", "2 concurrent")
    await raise_to(limiting, key, "30 tokens/day")
    await limiting.administration.rotate(key.id, 0)
    await raise_to(limiting, key, "4 concurrent", 2 * HOUR_MS)
    assert list(limiting.used(key)) == ["30 tokens/day", "4 concurrent"]
    await hour_passes(limiting)
    assert list(limiting.used(key)) == ["10 tokens/day", "4 concurrent"]
    await lower(limiting, key)
    assert list(limiting.used(key)) == ["10 tokens/day", "2 concurrent"]


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        (["20 tokens/day"], ["30 tokens/day"]),
        (["30 tokens/day"], ["30 tokens/day"]),
        (["40 tokens/day"], ["40 tokens/day"]),
        (["5 tokens/1h"], ["5 tokens/1h"]),
        ([], []),
    ],
)
async def test_a_change_of_limits_keeps_it_as_long_as_it_raises_one(
    make_limiting: MakeLimiting, limits: list[str], left: list[str]
) -> None:
    limiting = make_limiting()
    key = await limiting.key("10 tokens/day")
    await limiting.use(key, tokens(3))
    await raise_to(limiting, key, "30 tokens/day")
    await limiting.change(key, *limits)
    assert limiting.used(key) == dict.fromkeys(left, 3)
    # It does not come back when the limit does.
    kept = limits == ["20 tokens/day"]
    await limiting.change(key, "10 tokens/day")
    assert limiting.used(key) == {"30 tokens/day" if kept else "10 tokens/day": 3}


async def test_a_reload_leaves_it_as_it_is(make_limiting: MakeLimiting) -> None:
    limiting = make_limiting(gateway=["900 tokens/day"])
    key = await limiting.key("10 tokens/day")
    await limiting.use(key, tokens(3))
    await raise_to(limiting, key, "30 tokens/day")
    await limiting.reload(settings(gateway=["800 tokens/day"], groups={"friends": []}))
    assert limiting.used(key) == {"30 tokens/day": 3}
    await hour_passes(limiting)
    assert limiting.used(key) == {"10 tokens/day": 3}


async def test_requests_that_run_keep_what_they_hold_when_it_ends(
    make_limiting: MakeLimiting,
) -> None:
    limiting = make_limiting()
    key = await limiting.key("10 tokens/day")
    await raise_to(limiting, key, "30 tokens/day")
    running = [limiting.admit(key, demand(10)) for _ in range(3)]
    await hour_passes(limiting)
    status = limiting.status(key)
    assert (status.reserved, status.remaining) == (30, 0)
    waiting = await limiting.wait(key)
    for admitted in running:
        await limiting.end(key, admitted, tokens(0))
    (await waiting).settle(None, limiting.now)


async def test_whoever_waits_for_room_goes_on_when_a_raise_begins(
    make_limiting: MakeLimiting,
) -> None:
    limiting = make_limiting()
    key = await limiting.key("10 tokens/day")
    first = limiting.admit(key, demand(10))
    waiting = await limiting.wait(key)
    await raise_to(limiting, key, "30 tokens/day")
    (await waiting).settle(None, limiting.now)
    first.settle(None, limiting.now)


async def test_one_that_can_not_be_stored_changes_nothing(make_limiting: MakeLimiting) -> None:
    limiting = make_limiting()
    key = await limiting.key("10 tokens/day")
    with full_disk(), pytest.raises(StorageUnavailable):
        await raise_to(limiting, key, "30 tokens/day")
    assert limiting.status(key).limit == parse_limit("10 tokens/day")
    assert limiting.holder(key).key.raises == ()


async def test_it_ends_after_a_change_that_is_under_way(make_limiting: MakeLimiting) -> None:
    limiting = make_limiting()
    key = await limiting.key("10 tokens/day")
    await limiting.use(key, tokens(3))
    await raise_to(limiting, key, "30 tokens/day")
    limiting.now += HOUR_MS - 1
    change = asyncio.ensure_future(limiting.change(key, "10 tokens/day", "50 tokens/7d"))
    await turns()
    limiting.now += 1
    await asyncio.gather(change, limiting.administration.end_raises())
    assert limiting.used(key) == {"10 tokens/day": 3, "50 tokens/7d": 3}


async def test_keys_are_raised_together_or_not_at_all(make_limiting: MakeLimiting) -> None:
    limiting = make_limiting()
    able = await limiting.key("10 tokens/day", group="friends")
    await limiting.key("40 tokens/day", group="friends")
    raised = Raise("30 tokens/day", limiting.machine.wall + HOUR_MS)
    changes = KeyChanges(set_raise=True, raised=raised)
    with pytest.raises(UsageError, match=r"because of the key 'name of 2': .*is no raise"):
        await limiting.administration.update_many(Chosen(group="friends"), changes)
    assert limiting.used(able) == {"10 tokens/day": 0}


# Whatever happens, in any order: the limits that bind are those of a plain model, and the usage
# that each of them counts is what was used.

_AMOUNTS = st.sampled_from([10, 20, 30, 40])
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("use"), st.integers(1, 5)),
        st.tuples(st.just("raise"), _AMOUNTS, st.sampled_from([1, HOUR_MS, 2 * HOUR_MS])),
        st.tuples(st.just("lower")),
        st.tuples(st.just("limit"), st.one_of(st.none(), _AMOUNTS)),
        st.tuples(st.just("pass"), st.sampled_from([0, 1, HOUR_MS - 1, HOUR_MS])),
        st.tuples(st.just("restart")),
        st.tuples(st.just("rotate")),
    ),
    max_size=12,
)


class Model:
    """The key's limit of tokens in all, and its raise."""

    def __init__(self) -> None:
        self.limit: int | None = 10
        self.raised: tuple[int, int] | None = None
        self.used = 0

    def settle(self, now: int) -> None:
        if self.raised is not None:
            amount, until = self.raised
            if until <= now or self.limit is None or amount <= self.limit:
                self.raised = None

    @property
    def amount(self) -> int | None:
        return self.limit if self.raised is None else self.raised[0]


async def raised_in_any_order(steps: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        storage = await open_storage(f"sqlite://{folder}/opuslive.db")
        try:
            await play(Limiting(storage, settings()), steps)
        finally:
            await storage.close()


async def play(limiting: Limiting, steps: list[Any]) -> None:
    key, model = await limiting.key("1M requests/total", "10 tokens/total"), Model()
    for what, *values in steps:
        if what == "use":
            if model.amount is not None and model.used + 1 > model.amount:
                continue
            await limiting.use(key, tokens(values[0]))
            model.used += values[0]
        elif what == "raise":
            amount, ms = values
            until = limiting.machine.wall + ms
            if model.limit is None or amount <= model.limit:
                with pytest.raises(UsageError):
                    await raise_to(limiting, key, f"{amount} tokens/total", ms)
            else:
                await raise_to(limiting, key, f"{amount} tokens/total", ms)
                model.raised = amount, until
        elif what == "lower":
            await lower(limiting, key)
            model.raised = None
        elif what == "limit":
            (model.limit,) = values
            own = () if model.limit is None else (f"{model.limit} tokens/total",)
            await limiting.change(key, "1M requests/total", *own)
        elif what == "pass":
            limiting.now += values[0]
            await limiting.administration.end_raises()
        elif what == "rotate":
            await limiting.administration.rotate(key.id, 0)
        else:
            await limiting.restart()
        model.settle(limiting.machine.wall)
        found: list[LimitStatus] = [
            status
            for status in limiting.admission.statuses(key.id)
            if status.limit.text.endswith("tokens/total")
        ]
        shown = [(each.limit.amount, each.limit.raised is not None, each.used) for each in found]
        expected = [(model.amount, model.raised is not None, model.used)]
        assert shown == ([] if model.limit is None else expected)
        assert limiting.now >= NOW
    limiting.assert_nothing_left()
    records, _ = await limiting.storage.records(key.id)
    assert sum(record.tokens.output for record in records) == model.used


@how(max_examples=25)
@given(_STEPS)
def test_limits_and_usage_are_those_of_a_model_in_any_order(steps: list[Any]) -> None:
    asyncio.run(raised_in_any_order(steps))
