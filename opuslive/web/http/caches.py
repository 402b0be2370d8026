"""The caches in which libraries keep parts of requests, and how to empty them.

yarl, aiohttp and urllib keep what they parsed last (addresses with their query, hosts, content
types; up to 128 of each kind). Nothing of a request may stay once it is answered, so these caches
are emptied then. They have no common switch: they are found by the type that
``functools.lru_cache`` gives a function, so that a cache which a library adds is found, too.
"""

from __future__ import annotations

import functools
import urllib.parse
from collections.abc import Callable
from types import ModuleType

import aiohttp.helpers
import yarl._parse
import yarl._url

_MODULES: tuple[ModuleType, ...] = (aiohttp.helpers, urllib.parse, yarl._parse, yarl._url)


def _caches() -> tuple[Callable[[], None], ...]:
    found = {
        id(value): value.cache_clear
        for module in _MODULES
        for value in vars(module).values()
        if isinstance(value, functools._lru_cache_wrapper)
    }
    return tuple(found.values())


_CLEAR = _caches()


def forget_requests() -> None:
    """Empty the caches. Takes about a microsecond."""
    for clear in _CLEAR:
        clear()
