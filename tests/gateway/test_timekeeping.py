"""The date is moved in one step, with one warning."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from opuslive.gateway.alerts.alerts import REJECTION_PAUSE_MS, Alerts
from opuslive.gateway.holder import Holder, Holders
from opuslive.gateway.timekeeping import LOOK_SECONDS, Timekeeper
from opuslive.gateway.upstreams.health import DOWN_FAILURES, DOWN_MS
from opuslive.gateway.upstreams.router import Router
from opuslive.times import DAY_MS, HOUR_MS, LOOKS
from tests.support.clock import NOW, Machine
from tests.support.keys import a_key
from tests.support.upstreams import upstream


class TimedMachine(Machine):
    """A machine's clocks and timers, and something that keeps moments."""

    def __init__(self) -> None:
        super().__init__()
        self.due: Callable[[], object] | None = None
        #: What was moved by how much, and what the date was then.
        self.moved: list[tuple[int, int]] = []

    def call_later(self, seconds: float, function: Callable[[], object]) -> TimedMachine:
        assert seconds == LOOK_SECONDS
        self.due = function
        return self

    def cancel(self) -> None:
        self.due = None

    def shift(self, delta: int) -> None:
        self.moved.append((delta, self.clock.steady_ms()))

    def pass_looks(self, looks: int) -> None:
        for _ in range(looks):
            self.pass_time(500)
            assert self.due is not None
            self.due()


@pytest.mark.parametrize("delta", [3 * DAY_MS, -3 * DAY_MS])
def test_a_clock_that_is_set_is_followed_with_one_warning(
    delta: int, caplog: pytest.LogCaptureFixture
) -> None:
    machine = TimedMachine()
    keeper = Timekeeper(machine.clock, [machine, machine], machine.call_later)
    keeper.start()
    machine.pass_looks(2)
    machine.wall += delta
    machine.pass_looks(500)
    before = NOW + (2 + LOOKS) * 500
    assert machine.moved == [(delta, before)] * 2
    assert machine.clock.steady_ms() == machine.wall
    (line,) = caplog.messages
    day = {3 * DAY_MS: "26", -3 * DAY_MS: "20"}[delta]
    assert f", from 2026-11-23T15:04:07Z to 2026-11-{day}T15:04:07Z: " in line
    keeper.stop()
    assert machine.due is None


def test_a_clock_that_jumps_every_second_is_followed_once_a_minute_at_most(
    caplog: pytest.LogCaptureFixture,
) -> None:
    machine = TimedMachine()
    Timekeeper(machine.clock, [machine], machine.call_later).start()
    for jump in (HOUR_MS, -HOUR_MS) * 300:
        machine.wall += jump
        machine.pass_looks(4)
    assert len(machine.moved) == len(caplog.messages) <= 21


def test_a_clock_that_is_right_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    machine = TimedMachine()
    Timekeeper(machine.clock, [machine], machine.call_later).start()
    for second in range(1_000):
        machine.wall += (-1) ** second * 900
        machine.pass_looks(2)
    assert (machine.moved, caplog.messages) == ([], [])


@pytest.mark.parametrize("delta", [3 * DAY_MS, -3 * DAY_MS])
class TestWhatKeepsMoments:
    async def test_an_upstream_that_is_out_is_so_for_as_long(self, delta: int) -> None:
        one = upstream()
        for _ in range(DOWN_FAILURES):
            one.health.failed(503, NOW)
        router = Router([one], {}, lambda model: None, lambda: ())
        router.shift(delta)
        assert one.health.aside_until(NOW + delta) == NOW + delta + DOWN_MS

    def test_a_credential_is_told_again_after_as_long(self, delta: int) -> None:
        now = [NOW]
        alerts = Alerts(lambda: now[0], None)
        assert alerts.account_rejected("u")
        alerts.shift(delta)
        now[0] += delta + REJECTION_PAUSE_MS - 1
        assert not alerts.account_rejected("u")
        now[0] += 1
        assert alerts.account_rejected("u")

    def test_one_denial_a_second_is_recorded(self, delta: int) -> None:
        holders = Holders([Holder(a_key(), NOW)])
        (holder,) = holders
        holders.shift(delta)
        assert holder.records_denial(NOW + delta)
        holders.shift(-delta)
        assert not holder.records_denial(NOW)
        assert holder.records_denial(NOW + 1_000)
