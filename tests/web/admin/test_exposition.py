"""How counts are written for Prometheus."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from opuslive.administration.certificate import CertificateStatus
from opuslive.administration.status import ProcessStatus, UpstreamStatus
from opuslive.config.in_force import ConfigInForce
from opuslive.config.sections import Config
from opuslive.gateway.metrics import ADDED_BOUNDS, UPSTREAM_BOUNDS, UpstreamTimes
from opuslive.gateway.upstreams.health import UpstreamState
from opuslive.histogram import Histogram
from opuslive.limits.accounts import AccountKind
from opuslive.limits.grammar import Metric
from opuslive.storage import CommitFigures, Unwritten
from opuslive.web.admin.exposition import Exposition, KeyCounts, Scrape
from tests.support.clock import NOW
from tests.support.scrapes import Scraped, check_with_promtool, read_open_metrics, samples_of

#: What a label may have to hold: names are the administrator's and the providers' own.
ODD = 'a "name"\\\nwith\u2028odd # characters {x="1"} 1'
UPSTREAM = UpstreamStatus(
    name=ODD,
    dialect="anthropic",
    authority="a",
    models=("*",),
    priority=0,
    weight=1,
    connections=5,
    idle=2,
    state=UpstreamState.FAILING,
    since=NOW,
    out_until=None,
    failures_in_a_row=3,
    last_failure=None,
    last_failure_at=NOW,
    last_success_at=None,
)


def observed(*values: float, bounds: tuple[float, ...] = UPSTREAM_BOUNDS) -> Histogram:
    histogram = Histogram(bounds)
    for value in values:
        histogram.observe(value)
    return histogram


#: One with everything in it.
FULL = Scrape(
    now=NOW / 1000,
    process=ProcessStatus(
        *("1.2", NOW, ConfigInForce(Config(), NOW), 7, 4, False, False, True, False, 2, [UPSTREAM]),
        certificate=CertificateStatus("c.pem", 1000, 2000, next_attempt=NOW, failures_in_a_row=6),
    ),
    waiting=3,
    requests={("/v1/messages", ODD, 200): 5, ("/v1/messages", None, 404): 1},
    outcomes={"served": 5, "refused": 1},
    tokens={ODD: [1, 2, 3, 4, 5], None: [0, 0, 0, 0, 10**30]},
    refusals={(AccountKind.GROUP, Metric.USD): 6},
    upstreams={(ODD, ODD): UpstreamTimes(observed(0.3), observed(0.3, 700.0))},
    added=observed(0.0003, bounds=ADDED_BOUNDS),
    keys={
        "key00001": KeyCounts({200: 5}, [1, 2, 3, 4, 5], {"served": 5}),
        "key00002": KeyCounts({}, [0] * 5, {}),
    },
    commits=CommitFigures(failures=1),
    unwritten=Unwritten(2, 1.5),
)
#: One at the start, with nothing.
EMPTY = replace(
    FULL,
    process=replace(FULL.process, upstreams=[], certificate=None),
    requests={},
    outcomes={},
    tokens={},
    refusals={},
    upstreams={},
    added=Histogram(ADDED_BOUNDS),
    keys=None,
    unwritten=Unwritten(0, 0.0),
)


def written(scrape: Scrape) -> str:
    return generate_latest(Exposition(scrape)).decode()


@pytest.mark.parametrize("scrape", [FULL, EMPTY], ids=["full", "empty"])
def test_promtool_finds_nothing_wrong(scrape: Scrape) -> None:
    check_with_promtool(written(scrape))


@pytest.mark.parametrize("scrape", [FULL, EMPTY], ids=["full", "empty"])
def test_open_metrics_say_the_same(scrape: Scrape) -> None:
    text = openmetrics.generate_latest(Exposition(scrape)).decode()  # type: ignore[no-untyped-call]
    assert text.endswith("# EOF\n")
    found = read_open_metrics(text)
    collected = samples_of(Exposition(scrape).collect())
    assert found.keys() == collected.keys()
    for series, value in found.items():
        if not series[0].startswith("process_"):  # They go on.
            assert value == collected[series], series


def test_every_name_and_label_is_as_the_conventions_want_them() -> None:
    families = list(Exposition(FULL).collect())
    names = [family.name for family in families]
    assert len(set(names)) == len(names)
    for family in families:
        assert family.name.startswith(("opuslive_", "process_"))
        assert family.documentation.endswith(".")
        if family.type == "histogram":
            assert family.name.endswith(("_seconds", "_records"))


def test_what_is_shown_is_what_was_counted() -> None:
    scraped = Scraped(written(FULL))
    value = scraped.value
    assert value("opuslive_build_info", version="1.2") == 1
    assert value("opuslive_start_timestamp_seconds") == NOW / 1000
    assert value("opuslive_in_flight_requests") == 7
    assert value("opuslive_waiting_requests") == 3
    assert value("opuslive_unrecorded_refusals_total") == 4
    common = {"endpoint": "/v1/messages"}
    assert value("opuslive_requests_total", **common, model=ODD, status="200") == 5
    assert value("opuslive_requests_total", **common, model="", status="404") == 1
    for number, kind in enumerate(
        ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h"), start=1
    ):
        assert value("opuslive_tokens_total", model=ODD, kind=kind) == number
        assert value("opuslive_key_tokens_total", key="key00001", kind=kind) == number
    assert value("opuslive_key_requests_total", key="key00001", status="200") == 5
    for outcome, number in (("served", 5), ("refused", 1), ("cut", 0)):
        assert value("opuslive_requests_by_outcome_total", outcome=outcome) == number
    assert value("opuslive_key_requests_by_outcome_total", key="key00001", outcome="served") == 5
    assert value("opuslive_limit_refusals_total", metric="usd", scope="group") == 6
    assert scraped.total("opuslive_limit_refusals_total") == 6
    assert len(scraped.labels("opuslive_limit_refusals_total")) == 18
    assert value("opuslive_storage_commit_failures_total") == 1
    assert value("opuslive_storage_unwritten_records") == 2
    oldest = value("opuslive_storage_oldest_unwritten_record_timestamp_seconds")
    assert oldest == NOW / 1000 - 1.5
    assert value("opuslive_certificate_not_before_timestamp_seconds") == 1
    assert value("opuslive_certificate_not_after_timestamp_seconds") == 2
    assert value("opuslive_certificate_failed_attempts") == 6


def test_buckets_are_cumulative() -> None:
    scraped = Scraped(written(FULL))
    labels = {"upstream": ODD, "model": ODD}

    def up_to(bound: str) -> float | None:
        return scraped.value("opuslive_upstream_latency_seconds_bucket", le=bound, **labels)

    assert [up_to(bound) for bound in ("0.25", "0.5", "600.0", "+Inf")] == [0, 1, 1, 2]
    assert scraped.value("opuslive_upstream_latency_seconds_count", **labels) == 2
    assert scraped.value("opuslive_upstream_latency_seconds_sum", **labels) == 700.3


@pytest.mark.parametrize("state", UpstreamState)
def test_an_upstream_is_in_one_of_all_states(state: UpstreamState) -> None:
    process = replace(FULL.process, upstreams=[replace(UPSTREAM, state=state)])
    scraped = Scraped(written(replace(FULL, process=process)))
    states = {
        word: scraped.value("opuslive_upstream_state", upstream=ODD, state=word.value)
        for word in UpstreamState
    }
    assert states == {word: float(word is state) for word in UpstreamState}


def test_what_never_happened_has_no_time() -> None:
    full, empty = Scraped(written(FULL)), Scraped(written(EMPTY))
    failed = "opuslive_upstream_last_failure_timestamp_seconds"
    assert full.value(failed, upstream=ODD) == NOW / 1000
    assert full.labels("opuslive_upstream_last_success_timestamp_seconds") == []
    assert empty.labels("opuslive_storage_oldest_unwritten_record_timestamp_seconds") == []
    assert "opuslive_certificate" not in empty.text
    assert "opuslive_key_" not in empty.text


def test_the_process_tells_its_memory_and_files() -> None:
    scraped = Scraped(written(EMPTY))
    for name in ("process_resident_memory_bytes", "process_open_fds", "process_cpu_seconds_total"):
        assert scraped.value(name)
