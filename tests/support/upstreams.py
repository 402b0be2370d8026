"""Upstreams that no request goes to."""

from __future__ import annotations

import asyncio

from opuslive.dialects import Dialect
from opuslive.dialects.anthropic.dialect import AnthropicDialect
from opuslive.gateway.upstreams.pool import Endpoint, UpstreamPool
from opuslive.gateway.upstreams.upstream import Upstream
from tests.support.pools import PATIENT

ANTHROPIC: Dialect = AnthropicDialect()


def upstream(
    name: str = "one",
    *models: str,
    priority: int = 0,
    weight: int = 1,
    dialect: Dialect = ANTHROPIC,
    path_prefix: bytes = b"",
) -> Upstream:
    """One that serves ``claude-*`` where no models are given. Only inside of an event loop."""
    loop = asyncio.get_running_loop()
    return Upstream(
        name=name,
        dialect=dialect,
        pool=UpstreamPool(Endpoint("127.0.0.1", 9), PATIENT, loop),
        authority=b"upstream.example",
        path_prefix=path_prefix,
        credential=[(b"x-api-key", b"secret")],
        models=models or ("claude-*",),
        priority=priority,
        weight=weight,
    )
