"""The configuration that a gateway runs with, for whoever has to look at what holds now."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from opuslive.config.files import shown_path
from opuslive.config.sections import Config


class ConfigInForce:
    """The configuration, since when it holds, and where it was read.

    ``since`` is in ms since the epoch, of the clock of records. ``file`` is the path as people read
    it; None where no file was found. ``needs_restart`` are the keys that stand in the file with
    values that do not hold.
    """

    def __init__(self, config: Config, since: int) -> None:
        self.config = config
        self.since = since
        self.file: str | None = None
        self.needs_restart: Sequence[str] = ()

    def use(self, config: Config, since: int) -> None:
        """From now on this configuration holds."""
        self.config = config
        self.since = since

    def shift(self, delta: int) -> None:
        """Move along with the date, by ``delta`` ms."""
        self.since += delta


def shown(file: Path | None) -> str | None:
    """The path of a configuration as people read it, if there is a file."""
    return None if file is None else shown_path(file)
