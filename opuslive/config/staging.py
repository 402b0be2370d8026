"""New files, all of them or none, which never take the place of another one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from opuslive.errors import UsageError

#: The modes of folders that are made. A service has to pass what root makes.
_FOLDER_MODE = 0o700
_ROOTS_FOLDER_MODE = 0o755


@contextlib.contextmanager
def staged(files: Mapping[Path, str], group: int | None = None) -> Iterator[Callable[[], None]]:
    """Write files (path → text) beside their places; yields what puts them there.

    Only their owner may read them (mode 0600), and with a ``group`` its members, too (0640). If
    what is done inside fails, before or after they are in place, none is left, nor a folder that
    was made for them. Raises UsageError if they can't be written or if one exists.
    """
    with contextlib.ExitStack() as failing, contextlib.ExitStack() as always:
        written = {}
        for path, text in files.items():
            with _explained(path):
                _make_folder(path.parent, failing)
                written[path] = always.enter_context(_written(path, text, group))

        def place() -> None:
            for path, name in written.items():
                with _explained(path):
                    # Unlike a rename, a link replaces nothing.
                    path.hardlink_to(name)
                failing.callback(path.unlink, missing_ok=True)
            for path in files:
                with _explained(path):
                    _sync(path.parent)

        yield place
        failing.pop_all()


def _make_folder(folder: Path, failing: contextlib.ExitStack) -> None:
    mode = _ROOTS_FOLDER_MODE if os.geteuid() == 0 else _FOLDER_MODE
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    for parent in reversed(missing):
        parent.mkdir(mode)
        failing.callback(_remove_empty, parent)


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


@contextlib.contextmanager
def _written(path: Path, text: str, group: int | None) -> Iterator[Path]:
    """A file with this text beside the path, which is gone afterwards. Raises OSError."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode())
            file.flush()
            if group is not None:
                os.fchown(descriptor, -1, group)
                os.fchmod(descriptor, 0o640)
            os.fsync(descriptor)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise UsageError(
            f"{path} exists, and nothing is overwritten; move it away, or name another file."
        ) from None
    except OSError as error:
        raise UsageError(
            f"{path} can't be written ({error.strerror or error}); name a file in a folder that "
            "this user may write to."
        ) from None
