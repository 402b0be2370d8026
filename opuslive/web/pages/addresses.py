"""Addresses of pages that are about something with a name of the administrator's choosing."""

from __future__ import annotations

from urllib.parse import quote, urlencode

GROUPS = "/admin/groups"
#: Browsers take these for the folder and the one above it, however they are written in a path.
_DOTS = (".", "..")


def group_address(name: str, **query: str) -> str:
    """The page of a group, whatever characters its name has."""
    if name in _DOTS:
        return f"{GROUPS}?{urlencode({'name': name, **query})}"
    return f"{GROUPS}/{quote(name, safe='')}" + (f"?{urlencode(query)}" if query else "")
