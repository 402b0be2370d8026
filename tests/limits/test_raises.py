"""A limit that is raised for a while: what binds, and what a raise may be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opuslive.errors import UsageError
from opuslive.keys import Raise
from opuslive.limits.grammar import parse_limit
from opuslive.limits.raises import lasting, limits_in_force, standing, with_raise
from tests.support.clock import NOW

LIMITS = ("2M tokens/5h", "20 usd/month", "4 concurrent")
RAISE = Raise("4M tokens/5h", NOW + 1)


def texts(limits: tuple[str, ...], *raises: Raise) -> list[str]:
    return [limit.text for limit in limits_in_force(limits, raises)]


def test_a_raised_limit_binds_with_the_larger_amount_in_its_old_place() -> None:
    assert texts(LIMITS) == list(LIMITS)
    assert texts(LIMITS, RAISE) == ["4M tokens/5h", "20 usd/month", "4 concurrent"]
    raised, other, _ = limits_in_force(LIMITS, (RAISE,))
    assert raised.otherwise == parse_limit("2M tokens/5h")
    assert (other.raised, other.otherwise) == (None, other)
    shown = raised.as_dict()
    assert shown["raised_from"] == "2M tokens/5h"
    assert shown["raised_until"] == "2026-11-23T15:04:05Z"


@pytest.mark.parametrize("limit", ["2M tokens/5h", "1 tokens/5h", "20 usd/month", "3 concurrent"])
def test_a_raise_to_no_more_is_refused(limit: str) -> None:
    with pytest.raises(UsageError, match="is no raise"):
        with_raise(LIMITS, (), Raise(limit, NOW))


@pytest.mark.parametrize("limit", ["4M tokens/1h", "4M input_tokens/5h", "90 requests/1m"])
def test_a_raise_of_what_the_key_has_no_limit_of_names_its_limits(limit: str) -> None:
    with pytest.raises(UsageError, match="its limits are: 2M tokens/5h, 20 usd/month, 4 conc"):
        with_raise(LIMITS, (), Raise(limit, NOW))


def test_the_next_raise_of_a_limit_takes_the_place_of_the_one_before() -> None:
    other = Raise("30 usd/month", NOW + 2)
    raises = with_raise(LIMITS, (RAISE, other), Raise("3000k tokens/300m", NOW + 9))
    assert raises == (other, Raise("3M tokens/5h", NOW + 9))


def test_a_raise_goes_with_its_limit_and_where_that_is_as_large() -> None:
    for limits in ((), ("20 usd/month",), ("4M tokens/5h",), ("5M tokens/5h",)):
        assert standing(limits, (RAISE,)) == ()
    assert standing(("3M tokens/5h",), (RAISE,)) == (RAISE,)


def test_a_raise_is_over_at_its_moment() -> None:
    assert lasting((RAISE,), RAISE.until - 1) == (RAISE,)
    assert lasting((RAISE,), RAISE.until) == ()


_KINDS = ("tokens/5h", "requests/1m", "usd/month", "output_tokens/total")
_AMOUNTS = st.integers(1, 9)


@given(
    limits=st.dictionaries(st.sampled_from(_KINDS), _AMOUNTS),
    wanted=st.lists(st.tuples(st.sampled_from(_KINDS), _AMOUNTS)),
    later=st.dictionaries(st.sampled_from(_KINDS), _AMOUNTS),
)
def test_no_limit_is_ever_lower_than_the_key_has_it(
    limits: dict[str, int], wanted: list[tuple[str, int]], later: dict[str, int]
) -> None:
    """Whatever is raised, and however the limits change then; and no other kind comes to bind."""
    written = tuple(f"{amount} {kind}" for kind, amount in limits.items())
    raises: tuple[Raise, ...] = ()
    for kind, amount in wanted:
        try:
            raises = with_raise(written, raises, Raise(f"{amount} {kind}", NOW))
        except UsageError:
            assert amount <= limits.get(kind, amount)
    changed = tuple(f"{amount} {kind}" for kind, amount in later.items())
    for own in (written, changed):
        raises = standing(own, raises)
        bare, raised = limits_in_force(own, ()), limits_in_force(own, raises)
        assert [limit.kind for limit in raised] == [limit.kind for limit in bare]
        higher = [new for new, old in zip(raised, bare, strict=True) if new.amount > old.amount]
        assert len(higher) == len(raises)
        assert all(new.amount >= old.amount for new, old in zip(raised, bare, strict=True))
        assert all((new.raised is not None) == (new in higher) for new in raised)
