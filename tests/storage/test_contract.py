"""What every store does, whatever engine keeps it: see ``opuslive.storage.Storage``."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter

import pytest
from msgspec.structs import replace

from opuslive.errors import Code, OpusLiveError
from opuslive.keys import GroupChange, Key
from opuslive.storage import DatabaseInUse, KeyUsage, Storage, StorageUnavailable, Unwritten
from opuslive.times import DAY_MS, HOUR_MS
from opuslive.usage import ModelSum, TokenCounts, UsagePart, UsageRecord, UsageSum
from tests.support.clock import NOW
from tests.support.keys import TOKENS, a_key, a_record, a_refusal
from tests.support.stores import Open, full_disk

HOUR = NOW // HOUR_MS * HOUR_MS
DAY = NOW // DAY_MS * DAY_MS
MODEL = "claude-opus-4-8"


#: What further models used of a request; the name of the second is not kept.
PARTS = (
    UsagePart("claude-haiku-4-5", TokenCounts(10, 2, 3), tier=1),
    UsagePart(None, TokenCounts(input=100)),
)


def _by_model(each: ModelSum) -> str:
    return each.model or ""


async def add(store: Storage, *records: UsageRecord) -> None:
    await asyncio.gather(*(store.add_record(record) for record in records))


async def all_records(store: Storage, key_id: str, *, limit: int = 1_000) -> list[UsageRecord]:
    records: list[UsageRecord] = []
    after = None
    while True:
        page, after = await store.records(key_id, after=after, limit=limit)
        assert len(page) <= limit
        records += page
        if after is None:
            return records


class TestKeys:
    async def test_a_new_store_has_no_keys(self, store: Storage) -> None:
        assert await store.keys() == []

    async def test_every_field_survives_a_restart(self, store: Storage, open_store: Open) -> None:
        bare = a_key(1)
        full = a_key(
            2,
            name="naïve “name” \N{SNOWMAN}'\";--\0",
            enabled=False,
            expires_at=NOW + 5,
            models=("claude-*", "gpt-[45]"),
            limits=("60 requests/1m", "20 usd/month"),
            group="friends",
            previous_hash=b"\x00\xff" * 30,
            previous_expires_at=NOW + 7,
        )
        await store.add_key(full)
        await store.add_key(bare)
        assert await store.keys() == [bare, full]  # oldest first
        await store.close()
        assert await (await open_store()).keys() == [bare, full]

    @pytest.mark.parametrize("twin", [a_key(1, name="other"), a_key(2, name="name of 1")])
    async def test_id_and_name_are_unique(self, store: Storage, twin: Key) -> None:
        await store.add_key(a_key(1))
        with pytest.raises(OpusLiveError, match="already") as raised:
            await store.add_key(twin)
        assert raised.value.code is Code.CONFLICT
        assert await store.keys() == [a_key(1)]
        assert store.healthy

    async def test_when_expiries_were_looked_at_survives_a_restart(
        self, store: Storage, open_store: Open
    ) -> None:
        assert await store.expiries_seen() is None
        for at in (1, 1_795_446_245_123):
            await store.keep_expiries_seen(at)
            assert await store.expiries_seen() == at
        await store.close()
        assert await (await open_store()).expiries_seen() == 1_795_446_245_123

    async def test_update_writes_every_field(self, store: Storage) -> None:
        await store.add_key(a_key(1))
        await store.add_key(a_key(2))
        changed = a_key(
            1,
            name="new",
            prefix="sk-key00001",
            created_at=NOW + 9,
            secret_hash=b"$2b$new",
            enabled=False,
            expires_at=NOW,
            models=("*",),
            limits=("8 concurrent",),
            group="friends",
            previous_hash=b"$2b$old",
            previous_expires_at=NOW,
        )
        await store.update_key(changed, at=NOW)
        assert await store.keys() == [a_key(2), changed]
        await store.update_key(a_key(1), at=NOW)
        assert await store.keys() == [a_key(1), a_key(2)]

    async def test_update_takes_no_name_of_another(self, store: Storage) -> None:
        await store.add_key(a_key(1))
        await store.add_key(a_key(2))
        with pytest.raises(OpusLiveError, match="another name") as raised:
            await store.update_key(a_key(2, name="name of 1"), at=NOW)
        assert raised.value.code is Code.CONFLICT

    async def test_update_of_an_unknown_key_is_refused(self, store: Storage) -> None:
        with pytest.raises(OpusLiveError) as raised:
            await store.update_key(a_key(1), at=NOW)
        assert raised.value.code is Code.NOT_FOUND

    @pytest.mark.parametrize(
        "key", [a_key(name="half \ud800"), a_key(group="\udfff"), a_key(expires_at=2**70)]
    )
    async def test_what_no_database_holds_is_refused(self, store: Storage, key: Key) -> None:
        with pytest.raises(OpusLiveError) as raised:
            await store.add_key(key)
        assert raised.value.code is Code.INVALID_REQUEST
        assert store.healthy

    async def test_every_column_that_is_kept_says_what_it_holds(self, store: Storage) -> None:
        assert store.kept_tables
        assert all(column.holds for table in store.kept_tables for column in table.columns)

    async def test_the_checksum_key_stays(self, store: Storage, open_store: Open) -> None:
        checksum_key = store.checksum_key
        assert len(checksum_key) == 32
        await store.close()
        assert (await open_store()).checksum_key == checksum_key


class TestGroupChanges:
    """When a key was in which group."""

    async def test_a_key_is_in_its_first_group_from_the_first_moment_on(
        self, store: Storage
    ) -> None:
        await store.add_key(a_key(1, group="friends"))
        await store.add_key(a_key(2))
        assert await store.group_changes() == {a_key(1).id: [GroupChange(0, "friends")]}

    async def test_each_change_is_kept_with_its_time(
        self, store: Storage, open_store: Open
    ) -> None:
        await store.add_key(a_key(1))
        await store.add_key(a_key(2, group="others"))
        for at, group in [(NOW, "friends"), (NOW + 5, "family"), (NOW + 9, None)]:
            await store.update_key(a_key(1, group=group), at=at)
        expected = {
            a_key(1).id: [
                GroupChange(NOW, "friends"),
                GroupChange(NOW + 5, "family"),
                GroupChange(NOW + 9, None),
            ],
            a_key(2).id: [GroupChange(0, "others")],
        }
        assert await store.group_changes() == expected
        await store.close()
        assert await (await open_store()).group_changes() == expected

    async def test_another_change_of_the_key_is_none(self, store: Storage) -> None:
        await store.add_key(a_key(group="friends"))
        await store.update_key(a_key(group="friends", name="new"), at=NOW)
        assert await store.group_changes() == {a_key().id: [GroupChange(0, "friends")]}

    async def test_two_in_one_millisecond_are_the_second(self, store: Storage) -> None:
        await store.add_key(a_key())
        for group in ("friends", "family"):
            await store.update_key(a_key(group=group), at=NOW)
        assert await store.group_changes() == {a_key().id: [GroupChange(NOW, "family")]}

    @pytest.mark.parametrize("at", [NOW - 1, 0, -(2**70)])
    async def test_the_last_one_holds_even_if_the_clock_went_back(
        self, store: Storage, at: int
    ) -> None:
        await store.add_key(a_key(group="friends"))
        await store.update_key(a_key(group="family"), at=NOW)
        await store.update_key(a_key(group="others"), at=at)
        assert await store.group_changes() == {
            a_key().id: [GroupChange(0, "friends"), GroupChange(NOW, "others")]
        }

    async def test_a_change_that_is_refused_leaves_none(self, store: Storage) -> None:
        await store.add_key(a_key(1))
        await store.add_key(a_key(2))
        with pytest.raises(OpusLiveError):
            await store.update_key(a_key(2, name="name of 1", group="friends"), at=NOW)
        assert await store.group_changes() == {}

    async def test_group_changes_are_erased_with_the_key(
        self, store: Storage, open_store: Open
    ) -> None:
        await store.add_key(a_key(1, group="friends"))
        await store.add_key(a_key(2, group="friends"))
        await store.update_key(a_key(1, group="family"), at=NOW)
        assert await store.delete_key(a_key(1).id) == 0
        expected = {a_key(2).id: [GroupChange(0, "friends")]}
        assert await store.group_changes() == expected
        await store.close()
        assert await (await open_store()).group_changes() == expected


class TestRecords:
    async def test_every_field_survives_a_restart(self, store: Storage, open_store: Open) -> None:
        await store.add_key(a_key())
        refusal = a_refusal(time=NOW + 1)
        await add(store, refusal, a_record())
        await store.close()
        assert await all_records(await open_store(), a_key().id) == [a_record(), refusal]

    async def test_pages_hold_each_record_once(self, store: Storage) -> None:
        await store.add_key(a_key(1))
        await store.add_key(a_key(2))
        # Many of the same ms, so that pages end between them.
        records = [a_record(time=NOW + i // 5, status=200 + i) for i in range(23)]
        await add(store, *reversed(records), a_record(2))
        for limit in (1, 2, 5, 7, 22, 23, 24):
            found = await all_records(store, a_key(1).id, limit=limit)
            assert sorted(found, key=lambda r: r.status or 0) == records
            assert [r.time for r in found] == sorted(r.time for r in records)

    async def test_a_page_can_start_at_a_time(self, store: Storage) -> None:
        await store.add_key(a_key())
        await add(store, *(a_record(time=NOW + i) for i in range(4)))
        page, following = await store.records(a_key().id, after=(NOW + 2, -1))
        assert [record.time for record in page] == [NOW + 2, NOW + 3]
        assert following is None

    async def test_the_latest_records_come_first(self, store: Storage) -> None:
        await store.add_key(a_key())
        # The last two share a millisecond: what came later is the later one.
        records = [a_record(time=NOW + n // 2, status=200 + n) for n in (0, 2, 3)]
        await add(store, *records)
        assert await store.latest_records(a_key().id, limit=2) == records[:0:-1]
        assert await store.latest_records(a_key().id, limit=9) == records[::-1]
        assert await store.latest_records("no-such", limit=9) == []

    async def test_records_of_an_unknown_key_are_dropped(self, store: Storage) -> None:
        await store.add_key(a_key(1))
        await add(store, a_record(9), a_record(1), UsageRecord("\ud800", NOW, None, 200, 5))
        assert set(await store.all_key_usage()) == {a_key(1).id}
        assert await store.records(a_key(9).id) == ([], None)
        assert await store.records("\ud800") == ([], None)
        await store.add_key(a_key(9))
        assert await store.records(a_key(9).id) == ([], None)

    async def test_one_that_no_database_holds_is_not_in_the_way(self, store: Storage) -> None:
        await store.add_key(a_key())
        monster = a_record(
            time=-(2**70),
            model="half \ud800",
            status=2**70,
            latency_ms=2**70,
            tokens=TokenCounts(2**70, -5, 2**64, 2**63, 7),
        )
        await add(store, monster, a_record())
        tame, normal = await all_records(store, a_key().id)
        most = 2**40
        assert tame == a_record(
            time=0,
            model=None,
            status=most,
            latency_ms=most,
            tokens=TokenCounts(most, 0, most, most, 7),
        )
        assert normal == a_record()
        assert store.healthy

    async def test_a_record_is_written_though_its_waiter_leaves(self, store: Storage) -> None:
        await store.add_key(a_key())
        left = store.add_record(a_record())
        left.cancel()
        await store.add_record(a_record(time=NOW + 1))
        assert len(await all_records(store, a_key().id)) == 2

    async def test_queued_records_are_written_by_close(
        self, store: Storage, open_store: Open
    ) -> None:
        await store.add_key(a_key())
        waiting = [store.add_record(a_record(time=NOW + i)) for i in range(5_000)]
        await store.close()
        assert all(future.result() is None for future in waiting)
        assert len(await all_records(await open_store(), a_key().id)) == 5_000


class TestSums:
    async def test_the_sum_of_nothing_is_zero(self, store: Storage) -> None:
        await store.add_key(a_key())
        assert await store.key_usage(a_key().id) == KeyUsage()
        assert await store.key_usage("no such") == KeyUsage()
        assert await store.all_key_usage() == {}
        assert await store.sums(None, since=0, until=NOW, by="day") == []

    async def test_totals_are_sums_of_all_records(self, store: Storage) -> None:
        await store.add_key(a_key(1))
        await store.add_key(a_key(2))
        await add(store, a_record(time=NOW + 9), a_record(), a_refusal(), a_refusal(2))
        await add(store, a_record(time=NOW + 3))
        twos = KeyUsage(NOW, UsageSum(0, 1))
        ones = KeyUsage(NOW + 9, UsageSum(3, 1, TokenCounts(3, 60, 900, 12_000, 150_000)))
        assert await store.key_usage(a_key(1).id) == ones
        assert await store.all_key_usage() == {a_key(1).id: ones, a_key(2).id: twos}

    async def test_requests_count_at_their_time_and_tokens_at_their_end(
        self, store: Storage
    ) -> None:
        await store.add_key(a_key())
        long = a_record(time=HOUR - 1, latency_ms=HOUR_MS + 1)  # ends at HOUR + HOUR_MS
        await add(store, long, a_refusal(time=HOUR - 1))
        assert await store.sums(None, since=0, until=NOW * 2, by="hour") == [
            ModelSum(HOUR - HOUR_MS, None, 0, UsageSum(0, 1)),
            ModelSum(HOUR - HOUR_MS, MODEL, 0, UsageSum(1)),
            ModelSum(HOUR + HOUR_MS, MODEL, 0, UsageSum(tokens=TOKENS)),
        ]

    async def test_the_span_is_widened_to_whole_hours(self, store: Storage) -> None:
        await store.add_key(a_key())
        await add(store, *(a_record(time=HOUR + i * HOUR_MS, latency_ms=0) for i in range(4)))
        for since, until, hours in [
            (HOUR + HOUR_MS, HOUR + 2 * HOUR_MS, [1]),
            (HOUR + HOUR_MS + 5, HOUR + 2 * HOUR_MS + 1, [1, 2]),
            (HOUR + 2 * HOUR_MS - 1, HOUR + 2 * HOUR_MS, [1]),
            (HOUR, HOUR, []),
            (-(2**70), 2**70, [0, 1, 2, 3]),
        ]:
            points = await store.sums(a_key().id, since=since, until=until, by="hour")
            assert [point.bucket for point in points] == [HOUR + i * HOUR_MS for i in hours]

    async def test_sums_by_day_are_of_utc_days(self, store: Storage) -> None:
        await store.add_key(a_key(1))
        await store.add_key(a_key(2))
        first, last = a_record(1, time=DAY, latency_ms=0), a_record(1, time=DAY + DAY_MS - 1)
        await add(store, first, replace(last, latency_ms=0), a_record(2, time=DAY - 1))
        of_one = await store.sums(a_key(1).id, since=0, until=NOW * 2, by="day")
        both = UsageSum(2, 0, TokenCounts(2, 40, 600, 8_000, 100_000))
        assert of_one == [ModelSum(DAY, MODEL, 0, both)]
        of_all = await store.sums(None, since=0, until=NOW * 2, by="day")
        assert [point.bucket for point in of_all] == [DAY - DAY_MS, DAY]

    async def test_sums_by_key_and_by_model_add_up(self, store: Storage) -> None:
        await store.add_key(a_key(1))
        await store.add_key(a_key(2))
        used = [(1, MODEL, 0), (1, None, 0), (2, MODEL, 0), (2, MODEL, 1), (2, MODEL, 1)]
        await add(store, *(replace(a_record(key, model=m), tier=tier) for key, m, tier in used))
        by_key = await store.sums(None, since=0, until=NOW * 2, by="key")
        assert {(p.bucket, p.model, p.tier): p.sum.requests for p in by_key} == Counter(
            (a_key(key).id, model, tier) for key, model, tier in used
        )
        by_model = await store.sums(None, since=0, until=NOW * 2, by="model")
        assert {(p.bucket, p.model, p.tier): p.sum.requests for p in by_model} == Counter(
            (model, model, tier) for _, model, tier in used
        )
        assert await store.sums("no such", since=0, until=NOW * 2, by="key") == []

    async def test_tokens_by_key_are_summed_since_a_moment(self, store: Storage) -> None:
        for number in (1, 2, 3):
            await store.add_key(a_key(number))
        await add(store, a_record(1), a_record(1, time=NOW + DAY_MS), a_refusal(2))
        each = TOKENS.total
        assert await store.tokens_by_key(since=0, until=NOW * 2) == {
            a_key(1).id: 2 * each,
            a_key(2).id: 0,
        }
        assert await store.tokens_by_key(since=NOW, until=NOW + 1) == {
            a_key(1).id: each,
            a_key(2).id: 0,
        }
        assert await store.tokens_by_key(since=NOW + DAY_MS, until=NOW + DAY_MS + 1) == {
            a_key(1).id: each
        }


class TestParts:
    """A request that several models answered: one record, one request, the tokens of all.

    To this kind belong a model that a tool asked, one that declined before another answered,
    several parts of one model, parts whose model's name is not kept, parts in another tier of their
    price; in a record that was open before, that moved with the date, or that a start completes.
    """

    async def test_every_field_survives_a_restart(self, store: Storage, open_store: Open) -> None:
        await store.add_key(a_key())
        kept = tuple(replace(part, tier=0) for part in PARTS)  # the tier is in the sums alone
        await add(store, a_record(parts=PARTS), a_record(status=201), a_record(time=NOW + 1))
        await store.close()
        store = await open_store()
        first, second, third = await all_records(store, a_key().id)
        assert sorted((first.parts, second.parts), key=len) == [(), kept]
        assert third == a_record(time=NOW + 1)
        assert [record.parts for record in await store.latest_records(a_key().id, limit=1)] == [()]

    async def test_pages_of_records_have_their_parts(self, store: Storage) -> None:
        await store.add_key(a_key())
        records = [
            a_record(
                time=NOW + i // 3, status=200 + i, parts=(UsagePart(f"m{i}", TOKENS),) * (i % 3)
            )
            for i in range(20)
        ]
        await add(store, *records)
        for limit in (1, 3, 20):
            found = await all_records(store, a_key().id, limit=limit)
            assert sorted(found, key=lambda record: record.status or 0) == records

    async def test_pages_are_written_away_from_the_event_loop(self, store: Storage) -> None:
        await store.add_key(a_key())
        records = [a_record(time=NOW + i // 3, status=200 + i, parts=PARTS) for i in range(20)]
        await add(store, *records)
        threads = set()

        def write(record: UsageRecord) -> bytes:
            threads.add(threading.get_ident())
            assert [part.tokens for part in record.parts] == [part.tokens for part in PARTS]
            return b"%d " % (record.status or 0)

        expected = b"".join(b"%d " % (200 + i) for i in range(20))
        for limit in (1, 3, 20, 21):
            written, after = await store.written_records(a_key().id, write, limit=limit)
            assert len(written.split()) == min(limit, 20)
            while after is not None:
                more, after = await store.written_records(
                    a_key().id, write, after=after, limit=limit
                )
                written += more
            assert written == expected
        assert threading.get_ident() not in threads

    async def test_they_are_tokens_of_their_models_and_no_requests(self, store: Storage) -> None:
        await store.add_key(a_key())
        await add(store, a_record(parts=PARTS))
        assert await store.key_usage(a_key().id) == KeyUsage(
            NOW, UsageSum(1, 0, TokenCounts(111, 22, 303, 4_000, 50_000))
        )
        expected = [
            (None, 0, UsageSum(tokens=TokenCounts(input=100))),
            ("claude-haiku-4-5", 1, UsageSum(tokens=TokenCounts(10, 2, 3))),
            (MODEL, 0, UsageSum(1, 0, TOKENS)),
        ]
        for by in ("hour", "day", "model", "key"):
            found = await store.sums(None, since=0, until=NOW * 2, by=by)
            assert [(each.model, each.tier, each.sum) for each in sorted(found, key=_by_model)] == (
                expected
            )
        assert await store.tokens_by_key(since=0, until=NOW * 2) == {a_key().id: TOKENS.total + 115}

    async def test_they_count_at_the_end_of_their_request(self, store: Storage) -> None:
        await store.add_key(a_key())
        part = UsagePart("claude-haiku-4-5", TokenCounts(7))
        long = a_record(time=HOUR - 1, latency_ms=HOUR_MS + 1, tokens=TokenCounts(), parts=(part,))
        await add(store, long)
        assert await store.sums(None, since=0, until=NOW * 2, by="hour") == [
            ModelSum(HOUR - HOUR_MS, MODEL, 0, UsageSum(1)),
            ModelSum(HOUR + HOUR_MS, "claude-haiku-4-5", 0, UsageSum(tokens=TokenCounts(7))),
        ]

    async def test_those_of_an_open_record_are_replaced(self, store: Storage) -> None:
        await store.add_key(a_key())
        first, second = PARTS[:1], (replace(PARTS[0], tokens=TokenCounts(8)), PARTS[1])
        opened = store.keep_open(a_record(status=None, parts=first))
        await store.flush()
        store.keep_open(a_record(status=None, parts=second), opened)
        await store.flush()
        (record,) = await all_records(store, a_key().id)
        assert [part.tokens.input for part in record.parts] == [8, 100]
        assert (await store.key_usage(a_key().id)).sum == UsageSum()
        await store.add_record(a_record(parts=PARTS[1:]), opened)
        (record,) = await all_records(store, a_key().id)
        assert record == a_record(parts=PARTS[1:])
        assert (await store.key_usage(a_key().id)).sum.tokens.input == TOKENS.input + 100

    async def test_they_move_with_an_open_record_whose_date_was_moved(self, store: Storage) -> None:
        await store.add_key(a_key())
        opened = store.keep_open(a_record(status=None, parts=PARTS[1:]))
        await store.flush()
        moved = a_record(time=NOW - DAY_MS, parts=PARTS[1:])
        await store.add_record(moved, opened)
        assert await all_records(store, a_key().id) == [moved]
        # Nothing is left where the record was.
        await add(store, a_record())
        assert await all_records(store, a_key().id) == [moved, a_record()]

    async def test_the_next_start_completes_an_open_record_with_them(
        self, store: Storage, open_store: Open
    ) -> None:
        await store.add_key(a_key())
        store.keep_open(a_record(status=None, parts=PARTS[1:]))
        await store.close()
        store = await open_store()
        assert await store.close_open_records(lambda record: replace(record, status=503)) == 1
        assert await all_records(store, a_key().id) == [a_record(status=503, parts=PARTS[1:])]
        assert (await store.key_usage(a_key().id)).sum.tokens.input == TOKENS.input + 100

    async def test_one_that_no_database_holds_is_not_in_the_way(self, store: Storage) -> None:
        await store.add_key(a_key())
        monsters = UsagePart("half \ud800", TokenCounts(2**70, -5)), UsagePart("", TokenCounts(1))
        await add(store, a_record(parts=monsters))
        (record,) = await all_records(store, a_key().id)
        tame = UsagePart(None, TokenCounts(2**40)), UsagePart(None, TokenCounts(1))
        assert record == a_record(parts=tame)

    async def test_they_are_erased_with_the_key_which_is_told_of_one_request(
        self, store: Storage, open_store: Open
    ) -> None:
        await store.add_key(a_key(1))
        await store.add_key(a_key(2))
        await add(store, a_record(1, parts=PARTS), a_record(2, parts=PARTS[1:]))
        assert await store.delete_key(a_key(1).id) == 1
        await store.close()
        store = await open_store()
        assert await all_records(store, a_key(2).id) == [a_record(2, parts=PARTS[1:])]
        by_model = await store.sums(None, since=0, until=NOW * 2, by="model")
        assert {each.model for each in by_model} == {MODEL, None}


class TestOpenRecords:
    """A request that runs has a record that its end, or the next start, completes."""

    async def test_the_end_of_a_request_completes_its_open_record(self, store: Storage) -> None:
        await store.add_key(a_key())
        running = a_record(status=None, latency_ms=1_000, tokens=TokenCounts(input=1))
        opened = store.keep_open(running)
        await store.flush()
        assert await all_records(store, a_key().id) == [running]
        assert await store.key_usage(a_key().id) == KeyUsage()
        further = replace(running, latency_ms=9_000, tokens=TokenCounts(1, 2))
        assert store.keep_open(further, opened) is opened
        await store.flush()
        assert await all_records(store, a_key().id) == [further]
        await store.add_record(a_record(latency_ms=10_000), opened)
        assert await all_records(store, a_key().id) == [a_record(latency_ms=10_000)]
        assert (await store.key_usage(a_key().id)).sum == UsageSum(1, 0, TOKENS)

    async def test_an_open_record_is_completed_in_one_commit(self, store: Storage) -> None:
        await store.add_key(a_key())
        running = a_record(status=None, latency_ms=1_000)
        opened = store.keep_open(running)
        store.keep_open(running, opened)
        await add(store, a_record())
        await store.add_record(a_record(latency_ms=10_000), opened)
        assert len(await all_records(store, a_key().id)) == 2
        assert (await store.key_usage(a_key().id)).sum.requests == 2

    async def test_the_next_start_completes_an_open_record(
        self, store: Storage, open_store: Open
    ) -> None:
        await store.add_key(a_key(1))
        await store.add_key(a_key(2))
        for key in (1, 1, 2):
            store.keep_open(a_record(key, status=None))
        await store.close()
        store = await open_store()
        closed = await store.close_open_records(lambda record: replace(record, status=503))
        assert closed == 3
        assert await all_records(store, a_key(2).id) == [a_record(2, status=503)]
        assert (await store.key_usage(a_key(1).id)).sum.requests == 2
        assert await store.close_open_records(lambda record: replace(record, status=503)) == 0

    async def test_a_deleted_key_leaves_no_open_record(self, store: Storage) -> None:
        await store.add_key(a_key())
        opened = store.keep_open(a_record(status=None))
        await store.flush()
        await store.delete_key(a_key().id)
        await store.add_record(a_record(), opened)
        assert await store.close_open_records(lambda record: record) == 0


class TestDeletion:
    async def test_deletion_takes_key_usage_and_sums(
        self, store: Storage, open_store: Open
    ) -> None:
        await store.add_key(a_key(1))
        await store.add_key(a_key(2))
        await add(store, a_record(1), a_refusal(1), a_record(2), a_record(1, time=NOW + DAY_MS))
        assert await store.delete_key(a_key(1).id) == 3
        for _ in range(2):
            assert await store.keys() == [a_key(2)]
            assert await store.records(a_key(1).id) == ([], None)
            assert await store.key_usage(a_key(1).id) == KeyUsage()
            assert list(await store.all_key_usage()) == [a_key(2).id]
            (point,) = await store.sums(None, since=0, until=NOW * 2, by="day")
            assert point.sum == UsageSum(1, 0, TOKENS)
            await store.close()
            store = await open_store()

    async def test_deletion_of_an_unknown_key_is_refused(self, store: Storage) -> None:
        with pytest.raises(OpusLiveError) as raised:
            await store.delete_key("no such")
        assert raised.value.code is Code.NOT_FOUND

    async def test_two_deletions_at_once_erase_the_key_once(self, store: Storage) -> None:
        await store.add_key(a_key())
        await add(store, a_record())
        first, second = await asyncio.gather(
            store.delete_key(a_key().id), store.delete_key(a_key().id), return_exceptions=True
        )
        assert first == 1
        assert isinstance(second, OpusLiveError)
        assert second.code is Code.NOT_FOUND

    async def test_records_during_and_after_it_are_dropped(self, store: Storage) -> None:
        await store.add_key(a_key(1))
        await store.add_key(a_key(2))
        await add(store, a_record(1))
        deletion = asyncio.create_task(store.delete_key(a_key(1).id))
        while not deletion.done():
            await add(store, a_record(1), a_record(2))
        await add(store, a_record(1))
        assert list(await store.all_key_usage()) == [a_key(2).id]
        # Neither does a new key under the old id and name inherit anything.
        await store.add_key(a_key(1))
        assert await store.records(a_key(1).id) == ([], None)

    async def test_deletion_goes_on_when_the_caller_leaves(
        self, store: Storage, open_store: Open
    ) -> None:
        await store.add_key(a_key())
        deletion = asyncio.create_task(store.delete_key(a_key().id))
        await asyncio.sleep(0)  # it has begun
        deletion.cancel()
        await asyncio.wait([deletion])
        while await store.keys():
            await asyncio.sleep(0)
        await store.close()
        assert await (await open_store()).keys() == []


class TestLife:
    async def test_a_store_is_open_in_one_process_at_a_time(
        self, store: Storage, open_store: Open
    ) -> None:
        with pytest.raises(DatabaseInUse, match="in use") as raised:
            await open_store()
        assert raised.value.code is Code.CONFLICT
        await store.close()
        await open_store()

    async def test_a_store_may_be_closed_again(self, store: Storage) -> None:
        await asyncio.gather(store.close(), store.close())
        await store.close()

    async def test_a_closed_store_is_unavailable(self, store: Storage) -> None:
        await store.close()
        assert not store.healthy
        for operation in (
            store.keys(),
            store.add_key(a_key()),
            store.delete_key(a_key().id),
            store.records(a_key().id),
            store.add_record(a_record()),
        ):
            with pytest.raises(StorageUnavailable):
                await operation


class TestFigures:
    async def test_every_record_counts_once_in_the_commits(self, store: Storage) -> None:
        assert (store.commits.records.count, store.unwritten) == (0, Unwritten(0, 0.0))
        await add(store, a_record(1))
        await add(store, *[a_record(1, time=NOW + 1 + number) for number in range(30)])
        records, seconds = store.commits.records, store.commits.seconds
        assert records.sum == 31
        assert 2 <= records.count == seconds.count <= 31
        assert seconds.sum > 0
        assert store.unwritten.records == 0

    async def test_what_is_no_record_is_in_no_commit_of_records(self, store: Storage) -> None:
        await store.add_key(a_key())
        await store.update_key(a_key(), at=NOW)
        assert store.commits.records.count == 0

    async def test_what_waits_is_told_until_it_is_on_disk(self, store: Storage) -> None:
        written = store.add_record(a_record(1))
        waiting = store.unwritten
        assert waiting.records == 1
        assert waiting.seconds >= 0
        await written
        assert store.unwritten == Unwritten(0, 0.0)

    async def test_a_request_that_runs_waits_for_no_disk(self, store: Storage) -> None:
        store.keep_open(a_record(1, status=None))
        assert store.unwritten.records == 0
        await store.flush()

    async def test_a_commit_that_fails_is_counted_apart(self, store: Storage) -> None:
        await store.add_key(a_key())
        with full_disk(), pytest.raises(StorageUnavailable):
            await store.add_record(a_record(1))
        assert (store.commits.failures, store.commits.records.count) == (1, 0)
        assert store.unwritten.records == 1
        # Written by whatever is written next.
        await store.update_key(a_key(), at=NOW)
        await store.flush()
        assert (store.commits.failures, store.commits.records.sum) == (1, 1)
        assert store.unwritten.records == 0

    async def test_a_copy_of_the_figures_stays_as_it_was(self, store: Storage) -> None:
        copy = store.commits.copy()
        await add(store, a_record(1))
        assert (copy.records.count, copy.seconds.count) == (0, 0)
