"""What ``/metrics`` says, read as Prometheus reads it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as text_string_to_open_metrics,
)
from prometheus_client.parser import text_string_to_metric_families

from tests.support.admin_pages import HASH
from tests.support.app import App, Apps
from tests.support.provider import ScriptedUpstream
from tests.support.server import Server
from tests.support.wire import Answer

#: The bearer token of ``/metrics``, and the variable that it is in.
TOKEN = "a-token-of-metrics-and-no-more"
VARIABLE = "METRICS_TOKEN"
BEARER = f"Bearer {TOKEN}"


class Scraped:
    """The samples of one answer."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._samples = samples_of(text_string_to_metric_families(text))

    def value(self, name: str, **labels: str) -> float | None:
        """The sample with exactly these labels; None if there is none."""
        return self._samples.get((name, frozenset(labels.items())))

    def total(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels, and others."""
        return sum(
            value
            for (found, having), value in self._samples.items()
            if found == name and having >= labels.items()
        )

    def labels(self, name: str) -> list[Mapping[str, str]]:
        """Those of each sample of this name."""
        return [dict(having) for found, having in self._samples if found == name]


def read_open_metrics(text: str) -> Mapping[tuple[str, frozenset[tuple[str, str]]], float]:
    """Name and labels → value of each sample of a text in that format, if it is one."""
    return samples_of(text_string_to_open_metrics(text))  # type: ignore[no-untyped-call]


def samples_of(
    families: Iterable[Metric],
) -> Mapping[tuple[str, frozenset[tuple[str, str]]], float]:
    """Name and labels → value of each sample."""
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in families:
        for sample in family.samples:
            series = sample.name, frozenset(sample.labels.items())
            assert series not in found, f"{series} stands there twice"
            found[series] = float(sample.value)
    return found


async def start_with_token(apps: Apps, upstream: ScriptedUpstream, **sections: Any) -> App:
    """A gateway with a token and a password, unless ``sections`` say otherwise."""
    more = {"admin": {"password_hash": HASH}, "metrics": {"token_env": VARIABLE}} | sections
    app = apps.make(upstream.base_url, **more)
    app.environ[VARIABLE] = TOKEN
    await app.start()
    return app


async def ask_metrics(
    server: Server, authorization: str | None, method: str = "GET", **headers: str
) -> Answer:
    sent = [] if authorization is None else [("Authorization", authorization)]
    sent += [(name.replace("_", "-"), value) for name, value in headers.items()]
    return await server.request(method, "/metrics", headers=sent)


async def scrape(server: Server, authorization: str = BEARER) -> Scraped:
    answer = await ask_metrics(server, authorization)
    assert answer.status == 200, answer
    assert answer.header("content-type") == "text/plain; version=0.0.4; charset=utf-8"
    return Scraped(answer.body.decode())


def check_with_promtool(text: str) -> None:
    """Let Prometheus' own tool judge; skip where it is not installed."""
    promtool = shutil.which("promtool") or shutil.which(
        "promtool", path=Path(sys.executable).parent
    )
    if promtool is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text.encode(), capture_output=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
