"""What the log says of upstreams that fail."""

from __future__ import annotations

import logging

import pytest

from opuslive.gateway.upstreams.failures import FailureLog
from opuslive.thinning import PAUSE_MS
from tests.support.clock import Machine

DOWN = "could not be reached"


class Log:
    """A ``FailureLog`` at a time that a test sets, and the lines that it has written."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.machine = Machine()
        self.failures = FailureLog(self.machine.clock.steady_ms)
        self._caplog = caplog

    @property
    def lines(self) -> list[str]:
        return self._caplog.messages


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Log:
    return Log(caplog)


def test_a_failure_is_said_at_once_then_once_a_second_with_the_number_left_out(log: Log) -> None:
    for _ in range(2 * PAUSE_MS + 1):
        log.failures.warning("one", DOWN, ": refused")
        log.machine.elapsed += 1
    assert log.lines == [
        "upstream one could not be reached: refused",
        "upstream one could not be reached: refused (999 more since it was last said)",
        "upstream one could not be reached: refused (999 more since it was last said)",
    ]


def test_a_rare_failure_is_said_each_time_without_a_number(log: Log) -> None:
    for _ in range(3):
        log.failures.warning("one", DOWN)
        log.machine.elapsed += PAUSE_MS
    assert log.lines == ["upstream one could not be reached"] * 3


def test_upstreams_and_kinds_of_failures_do_not_silence_each_other(log: Log) -> None:
    for _ in range(2):
        log.failures.warning("one", DOWN)
        log.failures.warning("two", DOWN)
        log.failures.warning("one", "broke the connection off")
    assert log.lines == [
        "upstream one could not be reached",
        "upstream two could not be reached",
        "upstream one broke the connection off",
    ]


def test_another_reason_makes_no_other_kind_of_failure(log: Log) -> None:
    """Else an upstream with several reasons would have a line a second for each of them."""
    log.failures.warning("one", DOWN, ": refused")
    log.failures.warning("one", DOWN, ": no route")
    assert len(log.lines) == 1


def test_what_does_not_mend_itself_is_an_error(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    log.failures.warning("one", DOWN)
    log.failures.error("one", "refuses this gateway's account")
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.ERROR]
