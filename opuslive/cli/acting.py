"""Root acts as the owner of the data, so that no file among them belongs to root.

That owner may not be allowed to read this program, as where root has installed it in its own home.
So what Python loads late is loaded before; where something is missing all the same, a sentence
says why.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from opuslive.errors import UsageError

#: What commands make Python load when they first need it.
_LOADED_LATE = ("encodings.ascii", "encodings.idna", "encodings.latin_1", "stringprep")


@contextlib.contextmanager
def as_owner_of(folder: Path) -> Iterator[None]:
    """As root, act as the owner of the folder, so that no file in it belongs to root.

    Raises UsageError if the owner can't load a part of this program.
    """
    if os.geteuid() != 0 or not folder.exists():
        yield
        return
    owner = folder.stat()
    for name in _LOADED_LATE:
        importlib.import_module(name)
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    except (ImportError, LookupError) as error:
        # (That an encoding is unknown is how Python says that it can't load one.)
        if owner.st_uid == 0 or not _is_about_loading(error):
            raise
        raise UsageError(
            f"The user with the id {owner.st_uid}, who owns {folder}, can't read all of this "
            f"program in {sys.prefix}; install it where every user can read it, such as in /opt."
        ) from error
    finally:
        os.seteuid(0)
        os.setegid(0)


def _is_about_loading(error: ImportError | LookupError) -> bool:
    return isinstance(error, ImportError) or str(error).startswith("unknown encoding")
