"""README and the pages that it leads to: their text, their blocks, and the words in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = ROOT / ".github" / "docs"

#: ```LANGUAGE guide=NAME, and the lines up to the fence's end.
_FENCED = re.compile(r"^```(\w*)(?: guide=([\w-]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:(?<=\n\n)|\A)(?:(?: {4}.*)\n+)+")
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")


@dataclass(frozen=True, slots=True)
class Block:
    """What stands between fences; ``guide`` is the name of what a test tries, else ""."""

    language: str
    guide: str
    text: str


def files() -> list[Path]:
    """README first."""
    return [README, *sorted(PAGES.glob("*.md"))]


def page(name: str) -> str:
    """The text of a page below ``.github/docs``."""
    return (PAGES / f"{name}.md").read_text("utf-8")


def blocks(text: str) -> list[Block]:
    """Every fenced block."""
    return [Block(*found.groups(default="")) for found in _FENCED.finditer(text)]


def guide(name: str) -> str:
    """The block of README that has this name."""
    (found,) = (block.text for block in blocks(README.read_text("utf-8")) if block.guide == name)
    return found


def code(text: str) -> Iterator[str]:
    """Every piece of code: lines of blocks, fenced or indented, and the spans of sentences."""
    rest = text
    for pattern in (_FENCED, _INDENTED):
        for found in pattern.finditer(rest):
            lines = found[found.lastindex or 0].replace("\\\n", " ")
            yield from (line.strip() for line in lines.splitlines() if line.strip())
        rest = pattern.sub("\n", rest)
    yield from (" ".join(span.split()) for span in _SPAN.findall(rest))
