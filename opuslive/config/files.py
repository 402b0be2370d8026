"""Where the configuration, the database, the control socket and the token of /metrics are.

Here alone files and variables of the environment are looked for; other modules get the results.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from opuslive.config.sections import Config, parse_config_text, with_default_upstream
from opuslive.errors import UsageError
from opuslive.ownership import check_file, check_place
from opuslive.storage import database_path

CONFIG_VARIABLE = "OPUSLIVE_CONFIG"
WORKING_CONFIG = Path("config.toml")
SYSTEM_CONFIG = Path("/etc/opuslive/config.toml")
#: How it is told that the configuration is in wrong hands.
CHECKED = ("The configuration", "name another with --config")
#: Bytes. Linux takes 107, macOS 103.
MAX_SOCKET_PATH = 100
#: Characters of the token of /metrics: nobody guesses so many random ones.
MIN_TOKEN, MAX_TOKEN = 16, 256


@dataclass(frozen=True, slots=True)
class Settings:
    """A configuration, and the folder that its relative paths start from.

    ``warning`` is a sentence for the administrator if others may read secrets in the file.
    ``file`` is where it stands; None without one. ``named``: the command names that file itself.
    """

    config: Config
    folder: Path = Path()
    warning: str | None = None
    file: Path | None = None
    named: bool = False


def load_settings(path: str | None, environ: Mapping[str, str]) -> Settings:
    """Read the configuration: the named file, else the first one found, else the defaults.

    A configuration without upstreams has the default one, if the environment has its credential.
    Raises UsageError if the file is missing, unreadable or no valid configuration, or if another
    user could change it.
    """
    found = config_path(path, environ)
    settings = Settings(Config()) if found is None else _read_settings(found)
    config = with_default_upstream(settings.config, environ)
    return replace(settings, config=config, named=path is not None)


def config_path(path: str | None, environ: Mapping[str, str]) -> Path | None:
    """The file with the configuration: the named one, else the first one found, else None."""
    named = path or environ.get(CONFIG_VARIABLE)
    if named:
        return Path(named)
    candidates = [WORKING_CONFIG]
    folder = _xdg_folder("XDG_CONFIG_HOME", ".config", environ)
    if folder is not None:
        candidates.append(folder / "opuslive" / "config.toml")
    candidates.append(SYSTEM_CONFIG)
    return next((candidate for candidate in candidates if _is_found(candidate)), None)


def shown_path(path: Path) -> str:
    """The path for people to read: absolute, unless it is relative to a folder that is gone."""
    try:
        return str(path.absolute())
    except OSError:
        return str(path)


def config_path_to_write(path: str | None, environ: Mapping[str, str]) -> Path:
    """The absolute path of the configuration in use; without any, that of a new ./config.toml.

    Raises UsageError if the path is relative to a working folder that is gone.
    """
    relative = config_path(path, environ) or WORKING_CONFIG
    try:
        return relative.absolute()
    except OSError:
        raise UsageError(
            f"{relative} has no place, since the working folder is gone; change to another one, "
            "or give --config an absolute path."
        ) from None


def config_path_to_make(path: str | None, environ: Mapping[str, str]) -> Path:
    """The absolute path of a configuration to make: the named one, else ./config.toml, for root
    that of the system.

    Raises UsageError if there is one, or if another user could change what is made there.
    """
    named = path or environ.get(CONFIG_VARIABLE)
    relative = Path(named) if named else SYSTEM_CONFIG if os.geteuid() == 0 else WORKING_CONFIG
    try:
        made = relative.absolute()
        if os.path.lexists(made):
            raise UsageError(
                f"{made} exists, and nothing is overwritten; name another file with --config, "
                "change that one by hand, or move it away."
            )
        check_place(made, *CHECKED)
    except OSError as error:
        raise UsageError(
            f"{relative} can't be made ({error.strerror}); name another file with --config."
        ) from None
    return made


def database_url(config: Config, environ: Mapping[str, str]) -> str:
    """The URL of the database: as configured, else by the XDG rules.

    Raises UsageError if these give no place, since this user has no home.
    """
    if config.storage.url is not None:
        return config.storage.url
    state = _xdg_folder("XDG_STATE_HOME", ".local/state", environ)
    if state is None:
        raise UsageError(
            "There is no place for the database, since this user has no home folder; set [storage] "
            "url in the configuration, or HOME or XDG_STATE_HOME to the absolute path of a folder."
        )
    return f"sqlite://{state / 'opuslive' / 'opuslive.db'}"


def sandboxes_path(environ: Mapping[str, str]) -> Path | None:
    """The folder in which sandboxes of this user note where they are; None without a place."""
    state = _xdg_folder("XDG_STATE_HOME", ".local/state", environ)
    return None if state is None else state / "opuslive" / "sandboxes"


def control_path(url: str, environ: Mapping[str, str]) -> Path:
    """The path of the Unix socket on which the server of this database hears commands.

    The socket stands beside the database, or in $XDG_RUNTIME_DIR if the path would be too long.
    """
    database = str(database_path(url))
    beside = Path(f"{database}.sock")
    runtime = _absolute(environ.get("XDG_RUNTIME_DIR", ""))
    if len(os.fsencode(beside)) <= MAX_SOCKET_PATH or runtime is None:
        return beside
    digest = hashlib.blake2b(os.fsencode(database), digest_size=8).hexdigest()
    return runtime / f"opuslive-{digest}.sock"


def metrics_token(config: Config, environ: Mapping[str, str]) -> str | None:
    """The token that opens the metrics; None if the configuration names none.

    Raises UsageError if it is missing, or so short that it could be guessed.
    """
    variable = config.metrics.token_env
    if variable is None:
        return None
    token = environ.get(variable, "").strip()
    if re.fullmatch(rf"[!-~]{{{MIN_TOKEN},{MAX_TOKEN}}}", token) is None:
        raise UsageError(
            f"The token of /metrics is missing: put {MIN_TOKEN} to {MAX_TOKEN} characters without "
            "spaces, such as 'openssl rand -hex 32' prints, into the environment variable "
            f"{variable}, or remove [metrics] token_env."
        )
    return token


def certificates_path(url: str) -> Path:
    """The folder of the keys and certificates that the gateway of this database gets by itself."""
    return Path(f"{database_path(url)}.acme")


def _xdg_folder(variable: str, below_home: str, environ: Mapping[str, str]) -> Path | None:
    """The folder of an XDG variable, else the usual one below the home; None without a home.

    A path that is relative or empty counts as none: so the XDG rules want it.
    """
    named = _absolute(environ.get(variable, ""))
    if named is not None:
        return named
    home = _absolute(environ.get("HOME", "")) or _home_of_user()
    return None if home is None else home / below_home


def _home_of_user() -> Path | None:
    """The home that the system's list of users has for this one, who may not be in the list."""
    try:
        return _absolute(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return None


def _absolute(path: str) -> Path | None:
    return Path(path) if path.startswith("/") else None


def _is_found(candidate: Path) -> bool:
    """Whether a configuration is there.

    A working folder or a home that this user may not enter belongs to another user, and so would a
    configuration in it. The system's configuration is meant for this user: where it can't be seen
    it counts as found, so that the attempt to read it says why.
    """
    try:
        return candidate.is_file()
    except OSError:
        return candidate == SYSTEM_CONFIG


def _read_settings(path: Path) -> Settings:
    try:
        check_file(path, *CHECKED)
        text = path.read_text("utf-8")
        status = path.stat()
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from None
    config = parse_config_text(text, source=str(path))
    warning = None
    if config.holds_secret and others_may_read(status):
        warning = exposure_warning(path, status)
    return Settings(config, path.parent, warning, path)


def unreadable(path: Path, error: OSError | UnicodeDecodeError) -> UsageError:
    """The error of a configuration that can't be read."""
    reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
    return UsageError(f"The configuration {path} can't be read: {reason}.")


def others_may_read(status: os.stat_result) -> bool:
    """Whether the mode of a file lets other users read or write the file.

    The group counts as others only if this user owns the file: in a file of another owner, the
    group is how this process is meant to read. In a file of root's with another group, that is
    how a service is meant to.
    """
    own = status.st_uid == os.geteuid()
    for_service = status.st_uid == 0 != status.st_gid
    return bool(status.st_mode & (0o077 if own and not for_service else 0o007))


def exposure_warning(path: Path, status: os.stat_result) -> str:
    """The sentence about a file with a secret that others may read, with the remedy."""
    mode = stat.S_IMODE(status.st_mode)
    return (
        f"{path} holds a secret and others may read it (mode {mode:04o}); run 'chmod 600 {path}'."
    )
