"""The files: the key of the account, and each certificate with its private key in one file.

They are in a folder beside the database that only this user may open, with one folder in it for
each directory: the certificates of a directory for trying out (staging) are never taken for those
of another one. A file appears under its name only when it is complete and synced.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from opuslive.errors import UsageError
from opuslive.ownership import check_file, check_place

_FOLDER_MODE = 0o700
#: Bytes of a file of ours. (A chain of ten certificates has some 20 KB.)
_MAX_SIZE = 256 * 1024


class Store:
    """The files of one name at one directory."""

    def __init__(self, folder: Path, directory: str, name: str) -> None:
        """Make the folder. Raises UsageError if that can't be done, or if another user could
        change what is in it."""
        host = re.sub(r"[^a-z0-9.-]", "-", (urlsplit(directory).hostname or "").lower())
        digest = hashlib.sha256(directory.encode()).hexdigest()[:8]
        self.folder = folder / f"{host}-{digest}"
        self._account = self.folder / "account.pem"
        #: The private key, the certificate, and those between it and the root.
        self.certificate = self.folder / f"{name}.pem"
        try:
            _make_folder(self.folder)
        except OSError as error:
            raise UsageError(
                f"The folder {self.folder} for certificates can't be made "
                f"({error.strerror or error}); let this user write there, or set another path in "
                "[storage] url."
            ) from None

    def read_account_key(self) -> bytes | None:
        """The account's private key; None if there is none. Raises OSError."""
        return _read(self._account)

    def write_account_key(self, pem: bytes) -> None:
        """Raises OSError."""
        _write(self._account, pem)

    def read_certificate(self) -> bytes | None:
        """None if there is none. Raises OSError."""
        return _read(self.certificate)

    def write_certificate(self, pem: bytes) -> None:
        """Raises OSError."""
        _write(self.certificate, pem)


def _make_folder(folder: Path) -> None:
    """Raises OSError and UsageError."""
    what, instead = "The folder for certificates", "set another path in [storage] url"
    check_place(folder, what, instead)
    for each in reversed([folder, *folder.parents]):
        if not each.exists():
            each.mkdir(_FOLDER_MODE, exist_ok=True)
            each.chmod(_FOLDER_MODE)  # whatever the umask is
    check_file(folder, what, instead)


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_SIZE)
    except FileNotFoundError:
        return None


def _write(path: Path, content: bytes) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
