"""The health of upstreams, as far as requests show it: in memory, for the administrator to see.

Health decides whether the gateway calls itself ready (``all_down``). It does not decide where
requests go: ``router`` does not look at it.

Forwarding tells what came of asking an upstream: an answer, a failure, or a rejection of
the gateway's account. A *failure* is an upstream that could not be reached, did not answer in time,
answered with a 5xx, broke off, gave up half-way, or spoke something that is not HTTP. A *success*
is an answer of which the last word has come. A 429 is neither, for it says that the upstream is
busy; nor is a client that left, which says nothing of the upstream. Whether the credential works
shows earlier than a success: with the head.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from opuslive.gateway.upstreams.wire import FailureKind

#: An upstream is down after so many failures in a row, for so many ms after the last one. After
#: that a request has to find out whether it is up again.
DOWN_FAILURES = 5
DOWN_MS = 30_000


class UpstreamState(enum.StrEnum):
    """An upstream in one word."""

    OK = "ok"
    FAILING = "failing"
    CREDENTIAL_REFUSED = "credential_refused"
    UNUSED = "unused"


@dataclass(slots=True)
class UpstreamHealth:
    """The health of one upstream. Times are in ms since the epoch; None for what never happened.

    ``last_failure`` is the kind of the failure, or the status of a 5xx. ``account_rejected``
    holds until an answer shows that the credential works. ``rejection_told`` says that the
    administrator was told.
    """

    failures_in_a_row: int = 0
    last_failure: FailureKind | int | None = None
    last_failure_at: int | None = None
    last_success_at: int | None = None
    account_rejected: bool = False
    rejection_told: bool = False

    @property
    def state(self) -> UpstreamState:
        if self.account_rejected:
            return UpstreamState.CREDENTIAL_REFUSED
        if self.failures_in_a_row:
            return UpstreamState.FAILING
        return UpstreamState.UNUSED if self.last_success_at is None else UpstreamState.OK

    def is_down(self, now: int) -> bool:
        return (
            self.failures_in_a_row >= DOWN_FAILURES
            and self.last_failure_at is not None
            and now < self.last_failure_at + DOWN_MS
        )


class Health:
    """The health of all upstreams, by their names. ``now_ms`` is the clock of records.

    ``tell_rejected`` is called with the name of an upstream each time that the upstream rejects
    the gateway's account, until the call returns true: the administrator was told.
    """

    def __init__(
        self,
        names: Iterable[str],
        tell_rejected: Callable[[str], bool],
        now_ms: Callable[[], int],
    ) -> None:
        self._upstreams = {name: UpstreamHealth() for name in names}
        self._tell_rejected = tell_rejected
        self._now_ms = now_ms

    @property
    def upstreams(self) -> Mapping[str, UpstreamHealth]:
        return MappingProxyType(self._upstreams)

    @property
    def all_down(self) -> bool:
        """Whether there are upstreams, and no request would be answered by any."""
        now = self._now_ms()
        upstreams = self._upstreams.values()
        return bool(upstreams) and all(upstream.is_down(now) for upstream in upstreams)

    def shift(self, delta: int) -> None:
        """Move along with the date, by ``delta`` ms."""
        for upstream in self._upstreams.values():
            if upstream.last_failure_at is not None:
                upstream.last_failure_at += delta
            if upstream.last_success_at is not None:
                upstream.last_success_at += delta

    def answering(self, name: str, status: int) -> None:
        """The head of an answer came, and it is not about the gateway's account."""
        # An error may be said before anybody looked at the credential.
        if status < 400:
            self.credential_worked(name)

    def answered(self, name: str, status: int) -> None:
        """The last word of an answer came."""
        if status >= 500:
            self.failed(name, status)
        elif status != 429:
            upstream = self._upstreams[name]
            upstream.failures_in_a_row = 0
            upstream.last_success_at = self._now_ms()

    def credential_worked(self, name: str) -> None:
        """The upstream gave an answer that it gives to accounts alone."""
        upstream = self._upstreams[name]
        upstream.account_rejected = upstream.rejection_told = False

    def failed(self, name: str, what: FailureKind | int) -> None:
        """The upstream could not be reached, did not deliver an answer, or answered with a 5xx."""
        upstream = self._upstreams[name]
        upstream.failures_in_a_row += 1
        upstream.last_failure = what
        upstream.last_failure_at = self._now_ms()

    def account_rejected(self, name: str) -> None:
        """The upstream answered that the gateway's credential is not accepted, or its credit is
        used up."""
        upstream = self._upstreams[name]
        upstream.account_rejected = True
        if not upstream.rejection_told:
            upstream.rejection_told = self._tell_rejected(name)
