"""Steers shim.c: compiles it, and lets a test say which call is to go wrong, and how.

The plan is a file that both processes map, so it can be changed while the other one runs.
"""

from __future__ import annotations

import enum
import errno
import mmap
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from tests.support.server import Server

_SOURCE = Path(__file__).with_name("shim.c")
_FIELDS = (
    "action",
    "files",
    "operations",
    "first",
    "last",
    "error",
    "delay",
    "calls",
    "faults",
    "steps",
)
_STEPS = 8192
_SIZE = 8 * len(_FIELDS) + 2 * _STEPS
FOREVER = 2**62


class Action(enum.IntEnum):
    """What becomes of a call."""

    NOTHING = 0
    FAIL = 1
    SHORT = 2
    DELAY = 3
    KILL = 4
    TORN = 5


class File(enum.IntFlag):
    """Which of the database's files a call is about; FOLDER is the one that they are in, ASIDE
    what has the database's name, a dot and something else."""

    DATABASE = 1
    WAL = 2
    SHM = 4
    FOLDER = 8
    ANY = 15
    ASIDE = 16


class Operation(enum.IntFlag):
    """What kind of call it is."""

    WRITE = 1
    SYNC = 2
    TRUNCATE = 4
    UNLINK = 8
    OPEN = 16
    ANY = 31
    CHANGE = 15
    RENAME = 32


def compiled(folder: Path) -> Path:
    """The library, made of shim.c. Skips the test where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler: faults in storage are injected by a library in C")
    library = folder / "shim.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library)]
    subprocess.run([*command, str(_SOURCE), "-ldl"], check=True)
    return library


class Faults:
    """The plan of one server's faults. The server has to be started after this was made."""

    def __init__(self, library: Path, server: Server) -> None:
        path = server.folder / "faults"
        path.write_bytes(bytes(_SIZE))
        with path.open("r+b") as file:
            self._plan = mmap.mmap(file.fileno(), _SIZE)
        server.environ |= {
            "LD_PRELOAD": str(library),
            "OPUSLIVE_FAULTS": str(path),
            "OPUSLIVE_FAULTS_DATABASE": str(server.database),
        }

    def inject(
        self,
        action: Action,
        *,
        files: File = File.ANY,
        operations: Operation = Operation.CHANGE,
        first: int = 1,
        last: int = FOREVER,
        error: int = errno.EIO,
        delay: int = 0,
    ) -> None:
        """Take the action on the calls of these numbers, counted from now and from 1.

        ``error`` is the errno of calls that fail, ``delay`` in ms how long others wait:
        no longer than until ``lift``.
        """
        self.lift()
        values = {"files": files, "operations": operations, "first": first, "last": last}
        for name, value in {**values, "error": error, "delay": delay, "calls": 0}.items():
            self._set(name, value)
        self._set("faults", 0)
        self._set("action", action)

    def lift(self) -> None:
        """Let all calls be as they are."""
        self._set("action", Action.NOTHING)

    @property
    def injected(self) -> int:
        """How many calls the last action was taken on."""
        return self._get("faults")

    @property
    def calls(self) -> int:
        """How many calls there were that it could have been taken on."""
        return self._get("calls")

    def steps(self) -> list[tuple[File, Operation]]:
        """Every call to any of the files, since the beginning."""
        start = 8 * len(_FIELDS)
        trace = self._plan[start : start + 2 * min(self._get("steps"), _STEPS)]
        return [
            (File(file), Operation(operation))
            for file, operation in zip(trace[::2], trace[1::2], strict=True)
        ]

    def forget(self) -> None:
        """Be as if there had been no call yet."""
        self._set("steps", 0)

    def _set(self, name: str, value: int) -> None:
        struct.pack_into("<Q", self._plan, 8 * _FIELDS.index(name), value)

    def _get(self, name: str) -> int:
        value: int = struct.unpack_from("<Q", self._plan, 8 * _FIELDS.index(name))[0]
        return value
