"""``opuslive export``: a file is there when it is whole, with what was asked for."""

from __future__ import annotations

import csv
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from opuslive.administration.records import RECORD_COLUMNS
from opuslive.times import DAY_MS
from tests.support.keys import a_key, a_record
from tests.support.workplace import SERVED, MakeWorkplace, Workplace

pytestmark = SERVED


@pytest.fixture
def used(make_workplace: MakeWorkplace) -> Workplace:
    work = make_workplace()
    now = time.time_ns() // 1_000_000
    keys = [a_key(1, name="one"), a_key(2, name="two", group="friends"), a_key(3, name="none")]
    work.fill(keys, [a_record(key, time=now - days * DAY_MS) for key in (1, 2) for days in (0, 9)])
    return work


def names(text: str) -> Sequence[str]:
    return [row["key_name"] for row in csv.DictReader(text.splitlines())]


def test_all_records_are_written_with_a_server_and_without(used: Workplace) -> None:
    with used.serving():
        running = used.run("export").out
    assert names(running) == ["one", "one", "two", "two"]
    assert running.splitlines()[0] == ",".join(RECORD_COLUMNS)
    assert used.run("export").out == running


def test_keys_groups_and_times_are_chosen(used: Workplace) -> None:
    assert names(used.run("export", "two", "one").out) == ["two", "two", "one", "one"]
    assert names(used.run("export", "--group", "friends").out) == ["two", "two"]
    assert names(used.run("export", "--since", "2d").out) == ["one", "two"]
    assert names(used.run("export", "one", "--until", "2d").out) == ["one"]
    assert names(used.run("export", "none").out) == []
    lines = used.run("export", "one", "--format", "jsonl").out.splitlines()
    assert [tuple(json.loads(line)) for line in lines] == [RECORD_COLUMNS] * 2


def test_a_file_is_its_owners_and_is_not_replaced_unasked(used: Workplace, tmp_path: Path) -> None:
    file = tmp_path / "records.csv"
    assert used.run("export", "--output", str(file)).out == f"Wrote 4 lines to {file}.\n"
    assert file.stat().st_mode & 0o777 == 0o600
    whole = file.read_text()
    assert len(names(whole)) == 4
    again = used.run("export", "one", "--output", str(file))
    assert (again.status, file.read_text()) == (1, whole)
    assert "--force" in again.complaint
    used.run("export", "one", "--output", str(file), "--force")
    assert len(names(file.read_text())) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["records.csv"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nobody",), "no key with this id"),
        (("--group", "nobody"), "No key is in this group"),
        (("--since", "soon"), "neither today, week, month"),
        (("one", "--group", "friends"), "not both"),
        (("--force",), "--output"),
    ],
)
def test_what_is_wrong_leaves_no_file(
    used: Workplace, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    options = () if "--force" in arguments else ("--output", str(tmp_path / "x.csv"))
    refused = used.run("export", *arguments, *options)
    assert refused.status != 0
    assert says in refused.err
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_can_not_be_made_is_said_at_once(used: Workplace, tmp_path: Path) -> None:
    refused = used.run("export", "--output", str(tmp_path / "no folder" / "x.csv"))
    assert "can't be written (No such file or directory)" in refused.complaint


def test_who_has_read_enough_is_told_nothing_of_the_rest(make_workplace: MakeWorkplace) -> None:
    work = make_workplace()
    now = time.time_ns() // 1_000_000
    work.fill([a_key()], [a_record(time=now - at) for at in range(20_000)])
    done = subprocess.run(
        f"{shlex.quote(sys.executable)} -m opuslive --config {shlex.quote(str(work.config_file))} "
        "export | head -n 2",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (len(done.stdout.splitlines()), done.stderr) == (2, "")
