"""Files with secrets, the room on the disk, and how many files may be open."""

from __future__ import annotations

import resource
import shlex
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path

from opuslive.config.files import Settings, others_may_read, shown_path
from opuslive.diagnostics.findings import Finding, error, from_error, ok, warning
from opuslive.errors import UsageError
from opuslive.ownership import check_file
from opuslive.quantities import GB, KB, MB

#: Bytes free on the disk below which it is told, and below which it is an error.
LITTLE_ROOM = 500 * MB
NO_ROOM = 20 * MB
#: Files that a process should be allowed to open: each request takes two.
ENOUGH_FILES = 4096


def secrets(settings: Settings, database: Path) -> Iterable[Finding]:
    """A finding for each file with a secret."""
    config = settings.config
    if settings.file is not None and config.holds_secret:
        yield _secret(f"file {settings.file.name}", settings.file)
    for upstream in config.upstreams:
        if upstream.api_key_file is not None:
            path = settings.folder / upstream.api_key_file
            # Whether it is missing is told of the upstream.
            if path.exists():
                yield _secret(f"file {path.name}", path)
    smtp, tls = config.alerts.smtp, config.server.tls
    for name in (tls and tls.private_key, smtp and smtp.password_file):
        path = settings.folder / (name or "")
        if name is not None and path.exists():
            yield _secret(f"file {path.name}", path)
    for suffix in ("", "-wal"):
        path = Path(f"{database}{suffix}")
        if path.exists():
            yield _secret(f"file {path.name}", path)


def _secret(name: str, path: Path) -> Finding:
    try:
        check_file(path, "The file", "name another in the configuration")
        status = path.stat()
    except UsageError as problem:
        return from_error(name, problem)
    except OSError as problem:
        return error(name, f"can't be looked at: {problem.strerror}", "check its folder's mode")
    mode = f"{stat.S_IMODE(status.st_mode):04o}"
    if others_may_read(status):
        return warning(
            name,
            f"others may read it (mode {mode})",
            f"run 'chmod 600 {shlex.quote(shown_path(path))}'",
        )
    return ok(name, f"only who should can read it (mode {mode})")


def disk(database: Path, size: int) -> Finding:
    """Room for a database of so many bytes: a migration may need as much again."""
    folder = next(parent for parent in database.parents if parent.exists())
    try:
        free = shutil.disk_usage(folder).free
    except OSError as problem:
        return error("disk", f"can't be looked at: {problem.strerror}", f"check {folder}")
    text = f"{_shown(free)} free for the database"
    if free < NO_ROOM:
        return error("disk", text, "free some space: nothing can be recorded without")
    if free < max(LITTLE_ROOM, size):
        return warning("disk", text, "free some space: an upgrade may need as much as the database")
    return ok("disk", text)


def open_files(limit: int | None = None) -> Finding:
    """How many files the server may open; ``limit`` stands for what the system allows."""
    name = "open files"
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1] if limit is None else limit
    if hard == resource.RLIM_INFINITY:
        return ok(name, "as many as needed")
    if hard < ENOUGH_FILES:
        return warning(
            name,
            f"{hard:,} at most, and each request takes two",
            f"raise the limit: LimitNOFILE= in the systemd unit, or 'ulimit -Hn {ENOUGH_FILES}'",
        )
    return ok(name, f"{hard:,} at most")


def _shown(size: int) -> str:
    for unit, name in ((GB, "GB"), (MB, "MB"), (KB, "KB")):
        if size >= unit:
            return f"{size / unit:,.1f} {name}"
    return f"{size} bytes"
