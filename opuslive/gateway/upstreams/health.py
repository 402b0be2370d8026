"""The health of one upstream, as far as requests show it: a state machine, in memory.

An upstream is *available*, or *aside*: then it is asked only when no other upstream that serves the
model is left. So the last one that serves a model is always asked. It is put aside

* by a *rate limit* (429), for as long as the upstream asks to wait;
* by a *refused account*, until the account works again;
* by an *open circuit*, after some failures in a row. A *failure* is an upstream that could not be
  reached, did not answer in time, answered with a 5xx, broke off, gave up half-way, or spoke
  something that is not HTTP. A 429 is none, for it says that the upstream is busy; nor is a client
  that left, which says nothing of the upstream.

Once the time of an open circuit, or of a refused account, is over, the next request is the *probe*:
asking it (``asked``) puts the upstream aside again for as long as a probe may take, so that others
go elsewhere meanwhile. Nobody has to say what became of a probe: where nothing comes of it (its
client left, say), that time passes, and another request is the next one. A *success* is an answer
of which the last word has come; it closes the circuit. Whether the account works shows earlier:
with the head.

Times are in ms since the epoch. Nothing here reads a clock, or logs (``monitor`` does).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeVar

from opuslive.gateway.upstreams.wire import FailureKind

#: So many failures in a row open the circuit.
DOWN_FAILURES = 5
#: The circuit is open for this many ms times the number of openings since the last success, up to
#: the bound.
DOWN_MS = 30_000
MAX_DOWN_MS = 600_000
#: How long a probe of an upstream whose circuit was open may take, in ms, before there is another.
PROBE_MS = 30_000
#: ms between two requests that probe a refused account.
ACCOUNT_PROBE_MS = 300_000
#: Seconds that an upstream with a rate limit is put aside for, where it does not say how long to
#: wait; and at most.
RATE_LIMIT_SECONDS = 5
MAX_RATE_LIMIT_SECONDS = 3_600


class UpstreamState(enum.StrEnum):
    """An upstream in one word."""

    OK = "ok"
    FAILING = "failing"
    OUT = "out"
    RATE_LIMITED = "rate_limited"
    CREDENTIAL_REFUSED = "credential_refused"
    UNUSED = "unused"


@dataclass(slots=True, eq=False)
class UpstreamHealth:
    """The health of one upstream. What never happened, or is over, is None; 0 for an ``…_until``.

    ``last_failure`` is the kind of the failure, or the status of a 5xx. ``trips`` counts how often
    the circuit opened since the last success.
    """

    failures_in_a_row: int = 0
    failing_since: int | None = None
    last_failure: FailureKind | int | None = None
    last_failure_at: int | None = None
    last_success_at: int | None = None
    trips: int = 0
    out_since: int | None = None
    out_until: int = 0
    limited_since: int | None = None
    limited_until: int = 0
    refused_since: int | None = None
    refused_until: int = 0
    #: Whether a request was accepted since one was last refused: then a list of models that is
    #: refused says that this credential may not read lists.
    account_worked: bool = False
    #: In what ways the log said that the account is refused.
    refusals_told: frozenset[str] = frozenset()
    #: Whether the administrator was told of the refusal.
    rejection_told: bool = False
    #: Whether the log said that the upstream is aside, and not yet that it answers again.
    told_aside: bool = False
    #: Whether the upstream's list of models was refused, too.
    _list_refused: bool = False
    #: Whether a probe of the circuit is under way, as far as is known.
    _probing: bool = False

    def state(self, now: int) -> UpstreamState:
        """The worst of what holds."""
        if self.refused_since is not None:
            return UpstreamState.CREDENTIAL_REFUSED
        if self.out_until > now:
            return UpstreamState.OUT
        if self.limited_until > now:
            return UpstreamState.RATE_LIMITED
        if self.failures_in_a_row:
            return UpstreamState.FAILING
        return UpstreamState.UNUSED if self.last_success_at is None else UpstreamState.OK

    def since(self, now: int) -> int | None:
        """Since when the upstream is in a state that is none of health."""
        return {
            UpstreamState.CREDENTIAL_REFUSED: self.refused_since,
            UpstreamState.OUT: self.out_since,
            UpstreamState.RATE_LIMITED: self.limited_since,
            UpstreamState.FAILING: self.failing_since,
        }.get(self.state(now))

    def aside_until(self, now: int) -> int:
        """When the upstream is available again; 0 if it is."""
        until = max(self.out_until, self.limited_until, self.refused_until)
        return until if until > now else 0

    def is_down(self, now: int) -> bool:
        """Whether a request would most likely fail: for a short time after a failure only, since a
        gateway that calls itself unready is sent no request that could find out."""
        return (
            self.failures_in_a_row >= DOWN_FAILURES
            and self.last_failure_at is not None
            and now < self.last_failure_at + DOWN_MS
        )

    @property
    def failure_text(self) -> str | None:
        """In what way the upstream failed last."""
        failure = self.last_failure
        if isinstance(failure, int):
            return f"answered with status {failure}"
        return None if failure is None else failure.value

    # What happens.

    def asked(self, now: int) -> None:
        """The upstream, which is available, is asked: the request may be a probe."""
        if self.refused_since is not None:
            self.refused_until = now + ACCOUNT_PROBE_MS
        if self.out_since is not None:
            self.out_until = now + PROBE_MS
            self._probing = True

    def failed(self, what: FailureKind | int, now: int) -> bool:
        """A request failed. Returns whether that opened the circuit.

        Requests that fail while the circuit is open were sent before, or had nowhere else to go:
        they don't keep it open for longer. A probe that fails does.
        """
        self.failures_in_a_row += 1
        if self.failing_since is None:
            self.failing_since = now
        self.last_failure = what
        self.last_failure_at = now
        if self.failures_in_a_row < DOWN_FAILURES or (self.out_until > now and not self._probing):
            return False
        self.trips += 1
        self._probing = False
        if self.out_since is None:
            self.out_since = now
        self.out_until = now + min(DOWN_MS * self.trips, MAX_DOWN_MS)
        return True

    def succeeded(self, now: int) -> None:
        """The last word of an answer came, and it was no failure."""
        self.last_success_at = now
        if self.failures_in_a_row:
            self.failures_in_a_row = self.trips = self.out_until = 0
            self.failing_since = self.out_since = None
            self._probing = False

    def rate_limited(self, seconds: int | None, now: int) -> None:
        """The upstream asks to wait for so long, if it says."""
        wait = RATE_LIMIT_SECONDS if seconds is None else seconds
        if self.limited_since is None or self.limited_until <= now:
            self.limited_since = now
        until = now + 1000 * min(max(1, wait), MAX_RATE_LIMIT_SECONDS)
        self.limited_until = max(self.limited_until, until)

    def refused(self, now: int, *, of_list: bool = False) -> None:
        """The upstream does not accept the gateway's credential, or says that its credit is used
        up: in the answer to a request, or to the question for its list of models."""
        if self.refused_since is None or not of_list:
            # The question for a list is no probe: a request may be accepted all the same.
            self.refused_until = now + ACCOUNT_PROBE_MS
        if self.refused_since is None:
            self.refused_since = now
        if of_list:
            self._list_refused = True
        else:
            self.account_worked = False

    def try_again(self) -> None:
        """Let a request find out whether the credential works by now."""
        self.refused_until = 0

    def accepted(self) -> None:
        """The upstream accepted a request: it does so from accounts alone."""
        self.account_worked = True
        self._forget_refusal()

    def _forget_refusal(self) -> None:
        self.refused_since, self.refused_until = None, 0
        self.rejection_told = self._list_refused = False
        self.refusals_told = frozenset()

    def list_given(self) -> None:
        """The upstream gave its list of models. That tells something of the credential only where
        it had been refused: some give the list to anybody, and all to accounts without credit."""
        if self._list_refused:
            self._forget_refusal()

    def shift(self, delta: int) -> None:
        """Move along with the date, by ``delta`` ms."""
        self.failing_since = _moved(self.failing_since, delta)
        self.last_failure_at = _moved(self.last_failure_at, delta)
        self.last_success_at = _moved(self.last_success_at, delta)
        self.out_since = _moved(self.out_since, delta)
        self.out_until = _moved(self.out_until, delta)
        self.limited_since = _moved(self.limited_since, delta)
        self.limited_until = _moved(self.limited_until, delta)
        self.refused_since = _moved(self.refused_since, delta)
        self.refused_until = _moved(self.refused_until, delta)


Moment = TypeVar("Moment", int, "int | None")


def _moved(moment: Moment, delta: int) -> Moment:
    """0 and None are no moments."""
    return moment + delta if moment else moment
