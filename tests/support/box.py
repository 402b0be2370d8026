"""A machine of its own to follow a guide on, as root, without touching this one.

It is a thread with its own view of the files and its own network: what it starts shares both. It
has this machine's programs, and every file of this machine is read-only to it. What it may change
is in memory and goes with it: a copy of ``/etc``, and ``/opt``, ``/run``, ``/var/lib`` and
``/usr/local/bin``, which are empty at first. It has no connection to anywhere, and every port free.

Nothing is ever deleted to clean up: through a mount, that would delete what is mounted.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from tests.support.documents import ROOT

_NEW_MOUNTS, _NEW_NETWORK = 0x00020000, 0x40000000
#: What guides change of a machine.
_REPLACED = tuple(map(Path, ("/etc", "/opt", "/run", "/var/lib", "/usr/local/bin")))
#: No file system on a disk is below these.
_OF_THE_KERNEL = ("/proc", "/sys", "/dev")
PATH = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: What of the source an administrator has.
_LEFT_OUT = (
    ".git",
    ".venv",
    ".clients",
    ".*_cache",
    "__pycache__",
    "build",
    "dist",
    "*.egg-info",
    "tests",
)
_TOOLS = ("ip", "mount", "setpriv", "useradd", "curl", "tar")


def _may() -> bool:
    if os.geteuid() != 0 or not all(map(shutil.which, _TOOLS)):
        return False
    return subprocess.run(["unshare", "--mount", "--net", "true"], check=False).returncode == 0


#: $0 is where it has to run.
_ONLY_HERE = 'test "$(readlink /proc/self/ns/mnt)" = "$0"; eval "$1"'


def _namespace(who: str) -> str:
    return str(Path(f"/proc/{who}/ns/mnt").readlink())


#: What needs one.
NEEDS_BOX = pytest.mark.skipif(
    not _may(), reason="only root can follow the guides, with iproute2, util-linux, curl and tar"
)


class Box:
    """``folder`` is where it keeps what it changes, ``source`` a checkout: the working folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = folder / "source"
        self._namespace = ""
        self.environ = {
            "PATH": f"{folder}/bin:{PATH}",
            "HOME": f"{folder}/home",
            "TMPDIR": f"{folder}/tmp",
            "LANG": "C.UTF-8",
        }

    def make(self) -> None:
        """Make it. Of what the calling thread sees from now on, no other thread sees anything."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_NEW_MOUNTS | _NEW_NETWORK) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        self._namespace = _namespace("thread-self")
        assert self._namespace != _namespace("self"), "others would see what is mounted"
        _run("mount", "--make-rprivate", "/")
        others = _mounts()
        _run("mount", "-t", "tmpfs", "-o", "mode=0755,size=1g", "opuslive", self.folder)
        for name in ("bin", "home", "tmp"):
            (self.folder / name).mkdir()
        (self.folder / "tmp").chmod(0o1777)
        _run("cp", "--archive", "/etc", self.folder / "etc")
        for number, path in enumerate(_REPLACED):
            own_files = self.folder / "etc" if path == Path("/etc") else self.folder / str(number)
            own_files.mkdir(exist_ok=True)
            _run("mount", "--bind", own_files, path)
        for place in others:
            _run("mount", "-o", "remount,bind,ro", place)
        shutil.copytree(ROOT, self.source, ignore=shutil.ignore_patterns(*_LEFT_OUT))
        _run("ip", "link", "set", "lo", "up")

    def name(self, host: str) -> None:
        """Let a host's name lead to this machine."""
        with Path("/etc/hosts").open("a") as hosts:
            hosts.write(f"127.0.0.1 {host}\n")

    def take_away(self, pattern: str) -> None:
        """Nobody finds the programs of these names any more."""
        for folder in PATH.split(":"):
            for program in Path(folder).glob(pattern):
                target = program.resolve()
                if target.is_file():
                    _run("mount", "--bind", "/dev/null", target)

    def words(self, block: str) -> list[str]:
        """A shell that carries out the block here, and nothing of it anywhere else."""
        return ["sh", "-euc", _ONLY_HERE, self._namespace, block]

    async def install(self, block: str) -> str:
        """Type a block that fetches libraries: with this machine's network."""
        ours = f"--net=/proc/{os.getpid()}/ns/net"
        kept = {name: self.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG")}
        network = {name: value for name, value in os.environ.items() if _of_the_network(name)}
        return await self._run(["nsenter", ours, *self.words(block)], kept | network)

    async def follow(self, block: str, **environ: str) -> str:
        """Type a block of a guide; return what it printed. It has to succeed."""
        return await self._run(self.words(block), self.environ | environ)

    async def _run(self, words: Sequence[str], environ: Mapping[str, str]) -> str:
        done = await asyncio.to_thread(
            subprocess.run,
            words,
            env=environ,
            cwd=self.source,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=300,
        )
        told = done.stdout.decode()
        assert done.returncode == 0, (words, told, done.stderr.decode())
        return told


def _of_the_network(name: str) -> bool:
    trusted = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
    return name.startswith("PIP_") or name.lower().endswith("_proxy") or name in trusted


def _mounts() -> list[str]:
    """Where file systems are mounted that have files of this machine."""
    lines = Path("/proc/thread-self/mountinfo").read_text().splitlines()
    places = [line.split()[4] for line in lines]
    kernels = [f"{each}/" for each in _OF_THE_KERNEL]
    return [place for place in places if not f"{place}/".startswith(tuple(kernels))]


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


async def in_a_box(follow: Callable[[Box], Coroutine[Any, Any, None]]) -> None:
    """Follow guides on a machine of their own."""
    ended: Future[None] = Future()

    def live() -> None:
        try:
            box.make()
            asyncio.run(follow(box))
        except BaseException as error:
            ended.set_exception(error)
        else:
            ended.set_result(None)

    # A short path, as the paths of sockets have to be. It stays empty: what the thread has there
    # is mounted, for that thread alone.
    box = Box(Path(tempfile.mkdtemp(prefix="opuslive-")))
    thread = threading.Thread(target=live)
    thread.start()
    try:
        await asyncio.to_thread(thread.join)
    finally:
        box.folder.rmdir()
    ended.result()
