"""What comes of asking upstreams: noted in their health, and told to the operator when it changes.

The log has one line when an upstream is put aside, and one when it answers again, however many
requests meet that. A request that fails before has a line of its own, one a second at most.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from opuslive.gateway.upstreams.failures import FailureLog
from opuslive.gateway.upstreams.upstream import Upstream
from opuslive.gateway.upstreams.wire import FailureKind

log = logging.getLogger(__name__)

#: ms between two lines that an upstream limits the rate, at least: it may do so every few seconds.
RATE_LIMIT_PAUSE_MS = 60_000


class Monitor:
    """Keeps the health of upstreams. ``now_ms`` is the clock of records.

    ``tell_rejected`` is called with the name of an upstream each time that the upstream rejects
    the gateway's account, until the call returns true: the administrator was told.
    """

    def __init__(
        self,
        failures: FailureLog,
        tell_rejected: Callable[[str], bool],
        now_ms: Callable[[], int],
    ) -> None:
        self._failures = failures
        self._tell_rejected = tell_rejected
        self._now_ms = now_ms

    def answering(self, upstream: Upstream, status: int) -> None:
        """The head of an answer came, and it is not about the gateway's account."""
        # An error may be said before anybody looked at the credential.
        health = upstream.health
        if status < 400 and (health.refused_since is not None or not health.account_worked):
            health.accepted()

    def answered(self, upstream: Upstream, status: int) -> None:
        """The last word of an answer came."""
        if status >= 500:
            self.failed(upstream, status)
        elif status != 429:
            health, now = upstream.health, self._now_ms()
            health.succeeded(now)
            if health.told_aside and not health.aside_until(now):
                health.told_aside = False
                log.warning("upstream %s answers again", upstream.name)

    def failed(self, upstream: Upstream, what: FailureKind | int, why: str = "") -> None:
        """The upstream could not be reached, did not deliver an answer, or answered with a 5xx.

        ``why`` is a detail for the log.
        """
        health, now = upstream.health, self._now_ms()
        was_out = health.out_until > now
        if health.failed(what, now):
            health.told_aside = True
            log.warning(
                "upstream %s failed %d times in a row and is asked last for %d s; now it %s%s",
                upstream.name,
                health.failures_in_a_row,
                (health.out_until - now) // 1000,
                health.failure_text,
                why,
            )
        elif not was_out:
            self._failures.warning(upstream.name, str(health.failure_text), why)

    def rate_limited(self, upstream: Upstream, seconds: int | None) -> None:
        """The upstream limits the rate of the gateway's requests: for so long, if it says."""
        health, now = upstream.health, self._now_ms()
        was_limited = health.limited_until > now
        health.rate_limited(seconds, now)
        if not was_limited and self._failures.warning(
            upstream.name,
            "limits the rate of requests, and is asked last",
            f" for {(health.limited_until - now) // 1000} s",
            pause_ms=RATE_LIMIT_PAUSE_MS,
        ):
            health.told_aside = True

    def account_rejected(self, upstream: Upstream, status: int) -> None:
        """The upstream said, instead of answering a request, that it does not accept the gateway's
        credential, or that its credit is used up."""
        self._rejected(upstream, f"status {status}")

    def list_refused(self, upstream: Upstream, status: int) -> None:
        """The upstream refused its list of models, with a 401 or a 403."""
        if status == 401 and not upstream.health.account_worked:
            self._rejected(upstream, f"status {status} on its list of models", of_list=True)
        else:
            log.error(
                "upstream %s refuses this gateway's credential (status %d on its list of models): "
                "check it",
                upstream.name,
                status,
            )

    def list_given(self, upstream: Upstream) -> None:
        """The upstream gave its list of models."""
        upstream.health.list_given()

    def _rejected(self, upstream: Upstream, how: str, *, of_list: bool = False) -> None:
        health = upstream.health
        if how not in health.refusals_told:
            health.refusals_told |= {how}
            health.told_aside = True
            self._failures.error(
                upstream.name,
                f"refuses this gateway's account ({how})",
                ": check its credential and its credit; it is asked last until it works",
            )
        health.refused(self._now_ms(), of_list=of_list)
        if not health.rejection_told:
            health.rejection_told = self._tell_rejected(upstream.name)
