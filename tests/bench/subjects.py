"""The proxies that are measured: each is started on the first core, in front of the same origin."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import trustme

from tests.bench.processes import Tree, free_port, process, wait_for

#: The core of the subjects, and that of the origin and the clients.
SUBJECTS_CORE, OTHERS_CORE = 0, 1
#: What OpusLive's key is held to: each is looked at and counted for every request.
LIMITS = ("900M requests/1m", "900B tokens/5h", "900M usd/month")
#: The models whose requests go to the origin in plain text, and by TLS.
MODEL, TLS_MODEL = "claude-sonnet-4-5", "claude-opus-4-5"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the model provider of the benchmark listens; ``authority`` is a file with who signed
    its certificate."""

    port: int
    tls_port: int
    authority: Path


@dataclass(frozen=True, slots=True)
class Subject:
    """A proxy that runs. ``tls_port`` is where it passes requests on by TLS; 0: it does not."""

    name: str
    port: int
    pid: int
    seconds_to_start: float = 0.0
    key: str = "none"
    path: str = "/v1/messages"
    tls_port: int = 0

    @property
    def tree(self) -> Tree:
        return Tree(self.pid)


#: Starts a proxy, with a folder of its own, in front of an origin.
Start = Callable[[Path, Origin], AbstractContextManager[Subject]]


