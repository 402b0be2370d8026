"""Packs the single executable: ``pack.py LIBRARIES WORK OUT``.

LIBRARIES is a folder into which the program was installed with all it needs, WORK a folder for what
is made on the way. The file OUT is a program (``launcher.c``, with Python linked into it) and a
zip archive behind it: the standard library, LIBRARIES and ``embedded.py``.
"""

from __future__ import annotations

import marshal
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import MAGIC_NUMBER
from pathlib import Path

HERE = Path(__file__).parent

#: Of the standard library, what no server needs: tests, tools for development, windows.
LEFT_OUT = frozenset(
    "__pycache__ config-{} curses dbm distutils ensurepip idlelib lib2to3 lib-dynload msilib "
    "pydoc_data site-packages sqlite3/test test tests tkinter turtledemo turtle.py venv "
    "xxlimited xxlimited_35".format(sysconfig.get_config_var("MULTIARCH")).split()
)
#: Compiled modules of the standard library that only its tests use, and windows.
LEFT_OUT_MODULES = re.compile(
    r"_test|_ctypes_test|_xx|xx|_tkinter|_curses|_dbm|_gdbm|nis$|ossaudio"
)
#: What is in every GNU/Linux system: the C library in all its parts, which must match the kernel.
SYSTEM = re.compile(r"(libc|libm|libdl|libpthread|librt|libutil|ld-linux.*|libresolv)\.so\.")
#: What is kept of the metadata of an installed package: its version, and on which terms it is used.
METADATA = re.compile(r".*\.dist-info/(METADATA|entry_points\.txt|licenses/.*|LICENSE.*)")
#: Needed before anything that is compressed can be read.
PLAIN = ("encodings/", "embedded.pyc", "libraries.pyc", "zlib")


def main(libraries: Path, work: Path, out: Path) -> None:
    """Raises SystemExit, with the remedy, if something is missing."""
    modules, shared = _Compiled(work), {}
    archive = work / "archive.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        for name, data in (*_standard_library(modules), *_installed(libraries, modules)):
            _add(packed, name, data)
        shared = modules.shared()
        for member, path in modules.files():
            _add(packed, member, path.read_bytes())
        table = f"MODULES = {modules.table()!r}\nSHARED = {shared!r}\n"
        _add(packed, "libraries.pyc", _compiled(table.encode(), "libraries.py"))
        embedded = (HERE / "embedded.py").read_bytes()
        _add(packed, "embedded.pyc", _compiled(embedded, "embedded.py"))
    launcher = work / "launcher"
    _compile_launcher(launcher)
    out.parent.mkdir(exist_ok=True)
    with out.open("wb") as whole:
        for part in (launcher, archive):
            with part.open("rb") as source:
                shutil.copyfileobj(source, whole)
    out.chmod(0o755)
    needs = max(_glibc_needed([launcher, *(path for _, path in modules.files())]))
    print(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB, Python {sys.version.split()[0]}, "
        f"runs with glibc {'.'.join(map(str, needs))} and newer"
    )


class _Compiled:
    """The compiled modules, and the shared libraries that they need."""

    def __init__(self, work: Path) -> None:
        self._folder = work / "compiled"
        self._folder.mkdir()
        #: Name of the module → its file, stripped; and the same for shared libraries.
        self._modules: dict[str, Path] = {}
        self._shared: dict[str, Path] = {}

    def add(self, name: str, path: Path) -> None:
        self._modules[name] = self._stripped(path, name)
        self._find_shared(path)

    def _find_shared(self, path: Path) -> None:
        for line in _run("ldd", str(path)).splitlines():
            found = re.match(r"\s*(\S+) => (/\S+)", line)
            if found and SYSTEM.match(found[1]) is None and found[1] not in self._shared:
                self._shared[found[1]] = self._stripped(Path(found[2]), found[1])

    def _stripped(self, path: Path, name: str) -> Path:
        stripped = self._folder / name
        shutil.copyfile(path, stripped)
        _run("strip", "--strip-unneeded", str(stripped))
        return stripped

    def _needed(self, path: Path) -> list[str]:
        names = re.findall(r"\(NEEDED\).*\[(.+)\]", _run("readelf", "-d", str(path)))
        return [name for name in names if name in self._shared]

    def table(self) -> Mapping[str, tuple[str, Sequence[str]]]:
        """Module → its member of the archive, and the shared libraries that it needs."""
        return {
            name: (_member(name, "modules"), self._needed(path))
            for name, path in self._modules.items()
        }

    def shared(self) -> Mapping[str, tuple[str, Sequence[str]]]:
        """Shared library → the same."""
        return {
            name: (_member(name, "shared"), self._needed(path))
            for name, path in self._shared.items()
        }

    def files(self) -> Iterator[tuple[str, Path]]:
        """Member of the archive, and the file."""
        for name, path in self._modules.items():
            yield _member(name, "modules"), path
        for name, path in self._shared.items():
            yield _member(name, "shared"), path


