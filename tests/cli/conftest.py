"""Commands that run inside the process of the tests."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.workplace import UPSTREAM, MakeWorkplace, Workplace


@pytest.fixture
def make_workplace() -> Iterator[MakeWorkplace]:
    """Makes workplaces; takes sections of the configuration."""
    with contextlib.ExitStack() as stack:

        def make(upstream_url: str | None = UPSTREAM, **sections: Any) -> Workplace:
            # A short path, as the paths of sockets have to be.
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="opuslive-cli-"))
            return Workplace(Path(folder), upstream_url, **sections)

        yield make


@pytest.fixture
def workplace(make_workplace: MakeWorkplace) -> Workplace:
    return make_workplace()


@pytest.fixture(params=[True, False], ids=["with a server", "without"])
def either_way(request: pytest.FixtureRequest, workplace: Workplace) -> Iterator[Workplace]:
    """A workplace whose commands speak to a server that runs, and one without a server."""
    with workplace.serving() if request.param else contextlib.nullcontext():
        yield workplace


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """``serve`` sends log lines to the standard error of its process, which outlives no test."""
    loggers = [logging.getLogger(name) for name in ("", "opuslive", "opuslive.access", "aiohttp")]
    levels = [logger.level for logger in loggers]
    handlers = list(logging.root.handlers)
    yield
    logging.root.handlers[:] = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
