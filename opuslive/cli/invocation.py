"""How this program was called, so that a command line that it prints works as it stands."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

NAME = "opuslive"


def own_words() -> Sequence[str]:
    """The words that run this program, from the same folder and with the same PATH."""
    called = sys.argv[0]
    path = Path(called)
    if path.name == "__main__.py":
        return (sys.executable, "-m", NAME)
    found = shutil.which(NAME)
    if "/" not in called or (found is not None and Path(found).resolve() == path.resolve()):
        return (NAME,)
    return (called,)


def command_line(*words: str) -> str:
    """The words as a shell takes them."""
    return shlex.join(words)
