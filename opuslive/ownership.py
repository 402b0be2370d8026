"""Whose files: refuses those that another user could change.

What this process obeys, keeps or serves has to be in the hands of root and of the user that it
runs as. Anyone else who can write to a file, or put another one in its place, decides what is in
it. So each step to a file counts: every folder, every symbolic link and what that leads to, and
the file itself.

- Each step belongs to root or to this user.
- Nobody else may write to it. What a group may write, its members may: so that counts as nobody
  else only with root's group, and with one that this user is in and no other user.
- A folder on the way may be open to everybody if it is sticky, as /tmp is: in such a folder
  nobody can move or remove what belongs to somebody else. A folder that files are made in may
  not, for another user could make them first.
- None of that counts on a file system that is mounted for reading only, as containers get their
  configuration, with owners that mean nothing there: no user of this system can write to it.

Access lists beyond the mode are not looked at.

What a server reads while it runs has to be at hand besides: a pipe or a terminal would keep it
waiting for whoever writes there.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

from opuslive.errors import UsageError

#: Symbolic links that are followed on the way to a file, as Linux does.
_MAX_LINKS = 40


def check_file(path: Path, what: str, instead: str) -> None:
    """Raise UsageError if another user could change this file, or what is in this folder.

    ``what`` begins the sentence, such as "The configuration"; ``instead`` ends it, with a remedy
    beside that of changing owner or mode. Raises OSError if it is not there, or can't be seen.
    """
    steps = list(_steps(path))
    for step, status in steps[:-1]:
        _check(step, status, path, what, instead, on_the_way=True)
    _check(*steps[-1], path, what, instead, on_the_way=False)


def check_place(path: Path, what: str, instead: str) -> None:
    """Raise UsageError if another user could change what this process makes at a path.

    Nothing is there yet; folders on the way may be missing, too. ``what`` and ``instead`` are as
    for ``check_file``. Raises OSError if a folder can't be seen.
    """
    with contextlib.suppress(FileNotFoundError):
        for step, status in _steps(path):
            _check(step, status, path, what, instead, on_the_way=True)


def check_at_hand(path: Path) -> None:
    """Raise OSError if reading this file could wait for somebody, or never end: it is a pipe, a
    socket or a device. Also if it is not there, or can't be seen."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))


def check_owner(path: Path, status: os.stat_result, what: str, instead: str) -> None:
    """Raise UsageError if a file belongs to another user, whatever its mode and its folders are.

    ``what`` and ``instead`` are as for ``check_file``.
    """
    if not _is_trusted(status.st_uid):
        raise _refusal(path, path, what, *_foreign(path, status), instead)


def _check(
    step: Path,
    status: os.stat_result,
    path: Path,
    what: str,
    instead: str,
    *,
    on_the_way: bool,
) -> None:
    problem = _problem(step, status, on_the_way=on_the_way)
    if problem is not None and not _is_read_only(step, status):
        raise _refusal(step, path, what, *problem, instead)


def _problem(step: Path, status: os.stat_result, *, on_the_way: bool) -> tuple[str, str] | None:
    """Why another user could change it by its owner and mode, and the command against that."""
    if not _is_trusted(status.st_uid):
        return _foreign(step, status)
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISLNK(status.st_mode) or (on_the_way and mode & stat.S_ISVTX):
        return None
    if mode & stat.S_IWOTH or (mode & stat.S_IWGRP and not _is_private(status.st_gid)):
        reason = f"may be written by other users (mode {mode:04o})"
        return reason, f"'chmod go-w {_shown(step)}'"
    return None


def _foreign(step: Path, status: os.stat_result) -> tuple[str, str]:
    """That another user owns it, and the command against that."""
    reason = f"belongs to another user (id {status.st_uid})"
    return reason, f"'chown {os.geteuid()} {_shown(step)}'"


def _is_read_only(step: Path, status: os.stat_result) -> bool:
    place = step.parent if stat.S_ISLNK(status.st_mode) else step
    return bool(os.statvfs(place).f_flag & os.ST_RDONLY)


def _refusal(
    step: Path, path: Path, what: str, reason: str, command: str, instead: str
) -> UsageError:
    place = "it" if step == path else str(step.absolute())
    return UsageError(
        f"{what} {path.absolute()} is not used, since {place} {reason}; run {command} if you "
        f"trust what is in it, or {instead}."
    )


def _shown(path: Path) -> str:
    return shlex.quote(str(path.absolute()))


def _is_trusted(uid: int) -> bool:
    return uid in (0, os.geteuid())


def _is_private(gid: int) -> bool:
    """Whether a group has no members but root and this user."""
    if gid == 0:
        return True
    if gid != os.getegid() and gid not in os.getgroups():
        return False
    try:
        named = set(grp.getgrgid(gid).gr_mem)
    except KeyError:  # a group without a name, as containers have
        named = set()
    users = pwd.getpwall()
    members = {user.pw_uid for user in users if user.pw_gid == gid or user.pw_name in named}
    unknown = named - {user.pw_name for user in users}
    return not unknown and all(map(_is_trusted, members))


def _steps(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every folder, link and file on the way to the path, as the kernel goes; itself last.

    A relative path begins at the working folder: whatever that is called, it stays the same.
    """
    place = Path("/" if path.is_absolute() else ".")
    yield place, place.lstat()
    parts = _reversed_parts(path)
    links = 0
    while parts:
        step = place / parts.pop()
        status = step.lstat()
        yield step, status
        if not stat.S_ISLNK(status.st_mode):
            place = step
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        target = step.readlink()
        if step.exists() and not os.path.lexists(place / target):
            # It leads to what has no path, as /dev/stdin does to a pipe.
            yield step, step.stat()
            place = step
            continue
        if target.is_absolute():
            place = Path("/")
        parts += _reversed_parts(target)


def _reversed_parts(path: Path) -> list[str]:
    return list(reversed(path.parts[1:] if path.is_absolute() else path.parts))
