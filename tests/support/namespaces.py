"""Programs in a network namespace of their own: all that they can reach is one door on loopback.

``spawn`` runs this module as a program between ``unshare`` and the command. It brings the
namespace's loopback up, listens there, hands the listening socket to the process of the tests and
becomes the command. So what the command's connections lead to is the tests' to say, and it
finds nothing else, whatever it tries.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

#: The door's port inside. Nobody else is there who could have taken it.
PORT = 8080
BASE_URL = f"http://127.0.0.1:{PORT}"

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


def missing() -> str | None:
    """Why this machine has no network namespaces for us; None if it has."""
    if shutil.which("unshare") is None:
        return "unshare (util-linux) is not there"
    tried = subprocess.run([*_unshare(), "true"], capture_output=True, text=True)
    return f"no network namespace may be made: {tried.stderr.strip()}" if tried.returncode else None


def spawn(
    command: Sequence[str],
    *,
    environ: Mapping[str, str],
    folder: Path,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.PIPE,
    stderr: int | IO[bytes] = subprocess.PIPE,
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a command in a namespace; return it and the socket that listens there.

    Where its standard input is a terminal it controls the command.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        inside = [sys.executable, __file__, str(theirs.fileno()), *command]
        process = subprocess.Popen(
            [*_unshare(), *inside],
            env=environ,
            cwd=folder,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        _, (descriptor,), _, _ = socket.recv_fds(ours, 1, 1)
    return process, socket.socket(fileno=descriptor)


def _unshare() -> list[str]:
    return ["unshare", "--net"] if os.getuid() == 0 else ["unshare", "--net", "--map-root-user"]


def _enter(channel: int, command: list[str]) -> None:
    with socket.socket() as any_socket:
        name = struct.pack("16sh14x", b"lo", 0)
        _, flags = struct.unpack("16sh14x", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, name))
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))
    door = socket.create_server(("127.0.0.1", PORT), backlog=256)
    with door, socket.socket(fileno=channel) as ours:
        socket.send_fds(ours, [b"\0"], [door.fileno()])
    if os.isatty(0):
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.execvp(command[0], command)


if __name__ == "__main__":
    _enter(int(sys.argv[1]), sys.argv[2:])
