"""Files that another user could change are refused, whatever the way to them.

Who else could change what is at a path: the owner of the file; whoever may write to it, by its
mode or by its group; the owner of a folder on the way, and whoever may write to that folder; the
owner of a symbolic link; and all of these for what a link leads to, over several links as well.
Nobody else: root, this user, members of root's group, a group that this user alone is in.
"""

from __future__ import annotations

import contextlib
import grp
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from opuslive.errors import UsageError
from opuslive.ownership import check_at_hand, check_file, check_owner, check_place

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
#: The user and the group "nobody".
NOBODY = 65534
#: A user and a group that no list has.
STRANGER = 54321


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can enter."""
    with tempfile.TemporaryDirectory(prefix="opuslive-owners-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def a_file(path: Path, mode: int = 0o600, uid: int = -1, gid: int = -1) -> Path:
    path.touch()
    os.chown(path, uid, gid)
    path.chmod(mode)
    return path


def a_folder(path: Path, mode: int = 0o755, uid: int = -1, gid: int = -1) -> Path:
    path.mkdir()
    os.chown(path, uid, gid)
    path.chmod(mode)
    return path


def a_link(path: Path, target: Path | str, uid: int = -1) -> Path:
    path.symlink_to(target)
    os.chown(path, uid, -1, follow_symlinks=False)
    return path


@contextlib.contextmanager
def acting_as(uid: int, gid: int) -> Iterator[None]:
    """As this user, where only root can become one."""
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def check(path: Path) -> None:
    check_file(path, "The file", "name another")


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as raised:
        check(path)
    return raised.value.message


Lay = Callable[[Path], Path]
#: Who else could change the file → what lays it out and returns its path.
REFUSED: dict[str, Lay] = {
    "its owner": lambda f: a_file(f / "x", uid=NOBODY),
    "everybody": lambda f: a_file(f / "x", 0o666),
    "everybody, though its group may not": lambda f: a_file(f / "x", 0o602),
    "another group": lambda f: a_file(f / "x", 0o660, gid=NOBODY),
    "the owner of its folder": lambda f: a_file(a_folder(f / "d", uid=NOBODY) / "x"),
    "everybody in its folder": lambda f: a_file(a_folder(f / "d", 0o777) / "x"),
    "a group in its folder": lambda f: a_file(a_folder(f / "d", 0o775, gid=NOBODY) / "x"),
    "the owner of a folder above": lambda f: a_file(
        a_folder(a_folder(f / "d", uid=NOBODY) / "e") / "x"
    ),
    "the owner of a sticky folder": lambda f: a_file(a_folder(f / "d", 0o1777, NOBODY) / "x"),
    "its owner in a sticky folder": lambda f: a_file(a_folder(f / "d", 0o1777) / "x", uid=NOBODY),
    "the owner of a link": lambda f: a_link(
        a_folder(f / "d", 0o1777) / "x", a_file(f / "y"), NOBODY
    ),
    "the owner of what a link leads to": lambda f: a_link(f / "x", a_file(f / "y", uid=NOBODY)),
    "the owner of the folder that a link leads into": lambda f: a_link(
        f / "x", a_file(a_folder(f / "d", uid=NOBODY) / "y")
    ),
    "whoever may change a link between": lambda f: a_link(
        f / "x", a_link(a_folder(f / "d", 0o777) / "between", a_file(f / "y"))
    ),
    "the owner of a folder on the way back": lambda f: (
        a_folder(f / "d", uid=NOBODY) / ".." / a_file(f / "x").name
    ),
    "who may write into a folder of files": lambda f: a_folder(f / "d", 0o777),
    "who may write into a sticky folder of files": lambda f: a_folder(f / "d", 0o1777),
}


@ROOT
@pytest.mark.parametrize("who", REFUSED)
def test_what_another_user_could_change_is_refused(folder: Path, who: str) -> None:
    path = REFUSED[who](folder)
    message = refusal(path)
    assert message.startswith(f"The file {path} is not used, since ")
    assert "; run 'ch" in message
    assert message.endswith(" if you trust what is in it, or name another.")


#: What nobody else could change → what lays it out and returns its path.
TRUSTED: dict[str, Lay] = {
    "a file": lambda f: a_file(f / "x"),
    "a file that others may read": lambda f: a_file(f / "x", 0o644),
    "a file of root's group": lambda f: a_file(f / "x", 0o664),
    "a file that another group may read": lambda f: a_file(f / "x", 0o640, gid=NOBODY),
    "a file in a sticky folder": lambda f: a_file(a_folder(f / "d", 0o1777) / "x"),
    "a folder": lambda f: a_folder(f / "d", 0o755),
    "a link": lambda f: a_link(f / "x", a_file(f / "y")),
    "links, as Kubernetes makes them": lambda f: a_link(
        f / "x",
        Path(
            a_link(f / "..data", a_file(a_folder(f / "..2026") / "x").parent.name).name,
            "x",
        ),
    ),
}


@ROOT
@pytest.mark.parametrize("what", TRUSTED)
def test_what_nobody_else_could_change_is_accepted(folder: Path, what: str) -> None:
    check(TRUSTED[what](folder))


@ROOT
@pytest.mark.parametrize(
    ("uid", "gid", "mode", "own_group", "accepted"),
    [
        (0, 0, 0o644, STRANGER, True),
        (STRANGER, STRANGER, 0o600, STRANGER, True),
        (STRANGER, STRANGER, 0o664, STRANGER, True),  # its own group, which no list has
        (STRANGER, 0, 0o664, 0, True),  # as images for any user have it
        (STRANGER, NOBODY, 0o660, NOBODY, False),  # a group of another user, too
        (STRANGER, STRANGER + 1, 0o660, STRANGER, False),
        (NOBODY, STRANGER, 0o600, STRANGER, False),
    ],
)
def test_a_user_without_a_name_trusts_root_and_itself(
    folder: Path, uid: int, gid: int, mode: int, own_group: int, accepted: bool
) -> None:
    path = a_file(folder / "x", mode, uid, gid)
    with acting_as(STRANGER, own_group):
        if accepted:
            check(path)
        else:
            assert "other user" in refusal(path)


@ROOT
@pytest.mark.parametrize(
    ("members", "accepted"), [([], True), (["nobody"], False), (["of-another-list"], False)]
)
def test_a_group_is_this_users_alone_if_nobody_else_is_listed_in_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, members: list[str], accepted: bool
) -> None:
    listed = grp.struct_group(("team", "x", STRANGER, members))
    monkeypatch.setattr(grp, "getgrgid", lambda _: listed)
    path = a_file(folder / "x", 0o660, STRANGER, STRANGER)
    with acting_as(STRANGER, STRANGER):
        if accepted:
            check(path)
        else:
            assert "mode 0660" in refusal(path)


@ROOT
@pytest.mark.parametrize("who", [who for who in REFUSED if "link" not in who])
def test_what_is_mounted_for_reading_only_nobody_can_write(
    folder: Path, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """As a container's configuration may be: all may write by its mode, or its owner is strange."""

    class ReadOnly:
        f_flag = os.ST_RDONLY

    path = REFUSED[who](folder)
    monkeypatch.setattr(os, "statvfs", lambda _: ReadOnly)
    check(path)


