"""What one key used of the limits that it shares: with its groups, and with all keys.

A window that keys share does not remember who used what. So the key's part is rebuilt from what is
stored, into a window of its own beside each shared one; and that can be taken out, or put back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from opuslive.gateway.admission.history import ALL_TIME, History, Span
from opuslive.keys import GroupChange
from opuslive.limits.accounts import Account, AccountKind
from opuslive.limits.grammar import Limit
from opuslive.limits.windows import Window, open_window


@dataclass(frozen=True, slots=True)
class SharedAmount:
    """What one key used of a limit that it shares, in the limit's own units."""

    kind: AccountKind
    group: str | None
    limit: Limit
    amount: int


@dataclass(frozen=True, slots=True)
class Share:
    """A key's part of what its groups and the gateway have used.

    ``windows`` has each of their windows, between its account and a window with that part alone.
    """

    windows: Sequence[tuple[Account, Window, Window]]

    def amounts(self) -> Sequence[SharedAmount]:
        """The part of each limit, where it is more than nothing."""
        return [
            SharedAmount(account.kind, account.name, window.limit, part.used)
            for account, window, part in self.windows
            if part.used
        ]

    def take_out(self, now: int) -> None:
        """Let the part count no more."""
        for _, window, part in self.windows:
            window.take_out(part, now)

    def put_back(self, now: int) -> None:
        """Let the part count again."""
        for _, window, part in self.windows:
            window.put_back(part, now)


async def read_share(
    history: History, key_id: str, stays: Sequence[tuple[Span, Account]], now: int
) -> Share:
    """The key's part of what these accounts have used, as far as it ended.

    ``stays`` says from when until when (ms since the epoch) the key's requests were let in to which
    account; an account may stand there several times. Raises StorageUnavailable.
    """
    await history.flush()
    parts: dict[Window, tuple[Account, Window]] = {}
    for span, account in stays:
        for window in account.windows:
            if window not in parts:
                parts[window] = account, open_window(window.limit, now)
        own = [parts[window][1] for window in account.windows]
        await history.replay(key_id, own, now, admitted=span, exact=True)
    return Share([(account, window, part) for window, (account, part) in parts.items()])


def stays_of(changes: Sequence[GroupChange]) -> Sequence[tuple[Span, str | None]]:
    """From when until when (ms since the epoch) requests were let in to which group."""
    ends = (*(change.since for change in changes[1:]), ALL_TIME[1])
    return [((change.since, end), change.group) for change, end in zip(changes, ends, strict=False)]
