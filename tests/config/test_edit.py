"""Writing the configuration: a new file, or one value, and nothing else of the file changes."""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opuslive.config.edit import (
    new_text,
    read_valid_text,
    replace_file,
    upstream_members,
    with_password_hash,
    write_password_hash,
)
from opuslive.config.sections import (
    DEFAULT_UPSTREAM,
    AdminConfig,
    Config,
    UpstreamConfig,
    parse_config_text,
)
from opuslive.errors import UsageError

OLD = "$2b$12$" + "a" * 53
NEW = "$2b$12$" + "b" * 53

LOOKS_LIKE_IT = '''\
[[upstreams]]
base_url = "http://127.0.0.1:1"
name = """
[admin] # is no section\\
"""
'''

#: Configurations, and what the line of the hash turns them into.
EDITS = {
    "empty": ("", f'\n[admin]\npassword_hash = "{NEW}"\n'),
    "no section": (
        "[server]\nport = 1 # mine",
        f'[server]\nport = 1 # mine\n\n[admin]\npassword_hash = "{NEW}"\n',
    ),
    "a section": (
        '[admin] # who\n\ncontact = "x"\n[log]\n',
        f'[admin] # who\npassword_hash = "{NEW}"\n\ncontact = "x"\n[log]\n',
    ),
    "a section at the end": ("[ admin ]", f'[ admin ]\npassword_hash = "{NEW}"\n'),
    "an old hash": (
        f'[admin]\ncontact = "x"\n  password_hash="{OLD}" # old\n[log]\n',
        f'[admin]\ncontact = "x"\n  password_hash="{NEW}" # old\n[log]\n',
    ),
    "an old hash in single quotes": (
        f"[admin]\npassword_hash = '{OLD}'",
        f'[admin]\npassword_hash = "{NEW}"',
    ),
    "a dotted key": (f'admin.password_hash = "{OLD}"\n', f'admin.password_hash = "{NEW}"\n'),
    "a hash that is switched off": (
        f'[admin]\n#password_hash = "{OLD}"\n',
        f'[admin]\npassword_hash = "{NEW}"\n#password_hash = "{OLD}"\n',
    ),
    "line ends of Windows": (
        '[admin]\r\ncontact = "é"\r\n',
        f'[admin]\r\npassword_hash = "{NEW}"\r\ncontact = "é"\r\n',
    ),
    "a text that looks like a section": (
        f"{LOOKS_LIKE_IT}[admin]\n",
        f'{LOOKS_LIKE_IT}[admin]\npassword_hash = "{NEW}"\n',
    ),
}


@pytest.mark.parametrize(("before", "after"), EDITS.values(), ids=EDITS)
def test_only_the_line_of_the_hash_changes(before: str, after: str) -> None:
    assert with_password_hash(before, NEW, "c.toml") == after
    assert parse_config_text(after, source="c.toml").admin.password_hash == NEW


def test_the_example_keeps_every_comment_when_a_hash_is_set() -> None:
    example = Path(__file__).parents[2].joinpath("config.example.toml").read_text()
    after = with_password_hash(example, NEW, "c.toml")
    assert after.replace(f'password_hash = "{NEW}"\n', "", 1) == example


def test_a_hash_that_is_written_in_another_way_is_an_error_with_the_remedy() -> None:
    text = f'admin = {{ contact = "x", "password_hash" = "{OLD}" }}\n'
    with pytest.raises(UsageError) as raised:
        with_password_hash(text, NEW, "c.toml")
    assert "write [admin]" in raised.value.message


_LINES = st.lists(
    st.sampled_from(
        [
            "[admin]",
            "[log]",
            f'password_hash = "{OLD}"',
            'contact = "[admin]"',
            "contact = '''",
            "'''",
            "# [admin]",
            f'#password_hash = "{OLD}"',
            'level = "info"',
            "",
        ]
    ),
    max_size=8,
)


@settings(derandomize=True, database=None)
@given(lines=_LINES, ends=st.sampled_from(["\n", "\r\n"]))
def test_whatever_is_edited_means_the_same_but_for_the_hash(lines: list[str], ends: str) -> None:
    text = ends.join(lines)
    try:
        before: dict[str, Any] = tomllib.loads(text)
        parse_config_text(text, source="c.toml")
    except (UsageError, tomllib.TOMLDecodeError):
        return
    after = tomllib.loads(with_password_hash(text, NEW, "c.toml"))
    assert after.pop("admin") == before.pop("admin", {}) | {"password_hash": NEW}
    assert after == before


# New files


def test_a_new_file_holds_the_default_upstream_and_the_hash(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    assert read_valid_text(path) is None
    write_password_hash(path, None, NEW)
    assert path.read_text() == (
        "# The configuration of OpusLive. config.example.toml has every key with its meaning.\n\n"
        '[[upstreams]]\nname = "anthropic"\nbase_url = "https://api.anthropic.com"\n'
        'api_key_env = "ANTHROPIC_API_KEY"\n\n'
        f'[admin]\npassword_hash = "{NEW}"\n'
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = read_valid_text(path)
    assert text is not None
    assert parse_config_text(text, source="c.toml") == Config(
        upstreams=(DEFAULT_UPSTREAM,), admin=AdminConfig(password_hash=NEW)
    )


_LINE = st.text(st.characters(min_codepoint=32, exclude_categories=["C", "Z"]), min_size=1)
_CONTACT = _LINE.filter(lambda line: "x-api-key" not in line.lower())


@settings(derandomize=True, database=None)
@given(st.lists(_LINE, max_size=3, unique=True), _CONTACT, st.lists(_LINE, min_size=1, max_size=3))
def test_new_files_read_back_as_what_was_written(
    names: list[str], contact: str, models: list[str]
) -> None:
    upstreams = tuple(
        UpstreamConfig(name=name, base_url="http://127.0.0.1:9", models=tuple(models), weight=2)
        for name in names
    )
    text = new_text(
        {"admin": {"contact": contact}, "upstreams": list(map(upstream_members, upstreams))}
    )
    assert parse_config_text(text, source="c.toml") == Config(
        admin=AdminConfig(contact=contact), upstreams=upstreams
    )


# Reading and replacing


def test_what_is_read_to_be_edited_keeps_its_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"[admin]\r\ncontact = 'x'\n")
    text = read_valid_text(path)
    assert text is not None
    replace_file(path, text)
    assert path.read_bytes() == b"[admin]\r\ncontact = 'x'\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"[sevrer]", "sevrer"), (b"\xff", "it is not UTF-8 text"), (b"[admin", "not valid TOML")],
)
def test_a_file_that_is_no_configuration_is_not_edited(
    tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=said) as raised:
        read_valid_text(path)
    assert str(path) in raised.value.message


def test_a_replaced_file_is_private_and_a_link_to_it_stays(tmp_path: Path) -> None:
    target, link = tmp_path / "real.toml", tmp_path / "config.toml"
    target.write_text("old")
    target.chmod(0o644)
    link.symlink_to(target)
    replace_file(link, "new\r\n")
    assert link.is_symlink()
    assert target.read_bytes() == b"new\r\n"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.toml", "real.toml"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can write files of others")
def test_a_replaced_file_keeps_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("old")
    os.chown(path, 65534, 65534)
    replace_file(path, "new")
    assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65534)


def test_a_file_that_can_not_be_replaced_stays_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "config.toml"
    folder.mkdir()
    with pytest.raises(UsageError, match="can't be written: Is a directory"):
        replace_file(folder, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]
