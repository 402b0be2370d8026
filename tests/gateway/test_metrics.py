"""What is counted for monitoring, and what bounds it."""

from __future__ import annotations

import pytest

from opuslive.gateway import metrics as module
from opuslive.gateway.holder import Holder
from opuslive.gateway.metrics import Metrics, Passage
from opuslive.usage import TokenCounts, UsagePart
from tests.support.clock import NOW
from tests.support.keys import TOKENS, a_key, a_record


class Watch:
    """A clock of ns that only a test moves."""

    def __init__(self) -> None:
        self.now = 5

    def __call__(self) -> int:
        return self.now


def a_passage() -> Passage:
    """Of a request that was sent to an upstream, and not answered yet."""
    passage = Passage(Watch(), 5)
    passage.forwarded()
    passage.sent()
    return passage


def test_what_each_model_of_a_request_used_counts_under_its_own_name() -> None:
    metrics = Metrics(by_key=True)
    holder = Holder(a_key(), NOW)
    parts = (UsagePart("other", TokenCounts(output=3)), UsagePart(None, TokenCounts(input=4)))
    metrics.sent(holder, a_record(model="one", parts=parts), "up", a_passage(), 5)
    assert metrics.tokens == {
        "one": [1, 20, 300, 4_000, 50_000],
        "other": [0, 3, 0, 0, 0],
        None: [4, 0, 0, 0, 0],
    }
    assert holder.tokens_by_kind == [5, 23, 300, 4_000, 50_000]
    # It is one request, and one answer.
    assert list(metrics.upstreams) == [("up", "one")]


def test_nothing_is_counted_for_keys_unless_it_is_shown() -> None:
    metrics = Metrics(by_key=False)
    holder = Holder(a_key(), NOW)
    metrics.settled(holder, "/v1/messages", "one", 200, sent=True)
    metrics.sent(holder, a_record(), "up", a_passage(), 5)
    assert (holder.requests_by_status, holder.tokens_by_kind) == ({}, [0] * 5)
    metrics.by_key = True
    metrics.settled(holder, "/v1/messages", "one", 200, sent=True)
    metrics.settled(holder, "/v1/messages", "one", 429, sent=False)
    metrics.settled(holder, "/v1/messages", "one", 429, sent=True)
    assert holder.requests_by_status == {200: 1, 429: 2}
    assert holder.requests_by_outcome == {"served": 1, "refused": 1, "upstream_error": 1}
    assert metrics.outcomes == {"served": 2, "refused": 1, "upstream_error": 1}


def test_kinds_of_tokens_are_added_in_the_order_of_their_fields() -> None:
    metrics = Metrics(by_key=False)
    metrics.sent(Holder(a_key(), NOW), a_record(model="one"), "up", a_passage(), 5)
    kinds = dict(zip(TokenCounts.__struct_fields__, metrics.tokens["one"], strict=True))
    assert TokenCounts(**kinds) == TOKENS


def test_the_number_of_series_is_bounded_and_no_request_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_SERIES", 10)
    monkeypatch.setattr(module, "MAX_TIMED", 5)
    metrics = Metrics(by_key=False)
    holder = Holder(a_key(), NOW)
    for number in range(1_000):
        metrics.settled(holder, "/v1/messages", f"model {number}", 200 + number % 2, sent=True)
        record = a_record(model=f"model {number}", tokens=TokenCounts(input=1))
        metrics.sent(holder, record, "up", a_passage(), 5)
    assert len(metrics.requests) == 12
    assert metrics.requests["/v1/messages", None, 200] == 495
    assert sum(metrics.requests.values()) == 1_000
    assert (len(metrics.tokens), len(metrics.upstreams)) == (11, 6)
    assert sum(counts[0] for counts in metrics.tokens.values()) == 1_000
    assert sum(times.whole.count for times in metrics.upstreams.values()) == 1_000
    # What is known goes on.
    metrics.settled(holder, "/v1/messages", "model 0", 200, sent=True)
    assert metrics.requests["/v1/messages", "model 0", 200] == 2


class TestPassage:
    def test_waiting_is_not_what_the_gateway_adds(self) -> None:
        watch = Watch()
        passage = Passage(watch, 5)
        watch.now = 7
        passage.pause()
        watch.now = 1_000
        passage.resume()
        watch.now = 1_003
        passage.pause()
        watch.now = 2_000
        passage.resume()
        watch.now = 2_001
        passage.forwarded()
        passage.sent()
        watch.now = 9_000
        passage.answered()
        assert (passage.added, passage.to_head) == (2 + 3 + 1, 6_999)

    def test_who_did_not_wait_may_go_on(self) -> None:
        watch = Watch()
        passage = Passage(watch, 5)
        watch.now = 8
        passage.resume()
        passage.forwarded()
        assert passage.added == 3

    def test_what_did_not_happen_took_no_time(self) -> None:
        metrics = Metrics(by_key=False)
        passage = a_passage()
        metrics.sent(Holder(a_key(), NOW), a_record(), "up", passage, 5)
        (times,) = metrics.upstreams.values()
        assert (times.whole.count, times.head.count, metrics.added.count) == (1, 0, 1)

    def test_an_upstream_is_not_charged_with_the_time_of_others(self) -> None:
        watch = Watch()
        passage = Passage(watch, 0)
        for watch.now, happens in (
            (10, passage.forwarded),
            (1_000, passage.forwarded),
            (1_002, passage.sent),
            (1_009, passage.answered),
        ):
            happens()
        # The first could not be reached; the second answered, and did not serve.
        assert (passage.added, passage.to_head) == (10, 9)
        watch.now = 2_000
        passage.forwarded()
        passage.sent()
        metrics = Metrics(by_key=False)
        metrics.sent(Holder(a_key(), NOW), a_record(model="one"), "third", passage, 2_005)
        ((upstream, times),) = metrics.upstreams.items()
        assert upstream == ("third", "one")
        assert times.head.count == 0
        assert times.whole.sum == pytest.approx(5e-9)
