"""Which version of the program this is."""

from __future__ import annotations

import importlib.metadata


def version() -> str:
    """The version of the installed program."""
    return importlib.metadata.version("opuslive")
