"""How limits are applied: the settings that hold for all accounts alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from opuslive.limits.grammar import Limit

#: How much output a request reserves: what requests like it used, or all that it may use.
ReserveOutput = Literal["adaptive", "max_tokens"]


@dataclass(frozen=True, slots=True)
class LimitPolicy:
    """The configuration's ``[limits]``. ``max_wait`` is in seconds; ``contact`` whom to ask.

    ``groups`` maps name → limits. ``default_request_limit`` binds each key that has limits, but
    none of requests.
    """

    reserve_output: ReserveOutput
    cache_read_weight: Fraction
    max_wait: float
    gateway: Sequence[Limit]
    groups: Mapping[str, Sequence[Limit]]
    contact: str
    default_request_limit: Limit | None = None
