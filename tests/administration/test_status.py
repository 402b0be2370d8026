"""When the process is ready, and what it is not ready for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from opuslive.administration.status import ProcessStatus
from opuslive.config.in_force import ConfigInForce
from opuslive.config.sections import Config

SERVING = ProcessStatus("1", 0, ConfigInForce(Config(), 0), 0, 0, False, False, True, False, 0, ())


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
