"""Of what repeats, one is said in a while."""

from __future__ import annotations

from opuslive.thinning import MAX_KINDS, PAUSE_MS, Thinner, more
from tests.support.clock import Machine


def test_one_of_a_kind_is_said_in_a_second_with_the_number_left_out() -> None:
    machine = Machine()
    thinner = Thinner(machine.clock.elapsed_ms)
    said = []
    for _ in range(2 * PAUSE_MS + 1):
        said.append(thinner.left_out("kind"))
        machine.elapsed += 1
    assert [number for number in said if number is not None] == [0, 999, 999]


def test_kinds_do_not_silence_each_other() -> None:
    thinner = Thinner(Machine().clock.elapsed_ms)
    kinds = ["one", ("one", "other"), "two", "one", ("one", "other")]
    assert [thinner.left_out(kind) for kind in kinds] == [0, 0, 0, None, None]


def test_the_number_is_told_once() -> None:
    machine = Machine()
    thinner = Thinner(machine.clock.elapsed_ms)
    assert [thinner.left_out("kind") for _ in range(3)] == [0, None, None]
    for number in (2, 0):
        machine.elapsed += PAUSE_MS
        assert thinner.left_out("kind") == number


def test_a_kind_may_pause_for_longer() -> None:
    machine = Machine()
    thinner = Thinner(machine.clock.elapsed_ms)
    assert thinner.left_out("kind", 3_000) == 0
    machine.elapsed += 2_999
    assert thinner.left_out("kind", 3_000) is None
    machine.elapsed += 1
    assert thinner.left_out("kind", 3_000) == 1


def test_a_bounded_number_of_kinds_is_remembered_those_said_last() -> None:
    machine = Machine()
    thinner = Thinner(machine.clock.elapsed_ms)
    assert thinner.left_out(0) == 0
    for kind in range(10 * MAX_KINDS):
        thinner.left_out(kind)
        assert len(thinner._said) <= MAX_KINDS
    assert thinner.left_out(10 * MAX_KINDS - 1) is None
    assert thinner.left_out(0) == 0


def test_the_number_is_said_only_if_something_was_left_out() -> None:
    assert (more(0), more(3)) == ("", " (3 more since it was last said)")
