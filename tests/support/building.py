"""Builds what is handed out."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.documents import ROOT


def run(*command: str | Path, **environ: str) -> str:
    """Run a command in the source's folder; it has to succeed. Return what it printed."""
    # Nothing that is installed already takes the place of what is built.
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=ROOT, env=bare | environ, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
