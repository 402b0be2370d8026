"""``opuslive export``: every usage record of keys, as a file."""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from opuslive.cli import completing
from opuslive.cli.control import run
from opuslive.cli.output import echo, format_count
from opuslive.cli.progress import Report, progress_bar
from opuslive.config.files import Settings
from opuslive.errors import OpusLiveError, UsageError
from opuslive.web.admin.records import EXPECTED

#: What is at the end of the name of a file that is not complete.
_PART = ".part"


@click.command()
@click.argument("keys", metavar="[KEY]...", nargs=-1, shell_complete=completing.keys)
@click.option(
    "--group",
    metavar="GROUP",
    shell_complete=completing.groups,
    help="The keys that are in this group now.",
)
@click.option(
    "--since",
    metavar="WHEN",
    help="From when on: today, week or month (UTC), a span back from now (7d), a day (2026-01-31) "
    "or a time. Default: from the first record on.",
)
@click.option("--until", metavar="WHEN", help="Until when; of a day, its end. Default: now.")
@click.option(
    "--format",
    "file_format",
    type=click.Choice(("csv", "jsonl")),
    default="csv",
    help="CSV, or a JSON object a line. Default: csv.",
)
@click.option(
    "--output", metavar="FILE", help="Write to FILE, which has its name once it is complete."
)
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.pass_obj
def export(
    load: Callable[[], Settings],
    keys: tuple[str, ...],
    group: str | None,
    since: str | None,
    until: str | None,
    file_format: str,
    output: str | None,
    force: bool,
) -> None:
    """Write every usage record: of all keys, of each KEY, or of a group.

    KEY is a key's id, its name or its display prefix. A line has the key's id and name, then what
    the holder's own export has: time, model, status, latency and tokens. Times are UTC; --since
    and --until are widened to whole hours.

    \b
    The month of a group:  opuslive export --group friends --since month > f.csv
    One key, as JSON:      opuslive export alice --format jsonl
    """
    if keys and group is not None:
        raise click.UsageError("Name keys or give --group, not both.")
    if force and output is None:
        raise click.UsageError("--force goes with --output FILE.")
    named = {"group": group, "since": since, "until": until}
    query = [
        *(("keys", key) for key in keys),
        *((name, value) for name, value in named.items() if value is not None),
        ("format", file_format),
    ]
    target = _File(Path(output), force=force) if output is not None else _Output()
    # A bar would be written into the lines, if both go to a terminal.
    with progress_bar("Exporting", shown=target.leaves_terminal) as progress, target.complete():
        told = _Progress(progress)

        def write(part: bytes, headers: Mapping[str, str]) -> None:
            target.write(part)
            told.add(part, headers)

        run(load, lambda api: api.download("records", query=query, write=write))
    if output is not None:
        lines = told.lines - (file_format == "csv")
        echo(f"Wrote {format_count(lines)} line{'' if lines == 1 else 's'} to {output}.")


class _Progress:
    """Counts lines: but for requests with parts, each is a record."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.lines = 0

    def add(self, part: bytes, headers: Mapping[str, str]) -> None:
        self.lines += part.count(b"\n")
        self._report(min(1.0, self.lines / max(1, int(headers.get(EXPECTED, 0)))))


class _File:
    """A file that is there when it is complete, and not before."""

    leaves_terminal = True

    def __init__(self, path: Path, *, force: bool) -> None:
        """Raises UsageError if it can't be written, before anything is read."""
        self._path = path
        self._part = path.with_name(path.name + _PART)
        if path.exists() and not force:
            raise UsageError(f"{path} exists; name another file, or give --force.")
        try:
            descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        except OSError as error:
            raise UsageError(
                f"{path} can't be written ({error.strerror or error}); name another file."
            ) from None
        self._file: Any = os.fdopen(descriptor, "wb")

    def write(self, part: bytes) -> None:
        self._file.write(part)

    @contextlib.contextmanager
    def complete(self) -> Iterator[None]:
        """What is written inside is the file, unless it fails: then there is none."""
        try:
            with self._file:
                yield
            self._part.replace(self._path)
        except BaseException:
            self._part.unlink(missing_ok=True)
            raise


class _Output:
    """Standard output; a terminal gets text for people."""

    def __init__(self) -> None:
        self.leaves_terminal = not sys.stdout.isatty()
        self._text = codecs.getincrementaldecoder("utf-8")()
        self._began = False

    def write(self, part: bytes) -> None:
        self._began = True
        if self.leaves_terminal:
            click.echo(part, nl=False)
        else:
            echo(self._text.decode(part).replace("\r\n", "\n"), nl=False)

    @contextlib.contextmanager
    def complete(self) -> Iterator[None]:
        """Says that what was printed is not all, if what is done inside fails."""
        try:
            yield
        except OpusLiveError:
            if self._began:
                echo("What was printed is not complete.", err=True)
            raise
