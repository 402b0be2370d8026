"""Reading whole lists of the API, page by page."""

from __future__ import annotations

from typing import Any

from opuslive.cli.control import ControlClient

#: Keys in one answer of the API.
PAGE_SIZE = 500


async def all_keys(api: ControlClient, *, group: str | None = None) -> list[Any]:
    """All keys, oldest first; with ``group`` those of one."""
    found: list[Any] = []
    query = {"limit": str(PAGE_SIZE)} | ({} if group is None else {"group": group})
    while True:
        page = await api.call("GET", "keys", query=query)
        found += page["items"]
        if page["next"] is None:
            return found
        query["after"] = page["next"]
