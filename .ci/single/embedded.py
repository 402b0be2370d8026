"""What the single executable runs first: it makes the libraries in the archive importable.

``LIBRARIES`` is the list that the packer wrote: what each compiled module needs beside the system's
C library.
"""

import os
import sys
import zipimport

# By the names under which Python has them before anything is imported: importlib itself is
# compressed.
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import ExtensionFileLoader

import _launcher
from libraries import MODULES, SHARED

#: Where systems keep the certificates of authorities. (The OpenSSL that is in here looks where the
#: system that built it has them.)
_AUTHORITIES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


class _MemoryLoader(ExtensionFileLoader):
    """Loads a compiled module from a file in memory."""

    def __init__(self, libraries: "_Libraries", name: str) -> None:
        super().__init__(name, f"{sys.executable}/{MODULES[name][0]}")
        self._libraries = libraries

    def create_module(self, spec: ModuleSpec) -> object:
        member, needed = MODULES[spec.name]
        for library in needed:
            self._libraries.load(library)
        spec.origin = _in_memory(self._libraries.read(member))
        return super().create_module(spec)


class _Libraries:
    """Finds the compiled modules of the archive. A finder of ``sys.meta_path``."""

    def __init__(self, archive: zipimport.zipimporter) -> None:
        self._archive = archive
        self._loaded: set[str] = set()

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name not in MODULES:
            return None
        loader = _MemoryLoader(self, name)
        return ModuleSpec(name, loader, origin=loader.path)

    def read(self, member: str) -> bytes:
        return self._archive.get_data(member)

    def load(self, library: str) -> None:
        """Load a shared library, and first those that it needs."""
        if library in self._loaded:
            return
        self._loaded.add(library)
        member, needed = SHARED[library]
        for other in needed:
            self.load(other)
        _launcher.load_library(_in_memory(self.read(member)))


def _in_memory(data: bytes) -> str:
    """The path of a file in memory with these bytes.

    It stays open: the dynamic linker takes two libraries with the same path for one.
    """
    file = os.memfd_create("opuslive", os.MFD_CLOEXEC)
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
    return f"/proc/self/fd/{file}"


def _find_authorities() -> None:
    """Let TLS find the system's certificates, unless the environment says where they are."""
    if "SSL_CERT_FILE" in os.environ or "SSL_CERT_DIR" in os.environ:
        return
    for path in _AUTHORITIES:
        if os.path.exists(path):  # noqa: PTH110 - pathlib would be imported for this alone
            os.environ["SSL_CERT_FILE"] = path
            return


def _use_them_alone() -> None:
    """Libraries that bring a list of authorities of their own get the system's. (Theirs would have
    to be a file on a disk.)"""
    certifi = type(sys)("certifi")
    certifi.where = lambda: os.environ.get("SSL_CERT_FILE", _AUTHORITIES[0])
    sys.modules["certifi"] = certifi


def _run() -> None:
    sys.meta_path.insert(0, _Libraries(zipimport.zipimporter(sys.executable)))
    sys.argv[0] = sys.orig_argv[0]
    _find_authorities()
    _use_them_alone()
    from opuslive.__main__ import main  # noqa: PLC0415 - it can be imported from here on

    main()


_run()
