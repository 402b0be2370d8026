"""``python -m opuslive`` and the ``opuslive`` command."""

from __future__ import annotations

import sys

from opuslive import INTERRUPTED


def main() -> None:
    """Run the command that the arguments of this process name."""
    try:
        # This takes a while, in which somebody may press Ctrl-C.
        from opuslive.cli import main as cli_main  # noqa: PLC0415 (as said above)
        from opuslive.cli.process import forbid_core_dumps  # noqa: PLC0415 (so too)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    forbid_core_dumps()
    cli_main()


if __name__ == "__main__":
    main()