@ROOT
def test_a_link_is_where_it_stands_and_not_where_it_leads(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link of another user to what is mounted for reading only."""
    statvfs = os.statvfs
    mounted = a_folder(folder / "mounted")

    class ReadOnly:
        f_flag = os.ST_RDONLY

    def as_mounted(path: Path) -> os.statvfs_result | type[ReadOnly]:
        return ReadOnly if path.resolve().is_relative_to(mounted) else statvfs(path)

    link = a_link(a_folder(folder / "d", 0o1777) / "x", a_file(mounted / "y", uid=NOBODY), NOBODY)
    monkeypatch.setattr(os, "statvfs", as_mounted)
    assert str(link) in refusal(link)
    check(mounted / "y")


def test_a_pipe_of_this_process_is_its_own() -> None:
    reading, writing = os.pipe()
    check(Path(f"/dev/fd/{reading}"))
    os.close(reading)
    os.close(writing)


def test_what_reading_could_wait_for_is_not_at_hand(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    link = tmp_path / "link"
    link.symlink_to(pipe)
    for path in (pipe, link, Path("/dev/zero"), tmp_path / "missing"):
        with pytest.raises(OSError, match=r"Not a regular file|No such file"):
            check_at_hand(path)
    file = tmp_path / "file"
    file.touch()
    check_at_hand(file)


@ROOT
def test_the_remedies_are_commands_that_work(folder: Path) -> None:
    path = a_file(a_folder(folder / "a b", 0o777) / "x", uid=NOBODY)
    for _ in range(2):
        command = refusal(path).partition("run '")[2].rpartition("' if you")[0]
        assert os.system(command) == 0
    check(path)


@ROOT
def test_a_relative_path_begins_at_the_working_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What that is called may change; where it is does not."""
    a_folder(folder / "d", 0o777)
    work = a_folder(folder / "d" / "work")
    path = a_file(work / "x")
    monkeypatch.chdir(work)
    check(Path("x"))
    assert str(folder / "d") in refusal(path)


@pytest.mark.parametrize(("target", "reason"), [("x", "Too many levels"), ("none", "No such file")])
def test_a_link_that_leads_nowhere_is_the_systems_error(
    folder: Path, target: str, reason: str
) -> None:
    with pytest.raises(OSError, match=reason):
        check(a_link(folder / "x", folder / target))


def test_an_absolute_path_may_begin_with_two_slashes(folder: Path) -> None:
    check(Path(f"/{a_file(folder / 'x')}"))


class TestPlace:
    """Where a file is about to be made."""

    @ROOT
    @pytest.mark.parametrize(
        "lay",
        [
            lambda f: a_folder(f / "d", 0o777) / "x",
            lambda f: a_folder(f / "d", uid=NOBODY) / "x",
            lambda f: a_folder(f / "d", 0o777) / "none" / "x",
            lambda f: a_link(a_folder(f / "d", 0o1777) / "x", f / "none", NOBODY),
            lambda f: a_link(f / "x", a_folder(f / "d", 0o777) / "none"),
        ],
        ids=["mode", "owner", "folder above", "link", "what a link leads to"],
    )
    def test_where_another_user_could_change_it_is_refused(self, folder: Path, lay: Lay) -> None:
        with pytest.raises(UsageError):
            check_place(lay(folder), "The file", "name another")

    def test_where_nobody_else_could_is_accepted(self, folder: Path) -> None:
        for path in (
            folder / "x",
            folder / "none" / "x",
            a_folder(folder / "d", 0o1777) / "x",
            a_link(folder / "l", folder / "none"),
        ):
            check_place(path, "The file", "name another")


@ROOT
def test_an_owner_is_checked_alone(folder: Path) -> None:
    path = a_file(a_folder(folder / "d", 0o777) / "x", 0o666)
    check_owner(path, path.lstat(), "The file", "name another")
    os.chown(path, NOBODY, -1)
    with pytest.raises(UsageError, match="belongs to another user"):
        check_owner(path, path.lstat(), "The file", "name another")
