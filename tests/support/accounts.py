"""What can be seen of an account from outside."""

from __future__ import annotations

from opuslive.limits.accounts import Account
from opuslive.limits.grammar import parse_limits

#: A limit that no test sets.
_PROBE = parse_limits(["1M requests/365d"])


def running(account: Account, now: int) -> int:
    """How many requests run: those that a new limit holds from its first moment on.

    Not while a change of the account's limits is under way.
    """
    (window,) = account.prepare(_PROBE, now)
    account.prepare((), now)
    return window.used
