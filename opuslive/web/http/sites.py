"""Whose page asks: browsers tell it of each request that could change something."""

from __future__ import annotations

from collections.abc import Collection
from types import MappingProxyType
from urllib.parse import urlsplit

from aiohttp import web

_DEFAULT_PORTS = MappingProxyType({"http": 80, "https": 443})


def is_foreign(request: web.Request, public_url: str | None) -> bool:
    """Whether a page of another site has a browser send this request. (Only browsers send the
    headers that tell it.) ``public_url`` is the gateway's configured address, if there is one."""
    site = request.headers.get("Sec-Fetch-Site", "same-origin")
    own = {
        _authority(f"//{request.headers.get('Host', '')}"),
        None if public_url is None else _authority(public_url),
    }
    origins = request.headers.getall("Origin", ())
    foreign = any(not _is_own(origin, own) for origin in origins)
    return foreign or site.lower() not in ("same-origin", "none")


def _is_own(origin: str, own: Collection[tuple[str, int | None] | None]) -> bool:
    named = _authority(origin)
    if named is None:
        return False
    host, port = named
    # A Host header does not say which scheme's port it left out.
    scheme = origin.partition(":")[0].lower()
    default = _DEFAULT_PORTS.get(scheme)
    return named in own or (port == default and (host, None) in own)


def _authority(url: str) -> tuple[str, int | None] | None:
    """Host and port of a URL; no port where only its scheme would tell it."""
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    return (parts.hostname, port) if parts.hostname else None
