"""What a request will probably use, from its body and from what requests like it used.

Nothing is tokenised. The dialect guesses the input from the body; the key's own recent
requests say by how much such guesses are off (a key that works with a prompt cache uses far
less than its bodies look like, one that writes Chinese far more). The output is guessed
from the recent outputs of the key with that model, by the rule with which TCP guesses when
an acknowledgement is late: the mean plus a multiple of the mean deviation, both decaying.
https://www.rfc-editor.org/rfc/rfc6298

A guess can be trained: whoever asks for small answers first may then ask for large ones, all at
once. So a guess is worth less the more requests of the key run beside the new one: it rises in
equal steps to ``max_tokens``, which it has reached beside ``CAUTIOUS_BESIDE`` requests. Whatever a
key does, its running requests can therefore use no more beyond what they hold than ``OVERSHOOT``
answers of the largest ``max_tokens`` among them: the first of those that run may use a whole answer
more, the second three quarters of one, the third a half, the fourth a quarter, all others nothing.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import msgspec

from opuslive.limits.policy import ReserveOutput

#: Output tokens reserved for a key and model without experience.
COLD_OUTPUT = 4096
#: What a request may use at most that bounds its output nowhere. No model of today gives more:
#: https://platform.claude.com/docs/en/about-claude/models/overview
UNBOUNDED_OUTPUT = 128_000
#: Beside so many running requests of its key, a request reserves all that it may use.
CAUTIOUS_BESIDE = 4
#: Answers of full length by which the running requests of a key may use more than they hold.
OVERSHOOT = sum(1 - beside / CAUTIOUS_BESIDE for beside in range(CAUTIOUS_BESIDE))
#: Models that the experience of one key covers: those used last.
MAX_MODELS = 16
#: A guess of the input is corrected by at most this factor, either way.
MAX_CORRECTION = 16.0
#: What one more request weighs: quickly up, because a guess that is too low overshoots a
#: budget, and slowly down.
_RISE, _FALL = 0.5, 0.1
#: RFC 6298's alpha and beta, and deviations added to the mean.
_MEAN_WEIGHT, _DEVIATION_WEIGHT, _DEVIATIONS = 1 / 8, 1 / 4, 2


class Demand(msgspec.Struct, frozen=True, gc=False):
    """What a request asks for. ``input_guess``, ``max_tokens`` and ``unseen_input`` are in tokens.

    ``others`` are further models that may take part in the answer; with ``any_model`` the provider
    may choose one. ``max_tokens`` covers all ``answers`` together; the member ``bound`` of the
    request's body sets it for one of them. ``unseen_input`` comes on top of the guess: as much as
    there can be of what the provider fetches. ``unpriced`` says what of the request has no price.
    """

    model: str
    input_guess: int
    max_tokens: int | None
    others: Sequence[str] = ()
    any_model: bool = False
    unseen_input: int = 0
    unpriced: str = ""
    bound: str = "max_tokens"
    answers: int = 1

    @property
    def most(self) -> int:
        """The most output tokens that the request may use."""
        return UNBOUNDED_OUTPUT * self.answers if self.max_tokens is None else self.max_tokens


class _Outputs:
    """The decaying mean and mean deviation of outputs, in tokens."""

    __slots__ = ("_deviation", "_mean")

    def __init__(self, first: int) -> None:
        self._mean = float(first)
        self._deviation = first / 2

    def add(self, tokens: int) -> None:
        error = abs(tokens - self._mean)
        self._deviation += _DEVIATION_WEIGHT * (error - self._deviation)
        self._mean += _MEAN_WEIGHT * (tokens - self._mean)

    def guess(self) -> int:
        return math.ceil(self._mean + _DEVIATIONS * self._deviation)


class Experience:
    """What is known of one key's recent requests. In memory only; a few hundred bytes."""

    __slots__ = ("_correction", "_outputs")

    def __init__(self) -> None:
        self._correction = 1.0
        # By the hash of the model's name: clients write what they like there, and none of it
        # may stay when the request has ended.
        self._outputs: OrderedDict[int, _Outputs] = OrderedDict()

    def input(self, guess: int, mode: ReserveOutput, *, beside: int = 0) -> int:
        """The dialect's guess, corrected; never downward under ``max_tokens``, and else the less
        downward the more requests of the key run ``beside``."""
        correction = self._correction
        if correction < 1:
            caution = min(beside, CAUTIOUS_BESIDE) / CAUTIOUS_BESIDE
            correction += (1 - correction) * (1 if mode == "max_tokens" else caution)
        return math.ceil(guess * correction)

    def output(
        self, model: str, max_tokens: int | None, mode: ReserveOutput, *, beside: int = 0
    ) -> int:
        """Output tokens to reserve; ``max_tokens`` is the most that the request can use, and
        ``beside`` how many requests of the key run."""
        known = self._outputs.get(hash(model))
        # At least one token: what reserves nothing would pass a limit that is used up.
        guess = COLD_OUTPUT if known is None else max(1, known.guess())
        if mode == "max_tokens":
            return guess if max_tokens is None else max_tokens
        most = UNBOUNDED_OUTPUT if max_tokens is None else max_tokens
        if guess >= most:
            return most
        steps = min(beside, CAUTIOUS_BESIDE)
        return guess + -(-(most - guess) * steps // CAUTIOUS_BESIDE)

    def learn(self, model: str, guess: int, counted_input: int, output: int | None) -> None:
        """A request with this guess of its input ended, having used these tokens.

        ``output`` is None for a request that asked for none: it says nothing of others.
        """
        if guess > 0:
            observed = min(MAX_CORRECTION, max(1 / MAX_CORRECTION, counted_input / guess))
            weight = _RISE if observed > self._correction else _FALL
            self._correction += weight * (observed - self._correction)
        if output is None:
            return
        name = hash(model)
        known = self._outputs.get(name)
        if known is None:
            self._outputs[name] = _Outputs(output)
            if len(self._outputs) > MAX_MODELS:
                self._outputs.popitem(last=False)
        else:
            known.add(output)
            self._outputs.move_to_end(name)
