"""Pebble, the authority that Let's Encrypt's makers test clients with, on free ports of loopback.

With its companion, a DNS server for which every name is 127.0.0.1. Both are Debian's.
"""

from __future__ import annotations

import itertools
import json
import shutil
import socket
import ssl
import subprocess
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import pytest
import trustme

from tests.support.waiting import eventually

#: What needs it.
NEEDS_PEBBLE = pytest.mark.skipif(
    not (shutil.which("pebble") and shutil.which("pebble-challtestsrv")),
    reason="pebble is not installed (Debian has it: apt-get install pebble)",
)


def free_port() -> int:
    """A port that nobody listens on for now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Pebble:
    """``start`` it, ``stop`` it; then it has forgotten everything, its root included.

    It asks port ``http_port`` for proofs.
    """

    def __init__(self, folder: Path) -> None:
        self.http_port = free_port()
        self._folder = folder
        self._port, self._management, self._dns = free_port(), free_port(), free_port()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._log = folder / "pebble.log"
        self._tls = trustme.CA()
        certificate = self._tls.issue_cert("127.0.0.1")
        certificate.private_key_pem.write_to_path(str(folder / "pebble-key.pem"))
        certificate.cert_chain_pems[0].write_to_path(str(folder / "pebble-chain.pem"))
        #: The root of the directory's own TLS.
        self.tls_root = folder / "pebble-tls-root.pem"
        self._tls.cert_pem.write_to_path(str(self.tls_root))

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._port}/dir"

    @property
    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    async def start(self) -> None:
        settings = {
            "listenAddress": f"127.0.0.1:{self._port}",
            "managementListenAddress": f"127.0.0.1:{self._management}",
            "certificate": str(self._folder / "pebble-chain.pem"),
            "privateKey": str(self._folder / "pebble-key.pem"),
            "httpPort": self.http_port,
            "tlsPort": free_port(),
        }
        file = self._folder / "pebble.json"
        file.write_text(json.dumps({"pebble": settings}))
        dns = f"127.0.0.1:{self._dns}"
        served = {
            "-dns01": dns,
            "-management": f"127.0.0.1:{free_port()}",
            "-http01": "",
            "-https01": "",
            "-tlsalpn01": "",
            "-defaultIPv6": "",
        }
        self._run(["pebble-challtestsrv", *itertools.chain(*served.items())])
        self._run(["pebble", "-strict", "-config", str(file), "-dnsserver", dns])
        ports = (self._port, self._management, self._dns)
        await eventually(lambda: all(map(_listens, ports)), "pebble")

    def root(self) -> str:
        """The root of the certificates that it issues, PEM."""
        context = ssl.create_default_context(cafile=self.tls_root)
        url = f"https://127.0.0.1:{self._management}/roots/0"
        with urllib.request.urlopen(url, context=context) as answer:
            pem: bytes = answer.read()
        return pem.decode()

    def issued(self) -> int:
        """How many certificates it has issued."""
        return self.log.count("Issued certificate serial")

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        self._processes.clear()

    def _run(self, command: Sequence[str]) -> None:
        # Half of the names that were proven are asked for again, and each tenth nonce is refused.
        environ = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "10"}
        with self._log.open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environ)
        self._processes.append(process)


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
