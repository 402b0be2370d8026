"""Origins of web pages, as browsers name them in the header ``Origin`` (RFC 6454, 6.2)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from opuslive.config.reader import Place, is_loopback, text, web_url
from opuslive.errors import UsageError

_DEFAULT_PORTS: Mapping[str, int] = MappingProxyType({"http": 80, "https": 443})
#: What is no page of the web: an extension of a browser, an application.
_OTHER = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9._-]+(?::[0-9]{1,5})?")


def origin(value: object, place: Place) -> str:
    """The origin, written as browsers write it: in lower case, without the scheme's own port.

    ``*`` and ``null`` are refused. A key opens the gateway, and no page has it by itself; yet with
    ``*`` every page that somebody opens could reach a gateway which only their network can, and
    guess at keys from there. ``null`` is the origin of any file and of any sandboxed frame. A page
    that came in clear may have been changed on its way, and it is given the key.
    """
    written = text(value, place)
    if written in ("*", "null"):
        raise place.error(
            f'"{written}" would let pages of anybody use this gateway from the browsers that reach '
            'it; name each origin, such as "https://chat.example.com"'
        )
    scheme = written.partition("://")[0].lower()
    if scheme not in _DEFAULT_PORTS:
        if _OTHER.fullmatch(written.lower()) is None or scheme == "file":
            raise _wrong(place)
        return written.lower()
    url = web_url(written, place)
    if url.path or written.endswith("/"):
        raise _wrong(place)
    if scheme == "http" and not is_loopback(url.hostname or ""):
        raise place.error(
            "a page that came over plain http may have been changed on its way, and would be given "
            "a key; write https://, or an origin on this machine"
        )
    host = url.netloc.lower().removesuffix(f":{_DEFAULT_PORTS[scheme]}")
    return f"{scheme}://{host}"


def _wrong(place: Place) -> UsageError:
    return place.error(
        'must be an origin such as "https://chat.example.com" or "http://localhost:3000": a '
        "scheme, a host and perhaps a port, with nothing behind them"
    )
