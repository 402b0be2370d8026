"""The accounts that keys share: those of groups, and that of the gateway.

Their limits change while requests run, in two steps. ``prepare`` opens windows for limits that
are new; they hold what runs and count what ends from then on, but bind nobody. That leaves time to
replay what ended before. Then ``apply`` lets the limits bind, or ``abandon`` drops them. A group
that had no limits gets an account in the first step, which takes in the requests of its keys that
run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from opuslive.gateway.admission.history import ALL_TIME, Span
from opuslive.gateway.admission.shares import stays_of
from opuslive.keys import GroupChange
from opuslive.limits.accounts import Account, AccountKind
from opuslive.limits.policy import LimitPolicy
from opuslive.limits.windows import Window


class SharedAccounts:
    """``gateway`` is the account of all keys together; ``groups`` is name → account, of those with
    limits. Times are in ms since the epoch."""

    def __init__(self, policy: LimitPolicy, now: int) -> None:
        self.gateway = Account(AccountKind.GATEWAY, policy.gateway, now)
        self.groups = {
            name: Account(AccountKind.GROUP, limits, now, name)
            for name, limits in policy.groups.items()
        }

    def __iter__(self) -> Iterator[Account]:
        return iter((self.gateway, *self.groups.values()))

    def stays(self, changes: Sequence[GroupChange]) -> Sequence[tuple[Span, Account]]:
        """From when until when a key's requests were let in to which account. ``changes`` says
        when it came into which group."""
        return [
            (ALL_TIME, self.gateway),
            *(
                (span, self.groups[group])
                for span, group in stays_of(changes)
                if group in self.groups
            ),
        ]

    def prepare(
        self, policy: LimitPolicy, keys: Mapping[Account, Sequence[GroupChange]], now: int
    ) -> Mapping[Account, Sequence[Window]]:
        """Begin to count for the limits of a policy that are new; return account → their windows.

        ``keys`` has the account of each key, and when the key came into which group. One change may
        be under way at a time.
        """
        added = {
            name: Account(AccountKind.GROUP, (), now, name)
            for name in policy.groups
            if name not in self.groups
        }
        if added:
            for key, changes in keys.items():
                for (since, until), group in stays_of(changes):
                    if group in added:
                        added[group].take_in(key, since, until)
        self.groups.update(added)
        opened = {self.gateway: self.gateway.prepare(policy.gateway, now)}
        for name, limits in policy.groups.items():
            opened[self.groups[name]] = self.groups[name].prepare(limits, now)
        return opened

    def apply(self, policy: LimitPolicy, now: int) -> None:
        """Let the limits bind that were prepared, and no others. What runs keeps what it holds."""
        self.gateway.change_limits(policy.gateway, now)
        for name in self.groups.keys() - policy.groups.keys():
            del self.groups[name]
        for name, limits in policy.groups.items():
            self.groups[name].change_limits(limits, now)

    def abandon(self, policy: LimitPolicy) -> None:
        """Drop what was prepared: ``policy`` holds as before."""
        for name in self.groups.keys() - policy.groups.keys():
            del self.groups[name]
        for account in self:
            account.abandon()
