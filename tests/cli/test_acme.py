"""``serve`` with ``[server.tls] acme``: what keeps it from starting, and who pays for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.pebble import free_port
from tests.support.workplace import UPSTREAM, MakeWorkplace, Workplace

#: What the extra installs, and what that brings.
EXTRA = {"acme", "josepy", "cryptography", "requests", "OpenSSL"}


@pytest.fixture
def made(make_workplace: MakeWorkplace) -> Workplace:
    return make_workplace(UPSTREAM, server=server())


def server(**tls: object) -> dict[str, Any]:
    # Nobody listens there: no authority is asked.
    directory = "https://127.0.0.1:9/dir"
    settings = {"acme": "a@b.example", "acme_directory": directory, "acme_http_port": free_port()}
    return {"public_url": "https://ai.example.com", "tls": settings | tls}


def refusal(work: Workplace) -> str:
    return work.run("serve", "--port", "0").complaint


@pytest.mark.parametrize("missing", ["acme", "josepy", "cryptography"])
def test_without_the_extra_the_command_that_installs_it_is_named(
    made: Workplace, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    complaint = refusal(made)
    assert complaint.endswith("what is not installed: run pip install 'opuslive[acme]'.")


def test_a_root_certificate_that_can_not_be_used_is_named(make_workplace: MakeWorkplace) -> None:
    work = make_workplace(UPSTREAM, server=server(acme_ca="ca.pem"))
    path = work.config_file.parent / "ca.pem"
    assert refusal(work) == (
        f"The root certificate {path} can't be used (No such file or directory); check "
        "[server.tls] acme_ca."
    )
    path.write_text("none")
    assert "ca.pem can't be used (no certificate in PEM)" in refusal(work)
    path.chmod(0o666)
    assert "may be written by other users" in refusal(work)


def test_a_folder_of_keys_that_others_may_write_to_is_refused(made: Workplace) -> None:
    folder = Path(f"{made.database}.acme")
    folder.mkdir()
    folder.chmod(0o777)
    complaint = refusal(made)
    assert complaint.startswith("The folder for certificates")
    assert "may be written by other users" in complaint


def test_a_folder_of_keys_that_can_not_be_made_is_named(made: Workplace) -> None:
    folder = Path(f"{made.database}.acme")
    folder.write_text("in the way")
    complaint = refusal(made)
    assert str(folder) in complaint
    assert "let this user write there" in complaint


def test_a_port_that_only_root_may_listen_on_is_named_with_the_remedy() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if first < 2:
        pytest.skip("here anybody may listen on any port")
    code = (
        "import asyncio\n"
        "from opuslive.errors import UsageError\n"
        "from opuslive.web.http.listening import open_sockets\n"
        "from opuslive.web.server import REMEDY\n"
        "try:\n"
        f"    asyncio.run(open_sockets(['127.0.0.1'], {first - 1}, remedy=REMEDY))\n"
        "except UsageError as error:\n"
        "    print(error.message)\n"
    )
    # Root may, unless it does without.
    without = ["setpriv", "--bounding-set=-net_bind_service"] if os.geteuid() == 0 else []
    if without and shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    done = subprocess.run(
        [*without, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ["PATH"]},
    )
    assert done.stdout.startswith(f"Can't listen on 127.0.0.1, port {first - 1}: Permission denied")
    assert "(CAP_NET_BIND_SERVICE), or set [server.tls] acme_http_port" in done.stdout


def test_who_does_not_use_it_does_not_load_it() -> None:
    code = (
        "import sys, opuslive.__main__, opuslive.cli, opuslive.cli.serve\n"
        f"print(*sorted({EXTRA} & set(sys.modules)))"
    )
    environ = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=True
    )
    assert done.stdout == "\n"
