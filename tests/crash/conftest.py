"""The provider and the servers of the end-to-end tests, and the library that injects faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import provider, servers, upstream
from tests.support.shim import compiled

__all__ = ["library", "provider", "servers", "upstream"]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("shim"))
