"""The command line: it parses, calls, prints, and nothing else."""

from __future__ import annotations

from opuslive.cli.root import main

__all__ = ["main"]
