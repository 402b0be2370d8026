"""The database: whether it opens, and whether it is whole."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from opuslive.diagnostics.files import disk
from opuslive.diagnostics.findings import Finding, count, error, from_error, ok, warning
from opuslive.errors import OpusLiveError, UsageError
from opuslive.ownership import check_place
from opuslive.storage import DatabaseInUse, DatabaseState, check_engine, engine

_NAME = "database"


def engine_finding() -> Finding:
    """The engine's version."""
    name = "database engine"
    try:
        check_engine()
    except OpusLiveError as problem:
        return from_error(name, problem)
    return ok(name, engine())


def findings_of(path: Path, found: DatabaseState | OpusLiveError | None) -> Iterable[Finding]:
    """What an inspection says of the database at a path."""
    if isinstance(found, DatabaseInUse):
        yield warning(
            _NAME,
            "another OpusLive process has it, and hears no commands",
            "wait until that one has started or ended, then check again",
        )
    elif isinstance(found, OpusLiveError):
        yield from_error(_NAME, found)
    elif found is None:
        yield _place(path)
    else:
        yield _state(found)
    yield disk(path, found.size if isinstance(found, DatabaseState) else 0)


def _state(found: DatabaseState) -> Finding:
    if found.damage:
        return error(
            _NAME,
            f"is damaged: {found.damage[0]}",
            "stop the server, and restore a backup with 'opuslive database restore FILE'; the "
            "damaged one is kept",
        )
    keys = "" if found.keys is None else f", has {count(len(found.keys), 'key')}"
    if found.schema < found.known:
        return ok(
            _NAME,
            f"opens, and is whole{keys}; the next start brings it from schema {found.schema} to "
            f"{found.known}",
        )
    if found.damage is None:
        return ok(_NAME, f"opens{keys}; it is too large to be looked through in a few seconds")
    return ok(_NAME, f"opens, and is whole{keys}")


def _place(path: Path) -> Finding:
    """There is none yet: whether one can be made."""
    try:
        check_place(path, "The folder of the database", "set another path in [storage] url")
    except UsageError as problem:
        return from_error(_NAME, problem)
    except OSError as problem:
        return error(
            _NAME, f"its folder can't be seen: {problem.strerror}", "set another [storage] url"
        )
    folder = next(parent for parent in path.parents if parent.exists())
    if not os.access(
        folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids
    ):
        return error(
            _NAME,
            f"there is none yet, and this user can't write to {folder}",
            "set another path in [storage] url, or let this user own that folder",
        )
    return ok(_NAME, "there is none yet; the first start makes it")
