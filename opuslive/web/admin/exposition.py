"""The metrics in the words of Prometheus: what is counted, as families with names and help.

Everything is copied into a ``Scrape`` in one step of the event loop; families are made of that in
a thread, for thousands of series take tens of ms. Names and units are those of Prometheus'
conventions; a moment is a ``…_timestamp_seconds``, so that a query says how long ago it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from opuslive.administration.certificate import CertificateStatus
from opuslive.administration.status import ProcessStatus, UpstreamStatus
from opuslive.gateway.metrics import UpstreamTimes
from opuslive.histogram import Histogram
from opuslive.limits import accounts, grammar
from opuslive.storage import CommitFigures, Unwritten
from opuslive.usage import OUTCOMES, Outcome, TokenCounts

#: Kinds of tokens, in the order of ``TokenCounts``.
KINDS = TokenCounts.__struct_fields__


@dataclass(frozen=True, slots=True)
class KeyCounts:
    """What the requests of a key used: status → requests, tokens by ``KINDS``, and outcome →
    requests."""

    requests: Mapping[int, int]
    tokens: Sequence[int]
    outcomes: Mapping[Outcome, int]


@dataclass(frozen=True, slots=True)
class Scrape:
    """All that is shown, as it was at the moment ``now`` of the wall clock, in seconds since the
    epoch. The members that ``gateway.metrics`` counts are described there. ``keys``: id → counts;
    None if they are not shown."""

    now: float
    process: ProcessStatus
    waiting: int
    requests: Mapping[tuple[str, str | None, int], int]
    outcomes: Mapping[Outcome, int]
    tokens: Mapping[str | None, Sequence[int]]
    refusals: Mapping[tuple[accounts.AccountKind, grammar.Metric], int]
    upstreams: Mapping[tuple[str, str | None], UpstreamTimes]
    added: Histogram
    keys: Mapping[str, KeyCounts] | None
    commits: CommitFigures
    unwritten: Unwritten


class Exposition(Collector):
    """The families of a scrape, and those that the library knows of every process."""

    def __init__(self, scrape: Scrape) -> None:
        self._scrape = scrape

    def collect(self) -> Iterable[Metric]:
        scrape = self._scrape
        yield from _of_process(scrape.process, scrape.waiting)
        yield from _of_requests(scrape)
        if scrape.keys is not None:
            yield from _of_keys(scrape.keys)
        yield from _of_upstreams(scrape.process.upstreams)
        yield from _of_storage(scrape)
        if scrape.process.certificate is not None:
            yield from _of_certificate(scrape.process.certificate)
        yield from ProcessCollector(registry=None).collect()


def _of_process(process: ProcessStatus, waiting: int) -> Iterator[Metric]:
    yield InfoMetricFamily(
        "opuslive_build", "The version that runs.", value={"version": process.version}
    )
    yield GaugeMetricFamily(
        "opuslive_start_timestamp_seconds",
        "When the gateway started: all counts began then.",
        process.started_at / 1000,
    )
    yield GaugeMetricFamily(
        "opuslive_ready",
        "1 if the gateway can serve, as /readyz says, else 0.",
        float(process.ready),
    )
    yield GaugeMetricFamily(
        "opuslive_in_flight_requests",
        "Requests with a proven key that are under way, those that wait and counts of tokens too.",
        process.in_flight,
    )
    yield GaugeMetricFamily(
        "opuslive_waiting_requests", "Requests that wait for room in a limit.", waiting
    )
    yield GaugeMetricFamily("opuslive_keys", "Keys that there are.", process.keys)


def _of_requests(scrape: Scrape) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "opuslive_requests",
        "Requests that ended, by the status of their record. An empty model is one whose name is "
        "not kept. Requests without a valid key, counts of tokens, and what comes while the disk "
        "takes no writes are not among them.",
        labels=("endpoint", "model", "status"),
    )
    for (endpoint, model, status), count in scrape.requests.items():
        requests.add_metric((endpoint, model or "", str(status)), count)
    yield requests
    outcomes = CounterMetricFamily(
        "opuslive_requests_by_outcome",
        "The same requests by how they ended: served (2xx), client_error (4xx but 429 and 499), "
        "upstream_error (429, 5xx and all else), cut by the client (499), or refused here. All "
        "that were refused are counted, also those that left no record.",
        labels=("outcome",),
    )
    for outcome in OUTCOMES:
        outcomes.add_metric((outcome,), scrape.outcomes.get(outcome, 0))
    yield outcomes
    yield CounterMetricFamily(
        "opuslive_unrecorded_refusals",
        "Requests that were refused, here or by a provider, and left no record, for one a second "
        "and key is recorded. Sums of usage have recorded refusals only.",
        scrape.process.unrecorded_denials,
    )
    tokens = CounterMetricFamily(
        "opuslive_tokens",
        "Tokens that were used. The whole input is input, cache_read and both cache_write.",
        labels=("model", "kind"),
    )
    for model, counts in scrape.tokens.items():
        for kind, count in zip(KINDS, counts, strict=True):
            tokens.add_metric((model or "", kind), count)
    yield tokens
    yield _refusals(scrape.refusals)
    yield from _latencies(scrape.upstreams)
    added = HistogramMetricFamily(
        "opuslive_added_latency_seconds",
        "What the gateway adds to a request that is sent on: from when its head was read to when "
        "it is handed to the upstream, less the time that it waited for its body and for room in "
        "a limit. The end of an answer waits for opuslive_storage_commit_seconds.",
        labels=(),
    )
    _add_histogram(added, (), scrape.added)
    yield added


def _refusals(refused: Mapping[tuple[accounts.AccountKind, grammar.Metric], int]) -> Metric:
    """Those that never happened are 0, so that the first one shows as an increase."""
    family = CounterMetricFamily(
        "opuslive_limit_refusals",
        "Requests that a limit refused, recorded or not, by what it counts and whose it is.",
        labels=("metric", "scope"),
    )
    for kind in accounts.AccountKind:
        for metric in grammar.Metric:
            family.add_metric((metric.value, kind.value), refused.get((kind, metric), 0))
    return family


def _latencies(upstreams: Mapping[tuple[str, str | None], UpstreamTimes]) -> Iterator[Metric]:
    whole = HistogramMetricFamily(
        "opuslive_upstream_latency_seconds",
        "From a request's being handed to the upstream, connecting included, to the last byte of "
        "the answer, or to whatever else ended it; for the one upstream that a request was sent to "
        "last.",
        labels=("upstream", "model"),
    )
    head = HistogramMetricFamily(
        "opuslive_upstream_head_seconds",
        "The same to the head of the answer, where one came.",
        labels=("upstream", "model"),
    )
    for (upstream, model), times in upstreams.items():
        labels = (upstream, model or "")
        _add_histogram(whole, labels, times.whole)
        _add_histogram(head, labels, times.head)
    yield whole
    yield head


def _of_keys(keys: Mapping[str, KeyCounts]) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "opuslive_key_requests",
        "Requests of a key that ended, as in opuslive_requests_total.",
        labels=("key", "status"),
    )
    outcomes = CounterMetricFamily(
        "opuslive_key_requests_by_outcome",
        "Requests of a key that ended, as in opuslive_requests_by_outcome_total.",
        labels=("key", "outcome"),
    )
    tokens = CounterMetricFamily(
        "opuslive_key_tokens",
        "Tokens that a key used, as in opuslive_tokens_total.",
        labels=("key", "kind"),
    )
    for key_id, counts in keys.items():
        for status, count in counts.requests.items():
            requests.add_metric((key_id, str(status)), count)
        for outcome, count in counts.outcomes.items():
            outcomes.add_metric((key_id, outcome), count)
        for kind, count in zip(KINDS, counts.tokens, strict=True):
            tokens.add_metric((key_id, kind), count)
    yield requests
    yield outcomes
    yield tokens


def _of_upstreams(upstreams: Sequence[UpstreamStatus]) -> Iterator[Metric]:
    state = GaugeMetricFamily(
        "opuslive_upstream_state",
        "1 for the state that an upstream is in, 0 for the others.",
        labels=("upstream", "state"),
    )
    failures = GaugeMetricFamily(
        "opuslive_upstream_consecutive_failures",
        "How often an upstream failed since it last answered.",
        labels=("upstream",),
    )
    connections = GaugeMetricFamily(
        "opuslive_upstream_connections",
        "Open connections to an upstream: busy with a request, or idle.",
        labels=("upstream", "state"),
    )
    succeeded = GaugeMetricFamily(
        "opuslive_upstream_last_success_timestamp_seconds",
        "When an upstream last answered to the end.",
        labels=("upstream",),
    )
    failed = GaugeMetricFamily(
        "opuslive_upstream_last_failure_timestamp_seconds",
        "When an upstream last failed.",
        labels=("upstream",),
    )
    for each in upstreams:
        for word in type(each.state):
            state.add_metric((each.name, word.value), float(each.state is word))
        failures.add_metric((each.name,), each.failures_in_a_row)
        connections.add_metric((each.name, "busy"), each.connections - each.idle)
        connections.add_metric((each.name, "idle"), each.idle)
        for family, at in ((succeeded, each.last_success_at), (failed, each.last_failure_at)):
            if at is not None:
                family.add_metric((each.name,), at / 1000)
    yield from (state, failures, connections, succeeded, failed)


def _of_storage(scrape: Scrape) -> Iterator[Metric]:
    commits, unwritten = scrape.commits, scrape.unwritten
    yield GaugeMetricFamily(
        "opuslive_storage_healthy",
        "1 while the disk takes records and keeps up with them, else 0: requests are refused then.",
        float(scrape.process.storage_healthy),
    )
    records = HistogramMetricFamily(
        "opuslive_storage_commit_records", "Records in one commit.", labels=()
    )
    _add_histogram(records, (), commits.records)
    yield records
    seconds = HistogramMetricFamily(
        "opuslive_storage_commit_seconds",
        "What a commit of records takes until they are on disk.",
        labels=(),
    )
    _add_histogram(seconds, (), commits.seconds)
    yield seconds
    yield CounterMetricFamily(
        "opuslive_storage_commit_failures",
        "Commits that failed; their records are kept and tried again.",
        commits.failures,
    )
    yield GaugeMetricFamily(
        "opuslive_storage_unwritten_records",
        "Records that wait to be on disk.",
        unwritten.records,
    )
    oldest = GaugeMetricFamily(
        "opuslive_storage_oldest_unwritten_record_timestamp_seconds",
        "Since when the oldest record waits to be on disk; none while no record waits.",
        labels=(),
    )
    if unwritten.records:
        oldest.add_metric((), scrape.now - unwritten.seconds)
    yield oldest


def _of_certificate(certificate: CertificateStatus) -> Iterator[Metric]:
    if certificate.not_before is not None and certificate.not_after is not None:
        yield GaugeMetricFamily(
            "opuslive_certificate_not_before_timestamp_seconds",
            "From when on the certificate in use is valid.",
            certificate.not_before / 1000,
        )
        yield GaugeMetricFamily(
            "opuslive_certificate_not_after_timestamp_seconds",
            "Until when the certificate in use is valid.",
            certificate.not_after / 1000,
        )
    if certificate.next_attempt is not None:
        yield GaugeMetricFamily(
            "opuslive_certificate_failed_attempts",
            "Attempts in a row to get a certificate that failed.",
            certificate.failures_in_a_row,
        )


def _add_histogram(
    family: HistogramMetricFamily, labels: Sequence[str], histogram: Histogram
) -> None:
    total, buckets = 0, []
    bounds = [*map(str, map(float, histogram.bounds)), "+Inf"]
    for bound, count in zip(bounds, histogram.counts, strict=True):
        total += count
        buckets.append((bound, total))
    family.add_metric(labels, buckets, histogram.sum)
