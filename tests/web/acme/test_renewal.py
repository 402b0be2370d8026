"""A certificate is got, kept, renewed and got again after failures; the clock is the test's."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from opuslive.web.acme.store import Store
from tests.support.acme_directory import Answer, refusal
from tests.support.kept_certificate import DAY, HOUR, NAME, TODAY, Installation
from tests.support.waiting import eventually, soon


async def test_where_there_is_no_certificate_one_is_got_at_once(
    kept: Installation, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "opuslive")
    assert kept.stands_in()
    before = kept.renewal.status()
    assert (before.name, before.not_before, before.not_after) == (NAME, None, None)
    assert before.next_attempt == int(TODAY.timestamp() * 1000)
    rest = await kept.step()
    assert not kept.stands_in()
    assert kept.serial == kept.directory.issued[0].serial_number
    assert kept.directory.contacts == ["mailto:ops@example.com"]
    assert kept.answers == {}
    assert rest == timedelta()  # The authority is asked for its advice next.
    assert timedelta(hours=5) < await kept.step() <= timedelta(hours=6)
    status = kept.renewal.status()
    assert status.not_after == int((TODAY + 90 * DAY).timestamp() * 1000)
    assert status.next_attempt == int((TODAY + 60 * DAY).timestamp() * 1000)
    assert "has a new certificate, good until 2027-02-23 00:00 UTC" in caplog.text


async def test_keys_and_certificates_are_for_this_user_alone(kept: Installation) -> None:
    before = os.umask(0)
    try:
        kept.start()
        await kept.step()
    finally:
        os.umask(before)
    made = list(kept.store.folder.parent.rglob("*"))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in made}
    assert modes.pop(kept.store.folder.name) == 0o700
    assert modes == {"account.pem": 0o600, f"{NAME}.pem": 0o600}
    assert stat.S_IMODE(kept.store.folder.parent.stat().st_mode) == 0o700


async def test_a_restart_asks_for_nothing_that_is_there(kept: Installation) -> None:
    await kept.step()
    serial = kept.serial
    kept.directory.asked.clear()
    kept.start()
    assert not kept.stands_in()
    await kept.step(DAY)
    assert kept.serial == serial
    assert kept.directory.asked == ["directory"]  # for its advice on when to renew


async def test_at_two_thirds_of_its_life_it_is_renewed_with_the_same_account(
    kept: Installation,
) -> None:
    await kept.step()
    first = kept.serial
    await kept.step(60 * DAY - HOUR)
    assert kept.serial == first
    await kept.step(HOUR)
    assert kept.serial == kept.directory.issued[1].serial_number != first
    assert kept.directory.replaced == [None, None]
    assert kept.renewal.status().next_attempt == int((TODAY + 120 * DAY).timestamp() * 1000)


async def test_each_certificate_has_a_key_of_its_own(kept: Installation) -> None:
    await kept.step()
    await kept.step(60 * DAY)
    first, second = (each.public_key() for each in kept.directory.issued)
    assert first != second


async def test_failures_are_told_once_until_something_changes(
    kept: Installation, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "opuslive")
    for number in range(4):
        kept.directory.will("order", refusal("caa", f"at {number}"))
    kept.directory.will("order", refusal("serverInternal", status=500))
    spans = []
    rest = timedelta()
    for _ in range(6):
        rest = await kept.step(rest)
        spans.append(rest / timedelta(minutes=1))
    told = [record.getMessage() for record in caplog.records if "new cert" in record.getMessage()]
    assert [each for each in told if "CAA" in each] == [told[0]]
    assert "problem of its own" in told[1]
    assert "has a new certificate" in told[2]
    assert len(told) == 3
    assert spans == [1, 2, 4, 8, 16, 0]


async def test_a_rate_limit_is_waited_for_and_no_hurry_ends_the_wait(kept: Installation) -> None:
    kept.directory.will("order", refusal("rateLimited", status=429, retry_after="7200"))
    assert await kept.step() == 2 * HOUR
    kept.renewal.hurry()
    assert await kept.step(HOUR) == HOUR
    assert kept.orders() == 0
    await kept.step(HOUR)
    assert not kept.stands_in()


async def test_a_rate_limit_without_end_is_waited_for_a_day(kept: Installation) -> None:
    kept.directory.will("order", refusal("rateLimited", status=429, retry_after="999999999"))
    await kept.step()
    assert kept.renewal.status().next_attempt == int((TODAY + DAY).timestamp() * 1000)


async def test_a_hurry_ends_the_pause_after_a_failure(kept: Installation) -> None:
    kept.reachable = False
    await kept.step()
    kept.reachable = True
    kept.renewal.hurry()
    await kept.step()
    assert not kept.stands_in()


async def test_the_certificate_from_before_stays_while_its_authority_fails(
    kept: Installation, caplog: pytest.LogCaptureFixture
) -> None:
    await kept.step()
    first = kept.serial
    kept.directory.will("directory", *[Answer(503, b"")] * 2000)
    rest = 60 * DAY
    while kept.now < TODAY + 95 * DAY:
        rest = await kept.step(rest)
    assert kept.serial == first
    status = kept.renewal.status()
    assert status.failures_in_a_row > 100
    assert status.not_after == int((TODAY + 90 * DAY).timestamp() * 1000)
    kept.directory.forget("directory")
    await kept.step(timedelta(hours=8))
    assert kept.serial != first


async def test_a_file_that_was_removed_is_replaced(kept: Installation) -> None:
    await kept.step()
    kept.store.certificate.unlink()
    kept.certificate.check()
    assert not kept.stands_in()
    assert kept.renewal.status().not_after is not None
    kept.renewal.hurry()
    await kept.step()
    assert kept.serial == kept.directory.issued[1].serial_number


async def test_a_broken_file_is_replaced_and_does_not_keep_the_gateway_from_starting(
    kept: Installation,
) -> None:
    await kept.step()
    kept.store.write_certificate(b"half a certif")
    kept.start()
    assert kept.stands_in()
    await kept.step()
    assert kept.serial == kept.directory.issued[1].serial_number
    assert not kept.stands_in()


async def test_a_certificate_that_can_not_be_written_is_kept_until_it_can(
    kept: Installation,
) -> None:
    """Authorities issue only so many a week."""
    folder = kept.store.folder
    moved = folder.rename(folder.with_name("away"))
    await kept.step()
    assert "can't be written to" in str(kept.renewal.status().last_failure)
    moved.rename(folder)
    await kept.step(timedelta(minutes=1))
    assert len(kept.directory.issued) == 1
    assert kept.serial == kept.directory.issued[0].serial_number


async def test_another_directory_has_an_account_and_certificates_of_its_own(
    kept: Installation, tmp_path: Path
) -> None:
    await kept.step()
    other = Store(tmp_path / "db.acme", "https://127.0.0.1/other", NAME)
    assert other.read_account_key() is None
    assert other.read_certificate() is None


async def test_its_end_does_not_wait_for_the_authority(kept: Installation) -> None:
    never = threading.Event()
    kept.directory.will("directory", Answer(wait=never))
    task = asyncio.create_task(kept.renewal.run())
    await eventually(lambda: kept.directory.asked)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)
    await eventually(lambda: not any(each.name == "acme" for each in threading.enumerate()))
    never.set()


async def test_it_runs_until_it_has_one_and_a_hurry_wakes_it(kept: Installation) -> None:
    kept.reachable = False
    task = asyncio.create_task(kept.renewal.run())
    await eventually(lambda: kept.renewal.status().last_failure)
    kept.reachable = True
    kept.renewal.hurry()
    await eventually(lambda: not kept.stands_in())
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
