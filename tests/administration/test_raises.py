"""Raises as they are written, and the timer that ends them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from opuslive.administration.raises import LOOK_SECONDS, RaiseTimer, raise_of
from opuslive.errors import UsageError
from opuslive.gateway.holder import Holder, Holders
from opuslive.keys import Raise
from opuslive.times import DAY_MS, HOUR_MS
from tests.support.clock import NOW, Machine
from tests.support.keys import a_key

LIMIT = "4M tokens/5h"


@pytest.mark.parametrize(
    ("members", "until"),
    [
        ({"for": "1d"}, NOW + DAY_MS),
        ({"until": "1d"}, NOW + DAY_MS),
        ({"until": "2026-11-23"}, NOW // DAY_MS * DAY_MS + DAY_MS),
        ({"until": "2026-11-24T00:00:00Z", "for": None}, NOW // DAY_MS * DAY_MS + DAY_MS),
    ],
)
def test_a_raise_says_until_when_it_holds(members: dict[str, str], until: int) -> None:
    assert raise_of({"limit": "4000k tokens / 5h"} | members, NOW) == Raise(LIMIT, until)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("4M tokens/5h", "is an object"),
        ({"for": "1d"}, "needs 'limit'"),
        ({"limit": LIMIT}, "say when"),
        ({"limit": LIMIT, "for": "1d", "until": "1d"}, "say when"),
        ({"limit": LIMIT, "fro": "1d"}, "did you mean 'for'"),
        ({"limit": LIMIT, "for": 1}, "is a text"),
        ({"limit": LIMIT, "for": "0s"}, "over already"),
        ({"limit": LIMIT, "until": "2026-11-22"}, "over already"),
        ({"limit": LIMIT, "for": "a while"}, "not a duration"),
        ({"limit": "4M tokens", "for": "1d"}, "within what time"),
        ({"limit": LIMIT, "until": ""}, "neither a span"),
        ({"limit": LIMIT, "for": ""}, "not a duration"),
    ],
)
def test_what_is_no_raise_is_refused_with_the_remedy(value: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        raise_of(value, NOW)


class Timed(Machine):
    """A machine with one timer, and a timer of raises on it."""

    def __init__(self, *keys_raises: tuple[Raise, ...]) -> None:
        super().__init__()
        self.due: Callable[[], object] | None = None
        self.seconds = 0.0
        self.ends = 0
        keys = [a_key(n, limits=("1 tokens/5h",), raises=r) for n, r in enumerate(keys_raises, 1)]
        self.holders = Holders(Holder(key, NOW) for key in keys)
        self.timer = RaiseTimer(self.holders, self.clock.wall_ms, self.call_later, self.end)

    def call_later(self, seconds: float, function: Callable[[], object]) -> Timed:
        self.seconds, self.due = seconds, function
        return self

    def cancel(self) -> None:
        self.due = None

    def end(self) -> None:
        self.ends += 1

    def look(self) -> None:
        due, self.due = self.due, None
        assert due is not None
        due()


def test_a_timer_is_set_for_the_first_raise_that_is_over() -> None:
    machine = Timed((Raise(LIMIT, NOW + HOUR_MS),), (Raise(LIMIT, NOW + 250),))
    assert machine.due is None
    machine.timer.start()
    assert machine.seconds == 0.25
    machine.wall += 249
    machine.look()
    assert (machine.ends, machine.seconds) == (0, 0.001)
    machine.wall += 1
    machine.look()
    assert (machine.ends, machine.due) == (1, None)


def test_the_wall_clock_is_looked_at_often_for_it_may_be_set() -> None:
    machine = Timed((Raise(LIMIT, NOW + HOUR_MS),))
    machine.timer.start()
    assert machine.seconds == LOOK_SECONDS
    machine.look()
    assert (machine.ends, machine.seconds) == (0, LOOK_SECONDS)
    machine.wall += HOUR_MS
    machine.look()
    assert machine.ends == 1


def test_without_a_raise_and_after_the_end_no_timer_runs() -> None:
    idle = Timed((), ())
    idle.timer.start()
    assert idle.due is None
    machine = Timed((Raise(LIMIT, NOW + HOUR_MS),))
    machine.timer.start()
    machine.timer.stop()
    machine.timer.set()
    assert machine.due is None