@contextlib.contextmanager
def running_origin(folder: Path, thinks: float = 0.0) -> Iterator[Origin]:
    """The model provider, which takes so many seconds for an answer."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "authority.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        folder / "origin.pem"
    )
    origin = Origin(free_port(), free_port(), folder / "authority.pem")
    given = (origin.port, thinks, origin.tls_port, folder / "origin.pem")
    with process(OTHERS_CORE, sys.executable, "-m", "tests.bench.origin", *map(str, given)):
        wait_for(origin.tls_port)
        yield origin


@contextlib.contextmanager
def opuslive(folder: Path, origin: Origin, *options: str) -> Iterator[Subject]:
    """OpusLive with everything on, and a key with limits; ``options`` are of ``keys create``."""
    config = folder / "config.toml"
    if not config.exists():
        config.write_text(
            f"""
            [server]
            port = 0
            [storage]
            url = "sqlite://{folder}/bench.db"
            [[upstreams]]
            name = "plain"
            base_url = "http://127.0.0.1:{origin.port}"
            api_key = "sk-of-the-provider"
            models = ["{MODEL}"]
            [[upstreams]]
            name = "tls"
            base_url = "https://127.0.0.1:{origin.tls_port}"
            api_key = "sk-of-the-provider"
            models = ["{TLS_MODEL}"]
            """
        )
        config.chmod(0o600)
    command = (sys.executable, "-m", "opuslive", "--config", str(config))
    limits = options or tuple(word for limit in LIMITS for word in ("--limit", limit))
    created = subprocess.run(
        [*command, "keys", "create", f"bench {time.time_ns()}", *limits, "--json"],
        capture_output=True,
        check=True,
    )
    environ = {"SSL_CERT_FILE": str(origin.authority)}
    began = time.perf_counter()
    with process(
        SUBJECTS_CORE, *command, "serve", ready="listens on", environ=environ, quiet=True
    ) as (pid, line):
        port = int(line.partition("http://127.0.0.1:")[2].split()[0])
        wait_for(port)
        key = json.loads(created.stdout)["key"]
        yield Subject("OpusLive", port, pid, time.perf_counter() - began, key, tls_port=port)


@contextlib.contextmanager
def nginx(folder: Path, origin: Origin) -> Iterator[Subject]:
    """As a streaming proxy that keeps connections to its upstream open."""
    port, tls_port = free_port(), free_port()
    common = """proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
                proxy_request_buffering off; client_max_body_size 100m;"""
    config = folder / "nginx.conf"
    config.write_text(
        f"""
        worker_processes 1; daemon off; error_log {folder}/error.log; pid {folder}/nginx.pid;
        worker_rlimit_nofile 20000;
        events {{ worker_connections 16000; }}
        http {{
          access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
          fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
          keepalive_requests 1000000;
          upstream plain {{ server 127.0.0.1:{origin.port}; keepalive 6000; }}
          upstream tls {{ server 127.0.0.1:{origin.tls_port}; keepalive 6000; }}
          server {{
            listen 127.0.0.1:{port} backlog=10000;
            location / {{ proxy_pass http://plain; {common} }}
          }}
          server {{
            listen 127.0.0.1:{tls_port};
            location / {{ proxy_pass https://tls; {common} }}
          }}
        }}"""
    )
    command = (nginx_path(), "-e", f"{folder}/error.log", "-c", str(config), "-p", str(folder))
    began = time.perf_counter()
    with process(SUBJECTS_CORE, *command) as (pid, _):
        wait_for(port)
        yield Subject("nginx", port, pid, time.perf_counter() - began, tls_port=tls_port)


def nginx_path() -> str:
    """Where it is; users' PATH may lack it. Raises SystemExit."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        sys.exit(
            "The benchmark measures beside nginx, and there is none; install it "
            "(Debian: apt-get install nginx-light)."
        )
    return found


@contextlib.contextmanager
def plain(folder: Path, origin: Origin) -> Iterator[Subject]:
    command = f"{sys.executable} -m tests.bench.plain {{port}} {{origin}}"
    with Beside("aiohttp, plain", command)(folder, origin) as subject:
        yield subject


@contextlib.contextmanager
def bifrost(folder: Path, origin: Origin) -> Iterator[Subject]:
    provider = {
        "keys": [{"name": "bench", "value": "sk-of-the-provider", "weight": 1, "models": []}],
        "network_config": {"base_url": f"http://127.0.0.1:{origin.port}"},
    }
    (folder / "config.json").write_text(json.dumps({"providers": {"anthropic": provider}}))
    command = f"bifrost-http -host 127.0.0.1 -port {{port}} -log-level error -app-dir {folder}"
    with Beside("Bifrost", command, "/anthropic/v1/messages")(folder, origin) as subject:
        yield subject


@contextlib.contextmanager
def litellm(folder: Path, origin: Origin) -> Iterator[Subject]:
    base = f"http://127.0.0.1:{origin.port}"
    (folder / "litellm.yaml").write_text(
        f"""
model_list:
  - model_name: {MODEL}
    litellm_params:
      model: anthropic/{MODEL}
      api_base: {base}
      api_key: sk-of-the-provider
"""
    )
    command = f"litellm --config {folder}/litellm.yaml --host 127.0.0.1 --port {{port}}"
    with Beside("LiteLLM", command)(folder, origin) as subject:
        yield subject


#: What is measured in each run; and the program that has to be there for those of others.
ALWAYS: Mapping[str, Start] = MappingProxyType(
    {"nginx": nginx, "OpusLive": opuslive, "aiohttp, plain": plain}
)
WHERE_INSTALLED: Mapping[str, tuple[str, Start]] = MappingProxyType(
    {"Bifrost": ("bifrost-http", bifrost), "LiteLLM": ("litellm", litellm)}
)


@dataclass(frozen=True, slots=True)
class Beside:
    """Any other proxy: a command in which ``{port}`` stands for where it is to listen, ``{origin}``
    for the port of the model provider, and ``{folder}`` for a folder of its own."""

    name: str
    command: str
    path: str = "/v1/messages"

    @classmethod
    def parse(cls, text: str) -> Beside:
        """``NAME[@/PATH]=COMMAND``. Raises ValueError."""
        name, equals, command = text.partition("=")
        name, _, path = name.partition("@")
        if not equals or not name or not command:
            raise ValueError("write NAME=COMMAND, or NAME@/PATH=COMMAND")
        return cls(name, command, path or "/v1/messages")

    @contextlib.contextmanager
    def __call__(self, folder: Path, origin: Origin) -> Iterator[Subject]:
        port = free_port()
        words = [
            word.format(port=port, origin=origin.port, folder=folder)
            for word in shlex.split(self.command)
        ]
        began = time.perf_counter()
        with process(SUBJECTS_CORE, *words, quiet=True) as (pid, _):
            wait_for(port)
            yield Subject(self.name, port, pid, time.perf_counter() - began, path=self.path)