def _member(name: str, folder: str) -> str:
    return f"{'zlib' if name == 'zlib' or name.startswith('libz.') else folder}/{name}"


def _standard_library(compiled: _Compiled) -> Iterator[tuple[str, bytes]]:
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if LEFT_OUT.isdisjoint(parts):
            yield _module("/".join(parts), path)
    dynamic = Path(sysconfig.get_config_var("DESTSHARED") or root / "lib-dynload")
    for path in sorted(dynamic.glob("*.so")):
        name = path.name.partition(".")[0]
        if LEFT_OUT_MODULES.match(name) is None:
            compiled.add(name, path)


def _installed(root: Path, compiled: _Compiled) -> Iterator[tuple[str, bytes]]:
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_dir() or "__pycache__" in name or name.startswith("bin/"):
            continue
        suffix = next((each for each in EXTENSION_SUFFIXES if name.endswith(each)), None)
        if suffix is not None:
            compiled.add(name.removesuffix(suffix).replace("/", "."), path)
        elif path.suffix == ".py":
            yield _module(name, path)
        elif ".dist-info/" in name:
            if METADATA.fullmatch(name):
                yield name, path.read_bytes()
        elif path.suffix not in (".pyi", ".pyx", ".pxd", ".c", ".h", ".so"):
            yield name, path.read_bytes()
        elif path.suffix == ".so" or ".so." in path.name:
            raise SystemExit(f"{name} is a library of a kind that the executable can't hold.")


def _module(name: str, path: Path) -> tuple[str, bytes]:
    return name + "c", _compiled(path.read_bytes(), name)


def _compiled(source: bytes, name: str) -> bytes:
    """A module as importing it writes it: never checked against a source."""
    code = compile(source, name, "exec", dont_inherit=True)
    return MAGIC_NUMBER + (0b01).to_bytes(4, "little") + bytes(8) + marshal.dumps(code)


def _add(packed: zipfile.ZipFile, name: str, data: bytes) -> None:
    # Without a time, so that the same files give the same archive.
    entry = zipfile.ZipInfo(name)
    plain = name.startswith(PLAIN)
    entry.compress_type = zipfile.ZIP_STORED if plain else zipfile.ZIP_DEFLATED
    packed.writestr(entry, data, compresslevel=9)


def _compile_launcher(out: Path) -> None:
    static = Path(sysconfig.get_config_var("LIBPL")) / sysconfig.get_config_var("LIBRARY")
    include = Path(sysconfig.get_path("include"))
    if not static.exists() or not (include / "Python.h").exists():
        raise SystemExit(
            f"{sys.executable} lacks its static library ({static}) or its headers; on Debian "
            "'apt-get install python3-dev' brings both, or set PYTHON to another interpreter."
        )
    _run(
        *("cc", "-O2", "-s", f"-I{include}", str(HERE / "launcher.c"), "-o", str(out)),
        # All of it: compiled modules use what Python itself doesn't.
        *("-Wl,--whole-archive", str(static), "-Wl,--no-whole-archive", "-Wl,--export-dynamic"),
        *_link_options(),
    )


def _link_options() -> Iterable[str]:
    for name in ("LIBS", "SYSLIBS"):
        for option in (sysconfig.get_config_var(name) or "").split():
            if option.startswith("-l"):
                yield option


def _glibc_needed(paths: Iterable[Path]) -> Iterator[tuple[int, ...]]:
    for path in paths:
        for version in re.findall(r"GLIBC_([0-9.]+)", _run("readelf", "-V", str(path))):
            yield tuple(map(int, version.split(".")))


def _run(*command: str) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError:
        raise SystemExit(f"{command[0]} is missing; install gcc and binutils.") from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{' '.join(command[:2])} failed:\n{error.stderr}") from None


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
