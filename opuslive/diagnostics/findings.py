"""What a check says of one thing that it looked at."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from opuslive.errors import OpusLiveError

#: Names that a sentence lists; of more than these it tells the number.
MAX_NAMES = 5


class Level(enum.StrEnum):
    """``ERROR``: requests fail, or will. ``WARNING``: they may, or somebody should know."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """``name`` says what was looked at, ``text`` what was found, ``remedy`` what to do about it.

    There is no secret in it, and no address of an upstream.
    """

    name: str
    level: Level
    text: str
    remedy: str | None = None

    def as_dict(self) -> dict[str, object]:
        """The members under which JSON shows it."""
        return {
            "name": self.name,
            "level": self.level.value,
            "text": self.text,
            "remedy": self.remedy,
        }


def ok(name: str, text: str) -> Finding:
    return Finding(name, Level.OK, text)


def warning(name: str, text: str, remedy: str) -> Finding:
    return Finding(name, Level.WARNING, text, remedy)


def error(name: str, text: str, remedy: str) -> Finding:
    return Finding(name, Level.ERROR, text, remedy)


def from_error(name: str, problem: OpusLiveError) -> Finding:
    """The finding that an error is: its sentence ends with the remedy, behind a semicolon."""
    text, _, remedy = problem.message.removesuffix(".").rpartition("; ")
    if not text:
        text, remedy = remedy, "correct that"
    return error(name, text, remedy)


def document(findings: Iterable[Finding]) -> dict[str, object]:
    """All findings as JSON shows them. ``ok`` says that none is an error."""
    findings = list(findings)
    return {
        "ok": all(finding.level is not Level.ERROR for finding in findings),
        "checks": [finding.as_dict() for finding in findings],
    }


def listed_names(names: Iterable[str]) -> str:
    """A few names, and how many more there are."""
    names = list(names)
    shown = ", ".join(names[:MAX_NAMES])
    return shown if len(names) <= MAX_NAMES else f"{shown} and {len(names) - MAX_NAMES} more"


def count(number: int, noun: str) -> str:
    """``1 model``, ``2 models``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
