"""The units that ``opuslive systemd`` prints."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from opuslive.cli.systemd import service_unit, socket_unit
from opuslive.config.files import Settings
from opuslive.config.sections import parse_config
from opuslive.errors import UsageError
from tests.support.workplace import SERVED, Workplace

URL = "sqlite:///var/lib/opuslive/opuslive.db"
#: Something that is installed where the service's user can run it.
WORDS = ("sh",)

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd is not installed"
)


def settings(file: str = "/etc/opuslive/config.toml", **sections: Any) -> Settings:
    data = {"storage": {"url": URL}, **sections}
    return Settings(parse_config(data, source="test"), Path(file).parent, file=Path(file))


def lines(unit: str) -> list[str]:
    return [line for line in unit.split("\n") if not line.startswith("#")]


def analyze(tmp_path: Path, *command: str, **units: str) -> str:
    paths = []
    for name, unit in units.items():
        path = tmp_path / f"opuslive.{name}"
        path.write_text(unit)
        paths.append(str(path))
    done = subprocess.run(
        ["systemd-analyze", *command, *paths], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs_systemd
@pytest.mark.parametrize("port", [8080, 443])
def test_the_service_is_exposed_to_little(tmp_path: Path, port: int) -> None:
    unit = service_unit(settings(server={"port": port}), WORDS)
    analyze(tmp_path, "security", "--offline=true", "--threshold=20", service=unit)


@needs_systemd
def test_systemd_finds_no_fault_in_the_units(tmp_path: Path) -> None:
    given = settings("/etc/opus live/$x/50%.toml", server={"host": ["::1", "127.0.0.1"]})
    service, socket = service_unit(given, WORDS), socket_unit(given)
    # (The service's own command is not installed here, which verify tells of.)
    assert analyze(tmp_path, "verify", service=service, socket=socket) == ""


def test_the_service_runs_this_program_on_this_configuration() -> None:
    unit = lines(service_unit(settings(), WORDS))
    shell = shutil.which("sh")
    assert f"ExecStart={shell} --config /etc/opuslive/config.toml serve" in unit
    assert f"ExecReload={shell} --config /etc/opuslive/config.toml reload" in unit
    assert {"Type=notify", "User=opuslive", "StateDirectory=opuslive"} <= set(unit)


def test_words_that_systemd_would_read_otherwise_are_escaped() -> None:
    unit = lines(service_unit(settings('/etc/a b/$HOME/%h/"x".toml'), WORDS))
    start = next(line for line in unit if line.startswith("ExecStart="))
    assert start.endswith(' --config "/etc/a b/$$HOME/%%h/\\"x\\".toml" serve')


def test_the_time_to_stop_is_longer_than_that_to_drain() -> None:
    unit = lines(service_unit(settings(server={"drain": "5m", "drain_notice": "10s"}), WORDS))
    assert "TimeoutStopSec=340" in unit


@pytest.mark.parametrize(
    ("server", "capability"),
    [
        ({"port": 443}, "CAP_NET_BIND_SERVICE"),
        ({"port": 8443}, ""),
        (
            {"port": 8443, "public_url": "https://a.example.com", "tls": {"acme": "o@example.com"}},
            "CAP_NET_BIND_SERVICE",
        ),
    ],
)
def test_a_low_port_alone_needs_a_capability(server: Mapping[str, Any], capability: str) -> None:
    unit = lines(service_unit(settings(server=server), WORDS))
    assert f"CapabilityBoundingSet={capability}" in unit
    assert f"AmbientCapabilities={capability}" in unit


def test_what_the_service_reads_is_given_to_its_group() -> None:
    upstream = {"name": "a", "base_url": "http://127.0.0.1:9", "api_key_file": "provider.key"}
    unit = service_unit(settings(upstreams=[upstream]), WORDS)
    files = "/etc/opuslive/config.toml /etc/opuslive/provider.key"
    assert f"#   chown root:opuslive {files}\n" in unit
    assert f"#   chmod 0640 {files}\n" in unit


def test_data_elsewhere_is_writable_to_the_service_alone() -> None:
    unit = service_unit(settings(storage={"url": "sqlite:///srv/opus/live.db"}), WORDS)
    assert "ReadWritePaths=/srv/opus" in lines(unit)
    assert "install -d -o opuslive -g opuslive -m 0700 /srv/opus\n" in unit


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        (settings("/home/me/config.toml"), "move it to /etc/opuslive"),
        (settings(storage={"url": "sqlite:///root/x/y.db"}), "move it to /var/lib/opuslive"),
        (settings(storage={}), f'set [storage] url, such as "{URL}"'),
        (Settings(parse_config({}, source="test")), "opuslive init"),
    ],
)
def test_what_a_service_can_not_use_is_refused_with_a_remedy(given: Settings, remedy: str) -> None:
    with pytest.raises(UsageError) as raised:
        service_unit(given, WORDS)
    assert remedy in raised.value.message


def test_a_program_that_the_service_could_not_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        service_unit(settings(), ("no-such-program",))
    assert "is not found in PATH" in raised.value.message


@pytest.mark.parametrize(
    ("hosts", "addresses"),
    [
        ("127.0.0.1", ["127.0.0.1:8080"]),
        ("localhost", ["127.0.0.1:8080", "[::1]:8080"]),
        (["127.0.0.2", "::1"], ["127.0.0.2:8080", "[::1]:8080"]),
    ],
)
def test_the_socket_listens_where_the_server_would(hosts: object, addresses: list[str]) -> None:
    unit = lines(socket_unit(settings(server={"host": hosts})))
    found = [line for line in unit if line.startswith("ListenStream=")]
    assert found == [f"ListenStream={address}" for address in addresses]


def test_the_socket_of_the_certificate_authority_is_held_too() -> None:
    server = {"port": 443, "public_url": "https://a.example.com", "tls": {"acme": "o@example.com"}}
    unit = lines(socket_unit(settings(server={"host": ["127.0.0.1", "::1"], **server})))
    found = [line.partition("=")[2] for line in unit if line.startswith("ListenStream=")]
    assert found == ["127.0.0.1:443", "[::1]:443", "127.0.0.1:80", "[::1]:80"]


class TestCommand:
    pytestmark = SERVED

    def test_prints_the_socket_unit(self, workplace: Workplace) -> None:
        printed = workplace.run("systemd", "--socket")
        assert printed.status == 0
        assert printed.out.startswith("[Unit]\n")
        assert "ListenStream=127.0.0.1:" in printed.out
