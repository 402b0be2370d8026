"""How the process of a server is set up: its files, its memory, its event loop."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
from typing import Any

from opuslive.thinning import THINNED

log = logging.getLogger(__name__)

#: A garbage collection begins when so many more objects were made than freed. (Python's own 700
#: cost 3 % of a request.)
_GC_THRESHOLD = 10_000


def collect_seldom() -> None:
    """Nearly all that a request makes is freed without a collection, and what is there stays."""
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD)


def raise_file_limit() -> int:
    """Let this process open as many files as the system allows; return the number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft


def log_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log that a callback failed, without its arguments: these may hold addresses and content."""
    error = context.get("exception")
    log.error("the event loop reports a problem (%s)", type(error).__name__, extra=THINNED)
