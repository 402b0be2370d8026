"""``opuslive``, with a look inside: run as ``python tests/bench/probed.py FILE ARGUMENTS``.

On SIGUSR1 it writes into the file how many asyncio tasks there are and how many objects the
garbage collector knows, as JSON. Nothing else differs from the real program.
"""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import sys
from pathlib import Path

import uvloop

from opuslive.cli import main


def _probe_into(path: Path) -> None:
    """Answer SIGUSR1 once the program's event loop runs."""
    new_event_loop = uvloop.new_event_loop

    def probed_loop() -> uvloop.Loop:
        loop = new_event_loop()

        def write() -> None:
            gc.collect()
            inside = {"tasks": len(asyncio.all_tasks(loop)), "objects": len(gc.get_objects())}
            path.with_suffix(".new").write_text(json.dumps(inside))
            path.with_suffix(".new").rename(path)

        loop.add_signal_handler(signal.SIGUSR1, write)
        return loop

    uvloop.new_event_loop = probed_loop


if __name__ == "__main__":
    _probe_into(Path(sys.argv.pop(1)))
    main()
