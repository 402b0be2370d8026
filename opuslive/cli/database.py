"""``opuslive database``: back it up, go back to a backup, check it, give space back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from opuslive.cli.acting import as_owner_of
from opuslive.cli.control import ServerRuns, closed, found_control, loaded
from opuslive.cli.output import echo, encoding_of, format_count, json_option, print_json, visible
from opuslive.cli.progress import Report, progress_bar
from opuslive.config.files import Settings, database_url
from opuslive.errors import UsageError
from opuslive.storage import (
    Compaction,
    OpenBackup,
    Restoration,
    compact_closed,
    database_path,
    open_backup,
    prepare_restoration,
)
from opuslive.times import iso_ms

#: Names of keys that are told; of the rest, the number.
_NAMES = 10
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


@click.group()
def database() -> None:
    """Back up the database, restore a backup, check it, compact it.

    Don't copy the file of a running server: what was written last is in a log beside it.
    'opuslive database backup' copies all of it, while the server serves.
    """


@database.command()
@click.argument("file")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@json_option
@click.pass_obj
def backup(load: Callable[[], Settings], file: str, force: bool, as_json: bool) -> None:
    """Write a whole copy of the database to FILE, whether the server runs or not.

    FILE has its name once it is complete and on disk, and only its owner may read it: the user
    that the server runs as, who has to be allowed to write in that folder. It holds everything
    that was recorded before, and nothing of a key that is deleted meanwhile: then the copy
    begins again.

    A backup keeps what is deleted later. So when a key is to be gone for good, delete the
    backups that hold it, too.
    """
    members: dict[str, object] = {"file": str(_absolute(file)), "force": force}
    made = _run(load, "Backing up", "backup", members)
    if as_json:
        print_json(made)
        return
    newest = made["newest_record"]
    echo(
        f"Backed up the database to {made['file']}: {_size(made['bytes'])}, "
        f"{_counted(made['keys'], 'key')}, "
        f"{f'the newest record of {newest}' if newest else 'no records'}."
    )
    echo("It keeps what is deleted later.")


@database.command()
@click.option(
    "--quick", is_flag=True, help="Only whether every page can be read, no indexes and no sums."
)
@json_option
@click.pass_context
def check(ctx: click.Context, quick: bool, as_json: bool) -> None:
    """Look for what is wrong in the database, whether the server runs or not.

    Every page and index is read, the sums of hours and days are compared with the records, and
    everything that belongs to keys with them. Nothing is changed. Exit status 1 if something is
    wrong.
    """
    found = _run(ctx.obj, "Checking", "check", {"quick": quick})
    if as_json:
        print_json(found)
    elif found["ok"]:
        echo("The database is sound.")
    else:
        for finding in found["findings"]:
            echo(finding)
        echo("Restore a backup with 'opuslive database restore FILE', or ask for help.", err=True)
    if not found["ok"]:
        ctx.exit(1)


@database.command()
@json_option
@click.pass_obj
def compact(load: Callable[[], Settings], as_json: bool) -> None:
    """Give space that the database does not use any more back to the system.

    While the server runs it is done in small steps, between which requests are recorded.
    Otherwise the database is written anew, which needs as much free space as it is large.
    """
    settings = loaded(load)
    with progress_bar("Compacting") as progress:
        try:
            done = asyncio.run(closed(settings, lambda url: compact_closed(url, progress)))
            result = {"bytes_before": done.before, "bytes_after": done.after}
        except ServerRuns:
            result = asyncio.run(_follow(settings, "compact", {}, progress))
    if as_json:
        print_json(result)
    else:
        compaction = Compaction(result["bytes_before"], result["bytes_after"])
        echo(f"The database took {_size(compaction.before)}, now {_size(compaction.after)}.")


@database.command()
@click.argument("file")
@click.option("--yes", is_flag=True, help="Don't ask.")
@json_option
@click.pass_obj
def restore(load: Callable[[], Settings], file: str, yes: bool, as_json: bool) -> None:
    """Go back to the backup FILE; the server must not run.

    The backup is checked, and brought to this version of OpusLive. The database that is there
    is kept beside it, as NAME.before-restore-TIME: delete that when you don't need it any more.
    FILE stays as it is.

    What happened since the backup is undone: keys that were deleted work again, keys that were
    made are gone, and old secrets, limits and settings are back.
    """
    settings = loaded(load)
    folder = database_path(database_url(settings.config, os.environ)).parent
    path = _absolute(file)
    with contextlib.closing(_opened(path, folder)) as opened, as_owner_of(folder):
        with progress_bar("Checking the backup") as progress:
            prepared = asyncio.run(
                closed(settings, lambda url: prepare_restoration(url, opened, progress))
            )
        with contextlib.closing(prepared) as restoration:
            told = _differences(restoration)
            if not as_json or not yes:
                for line in _sentences(restoration, told):
                    echo(line, err=as_json)
            if not yes:
                click.confirm(
                    visible(
                        f"Put {path} in the place of the database?",
                        encoding_of(sys.stderr),
                        lines=False,
                    ),
                    abort=True,
                    err=True,
                )
            kept = restoration.carry_out(f"before-restore-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    if as_json:
        print_json({"file": str(path), "kept": None if kept is None else str(kept), **told})
        return
    echo("The backup is in its place; start the server.")
    if kept is not None:
        echo(f"The database from before is kept as {kept}.")


def _differences(restoration: Restoration) -> dict[str, Any]:
    """What will be another, as JSON has it."""
    before, after = restoration.present, restoration.backup
    old = {} if before is None else before.keys
    newest = [None if each is None else each.newest for each in (before, after)]
    return {
        "newest_record": dict(
            zip(
                ("before", "after"),
                (None if time is None else iso_ms(time) for time in newest),
                strict=True,
            )
        ),
        "keys": {
            "vanish": sorted(name for key, name in old.items() if key not in after.keys),
            "come_back": sorted(name for key, name in after.keys.items() if key not in old),
            "changed": restoration.changed,
        },
    }


def _sentences(restoration: Restoration, told: dict[str, Any]) -> Iterator[str]:
    newest, keys = told["newest_record"], told["keys"]
    yield (
        f"The backup has {_counted(len(restoration.backup.keys), 'key')}; its newest record is of "
        f"{newest['after'] or 'no time: there is none'}."
    )
    if restoration.present is None:
        yield "There is no database yet, or none that can be read."
        return
    yield (
        f"The database has {_counted(len(restoration.present.keys), 'key')}; its newest record is "
        f"of {newest['before'] or 'no time: there is none'}. What is newer than the backup goes."
    )
    for names, one, several in (
        (keys["vanish"], "vanishes", "vanish"),
        (keys["come_back"], "comes back", "come back"),
    ):
        if names:
            does = one if len(names) == 1 else several
            yield f"{_counted(len(names), 'key')} {does}: {_listed(names)}."
    if keys["changed"]:
        yield (
            f"{_counted(keys['changed'], 'key')} will have again the secret, limits and settings "
            "of then."
        )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMES
    return ", ".join(names[:_NAMES]) + (f" and {more:,} more" if more > 0 else "")


def _opened(path: Path, folder: Path) -> OpenBackup:
    """Open a backup: as whom root acts, or where only root may see it, as root."""
    try:
        try:
            with as_owner_of(folder):
                return open_backup(path)
        except PermissionError:
            return open_backup(path)
    except OSError as error:
        raise UsageError(f"The backup {path} can't be read: {error.strerror or error}.") from None


def _run(load: Callable[[], Settings], what: str, route: str, members: dict[str, object]) -> Any:
    settings = loaded(load)
    with progress_bar(what) as progress:
        return asyncio.run(_follow(settings, route, members, progress))


async def _follow(
    settings: Settings, route: str, members: dict[str, object], progress: Report
) -> Any:
    """Have the server do it, or a server of the command's own."""
    async with found_control(settings) as api:
        return await api.follow("database", route, members=members, progress=progress)


def _absolute(file: str) -> Path:
    try:
        return Path(file).absolute()
    except OSError:
        raise UsageError(
            f"{file} has no place, since the working folder is gone; give an absolute path."
        ) from None


def _counted(number: int, noun: str) -> str:
    return f"{format_count(number)} {noun}{'' if number == 1 else 's'}"


def _size(size: float) -> str:
    """Bytes for people: ``12.3 MB``."""
    unit = 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.1f} {_UNITS[unit]}" if unit else f"{size:.0f} bytes"
