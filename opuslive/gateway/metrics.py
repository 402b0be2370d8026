"""What is counted since the start, for monitoring: plain numbers, which ``web.admin`` renders.

``settlement`` feeds it where it settles a request, and ``admission`` where a limit refuses one. Two
things are bounded: a model is counted under the name that records bear, which is empty for what a
client made up; and once a family tells so many models apart that a scrape would be long
(``MAX_SERIES``, ``MAX_TIMED``), further models share the empty name. What is counted for a key is
kept in its ``Holder``, so it goes with the key.

A request's way is timed by a clock in ns, in as few readings as can be::

    came ──(authenticate, read, route, admit)── forwarded ──(upstream)── answered ── last byte
     └─ less the waiting for room and body ─┘       └──── to the answer ───┘
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from opuslive.gateway.holder import Holder
from opuslive.histogram import Histogram
from opuslive.limits.accounts import AccountKind
from opuslive.limits.grammar import Metric
from opuslive.usage import Outcome, TokenCounts, UsageRecord, outcome_of

#: Bounds in seconds of what the gateway adds to a request: from what a small one takes to what a
#: body of many megabytes or the first proof of a key may take.
ADDED_BOUNDS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
)  # fmt: skip
#: Bounds in seconds of what an upstream takes: up to the longest that it may think by default.
UPSTREAM_BOUNDS: Final = (
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0,
)  # fmt: skip
#: Series of a family of counters, at most, that tell models apart; and upstreams' models, at most,
#: whose times are told apart, which takes 34 series each.
MAX_SERIES = 1_000
MAX_TIMED = 200
_SECOND_NS = 1e9


class UpstreamTimes:
    """How long an upstream took to answer with a model, in seconds: to the head of the answer, and
    to the last byte."""

    __slots__ = ("head", "whole")

    def __init__(self, head: Histogram, whole: Histogram) -> None:
        self.head = head
        self.whole = whole

    def copy(self) -> UpstreamTimes:
        return UpstreamTimes(self.head.copy(), self.whole.copy())


class Passage:
    """When a request came to which step; ``now_ns`` is a clock that never goes back, in ns."""

    __slots__ = ("_now_ns", "_paused", "_since", "added", "sent_at", "to_head")

    def __init__(self, now_ns: Callable[[], int], came: int) -> None:
        self._now_ns = now_ns
        self._since = came
        self._paused = 0
        #: What the gateway took, from the request's coming until it was first forwarded. In ns;
        #: None for what has not happened, as below.
        self.added: int | None = None
        #: When it was forwarded to the upstream that got it last, and how long the head of that
        #: one's answer then took.
        self.sent_at: int | None = None
        self.to_head: int | None = None

    def pause(self) -> None:
        """What goes on from here until ``resume`` is not the gateway's doing."""
        self._paused = self._now_ns()

    def resume(self) -> None:
        if self._paused:
            self._since += self._now_ns() - self._paused
            self._paused = 0

    def forwarded(self) -> None:
        """The request is about to go to an upstream, or to another one."""
        now = self._now_ns()
        if self.added is None:
            self.added = now - self._since
        self._since = now

    def sent(self) -> None:
        """The upstream can be reached: bytes of the request go there."""
        self.sent_at = self._since
        self.to_head = None

    def answered(self) -> None:
        """The head of the answer came."""
        self.to_head = self._now_ns() - self._since


class Metrics:
    """The counts. ``by_key`` says whether those of each key are kept, too."""

    def __init__(self, *, by_key: bool) -> None:
        self.by_key = by_key
        #: Path of the endpoint, model and status → requests that were settled.
        self.requests: dict[tuple[str, str | None, int], int] = {}
        #: How they ended → how many: those that were refused are all there, recorded or not.
        self.outcomes: dict[Outcome, int] = {}
        #: Model → its tokens: input, output, cache read, cache write for 5 min and for 1 h.
        self.tokens: dict[str | None, list[int]] = {}
        #: Whose limit and what it counts → requests that it refused.
        self.refusals: dict[tuple[AccountKind, Metric], int] = {}
        #: Name of the upstream, and model → its times.
        self.upstreams: dict[tuple[str, str | None], UpstreamTimes] = {}
        #: What the gateway added to requests that were forwarded, in seconds.
        self.added = Histogram(ADDED_BOUNDS)

    def refused(self, kind: AccountKind, metric: Metric) -> None:
        """A limit refused a request."""
        self.refusals[kind, metric] = self.refusals.get((kind, metric), 0) + 1

    def settled(
        self, holder: Holder, endpoint: str, model: str | None, status: int, *, sent: bool
    ) -> None:
        """A request came to its end, whether it leaves a record or is one refusal too many; it was
        ``sent`` upstream, or refused."""
        series = (endpoint, model, status)
        requests = self.requests
        if series in requests:
            requests[series] += 1
        else:
            if len(requests) >= MAX_SERIES:
                series = (endpoint, None, status)
            requests[series] = requests.get(series, 0) + 1
        outcome = outcome_of(status, 0 if sent else None)
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        if self.by_key:
            statuses, outcomes = holder.requests_by_status, holder.requests_by_outcome
            statuses[status] = statuses.get(status, 0) + 1
            outcomes[outcome] = outcomes.get(outcome, 0) + 1

    def sent(
        self, holder: Holder, record: UsageRecord, upstream: str, passage: Passage, ended: int
    ) -> None:
        """The record is of a request that was sent to this upstream last. It ended at that time of
        the passage's clock."""
        self._used(holder, record.model, record.tokens)
        for part in record.parts:
            self._used(holder, part.model, part.tokens)
        if passage.added is not None:
            self.added.observe(passage.added / _SECOND_NS)
        if passage.sent_at is not None:
            times = self._times(upstream, record.model)
            times.whole.observe((ended - passage.sent_at) / _SECOND_NS)
            if passage.to_head is not None:
                times.head.observe(passage.to_head / _SECOND_NS)

    def _used(self, holder: Holder, model: str | None, tokens: TokenCounts) -> None:
        sums = self.tokens.get(model)
        if sums is None:
            if len(self.tokens) >= MAX_SERIES:
                model = None
            sums = self.tokens.setdefault(model, [0] * len(TokenCounts.__struct_fields__))
        _add(sums, tokens)
        if self.by_key:
            _add(holder.tokens_by_kind, tokens)

    def _times(self, upstream: str, model: str | None) -> UpstreamTimes:
        times = self.upstreams.get((upstream, model))
        if times is None:
            if len(self.upstreams) >= MAX_TIMED:
                model = None
            made = UpstreamTimes(Histogram(UPSTREAM_BOUNDS), Histogram(UPSTREAM_BOUNDS))
            times = self.upstreams.setdefault((upstream, model), made)
        return times


def _add(sums: list[int], tokens: TokenCounts) -> None:
    """Add tokens to the sums of their kinds, which are in the order of ``TokenCounts``."""
    sums[0] += tokens.input
    sums[1] += tokens.output
    sums[2] += tokens.cache_read
    sums[3] += tokens.cache_write_5m
    sums[4] += tokens.cache_write_1h
