"""Where the configuration, the database and the control socket are.

Here alone files and variables of the environment are looked for; other modules get the results.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from opuslive.config.sections import Config, default_config, parse_config_text
from opuslive.errors import UsageError
from opuslive.storage import database_path

CONFIG_VARIABLE = "OPUSLIVE_CONFIG"
SYSTEM_CONFIG = Path("/etc/opuslive/config.toml")
#: Bytes. Linux takes 107, macOS 103.
MAX_SOCKET_PATH = 100


@dataclass(frozen=True, slots=True)
class Settings:
    """A configuration, and the folder that its relative paths start from.

    ``warning`` is a sentence for the administrator if others may read secrets in the file.
    """

    config: Config
    folder: Path = Path()
    warning: str | None = None


def load_settings(path: str | None, environ: Mapping[str, str]) -> Settings:
    """Read the configuration: the named file, else the first one found, else the defaults.

    Raises UsageError if the file is missing, unreadable or no valid configuration.
    """
    found = config_path(path, environ)
    return Settings(default_config(environ)) if found is None else _read_settings(found)


def config_path(path: str | None, environ: Mapping[str, str]) -> Path | None:
    """The file with the configuration: the named one, else the first one found, else None."""
    named = path or environ.get(CONFIG_VARIABLE)
    if named:
        return Path(named)
    home = environ.get("XDG_CONFIG_HOME") or str(Path("~/.config").expanduser())
    candidates = (Path("config.toml"), Path(home, "opuslive", "config.toml"), SYSTEM_CONFIG)
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def database_url(config: Config, environ: Mapping[str, str]) -> str:
    """The URL of the database: as configured, else by the XDG rules."""
    if config.storage.url is not None:
        return config.storage.url
    state = environ.get("XDG_STATE_HOME") or str(Path("~/.local/state").expanduser())
    return f"sqlite://{Path(state, 'opuslive', 'opuslive.db').absolute()}"


def control_path(url: str, environ: Mapping[str, str]) -> Path:
    """The path of the Unix socket on which the server of this database hears commands.

    The socket stands beside the database, or in $XDG_RUNTIME_DIR if the path would be too long.
    """
    database = str(database_path(url))
    beside = Path(f"{database}.sock")
    runtime = environ.get("XDG_RUNTIME_DIR")
    if len(str(beside).encode()) <= MAX_SOCKET_PATH or not runtime:
        return beside
    digest = hashlib.blake2b(database.encode(), digest_size=8).hexdigest()
    return Path(runtime, f"opuslive-{digest}.sock")


def _read_settings(path: Path) -> Settings:
    try:
        text = path.read_text("utf-8")
        status = path.stat()
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from None
    config = parse_config_text(text, source=str(path))
    warning = None
    if config.holds_secret and others_may_read(status):
        warning = exposure_warning(path, status)
    return Settings(config, path.parent, warning)


def unreadable(path: Path, error: OSError | UnicodeDecodeError) -> UsageError:
    """The error of a configuration that can't be read."""
    reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
    return UsageError(f"The configuration {path} can't be read: {reason}.")


def others_may_read(status: os.stat_result) -> bool:
    """Whether the mode of a file lets other users read or write the file.

    The group counts as others only if this user owns the file: in a file of another owner, the
    group is how this process is meant to read.
    """
    return bool(status.st_mode & (0o077 if status.st_uid == os.geteuid() else 0o007))


def exposure_warning(path: Path, status: os.stat_result) -> str:
    """The sentence about a file with a secret that others may read, with the remedy."""
    mode = stat.S_IMODE(status.st_mode)
    return (
        f"{path} holds a secret and others may read it (mode {mode:04o}); run 'chmod 600 {path}'."
    )
