"""Raises: a limit of a key has a larger amount for a while.

Theory of operation. A key stores its limits, and beside them its raises: each names a limit of the
key by metric and window, the amount that it has meanwhile, and until when. What binds is made of
both (``limits_in_force``); a raised limit tells that it is (``Limit.raised``). A raise begins and
ends as a change of the limit's amount does: the window goes on, and all that is used counts. So
when a raise is over, more may be used than the limit allows: then requests wait until enough frees.

A raise belongs to its limit. It goes with the limit when that is removed, and when the limit itself
comes to be as large (``standing``). Raises end by the wall clock, as keys expire by it: whoever
raises a limit names a date.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from opuslive.errors import UsageError
from opuslive.keys import Raise
from opuslive.limits.grammar import Limit, Raised, parse_limit, parse_limits
from opuslive.quantities import shown


def limits_in_force(texts: Iterable[str], raises: Sequence[Raise]) -> tuple[Limit, ...]:
    """The limits of a key as they bind while these raises hold."""
    limits = parse_limits(texts)
    if not raises:
        return limits
    raised = {parse_limit(each.limit).kind: each for each in raises}
    return tuple(
        _raised(limit, raised[limit.kind]) if limit.kind in raised else limit for limit in limits
    )


def _raised(limit: Limit, each: Raise) -> Limit:
    amount = parse_limit(each.limit).amount
    return Limit(limit.metric, amount, limit.window, Raised(limit.amount, each.until))


def lasting(raises: Iterable[Raise], wall_ms: int) -> tuple[Raise, ...]:
    """Those that are not over at this time of the wall clock, in ms since the epoch."""
    return tuple(each for each in raises if each.until > wall_ms)


def standing(texts: Iterable[str], raises: Iterable[Raise]) -> tuple[Raise, ...]:
    """Those that raise one of these limits."""
    amounts = {limit.kind: limit.amount for limit in parse_limits(texts)}
    limits = ((parse_limit(each.limit), each) for each in raises)
    return tuple(
        each for limit, each in limits if limit.amount > amounts.get(limit.kind, limit.amount)
    )


def with_raise(texts: Sequence[str], raises: Iterable[Raise], added: Raise) -> tuple[Raise, ...]:
    """The raises of a key with these limits when one is added, or takes the place of the one of the
    same limit.

    Raises UsageError where the key has no such limit, and where that is as large already.
    """
    raised = parse_limit(added.limit)
    own = next((limit for limit in parse_limits(texts) if limit.same_kind(raised)), None)
    if own is None:
        known = ", ".join(texts) or "none"
        raise UsageError(
            f"The key has no limit of that metric and window to raise to {shown(str(raised))}; its "
            f"limits are: {known}."
        )
    if raised.amount <= own.amount:
        raise UsageError(
            f"{shown(str(raised))} is no raise, for the key's limit is {own}; name a larger "
            "amount, or change the limit itself."
        )
    others = (each for each in raises if not parse_limit(each.limit).same_kind(raised))
    return *others, Raise(str(raised), added.until)
