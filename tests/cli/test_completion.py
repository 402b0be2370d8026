"""What shells complete."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.workplace import SERVED, Workplace

pytestmark = SERVED


def completed(workplace: Workplace, *words: str) -> list[str]:
    """What bash would offer for the last of the words."""
    line = " ".join(("opuslive", "--config", str(workplace.config_file), *words))
    environ = {
        "_OPUSLIVE_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(2 + len(words)),
    }
    out = workplace.run_bare(**environ).out
    return [offered.partition(",")[2] for offered in out.split()]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_that_the_shell_reads(
    workplace: Workplace, shell: str, tmp_path: Path
) -> None:
    script = workplace.run_bare("completion", shell)
    assert (script.status, script.err) == (0, "")
    if shutil.which(shell) is not None:
        path = tmp_path / "script"
        path.write_text(script.out)
        subprocess.run([shell, "-n", str(path)], check=True, timeout=20)


def test_keys_are_offered_by_name_or_else_by_id(workplace: Workplace) -> None:
    workplace.create_key("alice")
    spaced = workplace.create_key("two words")
    workplace.create_key("bobby")
    assert completed(workplace, "keys", "show", "alic") == ["alice"]
    assert completed(workplace, "usage", "bobb") == ["bobby"]
    offered = completed(workplace, "keys", "delete", "")
    assert set(offered) >= {"alice", "bobby", spaced["id"]}
    assert "two words" not in offered


def test_groups_of_the_configuration_are_offered(workplace: Workplace) -> None:
    groups = '\n[limits.groups]\nfriends = ["8 concurrent"]\nfamily = ["8 concurrent"]\n'
    workplace.config_file.write_text(workplace.config_file.read_text() + groups)
    assert completed(workplace, "keys", "create", "x", "--group", "f") == ["family", "friends"]


def test_where_nothing_can_be_found_nothing_is_offered_nor_made(workplace: Workplace) -> None:
    url = f'[storage]\nurl = "sqlite://{workplace.folder}/none/opuslive.db"\n'
    workplace.config_file.write_text(url)
    assert completed(workplace, "keys", "show", "") == []
    assert not (workplace.folder / "none").exists()
    workplace.config_file.write_text("nonsense")
    assert completed(workplace, "keys", "show", "") == []
