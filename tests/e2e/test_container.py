"""The image of .ci/Containerfile, made and run without an engine: step by step, in a box."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.box import NEEDS_BOX, Box, in_a_box
from tests.support.documents import ROOT, guide
from tests.support.provider import ScriptedUpstream
from tests.support.waiting import PATIENCE

Step = tuple[str, str]

#: Runs the image ($1) as an engine does with README's options: read-only, with folders of its own,
#: as its user ($2), with nothing of the machine but its kernel.
RUN = """
mount --bind "$1" "$1"
mount -o remount,bind,ro "$1"
for each in etc/opuslive var/lib/opuslive; do mount --bind "$1.data/$each" "$1/$each"; done
mount -t tmpfs -o mode=1777 tmp "$1/tmp"
for each in proc dev; do mount --rbind "/$each" "$1/$each"; done
image=$1 user=$2
shift 2
exec /usr/sbin/chroot --userspec "$user" "$image" "$@"
"""


def stages() -> list[list[Step]]:
    """The steps of each stage: an instruction, and the rest of its line."""
    text = (ROOT / ".ci" / "Containerfile").read_text("utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    made: list[list[Step]] = []
    for line in filter(None, text.splitlines()):
        name, rest = line.split(maxsplit=1)
        if name == "FROM":
            made.append([])
        made[-1].append((name, " ".join(rest.split())))
    return made


def values(name: str) -> list[str]:
    """What this instruction says in the stage that becomes the image."""
    return [rest for step, rest in stages()[-1] if step == name]


def test_it_is_small_and_nobody_is_root_in_it() -> None:
    assert values("FROM") == ["scratch"]
    assert values("USER") == ["10001:10001"]
    assert set(values("VOLUME")[0].split()) == {"/etc/opuslive", "/var/lib/opuslive"}
    sources = {rest.split()[0] for step, rest in stages()[0] if step == "COPY"}
    assert all((ROOT / source).exists() for source in sources)


def test_what_it_installs_for_the_build_is_there() -> None:
    if shutil.which("apt-cache") is None:
        pytest.skip("there is no apt")
    (first,) = [rest for step, rest in stages()[0] if step == "RUN" and "apt-get" in rest]
    packages = first.rpartition("--no-install-recommends")[2].split()
    assert len(packages) > 3
    shown = subprocess.run(["apt-cache", "show", *packages], capture_output=True, text=True)
    assert set(re.findall(r"^Package: (\S+)$", shown.stdout, re.MULTILINE)) >= set(packages)


class Image:
    """What the steps made."""

    def __init__(self, box: Box) -> None:
        self._box = box
        self.root = box.folder / "image"

    async def build(self) -> None:
        source = self._box.folder / "context"
        source.mkdir()
        for name, rest in stages()[0]:
            if name == "COPY":
                *copied, target = rest.split()
                for each in copied:
                    self._copy(ROOT / each, source / target / (each if target == "./" else ""))
            elif name == "RUN" and "apt-get" not in rest:
                step = rest.replace("/image", str(self.root))
                await self._box.install(
                    f"cd {source}; PYTHON={sys.executable}; export PYTHON; {step}"
                )
        # What an engine adds: places for what comes from the kernel, and volumes.
        for name in ("proc", "dev"):
            (self.root / name).mkdir()
        shutil.copytree(self.root / "etc", f"{self.root}.data/etc")
        shutil.copytree(self.root / "var", f"{self.root}.data/var")
        for volume in values("VOLUME")[0].split():
            os.chown(f"{self.root}.data{volume}", 10001, 10001)

    def _copy(self, one: Path, target: Path) -> None:
        if one.is_dir():
            shutil.copytree(one, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(one, target)

    def words(self, *command: str) -> list[str]:
        environ = dict(pair.split("=") for rest in values("ENV") for pair in rest.split())
        given = [f"{name}={value}" for name, value in environ.items()]
        enter = ["unshare", "--mount", "sh", "-euc", RUN, "sh", str(self.root), *values("USER")]
        return ["env", "-i", "PATH=/usr/sbin:/usr/bin:/bin", *given, *enter, *command]

    async def run(self, *command: str) -> tuple[int, str]:
        done = await asyncio.to_thread(subprocess.run, self.words(*command), capture_output=True)
        return done.returncode, (done.stdout + done.stderr).decode()


def entrypoint(*arguments: str) -> Sequence[str]:
    (words,) = map(json.loads, values("ENTRYPOINT"))
    return [*words, *arguments]


def of_readme(verb: str) -> list[str]:
    """The words behind the image's name in README's line that begins so."""
    lines = guide("image").replace("\\\n", " ").splitlines()
    (line,) = [line for line in lines if line.startswith(f"podman {verb}")]
    words = shlex.split(line)
    names = [at for at, word in enumerate(words) if word == "opuslive"]
    return words[names[0 if verb == "exec" else -1] + 1 :]


@pytest.mark.long
@NEEDS_BOX
async def test_the_image_serves_read_only_and_as_nobody() -> None:
    library = Path(sysconfig.get_config_var("LIBPL"), sysconfig.get_config_var("LIBRARY"))
    if shutil.which("cc") is None or not library.exists() or shutil.which("dpkg") is None:
        pytest.skip("the executable can't be built here")

    async def follow(box: Box) -> None:
        image = Image(box)
        await image.build()
        size = sum(path.stat().st_size for path in image.root.rglob("*") if path.is_file())
        assert size < 50_000_000
        (health,) = values("HEALTHCHECK")
        healthy = json.loads(health.partition("CMD ")[2])
        assert (await image.run(*healthy))[0] != 0
        upstream = ScriptedUpstream()
        await upstream.start()
        options = ("--yes", "--provider", upstream.base_url)
        status, told = await image.run(*entrypoint(*of_readme("run --rm"), *options))
        assert status == 0, told
        (command,) = map(json.loads, values("CMD"))
        server = await asyncio.create_subprocess_exec(
            *image.words(*entrypoint(*command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            assert server.stdout is not None
            async with asyncio.timeout(PATIENCE):
                assert b"listens on" in await server.stdout.readline()
            status, told = await image.run(*healthy)
            assert status == 0, told
            status, told = await image.run(*of_readme("exec"))
            assert status == 0, told
            key = re.search(r"sk-ant-ol-\w+-\w+", told)
            assert key is not None
            models = f"curl -sS http://127.0.0.1:8080/v1/models -H 'x-api-key: {key[0]}'"
            assert "claude-test-1" in await box.follow(models)
            owner = Path(f"/proc/{server.pid}").stat()
            assert (owner.st_uid, owner.st_gid) == (10001, 10001)
        finally:
            server.terminate()
            async with asyncio.timeout(PATIENCE):
                _, log = await server.communicate()
            await upstream.close()
        assert server.returncode == 0, log

    await in_a_box(follow)
