"""Alerts: what the administrator should hear of without asking.

That usage passed 80 % or 100 % of a limit (``levels`` says when it is told again), that an
upstream refuses the gateway's account, and that a key expires soon (``expiries`` says when). The
log has a line of each (of the account, one a second while requests meet it), and every channel that
is configured gets a message. That holds limits, amounts, expiries, the ids of keys and the names of
groups and upstreams: no name of a key, which may be a person's, and nothing of a request.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from opuslive.limits.accounts import AccountKind, ThresholdCrossing
from opuslive.limits.levels import FULL
from opuslive.quantities import format_when
from opuslive.times import HOUR_MS, iso_seconds

log = logging.getLogger(__name__)

#: ms between two alerts that one upstream rejects the account, at least.
REJECTION_PAUSE_MS = HOUR_MS

#: What goes to every channel: members of a JSON object: ``event``, ``time``, ``text`` and more.
Message = Mapping[str, str | int | float | None]


class Alerts:
    """Says what happened. ``now_ms`` is the clock of windows; ``deliver`` must not wait."""

    def __init__(
        self, now_ms: Callable[[], int], deliver: Callable[[Message], object] | None
    ) -> None:
        self._now_ms = now_ms
        self._deliver = deliver
        #: Name of an upstream → when its rejection was last told, in ms of the clock of windows.
        self._rejection_told: dict[str, int] = {}

    def shift(self, delta: int) -> None:
        """Move along with the date, by ``delta`` ms."""
        for upstream in self._rejection_told:
            self._rejection_told[upstream] += delta

    def threshold_crossed(self, crossing: ThresholdCrossing) -> None:
        """Usage passed a level of a limit."""
        account, level = crossing.account, crossing.level
        shown = crossing.limit_status.as_dict()
        limit = crossing.limit_status.limit
        amount = limit.metric.as_rounded_text
        whose = {
            AccountKind.KEY: f"the key {account.name}",
            AccountKind.GROUP: f"the group {account.name}",
            AccountKind.GATEWAY: "the gateway",
        }[account.kind]
        how = "is used up" if level == FULL else f"is used to {level} %"
        frees_at = shown["frees_at"]
        when = "it never frees" if frees_at is None else f"more frees from {frees_at} on"
        text = (
            f"The limit of {whose}, {limit}, {how}: "
            f"{amount(crossing.limit_status.used)} of {amount(limit.amount)}; {when}."
        )
        log.warning("%s", text)
        self._tell(
            text,
            {
                "event": "limit",
                "level": level,
                "scope": account.kind.value,
                "key": account.name if account.kind is AccountKind.KEY else None,
                "group": account.name if account.kind is AccountKind.GROUP else None,
                "limit": shown["limit"],
                "used": shown["used"],
                "amount": shown["max"],
                "frees_at": frees_at,
            },
        )

    def account_rejected(self, upstream: str) -> bool:
        """Tell every channel that the upstream rejects the gateway's account.

        The administrator is told of each upstream once an hour at most. Returns whether the
        administrator was told now; the caller may report a rejection again that was not told.
        The caller writes the line of the log.
        """
        now = self._now_ms()
        told = self._rejection_told.get(upstream)
        if told is not None and now < told + REJECTION_PAUSE_MS:
            return False
        self._rejection_told[upstream] = now
        self._tell(
            f"The upstream {upstream} refuses this gateway's account: check its credential and "
            "its credit.",
            {"event": "credential", "upstream": upstream},
        )
        return True

    def key_expires(self, key_id: str, expires_at: int, days: int) -> None:
        """A key expires soon: at a moment, in ms since the epoch, in at most so many days."""
        written = format_when(expires_at)
        at = (
            f"on {written}, at the end of that day (UTC),"
            if "T" not in written
            else f"at {written},"
        )
        text = f"The key {key_id} expires {at} in {days} day{'' if days == 1 else 's'}."
        log.warning("%s", text)
        self._tell(
            text,
            {
                "event": "expiry",
                "key": key_id,
                "expires_at": iso_seconds(expires_at),
                "days": days,
            },
        )

    def _tell(self, text: str, message: Message) -> None:
        if self._deliver is not None:
            self._deliver({**message, "time": iso_seconds(self._now_ms()), "text": text})


def trial_message(now_ms: int) -> Message:
    """What a test of the channels says; ``now_ms`` is in ms since the epoch."""
    return {
        "event": "test",
        "time": iso_seconds(now_ms),
        "text": "This is a test of the alerts of OpusLive: nothing is wrong.",
    }
