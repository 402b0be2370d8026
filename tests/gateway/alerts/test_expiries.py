"""Keys that expire soon: told seven days and one day before, each once, also across restarts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from opuslive.gateway.alerts.alerts import Alerts, Message
from opuslive.gateway.alerts.expiries import LOOK_SECONDS, Expiries
from opuslive.keys import Key
from opuslive.storage import StorageUnavailable
from opuslive.times import DAY_MS, HOUR_MS
from tests.support.clock import NOW
from tests.support.keys import a_key

LOOK_MS = round(LOOK_SECONDS * 1000)


class Kept:
    """The store, as far as it matters here; ``broken`` takes no writes."""

    def __init__(self) -> None:
        self.seen: int | None = None
        self.broken = False

    async def expiries_seen(self) -> int | None:
        return self.seen

    async def keep_expiries_seen(self, at: int) -> None:
        if self.broken:
            raise StorageUnavailable
        self.seen = at


class Watched:
    """Keys, a clock, and what was told: the id of a key and in how many days it expires."""

    def __init__(self) -> None:
        self.now = NOW
        self.kept = Kept()
        self.keys: list[Key] = []
        self.told: list[tuple[str, int]] = []
        self.restart()

    def restart(self) -> None:
        self.expiries = Expiries(
            lambda: self.keys,
            self.kept,
            lambda: self.now,
            lambda key_id, expires_at, days: self.told.append((key_id, days)),
        )

    def key(self, in_ms: int, *, number: int = 1, made: int = NOW - 90 * DAY_MS) -> Key:
        key = replace(a_key(number), created_at=made, expires_at=self.now + in_ms)
        self.keys.append(key)
        return key

    async def pass_time(self, ms: int) -> list[tuple[str, int]]:
        """Look again and again until so much has passed; what was told meanwhile."""
        self.told.clear()
        end = self.now + ms
        while True:
            await self.expiries.look()
            if self.now >= end:
                return list(self.told)
            self.now = min(end, self.now + LOOK_MS)


@pytest.fixture
def watched() -> Watched:
    return Watched()


async def test_a_key_is_told_seven_days_and_one_day_before_it_expires(watched: Watched) -> None:
    key = watched.key(9 * DAY_MS)
    assert await watched.pass_time(2 * DAY_MS - 1) == []
    assert await watched.pass_time(1) == [(key.id, 7)]
    assert await watched.pass_time(6 * DAY_MS - 1) == []
    assert await watched.pass_time(1) == [(key.id, 1)]
    assert await watched.pass_time(3 * DAY_MS) == []


async def test_a_restart_tells_nothing_twice_and_nothing_never(watched: Watched) -> None:
    key = watched.key(9 * DAY_MS)
    told = []
    for _ in range(12):
        told += await watched.pass_time(DAY_MS)
        watched.restart()
    assert told == [(key.id, 7), (key.id, 1)]


async def test_what_became_due_while_no_server_ran_is_told_at_the_start(watched: Watched) -> None:
    first, second = watched.key(8 * DAY_MS), watched.key(30 * HOUR_MS, number=2)
    watched.key(20 * HOUR_MS, number=3)  # expired before it could be told
    assert await watched.pass_time(0) == [("key00002", 2), ("key00003", 1)]
    watched.now += 28 * HOUR_MS
    watched.restart()
    assert await watched.pass_time(0) == [(first.id, 7), (second.id, 1)]
    watched.restart()
    assert await watched.pass_time(0) == []


async def test_what_the_administrator_has_just_decided_is_not_told(watched: Watched) -> None:
    await watched.pass_time(HOUR_MS)
    watched.key(7 * DAY_MS, made=watched.now)
    watched.key(3 * DAY_MS, number=2, made=watched.now)
    assert await watched.pass_time(HOUR_MS) == []
    watched.keys[0] = replace(watched.keys[0], expires_at=watched.now + DAY_MS)
    assert await watched.pass_time(HOUR_MS) == []
    watched.restart()
    assert await watched.pass_time(HOUR_MS) == []


async def test_an_expiry_that_is_put_off_is_told_anew(watched: Watched) -> None:
    key = watched.key(7 * DAY_MS + HOUR_MS)
    assert await watched.pass_time(2 * HOUR_MS) == [(key.id, 7)]
    watched.keys[0] = replace(key, expires_at=watched.now + 9 * DAY_MS)
    assert await watched.pass_time(3 * DAY_MS) == [(key.id, 7)]


async def test_disabled_keys_and_keys_that_never_expire_are_not_told(watched: Watched) -> None:
    watched.keys = [
        replace(watched.key(8 * DAY_MS), enabled=False),
        replace(watched.key(8 * DAY_MS, number=2), expires_at=None),
    ]
    assert await watched.pass_time(10 * DAY_MS) == []
    # Nothing has to be kept for them.
    assert watched.kept.seen is None


async def test_a_clock_that_was_in_the_future_keeps_no_alert_back(watched: Watched) -> None:
    key = watched.key(9 * DAY_MS)
    watched.now += 4000 * DAY_MS
    watched.key(DAY_MS * 30, number=2)
    await watched.pass_time(0)
    watched.now -= 4000 * DAY_MS
    for _ in range(2):
        watched.restart()
        await watched.pass_time(0)
    assert await watched.pass_time(3 * DAY_MS) == [(key.id, 7)]


async def test_a_clock_that_is_set_back_a_little_repeats_nothing(watched: Watched) -> None:
    key = watched.key(7 * DAY_MS + HOUR_MS)
    assert await watched.pass_time(HOUR_MS) == [(key.id, 7)]
    watched.now -= HOUR_MS // 2
    assert await watched.pass_time(HOUR_MS) == []
    watched.now -= HOUR_MS // 2
    watched.restart()
    assert await watched.pass_time(HOUR_MS) == []


async def test_a_disk_that_takes_no_writes_repeats_nothing(watched: Watched) -> None:
    key = watched.key(7 * DAY_MS + HOUR_MS)
    watched.kept.broken = True
    told = []
    for _ in range(12):
        watched.told.clear()
        with pytest.raises(StorageUnavailable):
            await watched.expiries.look()
        told += watched.told
        watched.now += LOOK_MS
    assert told == [(key.id, 7)]


@pytest.mark.parametrize(
    ("expires_at", "text"),
    [
        (
            1_798_761_600_000,
            "The key key00001 expires on 2026-12-31, at the end of that day (UTC), in 7 days.",
        ),
        (1_798_761_600_000 - 1000, "The key key00001 expires at 2026-12-31T23:59:59Z, in 7 days."),
    ],
)
def test_the_alert_names_the_key_by_its_id_and_the_moment(expires_at: int, text: str) -> None:
    told: list[Message] = []
    Alerts(lambda: NOW, told.append).key_expires("key00001", expires_at, 7)
    assert told[0]["text"] == text
    assert told[0].keys() == {"event", "key", "expires_at", "days", "time", "text"}
    assert (told[0]["event"], told[0]["key"], told[0]["days"]) == ("expiry", "key00001", 7)
