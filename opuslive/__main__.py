"""``python -m opuslive`` and the ``opuslive`` command."""

from __future__ import annotations

from opuslive.cli import main as cli_main
from opuslive.cli.process import forbid_core_dumps


def main() -> None:
    """Run the command that the arguments of this process name."""
    forbid_core_dumps()
    cli_main()


if __name__ == "__main__":
    main()
