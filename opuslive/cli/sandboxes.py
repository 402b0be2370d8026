"""Which sandboxes this user runs: so that commands find them, whose databases are temporary.

Each sandbox has a file with its address and the place of its database, in a folder of this user's.
A sandbox that was killed leaves its file behind; then nobody listens on the control socket beside
that database, and the file goes when the next sandbox starts.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from opuslive.config.files import control_path, sandboxes_path
from opuslive.errors import UsageError
from opuslive.ownership import check_file, check_place
from opuslive.storage import database_path

log = logging.getLogger(__name__)

#: Sandboxes that are looked at, and bytes of the file of each.
_MOST_SANDBOXES, _MOST_BYTES = 20, 10_000


@dataclass(frozen=True, slots=True)
class Sandbox:
    """``url`` is that of its database, ``address`` where its clients reach it."""

    url: str
    address: str


@contextlib.contextmanager
def noted(sandbox: Sandbox, environ: Mapping[str, str]) -> Iterator[bool]:
    """Let commands find the sandbox meanwhile. Yields whether they can."""
    try:
        file = _note(sandbox, environ)
    except (OSError, UsageError) as error:
        log.debug("there is no place to note the sandbox (%s)", type(error).__name__)
        file = None
    try:
        yield file is not None
    finally:
        if file is not None:
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)


def noted_sandboxes(environ: Mapping[str, str]) -> Iterator[Sandbox]:
    """Those that may run, the newest first. Raises UsageError if another user could have made
    them."""
    folder = sandboxes_path(environ)
    if folder is None or not folder.is_dir():
        return
    for file in _files(folder)[:_MOST_SANDBOXES]:
        try:
            check_file(file, "The note of a sandbox", "remove it")
            with file.open(encoding="utf-8") as opened:
                sandbox = Sandbox(**json.loads(opened.read(_MOST_BYTES)))
            database_path(sandbox.url)
        except (OSError, ValueError, TypeError):
            continue
        yield sandbox


def _note(sandbox: Sandbox, environ: Mapping[str, str]) -> Path | None:
    """Raises OSError, and UsageError if another user could change what is made there."""
    folder = sandboxes_path(environ)
    if folder is None:
        return None
    check_place(folder / "new", "The folder of sandboxes", "set XDG_STATE_HOME to another one")
    folder.mkdir(0o700, parents=True, exist_ok=True)
    _remove_old(folder, environ)
    number, name = tempfile.mkstemp(dir=folder, prefix=".")
    with os.fdopen(number, "w", encoding="utf-8") as opened:
        json.dump(asdict(sandbox), opened)
    # It has its name once all of it is there.
    file = Path(name)
    return file.rename(file.with_name(file.name.removeprefix(".") + ".json"))


def _remove_old(folder: Path, environ: Mapping[str, str]) -> None:
    """Remove the notes of sandboxes that have left no socket."""
    for file in _files(folder):
        with contextlib.suppress(OSError, ValueError, TypeError, UsageError):
            sandbox = Sandbox(**json.loads(file.read_text("utf-8")))
            if not control_path(sandbox.url, environ).exists():
                file.unlink()


def _files(folder: Path) -> list[Path]:
    """The notes, the newest first."""
    dated = []
    for file in folder.glob("*.json"):
        with contextlib.suppress(OSError):
            dated.append((file.stat().st_mtime_ns, file))
    return [file for _, file in sorted(dated, reverse=True)]
