"""Alerts: what the administrator should hear of without asking.

That usage passed 80 % or 100 % of a limit (``levels`` says when it is told again), and that an
upstream refuses the gateway's account. The log has a line of each (of the account, one a second
while requests meet it), and the webhook a message where there is one. That holds limits, amounts,
the ids of keys and the names of groups and upstreams: no name of a key, which may be a person's,
and nothing of a request.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from opuslive.limits.accounts import AccountKind, ThresholdCrossing
from opuslive.limits.levels import FULL
from opuslive.times import HOUR_MS, iso_seconds

log = logging.getLogger(__name__)

#: ms between two alerts that one upstream rejects the account, at least.
REJECTION_PAUSE_MS = HOUR_MS

#: What goes to a webhook, to be written as a JSON object. Slack and Mattermost show its ``text``.
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
        """Tell the webhook that the upstream rejects the gateway's account.

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

    def _tell(self, text: str, message: Message) -> None:
        if self._deliver is not None:
            self._deliver({**message, "time": iso_seconds(self._now_ms()), "text": text})
