"""What is handed out: the program in one file, a wheel and a source distribution."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support.building import run
from tests.support.documents import ROOT
from tests.support.pebble import NEEDS_PEBBLE, Pebble
from tests.support.provider import ScriptedUpstream
from tests.support.server import Server, Servers
from tests.support.service_user import NEEDS_TWO_USERS, Installation, lives, server_of
from tests.support.wire import message_body

#: The C library's own package, which every GNU/Linux system has.
C_LIBRARY = "libc.so.6 libm.so.6 libdl.so.2 libpthread.so.0 libresolv.so.2 librt.so.1 libutil.so.1"
#: What the executable may take up, in bytes.
MOST_BYTES = 45_000_000
#: Goes into a root folder ($1) that has nothing but the executable, the system's C library and the
#: folder ($2) of the test. All of it is done by one process, which becomes the program.
ENTER = """
mount --rbind /proc "$1/proc"
mkdir -p "$1$2"
mount --bind "$2" "$1$2"
root=$1
shift 2
exec /usr/sbin/chroot "$root" /opuslive "$@"
"""

pytestmark = [pytest.mark.long, pytest.mark.asyncio(loop_scope="module")]


def entries(folder: Path) -> set[str]:
    """The files of the package that run or are read when it runs."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in (folder / "opuslive").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", out)
    return out


@pytest.fixture
def server(servers: Servers, provider: ScriptedUpstream, executable: Path) -> Server:
    """Runs the executable where there is no Python; without the rights to make such a place,
    with an empty environment alone."""
    server = servers.make(provider.base_url)
    del server.environ["PYTHONPATH"]
    server.program = [str(executable)]
    if os.geteuid() == 0:
        server.program = enter(executable, server.folder)
    else:
        server.environ["PATH"] = "/nonexistent"
    return server


class TestExecutable:
    async def test_it_is_of_a_size_to_be_copied_around(self, executable: Path) -> None:
        assert executable.stat().st_size <= MOST_BYTES

    async def test_a_turn_works_where_there_is_no_python(
        self, server: Server, upstream: ScriptedUpstream
    ) -> None:
        await server.start()
        key = (await server.create_key("alice", "--limit", "100 requests/1m"))["key"]
        whole = await server.messages(key, message_body())
        streamed = await server.messages(key, message_body(stream=True))
        assert (whole.status, streamed.status) == (200, 200)
        assert streamed.body.rstrip().endswith(b'"message_stop"}')
        assert len(await server.records(key)) == 2
        listed = await server.run("keys", "list")
        assert (listed.status, "alice" in listed.out) == (0, True)
        page = await server.request("GET", "/privacy")
        assert (page.status, page.header("content-type")) == (200, "text/html; charset=utf-8")
        assert await server.stop() == 0

    async def test_it_is_one_process_that_leaves_no_file(self, server: Server) -> None:
        await server.start()
        assert server.process is not None
        pid = server.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        assert (Path(f"/proc/{pid}/comm").read_text(), children) == ("opuslive\n", "")
        await server.kill()
        assert list((server.folder / "tmp").iterdir()) == []

    async def test_what_was_answered_is_recorded_after_a_kill(
        self, server: Server, upstream: ScriptedUpstream
    ) -> None:
        await server.start()
        key = await server.holder()
        assert (await server.messages(key, message_body())).status == 200
        await server.kill()
        await server.start()
        assert len(await server.records(key)) == 1

    @NEEDS_PEBBLE
    async def test_it_has_what_it_takes_to_get_its_certificate(self, server: Server) -> None:
        pebble = Pebble(server.folder)
        with server.config_file.open("a") as file:
            file.write(
                '[server]\npublic_url = "https://ai.example.com"\n[server.tls]\n'
                f'acme = "ops@example.com"\nacme_directory = "{pebble.url}"\n'
                f'acme_ca = "{pebble.tls_root}"\nacme_http_port = {pebble.http_port}\n'
            )
        try:
            await pebble.start()
            await server.start()
            await server.logged("ai.example.com has a new certificate")
        finally:
            pebble.stop()
        assert await server.stop() == 0

    @NEEDS_TWO_USERS
    @pytest.mark.timeout(400)
    async def test_root_s_commands_work_beside_a_service_with_a_user_of_its_own(
        self, servers: Servers, upstream: ScriptedUpstream, executable: Path
    ) -> None:
        server = server_of(servers, upstream)
        del server.environ["PYTHONPATH"]
        server.environ["PATH"] = "/usr/bin:/bin"
        program = str(shutil.copy(executable, server.folder / "opuslive"))
        await lives(Installation(server, [program], [program]), upstream)

    async def test_it_tells_the_versions_of_what_is_in_it(self, server: Server) -> None:
        told = await server.run("--version")
        assert re.fullmatch(r"opuslive \S+ \(Python \S+, SQLite \S+, aiohttp .+\)\n", told.out)


def enter(executable: Path, folder: Path) -> list[str]:
    root = folder / "root"
    libraries = root / "lib" / f"{os.uname().machine}-linux-gnu"
    for place in (root / "proc", libraries):
        place.mkdir(parents=True)
    shutil.copy(executable, root / "opuslive")
    found = subprocess.run(["ldd", executable], capture_output=True, text=True).stdout
    linker = re.search(r"^\s*(/\S+/ld-linux\S+)", found, re.MULTILINE)
    beside = re.search(r"libc\.so\.6 => (/\S+)/libc\.so\.6", found)
    assert linker is not None
    assert beside is not None
    (root / linker[1].lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(linker[1], root / linker[1].lstrip("/"))
    for name in C_LIBRARY.split():
        shutil.copy(Path(beside[1]) / name, libraries)
    return ["unshare", "-m", "sh", "-euc", ENTER, "sh", str(root), str(folder)]


class TestWheel:
    async def test_it_has_every_file_of_the_package_and_no_other(self, built: Path) -> None:
        (wheel,) = built.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert packed == entries(ROOT)
        assert wheel.name.endswith("-py3-none-any.whl")

    async def test_the_source_has_what_the_wheel_is_built_of(self, built: Path) -> None:
        (source,) = built.glob("*.tar.gz")
        with tarfile.open(source) as archive:
            packed = {name.partition("/")[2] for name in archive.getnames()}
        assert entries(ROOT) <= packed
        assert {"LICENSE", "README.md", "setup.cfg", "pyproject.toml"} <= packed

    async def test_a_fresh_installation_of_it_serves(
        self, built: Path, servers: Servers, tmp_path: Path
    ) -> None:
        (wheel,) = built.glob("*.whl")
        await asyncio.to_thread(run, sys.executable, "-m", "venv", tmp_path / "venv")
        await asyncio.to_thread(run, tmp_path / "venv/bin/pip", "install", "--quiet", wheel)
        server = servers.make(None)
        del server.environ["PYTHONPATH"]
        server.program = [str(tmp_path / "venv/bin/opuslive")]
        await server.start("--sandbox")
        assert (await server.request("GET", "/readyz")).status == 200
        assert await server.stop() == 0
