"""Refusals fill no disk: one a second and key."""

from __future__ import annotations

from opuslive.gateway.refusals import Refusals

NOW = 1_795_446_245_123


def test_one_a_second_is_recorded_and_the_rest_counted() -> None:
    refusals = Refusals()
    times = range(NOW, NOW + 10_000)
    recorded = [time for time in times if refusals.to_be_recorded("a key", time)]
    assert recorded == [NOW, *range(NOW - NOW % 1000 + 1000, NOW + 10_000, 1000)]
    assert refusals.unrecorded == 10_000 - len(recorded)


def test_keys_do_not_share_it() -> None:
    refusals = Refusals()
    assert [refusals.to_be_recorded(key, NOW) for key in ("a", "b", "a", "b")] == [
        True,
        True,
        False,
        False,
    ]


def test_who_waited_before_the_refusal_came_before_others_that_were_refused() -> None:
    """Records bear the time at which requests came, so they do not come in order."""
    refusals = Refusals()
    recorded = 0
    for tick in range(500):
        # At each moment one that has just come is refused, and one that waited for 5 s.
        now = NOW + 10 * tick
        recorded += refusals.to_be_recorded("a key", now)
        recorded += refusals.to_be_recorded("a key", now - 5_000)
    assert recorded == 6
    assert refusals.unrecorded == 994


def test_a_deleted_key_is_forgotten() -> None:
    refusals = Refusals()
    assert refusals.to_be_recorded("a key", NOW)
    refusals.forget("a key")
    assert refusals.to_be_recorded("a key", NOW)
    refusals.forget("another")
