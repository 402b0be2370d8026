"""Both event loops: asyncio's own, and uvloop as in production."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import MappingProxyType

import uvloop

LoopFactories = Mapping[str, Callable[[], asyncio.AbstractEventLoop]]

ASYNCIO: LoopFactories = MappingProxyType({"asyncio": asyncio.new_event_loop})
BOTH: LoopFactories = MappingProxyType({**ASYNCIO, "uvloop": uvloop.new_event_loop})
