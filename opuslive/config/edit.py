"""How commands write the configuration file: a new one, or one value of an existing one.

tomli-w writes a new file. In an existing file every byte stays but the value that changes:
comments, order and line ends are the administrator's. tomlkit promises nearly that, but mixes
line ends (it adds LF to a file with CRLF) and moves a table that stands between two
``[[upstreams]]``. So the text itself is edited: regular expressions find the places where the
value may belong, and the first edit counts whose tables, parsed again, are the wanted ones.
"""

from __future__ import annotations

import dataclasses
import os
import re
import stat
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from opuslive.config.files import CHECKED, unreadable
from opuslive.config.sections import DEFAULT_UPSTREAM, UpstreamConfig, parse_config_text
from opuslive.errors import UsageError
from opuslive.ownership import check_file, check_place

_NEW_FILE_COMMENT = """\
# The configuration of OpusLive. config.example.toml has every key with its meaning.
"""

_HASH_LINE = re.compile(
    r"""^([ \t]*(?:admin[ \t]*\.[ \t]*)?password_hash[ \t]*=[ \t]*)(?:"[^"\n]*"|'[^'\n]*')""",
    re.MULTILINE,
)
_ADMIN_TABLE = re.compile(
    r"^[ \t]*\[[ \t]*admin[ \t]*\][ \t]*(?:#[^\n]*)?(?:\r?\n|\Z)", re.MULTILINE
)

#: A section's name → its members, or the members of each table of an array.
Tables = Mapping[str, Mapping[str, object] | Sequence[Mapping[str, object]]]


def read_valid_text(path: Path) -> str | None:
    """The text of the configuration, with its line ends; None if there is no file.

    Raises UsageError if the file can't be read or is not a valid configuration, or if another user
    could change it, or what is written there.
    """
    try:
        if not path.exists():
            check_place(path, *CHECKED)
            return None
        check_file(path, *CHECKED)
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from None
    parse_config_text(text, source=str(path))
    return text


def write_password_hash(path: Path, text: str | None, password_hash: str) -> None:
    """Write the configuration with this hash of the administrator's password.

    ``text`` is what ``read_valid_text`` returned. A new file also holds the upstream that is used
    without any configuration, so that it serves what was served before. Raises UsageError.
    """
    if text is None:
        tables: Tables = {
            "upstreams": [upstream_members(DEFAULT_UPSTREAM)],
            "admin": {"password_hash": password_hash},
        }
        replace_file(path, new_text(tables))
    else:
        replace_file(path, with_password_hash(text, password_hash, str(path)))


def new_text(tables: Tables) -> str:
    """The text of a new configuration with these tables."""
    parts = [_NEW_FILE_COMMENT]
    for name, table in tables.items():
        if isinstance(table, Mapping):
            parts.append(tomli_w.dumps({name: table}))
        else:
            # Left to itself tomli-w would write small tables of an array into one line.
            parts += [f"[[{name}]]\n{tomli_w.dumps(members)}" for members in table]
    return "\n".join(parts)


def upstream_members(upstream: UpstreamConfig) -> Mapping[str, object]:
    """The keys of the upstream that differ from their defaults."""
    return {
        field.name: getattr(upstream, field.name)
        for field in dataclasses.fields(upstream)
        if getattr(upstream, field.name) != field.default
    }


def with_password_hash(text: str, password_hash: str, source: str) -> str:
    """The valid configuration with this hash; every other byte stays as it is.

    Raises UsageError if the text is written in a way that can't be changed here.
    """
    wanted = tomllib.loads(text)
    wanted["admin"] = wanted.get("admin", {}) | {"password_hash": password_hash}
    for edited in _edits(text, password_hash):
        if _parsed(edited) == wanted:
            parse_config_text(edited, source=source)
            return edited
    raise UsageError(
        f"{source}: can't find the place for the password's hash; "
        "write [admin] there on a line of its own, then try again."
    )


def replace_file(path: Path, text: str) -> None:
    """Put the text in the file's place, all at once; others may not read it (mode 0600).

    Its owner stays, and so does a group that it was given, with that group's right to read it: so
    a service reads what belongs to root. A symbolic link goes on leading to the file. Raises
    UsageError.
    """
    target = path.resolve()
    try:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
            _keep_readers(target, name)
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink()
            raise
    except OSError as error:
        raise UsageError(
            f"The configuration {target} can't be written: {error.strerror or error}."
        ) from None


def _edits(text: str, password_hash: str) -> Iterator[str]:
    """Ways to change the text. Each may be wrong: a string may hold what looks like a table."""
    for found in _HASH_LINE.finditer(text):
        yield f'{text[: found.start()]}{found[1]}"{password_hash}"{text[found.end() :]}'
    ends = "\r\n" if "\r\n" in text else "\n"
    line = f'password_hash = "{password_hash}"{ends}'
    for found in _ADMIN_TABLE.finditer(text):
        head = text[: found.end()]
        yield f"{head}{'' if head.endswith(ends) else ends}{line}{text[found.end() :]}"
    gap = ends if text.endswith(ends) or not text else ends * 2
    yield f"{text}{gap}[admin]{ends}{line}"


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _keep_readers(target: Path, name: str) -> None:
    """Give the new file the owner and the group of the old one."""
    if not target.exists():
        return
    old, new = target.stat(), Path(name).stat()
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        os.chown(name, old.st_uid, old.st_gid)
        Path(name).chmod(0o600 | old.st_mode & stat.S_IRGRP)
