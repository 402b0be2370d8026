"""When the process is ready, and what it is not ready for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from opuslive.administration.status import ProcessStatus, last_failure
from opuslive.gateway.upstreams.health import UpstreamHealth
from opuslive.gateway.upstreams.wire import FailureKind

SERVING = ProcessStatus("1", 0, 0, 0, False, False, True, False, 0, ())


@pytest.mark.parametrize(
    ("facts", "unready"),
    [
        ({}, None),
        ({"all_down": True}, "upstream"),
        ({"storage_healthy": False, "all_down": True}, "storage"),
        ({"stopping": True, "storage_healthy": False}, "stopping"),
        ({"stopping": True, "draining": True}, "draining"),
    ],
)
def test_the_first_reason_not_to_be_ready(facts: dict[str, Any], unready: str | None) -> None:
    status = replace(SERVING, **facts)
    assert (status.unready, status.ready) == (unready, unready is None)


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (None, None),
        (503, "answered with status 503"),
        (FailureKind.UNREACHABLE, FailureKind.UNREACHABLE.value),
    ],
)
def test_the_status_tells_how_an_upstream_failed_last(
    failure: FailureKind | int | None, said: str | None
) -> None:
    assert last_failure(UpstreamHealth(last_failure=failure)) == said
