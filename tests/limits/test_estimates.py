"""Guesses that learn: fast when they were too low, slowly when they were too high."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opuslive.limits.estimates import COLD_OUTPUT, MAX_CORRECTION, MAX_MODELS, Experience
from opuslive.limits.policy import ReserveOutput

_tokens = st.integers(0, 2**40)
_uses = st.lists(st.tuples(st.sampled_from("abc"), _tokens, _tokens, _tokens), max_size=20)


def experienced(outputs: list[int], model: str = "m") -> Experience:
    experience = Experience()
    for output in outputs:
        experience.learn(model, 0, 0, output)
    return experience


class TestOutput:
    @pytest.mark.parametrize(
        ("max_tokens", "guess"), [(1, 1), (4_096, 4_096), (64_000, 4_096), (None, 4_096)]
    )
    def test_without_experience_the_output_is_guessed_by_max_tokens(
        self, max_tokens: int | None, guess: int
    ) -> None:
        assert Experience().output("m", max_tokens, "adaptive") == guess

    def test_in_max_tokens_mode_the_output_is_max_tokens(self) -> None:
        assert Experience().output("m", 64_000, "max_tokens") == 64_000
        assert experienced([10] * 50).output("m", 64_000, "max_tokens") == 64_000
        assert Experience().output("m", None, "max_tokens") == COLD_OUTPUT

    def test_comes_close_to_outputs_that_are_alike(self) -> None:
        guess = experienced([500] * 50).output("m", None, "adaptive")
        assert 500 <= guess <= 510

    def test_the_estimate_leaves_room_for_outputs_that_differ(self) -> None:
        outputs = [100, 900] * 50
        guess = experienced(outputs).output("m", None, "adaptive")
        assert 900 <= guess <= 2_000

    def test_the_estimate_rises_fast_and_falls_slowly(self) -> None:
        """One long answer is enough to be careful; it takes several short ones to forget it."""
        low = experienced([100] * 50)
        low.learn("m", 0, 0, 10_000)
        assert low.output("m", None, "adaptive") > 5_000
        for _ in range(3):
            low.learn("m", 0, 0, 100)
        assert low.output("m", None, "adaptive") > 3_000
        for _ in range(50):
            low.learn("m", 0, 0, 100)
        assert low.output("m", None, "adaptive") < 300

    def test_the_estimate_is_that_of_the_model(self) -> None:
        experience = experienced([10] * 50, "small")
        assert experience.output("large", None, "adaptive") == COLD_OUTPUT

    def test_models_are_forgotten_in_the_order_of_their_use(self) -> None:
        experience = experienced([10] * 50, "first")
        for number in range(MAX_MODELS - 1):
            experience.learn(f"model {number}", 0, 0, 10)
        experience.learn("first", 0, 0, 10)
        experience.learn("one more", 0, 0, 10)
        assert experience.output("first", None, "adaptive") < 100
        assert experience.output("model 0", None, "adaptive") == COLD_OUTPUT
        assert experience.output("model 1", None, "adaptive") < 100


class TestInput:
    def test_without_experience_the_input_is_the_guess(self) -> None:
        assert Experience().input(1_000, "adaptive") == 1_000
        assert Experience().input(1_000, "max_tokens") == 1_000

    def test_the_estimate_rises_fast_and_falls_slowly(self) -> None:
        experience = Experience()
        experience.learn("m", 1_000, 4_000, 0)
        risen = experience.input(1_000, "adaptive")
        assert risen >= 2_500
        experience.learn("m", 1_000, 1_000, 0)
        assert experience.input(1_000, "adaptive") >= risen * 0.85
        for _ in range(60):
            experience.learn("m", 1_000, 100, 0)
        assert 100 <= experience.input(1_000, "adaptive") <= 150

    def test_under_max_tokens_never_below_the_guess(self) -> None:
        experience = Experience()
        for _ in range(60):
            experience.learn("m", 1_000, 100, 0)
        assert experience.input(1_000, "max_tokens") == 1_000
        for _ in range(5):
            experience.learn("m", 1_000, 3_000, 0)
        assert experience.input(1_000, "max_tokens") > 2_000

    def test_the_guess_of_the_input_is_corrected_only_so_much(self) -> None:
        experience = Experience()
        for _ in range(100):
            experience.learn("m", 1, 10**9, 0)
        assert experience.input(1_000, "adaptive") <= 1_000 * MAX_CORRECTION
        for _ in range(1_000):
            experience.learn("m", 10**9, 0, 0)
        assert experience.input(16_000, "adaptive") >= 1_000

    def test_a_request_without_a_guess_teaches_nothing(self) -> None:
        experience = Experience()
        experience.learn("m", 0, 5_000, 0)
        assert experience.input(1_000, "adaptive") == 1_000


@given(
    _uses, _tokens, st.none() | st.integers(1, 2**40), st.sampled_from(["adaptive", "max_tokens"])
)
def test_a_guess_is_a_number_of_tokens(
    uses: list[tuple[str, int, int, int]], guess: int, max_tokens: int | None, mode: ReserveOutput
) -> None:
    """Whatever was learnt: not negative, and of output no more than there can be."""
    experience = Experience()
    for model, guessed, counted, output in uses:
        experience.learn(model, guessed, counted, output)
    assert 0 <= experience.input(guess, mode) <= guess * MAX_CORRECTION + 1
    output = experience.output("a", max_tokens, mode)
    assert isinstance(output, int)
    assert output >= 0
    assert max_tokens is None or output <= max_tokens


def test_the_memory_of_experience_is_bounded() -> None:
    """By what clients call models, too."""
    experience = Experience()
    for number in range(1_000):
        experience.learn(f"{number} {'x' * 100_000}", number, number, number)
    assert len(experience._outputs) == MAX_MODELS
    assert sum(map(sys.getsizeof, experience._outputs)) < 10_000
